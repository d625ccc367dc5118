"""
The pages on the callers' listener: where users connect their accounts, and the metadata of RFC 9728.

Rules:
1. They lie under prefixes that no route can have (`config/` refuses one); they are looked at only when no route fits,
   so a call pays nothing for them.
2. They need no caller: what they show and do is the business of whoever answers them (`vault/pages.py`).
3. A body is a small form: more than MAX_BODY_BYTES, or slower than BODY_SECONDS, is refused.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import structlog
from aiohttp.web_protocol import RequestPayloadError

from gateway.errors import BodyTooLarge, ConnectionRequired, ConnectionScopeMissing, InvalidRequest, RequestTimeout
from gateway.models import Caller, ConnectOffer, PageAnswer, PageRequest, TokenKey
from gateway.proxy.answers import STATUS_LINES
from gateway.proxy.request import Asker, ProxyRequest
from gateway.telemetry import place_of

MAX_BODY_BYTES = 65_536
BODY_SECONDS = 10.0

log = structlog.get_logger()


class Pages(Protocol):
    """Answers requests for pages."""

    def takes(self, path: str) -> bool:
        """Tell whether *path*, without its query, is one of these pages."""

    async def answer(self, page: PageRequest) -> PageAnswer:
        """Return the page."""


class Connects(Protocol):
    """Offers a way to connect an account to whoever was refused for want of one, or of its scopes."""

    async def offer(
        self, key: TokenKey, caller: Caller, *, missing_scopes: tuple[str, ...] | None = None
    ) -> ConnectOffer | None:
        """
        Return a link for the user of *key*, or None where a browser cannot help.

        *missing_scopes*: what the token of *key* lacks (empty: not said which); None: there is none.
        """


async def with_link(
    refusal: ConnectionRequired | ConnectionScopeMissing, asker: Asker | None, connects: Connects | None
) -> ConnectionRequired | ConnectionScopeMissing:
    """Return *refusal* with what *asker* can do: the link for the user, and where to wait (DESIGN section 5)."""
    if connects is None or asker is None:
        return refusal
    missing = refusal.missing_scopes if isinstance(refusal, ConnectionScopeMissing) else None
    try:
        offer = await connects.offer(asker.key, asker.caller, missing_scopes=missing)
    except Exception as exc:  # the refusal stands by itself; a link is a help
        log.warning("connect_link_failed", error=type(exc).__name__, place=place_of(exc))
        return refusal
    if offer is None:
        return refusal
    # A new one: the refusal of a shared fetch is everybody's who waited for it, the link is this caller's.
    return type(refusal)(
        refusal.detail,
        connection=refusal.connection,
        missing_scopes=refusal.missing_scopes,
        connect_url=offer.url,
        wait_url=offer.wait_url,
    )


async def show(request: ProxyRequest, pages: Pages) -> None:
    """
    Answer *request*, whose path *pages* takes.

    Raises:
        BodyTooLarge, RequestTimeout, InvalidRequest: its body is not a form's.
        ConnectionError: the caller has gone.
    """
    call = request.call
    path, _, query = call.target.partition("?")
    page = PageRequest(
        method=call.method,
        path=path,
        query=query,
        headers=request.head.section.as_dict(),
        body=await _body(request),
        peer=call.peer,
    )
    answer = await pages.answer(page)
    fields = "".join(f"{name}: {value}\r\n" for name, value in answer.headers)
    connection = "" if request.keep_alive else "Connection: close\r\n"
    head = f"{fields}Content-Length: {len(answer.body)}\r\n{connection}\r\n".encode("latin-1")
    call.status = answer.status
    request.has_answered = True
    request.client.send(STATUS_LINES[answer.status] + head + (b"" if call.method == "HEAD" else answer.body))


async def _body(request: ProxyRequest) -> bytes:
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while chunk := await request.payload.readany():
                size += len(chunk)
                if size > MAX_BODY_BYTES:
                    raise BodyTooLarge
                chunks.append(chunk)
    except TimeoutError as exc:
        raise RequestTimeout from exc
    except RequestPayloadError as exc:
        raise InvalidRequest from exc
    return b"".join(chunks)
