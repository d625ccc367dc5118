"""
The canary sweep (threats E1 to E3, E8, E12): unique secrets everywhere, every error provoked, every sink searched.

The gateway is a process of its own that logs at debug level, Python's development mode included. The one answer that
may hold a secret, a raw token that somebody fetched, is not asked for.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit

import aiohttp
import yaml
from aiohttp import web

from tests.e2e.canaries import Canaries
from tests.e2e.gateway_process import RunningProcess, command, serving
from tests.tools import require_tool
from tests.world import Issuer, Received, Upstream, answer, settings

OUTBOUND = "/v1/mgmt/outbound"
DEBUG = {"PYTHONPATH": str(Path(__file__).parent / "at_debug_level"), "PYTHONDEVMODE": "1"}
WAIT_SECONDS = 20.0
READ_SECONDS = 1.0  # of an answer on a connection that is kept open
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
USERS = tuple(f"user-{number}" for number in range(8))  # each has one refresh that fails: then it waits


async def test_no_sink_holds_a_secret(
    tmp_path: Path, database_path: Path, database_url: str, upstream: Upstream, issuer: Issuer
) -> None:
    """
    Whatever goes wrong, no log, record, metric, answer, page, command or byte of the database holds a secret.
    """
    canary, data = Canaries(), tmp_path / "data"
    environ = {"GATEWAY_DATABASE_URL": _with_password(database_url, canary["database password"]), **DEBUG}
    environ["FILE_SECRET"] = canary["client secret of the file"]
    shown: dict[str, str] = {}
    async with echoing_provider() as provider:
        file_connection = {
            "id": "filed",
            "client_id": "client",
            "client_secret": "${FILE_SECRET}",
            "token_url": f"{provider.url}/token",
        }
        configuration = _configuration(upstream, issuer, file_connection)
        async with serving(configuration, data, environ=environ) as gateway:
            await _plant(gateway, provider, canary)
            jwt = issuer.token("ada")
            canary.keep("caller's JWT", jwt.rpartition(".")[2])
            key = await gateway.agent_key("ada")
            canary.keep("agent key", key.split("_")[2])
            canary.keep("management key", gateway.management_key.split("_")[2])
            if (data / "sealing.key").exists():
                canary.keep("sealing key", (data / "sealing.key").read_text().strip())
            shown["answers to malformed requests"] = await _malformed(gateway, (jwt, key, gateway.management_key))
            shown["answers of the upstream"] = await _echoes(gateway, upstream, (jwt, key), canary)
            shown["answers of the token API"] = await _token_api(gateway, provider, jwt, canary)
            shown["commands"] = await _commands(tmp_path, data, environ, canary)
            async with gateway.session.get(f"{gateway.process.console_url}/metrics") as response:
                shown["metrics"] = await response.text()
            shown["database"] = await asyncio.to_thread(_database, database_url, database_path)
    shown["stdout"], shown["stderr"] = gateway.process.stdout, gateway.process.stderr
    for path in sorted(data.rglob("*")):
        if path.is_file() and path.name != "sealing.key":
            shown[f"data/{path.relative_to(data)}"] = path.read_bytes().decode("latin-1")

    assert provider.asked > 10
    assert "connection_scope_missing" in shown["answers of the upstream"]
    assert "token_exchanged" in shown["stderr"]
    assert '"event":"outcome"' in shown["data/record/egress.jsonl"]
    assert len(canary) > 12
    assert {} == {sink: found for sink, text in shown.items() if (found := canary.found_in(text))}


# --- what is planted ---------------------------------------------------------------------------------------------


def _configuration(upstream: Upstream, issuer: Issuer, file_connection: dict[str, str]) -> dict[str, object]:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
    base = {"upstream": upstream.url, "connection": "api"}
    return settings(
        {**base, "name": "api", "prefix": "/api"},
        {**base, "name": "cutting", "prefix": "/cutting", "echo_guard": "cut"},
        {**base, "name": "query", "prefix": "/query", "inject": {"query": "key"}},
        {**base, "name": "basic", "prefix": "/basic", "inject": {"basic": "user:{token}"}},
        {**base, "name": "nobody", "prefix": "/nobody", "upstream": nobody},
        {**base, "name": "filed", "prefix": "/filed", "connection": "filed"},
        issuers=(issuer,),
        connections=[file_connection],
        callers={"issuers": [issuer.settings()], "management_keys": True},
    )


async def _plant(gateway: RunningProcess, provider: EchoingProvider, canary: Canaries) -> None:
    body = {
        "id": "api",
        "name": "The API",
        "clientId": "client",
        "clientSecret": canary["client secret"],
        "tokenUrl": f"{provider.url}/token",
        "revocationUrl": f"{provider.url}/revoke",
    }
    await gateway.api(f"{OUTBOUND}/app/create", body)
    await gateway.api(f"{OUTBOUND}/app/create", {"id": "keys", "name": "Keys", "appType": "apikey"})
    for connection, users in (("api", ("ada", *USERS)), ("filed", ("ada",))):
        for user in users:
            await gateway.connect(
                user,
                access_token=canary[f"access token, {connection}, {user}"],
                refresh_token=canary[f"refresh token, {connection}, {user}"],
                connection=connection,
            )
    key = {"appId": "keys", "userId": "ada", "apiKey": canary["API key"]}
    await gateway.api(f"{OUTBOUND}/app/user/apikey/upload", key)


def _with_password(database_url: str, password: str) -> str:
    """Return the URL with a *password*, which the tests' server takes unread; a file has none."""
    return database_url.replace("//gateway@", f"//gateway:{password}@")


# --- a provider that answers with what it was asked ----------------------------------------------------------------


class EchoingProvider:
    """Answers each request with all that came, in one bad way after the other."""

    def __init__(self) -> None:
        self.url = ""
        self.asked = 0

    async def handle(self, request: web.Request) -> web.Response:
        form = await request.text()
        said = f"{form} {dict(request.headers)}"
        ways = (
            lambda: web.json_response({"error": "server_error", "error_description": said}, status=400),
            lambda: web.Response(text=f"<html>{said}</html>", content_type="text/html", status=500),
            lambda: web.Response(text=f'{{"access_token": "{form}', content_type="application/json"),
            lambda: web.Response(status=302, headers={"Location": f"/elsewhere?{form}"}),
            lambda: web.json_response({"error": said}, status=401, headers={"X-Debug": form}),
            lambda: web.json_response({"access_token": {"nested": form}, "token_type": said}),
            lambda: web.json_response({"access_token": f"with space {form}", "expires_in": form}),
            lambda: web.json_response([said]),
        )
        self.asked += 1
        return ways[self.asked % len(ways)]()


@asynccontextmanager
async def echoing_provider() -> AsyncIterator[EchoingProvider]:
    """Serve an `EchoingProvider`."""
    provider = EchoingProvider()
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", provider.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    provider.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield provider
    await runner.cleanup()


# --- what is provoked --------------------------------------------------------------------------------------------

# Requests with a credential, {0}, and something that is wrong; {close} ends the connection.
MALFORMED = (
    "GET /api/x HTTP/1.1\r\nHost: g\r\n{close}Authorization: Bearer {0}\r\nbroken line {0}\r\n\r\n",
    "GET /api/x HTTP/1.1\r\nHost: g\r\n{close}Authorization: Bearer {0}\x01\r\n\r\n",
    "GET /api/x HTTP/1.1\r\nHost: g\r\n{close}Authorization : Bearer {0}\r\n\r\n",
    "GET /api/x HTTP/1.1\r\nHost: g\r\n{close}Authorization: Bearer\r\n {0}\r\n\r\n",
    "GET /api/x HTTP/1.1\r\nHost: {0}/\r\nAuthorization: Bearer {0}\r\n\r\n",
    "GET /api/x HTTP/1.1\r\nHost: g\r\n{close}Authorization: Bearer {0}\r\nAuthorization: Bearer {0}\r\n\r\n",
    "GET /api/x HTTP/1.1\r\nHost: g\r\n{close}Authorization: Basic {0}\r\n\r\n",
    "GET /api/x HTTP/1.1\r\nHost: g\r\n{close}Authorization: {0}\r\n\r\n",
    "GET /api/x HTTP/1.1\r\nHost: g\r\n{close}Authorization: Bearer x{0}\r\n\r\n",
    "GET /api/x HTTP/1.1\r\nHost: g\r\n{close}Authorization: Bearer other:{0}\r\n\r\n",
    "GET /api/x HTTP/1.1\r\nHost: g\r\n{close}Gateway-Authorization: Bearer {0}x\r\nCookie: {0}\r\n\r\n",
    "GET /api/x HTTP/1.1\r\nHost: g\r\n{close}Gateway-Tenant: {0}\r\nAuthorization: Bearer {0}\r\n\r\n",
    "GET /api/x HTTP/1.1\r\nHost: g\r\n{close}X_{0}: 1\r\nAuthorization: Bearer {0}\r\n\r\n",
    "GET /api/x?access_token={0} HTTP/1.1\r\nHost: g\r\n{close}Authorization: Bearer {0}\r\n\r\n",
    "GET /api/x?access_token={0} HTTP/1.1\r\nHost: g\r\n{close}\r\n",
    "GET /none?access_token={0} HTTP/1.1\r\nHost: g\r\n{close}Authorization: Bearer {0}\r\n\r\n",
    "GET /api/x HTTP/1.1 {0}\r\nHost: g\r\n{close}\r\n",
    "{0} /api/x HTTP/1.1\r\nHost: g\r\n{close}\r\n",
    "GET /api/x HTTP/2.0\r\nHost: g\r\n{close}Authorization: Bearer {0}\r\n\r\n",
    "GET http://{0}@g/api/x HTTP/1.1\r\nHost: g\r\n{close}Authorization: Bearer {0}\r\n\r\n",
    "POST /api/x HTTP/1.1\r\nHost: g\r\n{close}Authorization: Bearer {0}\r\nContent-Length: {0}\r\n\r\n",
    "POST /api/x HTTP/1.1\r\nHost: g\r\n{close}Authorization: Bearer {0}\r\nTransfer-Encoding: {0}\r\n\r\n",
    "POST /api/x HTTP/1.1\r\nHost: g\r\n{close}Authorization: Bearer {0}\r\nTransfer-Encoding: chunked\r\n\r\n"
    "{0}\r\n\r\n",
    "POST /v1/mgmt/outbound/app/user/token HTTP/1.1\r\nHost: g\r\n{close}Authorization: Bearer acme:{0}\r\n"
    "Transfer-Encoding: chunked\r\n\r\n5\r\n{0}\r\n0\r\n\r\n",
    "POST /v1/mgmt/outbound/app/user/token HTTP/1.1\r\nHost: g\r\n{close}Authorization: Bearer acme:{0}\r\n"
    'Content-Type: application/json\r\nContent-Length: 400\r\n\r\n{{"appId": "{0}"',
    "GET /connect/{0} HTTP/1.1\r\nHost: g\r\n{close}\r\n",
    "GET /v1/outbound/oauth/callback?code={0}&state={0} HTTP/1.1\r\nHost: g\r\n{close}\r\n",
    "GET /v1/outbound/oauth/callback?error={0}&error_description={0}&state=x HTTP/1.1\r\nHost: g\r\n{close}\r\n",
    "GET /metrics?{0} HTTP/1.1\r\nHost: g\r\n{close}Authorization: Bearer {0}\r\nX: \x00{0}\r\n\r\n",
)


async def _malformed(gateway: RunningProcess, credentials: tuple[str, ...]) -> str:
    """Send every malformed request with every credential to each listener, and return all answers."""
    process = gateway.process
    answers = []
    for url in (process.traffic_url, process.token_api_url, process.console_url):
        for credential in credentials:
            requests = (
                request.format(credential, close="Connection: close\r\n").encode("latin-1") for request in MALFORMED
            )
            answers += await asyncio.gather(*(_raw(str(url), request) for request in requests))
    assert sum(said.startswith("HTTP/1.1 4") for said in answers) > len(answers) / 2
    return "\n".join(answers)


async def _raw(url: str, data: bytes) -> str:
    """Send *data*, and return all that comes until the connection ends, or for a while."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    said = []
    try:
        writer.write(data)
        async with asyncio.timeout(READ_SECONDS):
            while more := await reader.read(65_536):
                said.append(more)
    except (ConnectionError, TimeoutError):
        pass  # reset, or kept open: what came, came
    finally:
        writer.transport.abort()
    return b"".join(said).decode("latin-1")


async def _echoes(gateway: RunningProcess, upstream: Upstream, credentials: tuple[str, ...], canary: Canaries) -> str:
    """Have the upstream answer with the token in every bad way, on every route, and return all answers."""
    token = canary["access token, api, ada"]
    ways = (
        answer(200, b"{}", f"X-Debug: {token}\r\nLocation: /x?t={token}\r\nSet-Cookie: t={token}\r\n"),
        answer(401, b"{}", f'WWW-Authenticate: Bearer realm="{token}", error="{token}"\r\n'),
        answer(403, b"{}", f'WWW-Authenticate: Bearer error="insufficient_scope", scope="{token}"\r\n'),
        answer(200, b"{}", f"X-Debug: {quote(token)}\r\n").replace(b"Whatever", token.encode()),
        f"HTTP/1.1 {token}\r\n\r\n".encode(),
        f"{token}".encode(),
        f"HTTP/1.1 200 OK\r\nbroken {token}\r\n\r\n".encode(),
        f"HTTP/1.1 200 OK\r\nContent-Length: {token}\r\n\r\n".encode(),
        f"HTTP/1.1 103 Early\r\nLink: <{token}>\r\n\r\nHTTP/1.1 204 No\r\nX: {token}\r\n\r\n".encode(),
        f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x={token}\r\n{{}}\r\n0\r\nX: {token}\r\n\r\n".encode(),
        f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{token}\r\n".encode(),
        answer(200, b"{}") + f"HTTP/1.1 200 OK\r\nX: {token}\r\n\r\n".encode(),
    )
    in_bodies = (
        answer(200, json.dumps({"token": token}).encode()),
        CHUNKED + b"40\r\n%b\r\na\r\n%b\r\n0\r\n\r\n" % (token[:28].rjust(64).encode(), token[28:].encode()),
    )
    answers = []
    for data in (*ways, *in_bodies):

        async def respond(_: Received, writer: asyncio.StreamWriter, data: bytes = data) -> None:
            writer.write(data)
            await writer.drain()
            writer.close()

        upstream.respond = respond
        for route in ("cutting",) if data in in_bodies else ("api", "cutting", "query", "basic", "nobody"):
            for credential in credentials:
                head = f"GET /{route}/x HTTP/1.1\r\nHost: g\r\nConnection: close\r\n"
                head += f"Authorization: Bearer {credential}\r\n\r\n"
                answers.append(await _raw(gateway.url, head.encode()))
    return "\n".join(answers)


async def _token_api(gateway: RunningProcess, provider: EchoingProvider, jwt: str, canary: Canaries) -> str:
    """Use the token API wrongly with secrets in hand, have the provider fail, and return all answers."""
    secret, answers = canary["uploaded in vain"], []
    upload = f"{OUTBOUND}/app/user/oauthtoken/upload"
    for path, body in (
        *((upload, body) for body in _bad_uploads(secret)),
        (f"{OUTBOUND}/app/create", {"id": "api", "name": "again", "clientSecret": secret}),
        (f"{OUTBOUND}/app/create", {"id": "b d", "name": "x", "clientSecret": secret}),
        (f"{OUTBOUND}/app/create", {"id": "new", "name": "x", "clientSecret": secret, "tokenUrl": f"ftp://{secret}@x"}),
        (f"{OUTBOUND}/app/create", {"id": "new", "name": "x", "clientSecret": [secret], secret: secret}),
        (f"{OUTBOUND}/app/user/apikey/upload", {"appId": "api", "userId": "ada", "apiKey": secret}),
        (f"{OUTBOUND}/app/user/apikey/upload", {"appId": "keys", "userId": "ada", "apiKey": secret + "\n"}),
    ):
        for credential in (gateway.management_key, jwt):
            answers.append(await _post(gateway, path, json.dumps(body).encode(), credential))
    for body in (f'{{"appId": "{secret}', f'["{secret}"]', f'{{"{secret}": 1, "{secret}": 1}}', f"\xff{secret}"):
        answers.append(await _post(gateway, upload, body.encode("latin-1"), gateway.management_key))
    for connection, user in (("filed", "ada"), ("api", "ada"), *(("api", user) for user in USERS)):
        body = {"appId": connection, "userId": user, "options": {"forceRefresh": True}}
        answers.append(await _refresh(gateway, body))
    answers.append(await _post(gateway, f"{OUTBOUND}/app/user/tokens/delete", b'{"userId": "ada"}', jwt))
    return "\n".join(answers)


def _bad_uploads(secret: str) -> tuple[dict[str, object], ...]:
    base: dict[str, object] = {"appId": "api", "userId": "ada", "accessToken": secret, "refreshToken": secret}
    return (
        {**base, "appId": "none"},
        {**base, "accessTokenExpiry": "soon"},
        {**base, "accessTokenExpiry": secret},
        {**base, "accessToken": {"nested": secret}},
        {**base, "refreshToken": 5},
        {**base, "accessToken": f"with space {secret}"},
        {**base, "scopes": secret},
        {**base, "verifyRefresh": True},
        {**base, secret: secret},
        {"appId": secret, "userId": secret, "accessToken": secret},
    )


async def _refresh(gateway: RunningProcess, body: Mapping[str, object]) -> str:
    """Ask for a token with a refresh that fails; a token that is served all the same is what was asked for."""
    said = await _post(gateway, f"{OUTBOUND}/app/user/token/latest", json.dumps(body).encode(), gateway.management_key)
    return "" if '"accessToken"' in said else said


async def _post(gateway: RunningProcess, path: str, body: bytes, credential: str) -> str:
    headers = {"Authorization": f"Bearer acme:{credential}", "Content-Type": "application/json"}
    url = f"{gateway.process.token_api_url}{path}"
    timeout = aiohttp.ClientTimeout(total=WAIT_SECONDS)
    async with gateway.session.post(url, data=body, headers=headers, timeout=timeout) as response:
        return f"{response.status} {dict(response.headers)} {await response.text()}"


async def _commands(tmp_path: Path, data: Path, environ: dict[str, str], canary: Canaries) -> str:
    """Run the commands that read secrets, well and wrongly, and return all that they wrote."""
    config = data.with_name(f"{data.name}.routes.yaml")
    broken = tmp_path / "broken.yaml"
    secret = canary["secret in a broken file"]
    entry = {"id": "x y", "client_secret": [secret], "token_url": f"https://u:{secret}@x", "no_such_key": secret}
    broken.write_text(yaml.safe_dump({"version": 1, "project": "p", "connections": [entry], "routes": [{"name": 5}]}))
    torn = tmp_path / "torn.yaml"
    torn.write_text(f'version: 1\nproject: p\nconnections: [{{id: a, client_secret: "{secret}\n')
    key = canary["sealing key that is none"]
    password = canary["password of another database"]
    elsewhere = {"GATEWAY_DATABASE_URL": f"postgresql://u:{password}@127.0.0.1:1/none"}
    runs: tuple[tuple[tuple[str, ...], dict[str, str]], ...] = (
        (("check", str(config)), {}),
        (("check", str(broken)), {}),
        (("check", str(broken), "--format", "json"), {}),
        (("check", str(torn)), {}),
        (("serve", "-c", str(torn)), {}),
        (("config", "show", "-c", str(config)), {}),
        (("config", "show", "-c", str(broken)), {}),
        (("routes", "ls", "-c", str(config), "--json"), {}),
        (("connections", "ls", "--json"), {}),
        (("connections", "show", "api", "--json"), {}),
        (("connections", "add", "--id", "api"), {"GATEWAY_CLIENT_SECRET": secret}),
        (("connections", "add", "--id", "new", "--token-url", "ftp://x"), {"GATEWAY_CLIENT_SECRET": secret}),
        (("tokens", "ls", "--json"), {}),
        (("keys", "ls", "--json"), {}),
        (("sealing", "status", "--json"), {}),
        (("tokens", "ls"), elsewhere),
        (("serve", "-c", str(config)), elsewhere),
        (("tokens", "ls"), {"GATEWAY_DATABASE_URL": f"mysql://u:{password}@x/y"}),
        (("tokens", "ls"), {"GATEWAY_DATABASE_URL": f"postgresql://u:{password}@[x/y"}),
        (("serve", "-c", str(config)), {"GATEWAY_SEALING_KEY": key}),
        (("connections", "add", "--id", "sealed"), {"GATEWAY_SEALING_KEY": key, "GATEWAY_CLIENT_SECRET": secret}),
    )
    written = []
    takes_data = {"serve", "connections", "tokens", "keys", "sealing"}
    for arguments, more in runs:
        where = ("--data", str(data if arguments[0] != "serve" else tmp_path / "other")) * (arguments[0] in takes_data)
        async with command(*arguments, *where, environ={**environ, **more}) as process, asyncio.timeout(30):
            stdout, stderr = await process.communicate()
        assert stdout or stderr, arguments
        written.append((stdout + stderr).decode("latin-1"))
    shutil.rmtree(tmp_path / "other", ignore_errors=True)
    return "\n".join(written)


def _database(database_url: str, database_path: Path) -> str:
    """Return what the database's own tool dumps; SQLite's files are in the data directory."""
    if database_url.startswith("sqlite"):
        arguments = [str(require_tool("sqlite3")), str(database_path), ".dump"]
    else:
        arguments = [str(require_tool("pg_dump")), database_url.replace("+psycopg", "")]
    return subprocess.run(arguments, check=True, capture_output=True, timeout=30).stdout.decode("latin-1")
