"""
Connecting as the tests see it: the pages on a real socket, the demo provider on another, and browsers with cookies.
"""

from __future__ import annotations

import os
import re
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from html import unescape
from types import TracebackType
from typing import Any, Self
from urllib.parse import urljoin, urlsplit

import aiohttp
from aiohttp import web

from gateway.demo.provider import CONTACTS_SCOPE, ClientCredentials, DemoProvider
from gateway.models import Caller, PageRequest
from gateway.net.client import OutboundClient
from gateway.store.engine import Store
from gateway.vault.connect import Connecting
from gateway.vault.connection import Connection
from gateway.vault.connections import Connections
from gateway.vault.discovery import Discovery
from gateway.vault.links import CALLBACK_PATH, ConnectLink
from gateway.vault.pages import Pages
from gateway.vault.revocation import Revocation
from gateway.vault.sealing import Sealer, SealingKey
from gateway.vault.stored_token import StoredToken
from gateway.vault.tokens import Tokens
from tests.vault.conftest import LOOPBACK, Clock

ADA = "ada@example.com"
GRACE = "grace@example.com"
OPERATOR = Caller(kind="management", user=None, key_id="tests")
CSRF = re.compile(r'name="csrf" value="([^"]+)"')
NAVIGATION = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "none"}
MAX_HOPS = 10


async def serve(handle: Callable[[web.Request], Any] | web.Application, *, port: int = 0) -> tuple[web.AppRunner, str]:
    """Serve *handle* on loopback; return its runner and URL."""
    app = handle
    if not isinstance(app, web.Application):
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", handle)  # type: ignore[arg-type]  # no application, so a handler
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"


@dataclass
class Town:
    """Everything around a connect flow."""

    url: str
    clock: Clock
    store: Store
    connections: Connections
    tokens: Tokens
    discovery: Discovery
    revocation: Revocation
    connecting: Connecting
    client: OutboundClient
    seen: list[str] = field(default_factory=list)  # every path that a browser asked of our pages, without query
    recorded: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)  # exchanges by outcome

    async def link(self, connection: str = "contacts", user: str | None = ADA, **more: Any) -> ConnectLink:
        """Begin an attempt as an operator."""
        return await self.connecting.start(connection, user=user, **({"started_by": OPERATOR} | more))

    async def token(self) -> StoredToken | None:
        """Return the only stored token, if there is one."""
        found = await self.tokens.list()
        assert len(found) <= 1
        return await self.tokens.get(found[0].id) if found else None


@asynccontextmanager
async def town(database_url: str, *, redirect_urls: Iterable[str] = (), **pages_options: Any) -> AsyncIterator[Town]:
    """Serve the pages on a socket; no connection yet."""
    clock = Clock()
    store = await Store.open(database_url)
    sealer = Sealer(SealingKey.from_bytes(secrets.token_bytes(32)), os.urandom)
    connections = Connections(store, sealer, clock=clock, random_bytes=os.urandom)
    tokens = Tokens(store, sealer, clock=clock, random_bytes=os.urandom)
    pages: Pages | None = None
    seen: list[str] = []

    async def handle(request: web.Request) -> web.Response:
        path, _, query = request.raw_path.partition("?")
        seen.append(path)
        assert pages is not None
        assert pages.takes(path)
        headers = {name.lower(): value for name, value in request.headers.items()}
        body = await request.read()
        answer = await pages.answer(PageRequest(request.method, path, query, headers, body, "127.0.0.1"))
        response = web.Response(status=answer.status, body=answer.body)
        for name, value in answer.headers:
            response.headers.add(name, value)
        return response

    recorded: list[tuple[str, dict[str, Any]]] = []
    counts: Counter[str] = Counter()

    def note(event: str, /, **fields: object) -> None:
        recorded.append((event, fields))

    runner, url = await serve(handle)
    async with OutboundClient(LOOPBACK) as client:
        discovery = Discovery(client, allow_http=True, monotonic=clock)
        revocation = Revocation(
            client, discovery, connections=connections, clock=clock, random_bytes=os.urandom, record=note
        )
        connecting = Connecting(
            store,
            sealer,
            client,
            connections=connections,
            tokens=tokens,
            discovery=discovery,
            revocation=revocation,
            base_url=lambda: url,
            redirect_urls=redirect_urls,
            allow_http=True,
            clock=clock,
            random_bytes=os.urandom,
            record=note,
            counts=counts,
        )
        pages = Pages(connecting, base_url=lambda: url, random_bytes=os.urandom, **pages_options)
        try:
            yield Town(
                url,
                clock,
                store,
                connections,
                tokens,
                discovery,
                revocation,
                connecting,
                client,
                seen,
                recorded,
                counts,
            )
        finally:
            await connecting.close()
            await runner.cleanup()
            await store.close()


@asynccontextmanager
async def demo_provider(town: Town, *, iss: str | None = "own") -> AsyncIterator[tuple[DemoProvider, str]]:
    """Serve the demo provider, and make the connection "contacts" to it."""
    provider = DemoProvider(
        clock=town.clock,
        random_token=lambda: secrets.token_urlsafe(32),
        client=ClientCredentials("demo", "CANARY-secret"),
        redirect_uris=(f"{town.url}{CALLBACK_PATH}",),
    )
    runner, url = await serve(provider.app)
    try:
        yield provider, url
    finally:
        await runner.cleanup()


def contacts(provider_url: str, **changes: Any) -> Connection:
    """The connection to the demo provider."""
    settings: dict[str, Any] = {
        "id": "contacts",
        "name": "Google Contacts",
        "client_id": "demo",
        "client_secret": "CANARY-secret",
        "authorization_url": f"{provider_url}/authorize",
        "token_url": f"{provider_url}/token",
        "revocation_url": f"{provider_url}/revoke",
        "default_scopes": ("openid", CONTACTS_SCOPE),
        "authorization_params": (("login_hint", ADA),),
    }
    return Connection(**(settings | changes))


@dataclass(frozen=True)
class Page:
    """What a browser has before it."""

    url: str
    status: int
    headers: dict[str, str]
    text: str

    @property
    def csrf(self) -> str:
        found = CSRF.search(self.text)
        assert found is not None, self.text
        return unescape(found[1])


class Browser:
    """A browser: cookies, redirects followed by hand, forms sent as our pages send them."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self.hops: list[str] = []

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    @property
    def cookie(self) -> str:
        """The value of the only cookie that was set here."""
        assert self._session is not None
        (cookie,) = self._session.cookie_jar
        return cookie.value

    async def get(self, url: str, *, until: str | None = None, headers: dict[str, str] | None = None) -> Page:
        """Open *url* and follow redirects; stop before an address that begins with *until*, which is not called."""
        return await self._go("GET", url, None, until, NAVIGATION if headers is None else headers)

    async def answer(
        self,
        page: Page,
        *,
        answer: str = "yes",
        until: str | None = None,
        headers: dict[str, str] | None = None,
        **more: str,
    ) -> Page:
        """Press a button of *page*."""
        form = {"csrf": page.csrf, "answer": answer, **more}
        sent = {**NAVIGATION, "Sec-Fetch-Site": "same-origin", "Origin": "null"} if headers is None else headers
        return await self._go("POST", page.url, form, until, sent)

    async def _go(
        self, method: str, url: str, form: dict[str, str] | None, until: str | None, headers: dict[str, str]
    ) -> Page:
        assert self._session is not None
        for _ in range(MAX_HOPS):
            self.hops.append(url)
            async with self._session.request(
                method, url, data=form, headers=headers, allow_redirects=False
            ) as response:
                page = Page(url, response.status, dict(response.headers), await response.text())
            if page.status not in (301, 302, 303, 307, 308):
                return page
            url, method, form = urljoin(url, page.headers["Location"]), "GET", None
            headers = {**NAVIGATION, "Sec-Fetch-Site": "cross-site"}
            if until is not None and url.startswith(until):
                return Page(url, page.status, page.headers, page.text)
        raise AssertionError("too many redirects")


def query_of(url: str) -> str:
    """Return the raw query of *url*."""
    return urlsplit(url).query
