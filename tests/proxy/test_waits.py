"""What was decided before a wait is decided again after it: nothing leaves for a caller who may not call any more."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.proxy.wire import call, calling, request
from tests.world import (
    LOOPBACK,
    PROJECT,
    Provider,
    Running,
    Upstream,
    answer,
    create_connection,
    key_ring,
    running,
    settings,
)

LONG_AGO = 1_700_000_000  # POSIX seconds: a token that has expired is refreshed before it is sent
FEED_SECONDS = 1.5  # within a second the gateway hears what another process has changed


@pytest.mark.parametrize(
    ("case", "sent"),
    [("the token has expired and is refreshed first", 0), ("the upstream rejects the token, which is refreshed", 1)],
)
async def test_key_revoked_while_a_refresh_runs_sends_nothing_more(
    gateway: Running, upstream: Upstream, provider: Provider, case: str, sent: int
) -> None:
    """
    The refresh is stored, the caller is answered 401, and the upstream sees no send after the key was revoked.
    """
    if sent:
        upstream.live = set()
        provider.on_exchange = upstream.live.add
    else:
        await gateway.connect("ada", access_token="T0", refresh_token=provider.issue(), accessTokenExpiry=LONG_AGO)
    provider.gate = asyncio.Event()
    async with key_ring(gateway.data) as ring:
        key = await ring.create_agent(
            "agent", user="ada", tenants=(), roles=(), permissions=(), scopes=(), expires_at=None
        )
        calling = asyncio.create_task(call(gateway, request("GET", "/api/x", credential=key.secret)))
        await provider.entered.wait()
        await ring.revoke(key.id)
        await asyncio.sleep(FEED_SECONDS)
        provider.gate.set()
        got = await calling

    assert (401, "caller_unauthenticated") == (got.status, got.code)
    assert sent == len(upstream.received)
    assert 1 == provider.exchanges
    assert "caller_unauthenticated" == gateway.lines("outcome")[-1]["error"]


async def test_grant_deleted_while_its_refresh_runs_sends_nothing_more(
    gateway: Running, upstream: Upstream, provider: Provider
) -> None:
    """
    What the exchange brings belongs to nobody any more: neither this call nor the next is sent with it (threats C12).
    """
    await gateway.connect("ada", access_token="T0", refresh_token=provider.issue(), accessTokenExpiry=LONG_AGO)
    provider.gate = asyncio.Event()
    key = await gateway.agent_key("ada")
    calling = asyncio.create_task(call(gateway, request("GET", "/api/x", credential=key)))
    await provider.entered.wait()
    deleted = await gateway.session.delete(
        f"{gateway.gateway.token_api_url}/v1/mgmt/outbound/user/tokens?appId=api&userId=ada",
        headers={"Authorization": f"Bearer {PROJECT}:{gateway.management_key}"},
    )
    provider.gate.set()
    got = [await calling, await call(gateway, request("GET", "/api/x", credential=key))]

    assert 200 == deleted.status
    assert [(403, "connection_required")] * 2 == [(each.status, each.code) for each in got]
    assert [] == upstream.received


async def test_key_revoked_before_an_expectation_fails_sends_nothing_more(gateway: Running, upstream: Upstream) -> None:
    """
    An upstream that takes no Expect is asked again without, and that only for who may still call.
    """
    expected, revoked = asyncio.Event(), asyncio.Event()

    async def early(head: bytes, writer: asyncio.StreamWriter) -> bool:
        if b"Expect: 100-continue" not in head:
            return False
        expected.set()
        await revoked.wait()
        writer.write(answer(417))
        await writer.drain()
        return True

    upstream.early = early
    async with key_ring(gateway.data) as ring, calling(gateway) as caller:
        key = await ring.create_agent(
            "agent", user="ada", tenants=(), roles=(), permissions=(), scopes=(), expires_at=None
        )
        warm = await call(gateway, request("GET", "/api/warm", credential=key.secret))
        chunked = ("Transfer-Encoding: chunked",)
        await caller.send(request("POST", "/api/x", credential=key.secret, fields=chunked, body=b"5\r\nhello\r\n"))
        await expected.wait()
        caller.writer.write(b"0\r\n\r\n")
        await ring.revoke(key.id)
        await asyncio.sleep(FEED_SECONDS)
        revoked.set()
        got = await caller.answer("POST")

    assert 200 == warm.status
    assert (401, "caller_unauthenticated") == (got.status, got.code)
    assert ["GET /warm HTTP/1.1"] == [each.request_line for each in upstream.received]


async def test_token_deleted_while_its_upstream_is_connected_is_not_sent(tmp_path: Path, upstream: Upstream) -> None:
    """
    What is heard of a token's end while a connection is opened counts for the call that opens it (threats C12).
    """
    connecting, go = asyncio.Event(), asyncio.Event()

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        connecting.set()
        await go.wait()
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await reader.read()
        writer.close()

    proxy = await asyncio.start_server(tunnel, "127.0.0.1", 0)
    route = {"name": "api", "prefix": "/api", "upstream": upstream.url, "connection": "api"}
    configuration = settings(route)
    configuration["callers"] = {}
    proxy_url = f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
    configuration["egress"] = {**LOOPBACK, "proxy": proxy_url}
    async with proxy, running(configuration, tmp_path / "data") as gateway:
        await create_connection(gateway, None)
        await gateway.connect("ada", access_token="T0")
        key = await gateway.agent_key("ada")
        waiting = asyncio.create_task(call(gateway, request("GET", "/api/x", credential=key)))
        await connecting.wait()
        deleted = await gateway.session.delete(
            f"{gateway.gateway.token_api_url}/v1/mgmt/outbound/user/tokens?appId=api&userId=ada",
            headers={"Authorization": f"Bearer {PROJECT}:{gateway.management_key}"},
        )
        await asyncio.sleep(FEED_SECONDS)
        go.set()
        got = await waiting

    assert 200 == deleted.status
    assert (403, "connection_required") == (got.status, got.code)
