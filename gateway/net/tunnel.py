"""
The way out through the operator's proxy (`egress.proxy`): CONNECT, and from then on the bytes are the upstream's.

Rules:
1. Everything goes through CONNECT, plain http too: the proxy gets a host and a port, and nothing of a request, which
   may hold a token (RFC 9110 section 9.3.6).
2. The name is what the proxy gets, and the proxy resolves it: networks that have one often know no public names, and
   its own rules are by name. So the rule "the judged address is the dialled one" ends at the proxy. What can be judged
   here is: IP literals always; names by what they lead to for us, where that is known within CHECK_SECONDS.
3. The proxy itself is where its operator says, a private address too, and never judged.
4. What it answers is read strictly: one head of at most MAX_HEAD_BYTES, and not one byte behind it. An upstream does
   not speak before it is asked, so such bytes would be the proxy's, and taken for the upstream's.
5. Its credential stands in Proxy-Authorization and nowhere else; nothing of its answer but the status is told.

Time is bounded by whoever calls.
"""

from __future__ import annotations

import asyncio
import re
import socket
from base64 import b64encode

from gateway.errors import EgressBlocked, NameNotResolved, UpstreamUnreachable
from gateway.models import Egress, OutboundProxy
from gateway.net.dial import is_literal, look_up, numeric, resolve
from gateway.net.lookups import Dialable

CHECK_SECONDS = 1.0  # behind a proxy there may be no name server, and each new connection would wait for it
MAX_HEAD_BYTES = 16_384
STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n\x00]*)?\r\n")


async def open_tunnel(proxy: OutboundProxy, host: str, port: int, egress: Egress) -> socket.socket:
    """
    Return a socket, not blocking, whose other end is *host* and *port* as far as *proxy* is to be believed.

    Raises:
        EgressBlocked: *host* leads to addresses that are not dialled, or the proxy refuses it (403).
        UpstreamUnreachable: the proxy cannot be reached, does not take our credential, or does not get through.
    """
    await _judge(host, port, egress)
    opened = await _reach(proxy)
    try:
        await asyncio.get_running_loop().sock_sendall(opened, connect_request(proxy, host, port))
        _accept(await _read_head(opened))
    except OSError as exc:
        opened.close()
        raise UpstreamUnreachable("The outbound proxy closed the connection.") from exc
    except BaseException:
        opened.close()
        raise
    return opened


def connect_request(proxy: OutboundProxy, host: str, port: int) -> bytes:
    """Return what *proxy* is asked."""
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
    if proxy.credential is not None:
        lines.append(f"Proxy-Authorization: Basic {b64encode(proxy.credential.encode()).decode('ascii')}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


async def _judge(host: str, port: int, egress: Egress) -> None:
    """Rule 2."""
    try:
        await resolve(host, port, egress, timeout_seconds=CHECK_SECONDS)
    except NameNotResolved:
        return


async def _reach(proxy: OutboundProxy) -> socket.socket:
    """Return a socket connected to the first address of *proxy* that accepts."""
    loop = asyncio.get_running_loop()
    failure: Exception | None = None
    try:
        addresses = await _addresses(proxy)
    except (NameNotResolved, EgressBlocked) as exc:
        raise UpstreamUnreachable("The outbound proxy's name cannot be resolved.") from exc
    for family, address in addresses:
        opened = socket.socket(family, socket.SOCK_STREAM)
        opened.setblocking(False)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await loop.sock_connect(opened, address)
        except OSError as exc:
            opened.close()
            failure = exc
            continue
        except BaseException:
            opened.close()
            raise
        return opened
    raise UpstreamUnreachable("The outbound proxy cannot be reached.") from failure


async def _addresses(proxy: OutboundProxy) -> list[Dialable]:
    if is_literal(proxy.host):
        return [numeric(proxy.host, proxy.port)]
    return await look_up(proxy.host, proxy.port)


async def _read_head(opened: socket.socket) -> bytes:
    loop = asyncio.get_running_loop()
    head = bytearray()
    while b"\r\n\r\n" not in head:
        received = await loop.sock_recv(opened, MAX_HEAD_BYTES)
        if not received or len(head) + len(received) > MAX_HEAD_BYTES:
            raise UpstreamUnreachable("The outbound proxy's answer cannot be read.")
        head += received
    return bytes(head)


def _accept(head: bytes) -> None:
    """Raise what any other answer than a plain success stands for."""
    status = STATUS_LINE.match(head)
    if status is None or head.find(b"\r\n\r\n") != len(head) - 4:
        raise UpstreamUnreachable("The outbound proxy's answer cannot be read.")
    match int(status[1]):
        case 407:
            raise UpstreamUnreachable("The outbound proxy does not take this gateway's credential.")
        case 403:
            raise EgressBlocked("The outbound proxy does not let connections to this upstream pass.")
        case code if not 200 <= code <= 299:
            raise UpstreamUnreachable("The outbound proxy made no connection to the upstream.")
