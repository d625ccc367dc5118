"""What was decided before a wait is decided again after it: nothing leaves for a caller who may not call any more."""

from __future__ import annotations

import asyncio

import pytest

from tests.proxy.wire import call, request
from tests.world import PROJECT, Provider, Running, Upstream, key_ring

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
