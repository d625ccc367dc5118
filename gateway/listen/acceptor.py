"""
Where a listener's connections come in: its sockets, and what is taken from them.

Rules:
1. A connection counts from here on (`StrictServer.receive`), not from the end of its TLS handshake on: sockets that
   never shake hands have a limit, too (threats G1).
2. A handshake has HANDSHAKE_SECONDS. One that fails, however, ends its connection and leaves no line in the log:
   balancers and scanners do that all day.
3. Several connections are taken in a turn of the loop, and no more than BATCH: neither who connects nor who is served
   waits for the other.
4. Without a free descriptor connections wait in the system's queue, and every PAUSE_SECONDS it is tried anew; uvloop's
   own server resets all that wait.
5. `close` cuts who is still in its handshake: nothing has been asked yet.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import struct
from contextlib import suppress

import structlog

from gateway.listen.connection import StrictConnection, StrictServer

BACKLOG = 1024  # connections that the system holds until they are taken; it may allow fewer
# 500 new connections beside 50 busy ones, uvloop, two shared cores, medians of 4-9 runs in turn: its own server, which
# takes one a turn, needed 0.72 s, over TLS 3.4 s; with 8 it is 0.30 and 1.7 s, with 64 0.22 and 2.5 s. The longest
# wait of a busy one over TLS was 0.16, is 0.14, and 0.6 s with 64: so many handshakes come in one turn then.
# A connection with its one request takes 204 microseconds of CPU, took 189; over TLS 782, took 759 (medians of 5).
BATCH = 8
HANDSHAKE_SECONDS = 5.0  # of TLS
PAUSE_SECONDS = 0.1  # after the system gave no connection
QUIET_SECONDS = 60.0  # between two lines in the log that say so
_ABSENT = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})  # an address of a kind that this machine does not have
_RESET = struct.pack("ii", 1, 0)  # socket(7): SO_LINGER on, 0 seconds: close with a reset

log = structlog.get_logger()


class Acceptor:
    """Takes the connections of one listener and gives them to its server. Made by `listen`, ended with `end`."""

    def __init__(
        self,
        server: StrictServer,
        sockets: list[socket.socket],
        *,
        tls: ssl.SSLContext | None,
        handshake_seconds: float,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.port: int = sockets[0].getsockname()[1]
        self._server = server
        self._sockets = sockets
        self._tls = tls
        self._handshake_seconds = None if tls is None else handshake_seconds
        self._loop = loop
        self._connecting: dict[asyncio.Task[None], tuple[socket.socket, StrictConnection]] = {}
        self._pauses: dict[socket.socket, asyncio.TimerHandle] = {}
        self._quiet_until = 0.0
        for listening in sockets:
            self._resume(listening)

    @classmethod
    async def listen(
        cls,
        server: StrictServer,
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None = None,
        reuse_port: bool = False,
        handshake_seconds: float = HANDSHAKE_SECONDS,
    ) -> Acceptor:
        """
        Listen on every address of *host*, all of this machine where it is empty, and give *server* what connects.

        With *port* 0 all addresses have the port that was free for the first; `port` is the one in use. *reuse_port*
        lets other processes listen on the same one, which share the connections.

        Raises:
            OSError: *host* has no address, or one that cannot be listened on.
        """
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        sockets: list[socket.socket] = []
        absent: OSError | None = None
        try:
            for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
                if sockets:
                    address = (address[0], sockets[0].getsockname()[1], *address[2:])
                try:
                    sockets.append(_listening(family, address, reuse_port=reuse_port))
                except OSError as exc:
                    if exc.errno not in _ABSENT:
                        raise
                    absent = exc
            if not sockets:
                raise absent or OSError(errno.EADDRNOTAVAIL, "no address to listen on")
        except BaseException:
            for listening in sockets:
                listening.close()
            raise
        return cls(server, sockets, tls=tls, handshake_seconds=handshake_seconds, loop=loop)

    def close(self) -> None:
        """Take no connection any more, and cut those that are not made yet."""
        for listening in self._sockets:
            if listening in self._pauses:
                self._pauses.pop(listening).cancel()
            else:
                self._loop.remove_reader(listening)
            listening.close()
        self._sockets = []
        for accepted, connection in self._connecting.values():
            if connection.transport is None:
                connection.force_close()  # what it has sent is not read either: a drain would not wait for it
                with suppress(OSError):  # it has gone already
                    accepted.shutdown(socket.SHUT_RDWR)

    async def end(self) -> None:
        """Close, and return when nothing of it is left."""
        self.close()
        if self._connecting:
            await asyncio.wait(tuple(self._connecting))

    def _resume(self, listening: socket.socket) -> None:
        self._pauses.pop(listening, None)
        self._loop.add_reader(listening, self._accept, listening)

    def _accept(self, listening: socket.socket) -> None:
        """Take what has come to *listening*, as much as a turn may hold."""
        for _ in range(BATCH):
            try:
                accepted, address = listening.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:  # by its caller, before it was taken
                continue
            except OSError as exc:  # descriptors or memory are exhausted, or whatever else would only repeat itself
                self._pause(listening, exc)
                return
            self._take(accepted, str(address[0]))

    def _pause(self, listening: socket.socket, exc: OSError) -> None:
        self._loop.remove_reader(listening)
        self._pauses[listening] = self._loop.call_later(PAUSE_SECONDS, self._resume, listening)
        now = self._loop.time()
        if now >= self._quiet_until:
            self._quiet_until = now + QUIET_SECONDS
            error = errno.errorcode.get(exc.errno or 0, type(exc).__name__)
            log.error("accept_failed", listener=self._server.name, error=error)

    def _take(self, accepted: socket.socket, address: str) -> None:
        connection = self._server.receive(address)
        if connection is None:
            with suppress(OSError):
                accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            accepted.close()
            return
        task = self._loop.create_task(self._connect(accepted, connection))
        self._connecting[task] = accepted, connection
        task.add_done_callback(self._connecting.pop)

    async def _connect(self, accepted: socket.socket, connection: StrictConnection) -> None:
        try:
            await self._loop.connect_accepted_socket(
                lambda: connection, accepted, ssl=self._tls, ssl_handshake_timeout=self._handshake_seconds
            )
        except Exception:  # whatever came instead of a handshake ends this connection and nothing else
            self._server.dismiss(connection)
            accepted.close()


def _listening(family: int, address: tuple[object, ...], *, reuse_port: bool) -> socket.socket:
    """
    Return a socket that listens on *address*.

    Raises:
        OSError: the system does not allow it.
    """
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setblocking(False)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, True)
        if reuse_port:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, True)
        if family == socket.AF_INET6:  # "::" beside "0.0.0.0", as asyncio does it: no caller has two addresses
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, True)
        listening.bind(address)
        listening.listen(BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening
