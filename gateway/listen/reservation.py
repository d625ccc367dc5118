"""
Addresses that several processes of one program listen on, kept for them by the one that started them.

Rules:
1. Only processes of this program share an address (SO_REUSEPORT). Where anybody else listens, also one of the same user
   who would share it, it is in use: the first try is without that option.
2. A reservation never listens: connections go to those that serve.
3. Port 0 becomes one port for all of them.
"""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack

# An address of a kind that this machine does not have: the host's other addresses do.
_ABSENT = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})


class Reservation:
    """Every address of one host at one port. Made by `take`, ended with `release`."""

    def __init__(self, port: int, sockets: ExitStack) -> None:
        self.port = port
        self._sockets = sockets

    @classmethod
    def take(cls, host: str, port: int) -> Reservation:
        """
        Reserve every address of *host*, all of this machine where it is empty, at *port*, or at a free one for 0.

        Raises:
            OSError: *host* has no address, or one that is in use or cannot be had.
        """
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        absent: OSError | None = None
        taken = 0
        with ExitStack() as sockets:
            for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
                wanted = (address[0], taken or port, *address[2:])
                try:
                    if wanted[1]:
                        _bound(family, wanted, is_shared=False).close()
                    reserved = sockets.enter_context(_bound(family, wanted, is_shared=True))
                except OSError as exc:
                    if exc.errno not in _ABSENT:
                        raise
                    absent = exc
                    continue
                taken = taken or reserved.getsockname()[1]
            if not taken:
                raise absent or OSError(errno.EADDRNOTAVAIL, "no address to listen on")
            return cls(taken, sockets.pop_all())

    def release(self) -> None:
        """Let the addresses go."""
        self._sockets.close()


def _bound(family: int, address: tuple[object, ...], *, is_shared: bool) -> socket.socket:
    """
    Return a socket that is bound to *address*, as `Acceptor` binds.

    Raises:
        OSError: the system does not allow it.
    """
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, True)
        if is_shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, True)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, True)
        bound.bind(address)
    except BaseException:
        bound.close()
        raise
    return bound
