"""
The parts around a gateway under test, all real: an upstream that records what reached it, a provider's token endpoint,
an issuer with a key set, and the gateway itself on ports of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import jwt
import yaml
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa

from gateway.access.keys import KeyRing
from gateway.audit.commit import fdatasync
from gateway.config.load import parse
from gateway.server import Gateway
from gateway.store.changes import ChangeFeed
from gateway.store.engine import Store, sqlite_url

AUDIENCE = "https://gateway.test"
PROJECT = "acme"
LOOPBACK = {"allow_private": ["127.0.0.0/8"], "allow_http": True}


@dataclass(slots=True)
class Received:
    """One request as it reached the upstream, byte for byte."""

    head: bytes
    body: bytes

    @property
    def request_line(self) -> str:
        return self.head.split(b"\r\n", 1)[0].decode("latin-1")

    @property
    def fields(self) -> list[tuple[str, str]]:
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        return [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines if line)]

    def values(self, name: str) -> list[str]:
        """Return the values of every field *name*, in order."""
        return [value for field_name, value in self.fields if field_name.lower() == name.lower()]


Respond = Callable[[Received, asyncio.StreamWriter], Awaitable[None]]


class Upstream:
    """An HTTP/1.1 server on raw sockets. By default 200 for tokens in `live` (None: for any token), else 401."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.live: set[str] | None = None
        self.respond: Respond = self._respond
        self.connections = 0
        self.keeps_bodies = True
        self.on_body: Callable[[bytes], Awaitable[None]] | None = None  # for each piece of a body, as it arrives
        self.early: Callable[[bytes, asyncio.StreamWriter], Awaitable[bool]] | None = None
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self, *, tls: ssl.SSLContext | None = None) -> Upstream:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 20, ssl=tls)
        return self

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def authorizations(self) -> list[str]:
        return [value for each in self.received for value in each.values("Authorization")]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in tuple(self._writers):
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if self.early is not None and await self.early(head, writer):
                    return
                received = Received(head[:-4], b"")
                received.body = await self._read_body(reader, received)
                self.received.append(received)
                await self.respond(received, writer)
                await writer.drain()
                if writer.is_closing():
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _read_body(self, reader: asyncio.StreamReader, received: Received) -> bytes:
        parts: list[bytes] = []
        if lengths := received.values("Content-Length"):
            left = int(lengths[0])
            while left:
                chunk = await reader.read(min(left, 1 << 16))
                if not chunk:
                    raise asyncio.IncompleteReadError(b"", left)
                left -= len(chunk)
                await self._take(chunk, parts)
        elif received.values("Transfer-Encoding"):
            while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
                chunk = await reader.readexactly(size + 2)
                await self._take(chunk[:-2], parts)
            await reader.readuntil(b"\r\n")
        return b"".join(parts)

    async def _take(self, chunk: bytes, parts: list[bytes]) -> None:
        if self.on_body is not None:
            await self.on_body(chunk)
        if self.keeps_bodies:
            parts.append(chunk)

    async def _respond(self, received: Received, writer: asyncio.StreamWriter) -> None:
        token = (received.values("Authorization") or [""])[0].removeprefix("Bearer ")
        if self.live is None or token in self.live:
            writer.write(answer(200, json.dumps({"path": received.request_line.split(" ")[1]}).encode()))
        else:
            writer.write(answer(401, b'{"error":"invalid"}', 'WWW-Authenticate: Bearer error="invalid_token"\r\n'))


def answer(status: int, body: bytes = b"", fields: str = "") -> bytes:
    """Return an HTTP/1.1 answer with *body* and Content-Length; *fields* are further lines, each with its CRLF."""
    head = (
        f"HTTP/1.1 {status} Whatever\r\nContent-Type: application/json\r\n{fields}Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode("latin-1") + body


class Provider:
    """A provider's token endpoint with rotation: each refresh token works once; `reused` counts those used again."""

    def __init__(self) -> None:
        self.exchanges = 0
        self.reused = 0
        self.on_exchange: Callable[[str], None] = lambda access_token: None
        self.delay_seconds = 0.0
        self.entered = asyncio.Event()  # set when somebody asks
        self.gate: asyncio.Event | None = None  # holds every answer up until it is set
        self._live: set[str] = set()
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def start(self) -> Provider:
        app = web.Application()
        app.router.add_post("/token", self._token)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def stop(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    def issue(self) -> str:
        """Return a new refresh token that the provider will take once."""
        token = "refresh-" + secrets.token_hex(8)
        self._live.add(token)
        return token

    async def _token(self, request: web.Request) -> web.Response:
        form = await request.post()
        self.entered.set()
        if self.gate is not None:
            await self.gate.wait()
        await asyncio.sleep(self.delay_seconds)
        refresh_token = str(form.get("refresh_token"))
        if refresh_token not in self._live:
            self.reused += 1
            return web.json_response({"error": "invalid_grant"}, status=400)
        self._live.discard(refresh_token)
        self.exchanges += 1
        access_token = f"access-{self.exchanges}-{secrets.token_hex(4)}"
        self.on_exchange(access_token)
        return web.json_response(
            {"access_token": access_token, "token_type": "Bearer", "expires_in": 3600, "refresh_token": self.issue()}
        )


class Issuer:
    """An issuer of JWTs with a key set on loopback."""

    def __init__(self) -> None:
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.hits = 0
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def start(self) -> Issuer:
        app = web.Application()
        app.router.add_get("/keys", self._keys)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def stop(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _keys(self, _: web.Request) -> web.Response:
        self.hits += 1
        jwk = jwt.algorithms.RSAAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
        return web.json_response({"keys": [{**jwk, "kid": "k1", "alg": "RS256", "use": "sig"}]})

    def token(self, user: str, **claims: Any) -> str:
        """Return a valid access token of *user*; *claims* replace or (None) remove what it says."""
        now = int(time.time())
        said: dict[str, Any] = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": user,
            "iat": now,
            "exp": now + 600,
            "scope": "outbound.token.fetch",
            **claims,
        }
        kept = {name: value for name, value in said.items() if value is not None}
        return jwt.encode(kept, self.key, algorithm="RS256", headers={"kid": "k1"})

    def settings(self) -> dict[str, Any]:
        """Return the entry of `callers.issuers`."""
        return {"issuer": self.url, "jwks_uri": f"{self.url}/keys", "audience": AUDIENCE}


class Serving(Protocol):
    """Where a gateway serves: the object in this process (`Gateway`), or one that runs as a process of its own."""

    @property
    def traffic_url(self) -> str: ...

    @property
    def token_api_url(self) -> str | None: ...

    @property
    def console_url(self) -> str: ...

    @property
    def record_path(self) -> Path: ...


@dataclass(slots=True)
class Running:
    """A gateway under test, and what a test needs to use it."""

    gateway: Serving
    data: Path
    management_key: str = field(repr=False)
    session: aiohttp.ClientSession = field(repr=False)
    database_url: str | None = None  # where it is not the file in *data*

    @property
    def url(self) -> str:
        return self.gateway.traffic_url

    def lines(self, event: str | None = None) -> list[dict[str, Any]]:
        """Return the record's lines: of one *event*, or of calls (what the vault does stands in the same record)."""
        lines = [json.loads(line) for line in self.gateway.record_path.read_text().splitlines()]
        wanted = ("intent", "attempt", "outcome", "unauthenticated") if event is None else (event,)
        return [line for line in lines if line["event"] in wanted]

    async def api(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """POST *body* to the token API with the management key; the answer must be 200."""
        headers = {"Authorization": f"Bearer {PROJECT}:{self.management_key}"}
        url = f"{self.gateway.token_api_url}{path}"
        async with self.session.post(url, json=body, headers=headers) as response:
            content: dict[str, Any] = await response.json()
            assert 200 == response.status, content
            return content

    async def connect(
        self, user: str, *, access_token: str, refresh_token: str | None = None, connection: str = "api", **more: Any
    ) -> None:
        """Upload a token of *user*, valid by the clock for an hour."""
        body: dict[str, Any] = {"appId": connection, "userId": user, "accessToken": access_token, **more}
        body.setdefault("accessTokenExpiry", int(time.time()) + 3600)
        if refresh_token is not None:
            body["refreshToken"] = refresh_token
        await self.api("/v1/mgmt/outbound/app/user/oauthtoken/upload", body)

    async def agent_key(self, user: str | None, **more: Any) -> str:
        """Return a new agent key for *user*, made as the command line makes it: in the database."""
        async with key_ring(self.data, self.database_url) as ring:
            given = {"tenants": (), "roles": (), "permissions": (), "scopes": (), "expires_at": None, **more}
            return (await ring.create_agent("agent", user=user, **given)).secret


@asynccontextmanager
async def key_ring(data: Path, database_url: str | None = None) -> AsyncIterator[KeyRing]:
    """Yield the key ring of a data directory, or of another database, as another process would open it."""
    store = await Store.open(database_url or sqlite_url(data / "gateway.db"))
    try:
        feed = ChangeFeed(store, clock=time.time, monotonic=time.monotonic)
        yield KeyRing(store, feed, clock=time.time, random_bytes=os.urandom)
    finally:
        await store.close()


def settings(*routes: dict[str, Any], issuers: tuple[Issuer, ...] = (), **more: Any) -> dict[str, Any]:
    """Return a configuration on free ports of loopback with *routes*; *more* are further top-level keys."""
    return {
        "version": 1,
        "project": PROJECT,
        "listeners": {name: {"bind": "127.0.0.1:0"} for name in ("traffic", "token_api", "console")},
        "egress": LOOPBACK,
        "callers": {"issuers": [issuer.settings() for issuer in issuers]},
        "routes": list(routes),
        **more,
    }


@asynccontextmanager
async def running(
    configuration: dict[str, Any],
    data: Path,
    *,
    database_url: str | None = None,
    sync: Callable[[int], None] = fdatasync,
) -> AsyncIterator[Running]:
    """
    Run a gateway with *configuration*, written and read as YAML, in *data*; yield it with a management key.

    *database_url* names its database where that is not a file in *data*. *sync* brings its record to the disk.
    """
    parsed = parse(yaml.safe_dump(configuration).encode(), name="routes.yaml", directory=data, environ=os.environ)
    environ = {} if database_url is None else {"GATEWAY_DATABASE_URL": database_url}
    gateway = await Gateway.start(parsed, data=data, environ=environ, sync=sync)
    try:
        async with key_ring(data, database_url) as ring:
            management_key = (await ring.create_management("tests")).secret
        async with aiohttp.ClientSession(auto_decompress=False) as session:
            yield Running(gateway, data, management_key, session, database_url)
    finally:
        await gateway.stop(drain_seconds=2)


async def create_connection(gateway: Running, provider: Provider | None, **more: Any) -> None:
    """Create the connection "api" through the token API; with *provider*, its tokens can be refreshed."""
    body: dict[str, Any] = {"id": "api", "name": "The API", "clientId": "client", "clientSecret": "s3cret", **more}
    if provider is not None:
        body["tokenUrl"] = f"{provider.url}/token"
    await gateway.api("/v1/mgmt/outbound/app/create", body)
