"""
HTTP calls of the gateway itself: token endpoints, discovery, key sets, Descope. The data path has its own pool.

Rules (threats.md sections 0 and 5.3):
1. One request is one connection: it is closed after the answer, so that bytes which arrive late can never be taken for
   somebody else's answer. These calls are rare; a handshake more is the price of that certainty.
2. Nothing is sent twice, nothing is followed: no retry, no redirect, no cookie, no proxy or netrc of the environment.
   The proxy that `egress` names is the way out (`tunnel.py`).
3. Every address is judged, IP literals too, and the judged address is the one that is dialled.
4. https, verified; plain http only where `egress.allow_http` says so.
5. An answer is bounded in size while it streams, and in time as a whole. It is never decompressed: we ask for
   identity and refuse anything else.
6. An error tells its reason and nothing that was sent or received: aiohttp's own errors can hold URLs, header fields
   and bytes of the answer, so they are not kept as causes.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import orjson
from aiohttp import HttpVersion10, HttpVersion11
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from gateway.errors import EgressBlocked, NameNotResolved, Refusal, UpstreamUnreachable
from gateway.models import Egress, OutboundProxy
from gateway.net.dial import is_literal, resolve, tls_context
from gateway.net.tunnel import open_tunnel

Reason = Literal["unreachable", "reset", "timeout", "blocked", "too_large", "protocol", "tls"]

SENT_BY_US = (
    "User-Agent",
    "Accept",
    "Content-Type",
)  # aiohttp adds these by itself: only what the caller gives is sent

TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 5.6.2: methods and field names; aiohttp lets spaces pass

MEANINGS: dict[Reason, str] = {
    "unreachable": "no connection could be made",
    "reset": "the connection was lost before a whole answer came",
    "timeout": "no complete answer in time",
    "blocked": "the URL or its address is not one that this gateway dials",
    "too_large": "the answer is larger than allowed",
    "protocol": "the answer is not what it must be",
    "tls": "no TLS connection that can be trusted",
}

NOT_SENT: frozenset[Reason] = frozenset({"blocked", "tls", "unreachable"})


class OutboundError(Exception):
    """
    A call of the gateway failed. *reason* says how; the text names nothing that was sent or received.

    Reasons in `NOT_SENT` come before the first byte of the request. After any other, the peer may have acted on it.
    """

    def __init__(self, reason: Reason) -> None:
        self.reason: Reason = reason
        super().__init__(f"{reason}: {MEANINGS[reason]}")


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer. *headers* are found in any case; of a repeated field, the first."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    def json(self) -> object:
        """
        Return the body read as JSON, strictly (RFC 8259), whatever its media type.

        Raises:
            OutboundError: "protocol", it is not JSON.
        """
        try:
            parsed: object = orjson.loads(self.body)
        except orjson.JSONDecodeError:
            raise OutboundError("protocol") from None  # the cause would hold the body
        return parsed


class GuardedResolver(AbstractResolver):
    """aiohttp's way to ask `dial.resolve`, and so the address guard."""

    def __init__(self, egress: Egress) -> None:
        self._egress = egress

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        allowed = await resolve(host, port, self._egress)
        return [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=port,
                family=kind,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, address in allowed
        ]

    async def close(self) -> None:
        """Nothing is held."""


class TunnelConnector(aiohttp.TCPConnector):
    """Connects through the proxy of *egress*: `_create_connection` is aiohttp's place for another way to connect."""

    def __init__(self, egress: Egress, proxy: OutboundProxy, tls: ssl.SSLContext, **settings: Any) -> None:
        super().__init__(**settings)
        self._egress = egress
        self._proxy = proxy
        self._tls = tls

    async def _create_connection(self, req: Any, traces: Any, timeout: Any) -> ResponseHandler:
        url: URL = req.url
        host, port = url.raw_host or "", url.port or 0
        is_tls = url.scheme == "https"
        opened = await open_tunnel(self._proxy, host, port, self._egress)
        try:
            _, protocol = await self._loop.create_connection(
                self._factory, sock=opened, ssl=self._tls if is_tls else None, server_hostname=host if is_tls else None
            )
        except OSError as exc:
            opened.close()
            raise OutboundError("tls" if isinstance(exc, ssl.SSLError) else "unreachable") from None  # nothing was sent
        except BaseException:
            opened.close()
            raise
        return protocol


class Place(NamedTuple):
    """An URL that passed: as sent, and the host and port to dial."""

    url: URL
    host: str
    port: int


class OutboundClient:
    """
    Calls other servers for the gateway. One per process and `Egress`; `close` it, or use it as a context manager.

    Raises:
        OSError: the CA file of *egress* cannot be read.
    """

    def __init__(self, egress: Egress) -> None:
        self._egress = egress
        self._tls = tls_context(egress)
        self._session: aiohttp.ClientSession | None = None
        self._is_closed = False

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        timeout_seconds: float = 10.0,
        max_bytes: int = 1_048_576,
    ) -> Answer:
        """
        Send one request, once, and return its complete answer, whatever its status (redirects too).

        *url* is sent as given: absolute, ASCII, percent-encoded, without credentials or fragment. *timeout_seconds*
        bounds everything from the name look-up to the last byte; *max_bytes* the body of the answer.

        Raises:
            OutboundError: no such answer came.
        """
        place = _place(url, self._egress)
        if not all(TOKEN.fullmatch(name) for name in (method, *(headers or ()))):
            raise OutboundError("protocol")
        try:
            async with asyncio.timeout(timeout_seconds):
                # aiohttp asks no resolver about IP literals (threats.md section 0, row 7), so they are judged here.
                if is_literal(place.host):
                    await resolve(place.host, place.port, self._egress)
                return await self._send(method, place.url, headers or {}, body, max_bytes)
        except (TimeoutError, aiohttp.ClientError, Refusal, OSError, ValueError) as exc:
            raise OutboundError(_reason(exc)) from None  # rule 6

    async def close(self) -> None:
        """Close the session. A request after that is refused."""
        self._is_closed = True
        if self._session is not None:
            await self._session.close()

    async def __aenter__(self) -> OutboundClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _send(
        self, method: str, url: URL, headers: Mapping[str, str], body: bytes | None, max_bytes: int
    ) -> Answer:
        fields = CIMultiDict(headers)
        fields["Accept-Encoding"] = "identity"
        async with self._opened().request(
            method, url, headers=fields, data=body, allow_redirects=False, skip_auto_headers=SENT_BY_US
        ) as response:
            if response.version not in (HttpVersion10, HttpVersion11):
                raise OutboundError("protocol")
            if not 200 <= response.status <= 599:  # 101 too: we never ask for an upgrade
                raise OutboundError("protocol")
            if response.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
                raise OutboundError("protocol")
            content = await _read(response, max_bytes)
            return Answer(response.status, CIMultiDictProxy(CIMultiDict(response.headers)), content)

    def _opened(self) -> aiohttp.ClientSession:
        if self._is_closed:
            raise OutboundError("unreachable")
        if self._session is None:  # here and not in __init__: aiohttp wants a running loop
            self._session = _session(self._egress, self._tls)
        return self._session


def _session(egress: Egress, tls: ssl.SSLContext) -> aiohttp.ClientSession:
    settings: dict[str, Any] = {
        "resolver": GuardedResolver(egress),
        "use_dns_cache": False,  # the guard is asked for every connection
        "force_close": True,  # rule 1
        "limit": 100,
        "limit_per_host": 20,  # one slow provider leaves room for the others (threats.md G10)
        "ssl": tls,
    }
    connector = (
        aiohttp.TCPConnector(**settings)
        if egress.proxy is None
        else TunnelConnector(egress, egress.proxy, tls, **settings)
    )
    session = aiohttp.ClientSession(
        connector=connector,
        connector_owner=True,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        timeout=aiohttp.ClientTimeout(total=None),  # `request` bounds the whole
        max_line_size=8190,
        max_field_size=8190,
    )
    session._retry_connection = False  # semi-private; tests/net/test_client.py fails when it has gone
    return session


async def _read(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    """Read the body, never holding more than *max_bytes* and one chunk of it."""
    if (response.content_length or 0) > max_bytes:
        raise OutboundError("too_large")
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > max_bytes:
            raise OutboundError("too_large")
    return bytes(content)


def _place(url: str, egress: Egress) -> Place:
    """
    Return *url* as a place to dial, or refuse what two parsers could read in two ways (threats.md F3).

    Raises:
        OutboundError: "blocked".
    """
    if not url.isascii() or any(character <= " " or character in '\\"<>^`{|}\x7f#' for character in url):
        raise OutboundError("blocked")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        parsed = URL(url, encoded=True)
        is_agreed = parsed.scheme == parts.scheme and parsed.raw_host == host and parsed.explicit_port == port
    except ValueError:
        raise OutboundError("blocked") from None
    if not host or not is_agreed or "@" in parts.netloc or "%" in parts.netloc or port == 0:
        raise OutboundError("blocked")
    if parts.scheme != "https" and not (parts.scheme == "http" and egress.allow_http):
        raise OutboundError("blocked")
    return Place(parsed, host, port or (443 if parts.scheme == "https" else 80))


def _reason(error: Exception) -> Reason:
    """Return the one reason that *error* stands for."""
    match error:
        case EgressBlocked():
            return "blocked"
        case TimeoutError():
            return "timeout"
        case aiohttp.ClientConnectorSSLError() | aiohttp.ClientConnectorCertificateError():
            return "tls"
        case aiohttp.InvalidURL():
            return "blocked"
        case aiohttp.ClientConnectorError() | UpstreamUnreachable() | NameNotResolved():
            return "unreachable"
        case aiohttp.ClientConnectionError() | OSError():
            return "reset"
        case _:  # ClientPayloadError, ClientResponseError, ValueError of a header field: not a readable exchange
            return "protocol"
