"""The gateway as a whole: what it writes, how it starts and how it stops."""

from __future__ import annotations

import asyncio
import base64
import secrets
from pathlib import Path
from urllib.parse import quote

import aiohttp
import pytest

from gateway.config.load import parse
from gateway.server import CannotStart, Gateway
from tests.e2e.gateway_process import serving
from tests.proxy.wire import call, calling, chunked, eventually, request, respond_with
from tests.world import Issuer, Provider, Received, Upstream, answer, create_connection, running, settings


async def test_no_secret_in_any_byte_that_the_process_wrote(tmp_path: Path) -> None:
    """
    Through success and failure no token, key, cookie or secret gets to the logs, the record or the metrics.
    """
    canary = {
        name: f"canary{secrets.token_hex(16)}" for name in ("access", "refresh", "client_secret", "cookie", "junk")
    }
    upstream, provider, issuer = await Upstream().start(), await Provider().start(), await Issuer().start()
    entry = {
        "name": "api",
        "prefix": "/api",
        "upstream": upstream.url,
        "connection": "api",
        "allow": ["GET /x/**", "POST /x/**"],
        "timeouts": {"response_seconds": 1},
    }
    refresh = provider.issue()
    canary["issued_refresh"] = refresh
    provider.on_exchange = lambda token: canary.update({f"exchanged-{token}": token})
    async with serving(settings(entry, issuers=(issuer,)), tmp_path / "data") as gateway:
        await create_connection(gateway, provider, clientSecret=canary["client_secret"])
        await gateway.connect("ada", access_token=canary["access"], refresh_token=refresh)
        canary["jwt"] = issuer.token("ada")
        canary["expired"] = issuer.token("ada", exp=1)
        canary["agent"] = await gateway.agent_key("ada")
        canary["management"] = gateway.management_key
        cookie = (f"Cookie: session={canary['cookie']}",)
        for credential in (canary["jwt"], canary["agent"]):
            for data in (
                answer(200, b"{}", f"Set-Cookie: s={canary['cookie']}\r\n"),
                answer(401, b"{}"),
                answer(403, b"{}", 'WWW-Authenticate: Bearer error="insufficient_scope", scope="x"\r\n'),
                f"{canary['junk']}\r\n\r\n".encode(),
                b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
                b"",
            ):
                upstream.respond = respond_with(data, close=True)
                target = f"/api/x/y?q={canary['junk']}"
                await call(gateway, request("GET", target, credential=credential, fields=cookie))
        upstream.respond = silence
        await call(gateway, request("GET", "/api/x/y", credential=canary["jwt"]))
        for credential in (canary["expired"], canary["management"], canary["junk"], f"gwa_{canary['junk']}"):
            await call(gateway, request("GET", "/api/x/y", credential=credential, fields=cookie))
        for target in ("/nowhere", "/api/no", "/api/../x", f"/api/x/y?access_token={canary['junk']}"):
            await call(gateway, request("GET", target, credential=canary["jwt"]))
        for data in (
            f"GET / HTTP/1.1\r\nHost: x\r\nAuthorization : Bearer {canary['jwt']}\r\n\r\n".encode(),
            f"GET /{canary['jwt']} x HTTP/1.1\r\n\r\n".encode(),
            request("POST", "/api/x/y", credential=canary["jwt"], fields=("Transfer-Encoding: chunked",))
            + chunked(b"x")[:-5]
            + canary["jwt"].encode()
            + b"\r\n\r\n",
        ):
            await call(gateway, data)
        async with calling(gateway) as caller:
            await caller.send(request("GET", "/api/x/y", credential=canary["jwt"]))
            caller.reset()
        async with gateway.session.get(f"{gateway.process.console_url}/metrics") as response:
            metrics = await response.text()
        await asyncio.sleep(1.2)  # a sweep: the count of strangers is written
    record = gateway.process.record_path.read_text()
    for server in (upstream, provider, issuer):
        await server.stop()

    written = {"stdout": gateway.process.stdout, "stderr": gateway.process.stderr, "record": record, "metrics": metrics}
    assert '"unauthenticated"' in record
    assert 1 <= provider.exchanges
    for name, secret in canary.items():
        for spelled in {secret, quote(secret, safe=""), base64.b64encode(secret.encode()).decode().rstrip("=")}:
            assert [] == [place for place, text in written.items() if spelled in text], name
    for name in ("jwt", "agent", "management"):
        part = canary[name][-24:]
        assert [] == [place for place, text in written.items() if part in text], name
    assert "Traceback" not in gateway.process.stderr


async def silence(_: Received, __: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3)


async def test_start_that_fails_leaves_nothing_open(tmp_path: Path) -> None:
    """
    A listener that cannot be opened ends the start, and everything that was opened before is closed.
    """
    taken = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = taken.sockets[0].getsockname()[1]
    configuration = settings()
    configuration["listeners"]["traffic"] = {"bind": f"127.0.0.1:{port}"}
    with pytest.raises(CannotStart, match=r"cannot listen on 127\.0\.0\.1"):
        async with running(configuration, tmp_path / "data"):
            pass
    taken.close()
    await taken.wait_closed()

    assert await eventually(lambda: [] == [task for task in asyncio.all_tasks() if task.get_name() == "sweep"])


async def test_installation_without_the_parser_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    With an aiohttp that lacks what the data path leans on nothing starts, and the message says what is missing.
    """
    monkeypatch.setattr(aiohttp, "__version__", "3.13.0")
    configuration = parse(b"version: 1\nproject: acme\nroutes: []\n", name="r", directory=tmp_path, environ={})

    with pytest.raises(CannotStart, match=r"3\.14\.5 or newer"):
        await Gateway.start(configuration, data=tmp_path / "data", environ={})
    assert not (tmp_path / "data").exists()


async def test_stop_lets_a_call_under_way_end(tmp_path: Path) -> None:
    """
    A stop waits for what is in flight, tells its caller that the connection ends, and takes no new connection.
    """
    upstream, issuer = await Upstream().start(), await Issuer().start()
    go = asyncio.Event()

    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        await go.wait()
        writer.write(answer(200, b"{}"))

    upstream.respond = respond
    entry = {"name": "api", "prefix": "/api", "upstream": upstream.url, "connection": "api"}
    async with running(settings(entry, issuers=(issuer,)), tmp_path / "data") as gateway:
        await create_connection(gateway, None)
        await gateway.connect("ada", access_token="T1")
        under_way = asyncio.create_task(call(gateway, request("GET", "/api/x", credential=issuer.token("ada"))))
        assert await eventually(lambda: 1 == len(upstream.received))
        assert isinstance(gateway.gateway, Gateway)
        stopping = asyncio.create_task(gateway.gateway.stop(drain_seconds=5))
        await asyncio.sleep(0.05)
        with pytest.raises(ConnectionError):
            await call(gateway, request("GET", "/api/x"))
        go.set()
        got = await under_way
        await stopping
        outcome = gateway.lines("outcome")[0]
    await upstream.stop()
    await issuer.stop()

    assert (200, b"{}") == (got.status, got.body)
    assert (200, None) == (outcome["status"], outcome["error"])
