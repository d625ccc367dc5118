"""
A new connection to an upstream: to an address that the egress guard has let through, TLS included.

Rules:
1. The checked address is the one that is dialled; each connection asks for the addresses anew.
2. The look-up has its own time-out. *connect_seconds* begin behind it and bound the rest: a slow name server
   costs no upstream its time, and is told as what it is.
3. An address that swallows everything does not cost the others their turn: each but the last has half of the rest.
4. What TLS does not accept is not tried at another address: a certificate that is wrong is wrong there, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from socket import socket
from ssl import SSLCertVerificationError, SSLContext, SSLError

from gateway.errors import ConnectTimeout, UpstreamNotTrusted, UpstreamTlsFailed, UpstreamUnreachable
from gateway.models import Egress, Origin
from gateway.net.backlog import Backlog
from gateway.net.dial import resolve, tls_context
from gateway.net.tunnel import open_tunnel
from gateway.proxy.connection import UpstreamConnection

Addresses = list[tuple[int, tuple[object, ...]]]  # family and socket address, as `create_connection` takes them
Opener = Callable[[], Awaitable[UpstreamConnection]]  # raises Refusal; bounds its own time


def opener(origin: Origin, egress: Egress, connect_seconds: float, loop: asyncio.AbstractEventLoop) -> Opener:
    """Return what opens a connection to *origin* as *egress* says."""

    async def addresses() -> Addresses:
        found = await resolve(origin.host, origin.port, egress)
        return [(int(family), tuple(sockaddr)) for family, sockaddr in found]

    tls = tls_context(egress) if origin.scheme == "https" else None
    if (proxy := egress.proxy) is None:
        return direct_opener(origin, connect_seconds=connect_seconds, resolve=addresses, tls=tls, loop=loop)
    tunnel = partial(open_tunnel, proxy, origin.host, origin.port, egress)
    return tunnel_opener(origin, connect_seconds=connect_seconds, tunnel=tunnel, tls=tls, loop=loop)


def direct_opener(
    origin: Origin,
    *,
    connect_seconds: float,
    resolve: Callable[[], Awaitable[Addresses]],
    tls: SSLContext | None,
    loop: asyncio.AbstractEventLoop,
) -> Opener:
    """
    Return what opens a connection to the first address of *origin* that accepts.

    *resolve* gives the checked addresses, anew for each connection; *tls* is None for plain http.
    """
    server_hostname = origin.host if tls is not None else None
    backlog = Backlog(loop)

    async def open_connection() -> UpstreamConnection:
        addresses = await resolve()
        deadline = loop.time() + connect_seconds
        failure: Exception | None = None
        for left, (family, sockaddr) in zip(range(len(addresses), 0, -1), addresses, strict=True):
            now = loop.time()
            try:
                async with asyncio.timeout_at(deadline if left == 1 else now + (deadline - now) / 2):
                    _, connection = await loop.create_connection(
                        lambda: UpstreamConnection(loop, backlog),
                        str(sockaddr[0]),
                        int(str(sockaddr[1])),
                        family=family,
                        ssl=tls,
                        server_hostname=server_hostname,
                    )
            except SSLError as exc:
                raise tls_refusal(exc) from exc
            except OSError as exc:  # TimeoutError is one
                failure = exc
                continue
            connection.address = f"{sockaddr[0]}:{sockaddr[1]}"
            return connection
        if isinstance(failure, TimeoutError):
            raise ConnectTimeout from failure
        raise UpstreamUnreachable from failure

    return open_connection


def tunnel_opener(
    origin: Origin,
    *,
    connect_seconds: float,
    tunnel: Callable[[], Awaitable[socket]],
    tls: SSLContext | None,
    loop: asyncio.AbstractEventLoop,
) -> Opener:
    """Return what opens a connection to *origin* through *tunnel*, which gives one to it, anew each time."""
    backlog = Backlog(loop)

    async def open_connection() -> UpstreamConnection:
        try:
            async with asyncio.timeout(connect_seconds):
                opened = await tunnel()
                try:
                    _, connection = await loop.create_connection(
                        lambda: UpstreamConnection(loop, backlog),
                        sock=opened,
                        ssl=tls,
                        server_hostname=origin.host if tls is not None else None,
                    )
                except BaseException:
                    opened.close()
                    raise
        except TimeoutError as exc:
            raise ConnectTimeout from exc
        except SSLError as exc:
            raise tls_refusal(exc) from exc
        except OSError as exc:
            raise UpstreamUnreachable from exc
        connection.address = f"{origin.host}:{origin.port}"
        return connection

    return open_connection


def tls_refusal(error: SSLError) -> UpstreamUnreachable:
    """Return what a failed handshake is to the caller: the certificate's fault, or the protocol's."""
    return UpstreamNotTrusted() if isinstance(error, SSLCertVerificationError) else UpstreamTlsFailed()
