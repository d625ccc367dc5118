"""A caller that hangs up while its token is being refreshed: the exchange belongs to the gateway, not to the caller."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from urllib.parse import urlsplit

from sqlalchemy import select

from gateway.store.engine import Store
from gateway.store.schema import tokens
from tests.e2e.gateway_process import serving
from tests.proxy.wire import request
from tests.world import Issuer, Provider, Upstream, create_connection, settings

WAIT_SECONDS = 10.0
FETCH = "/v1/mgmt/outbound/app/user/token/latest"


async def test_exchange_completes_when_its_caller_hangs_up(
    tmp_path: Path, database_url: str, upstream: Upstream, provider: Provider, issuer: Issuer
) -> None:
    """
    On both doors: the new token is stored with nobody waiting, the next caller has it, and the provider was asked once.
    """
    environ = {"GATEWAY_DATABASE_URL": database_url}
    route = {"name": "api", "prefix": "/api", "upstream": upstream.url, "connection": "api"}
    issued: list[str] = []
    provider.on_exchange = issued.append
    async with serving(settings(route, issuers=(issuer,)), tmp_path / "data", environ=environ) as gateway:
        await create_connection(gateway, provider)
        for user in ("ada", "bob"):
            past = int(time.time()) - 10
            await gateway.connect(user, access_token="OLD", refresh_token=provider.issue(), accessTokenExpiry=past)

        call = request("GET", "/api/me", credential=issuer.token("ada"))
        await _hang_up(gateway.url, call, provider)
        await _stored(database_url, "ada")
        async with gateway.session.get(f"{gateway.url}/api/me", headers=_bearer(issuer.token("ada"))) as response:
            called = response.status

        body = json.dumps({"appId": "api", "userId": "bob"}).encode()
        fetch = request("POST", FETCH, credential=f"acme:{gateway.management_key}", body=body)
        await _hang_up(gateway.process.token_api_url or "", fetch, provider)
        await _stored(database_url, "bob")
        fetched = await gateway.api(FETCH, {"appId": "api", "userId": "bob"})

    assert (200, [f"Bearer {issued[0]}"]) == (called, upstream.authorizations)
    assert issued[1] == fetched["token"]["accessToken"]
    assert (2, 0) == (provider.exchanges, provider.reused)


async def _hang_up(url: str, data: bytes, provider: Provider) -> None:
    """Send *data*, go away while the provider is being asked, and only then let it answer."""
    provider.entered.clear()
    provider.gate = asyncio.Event()
    parts = urlsplit(url)
    async with asyncio.timeout(WAIT_SECONDS):
        _, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(data)
        await provider.entered.wait()
        writer.transport.abort()
        # A gateway that gave up with its caller does so as soon as it reads of the reset: let it.
        await asyncio.sleep(0.2)
        provider.gate.set()


async def _stored(database_url: str, user: str) -> None:
    """Wait until *user*'s new token is in the database, without asking the gateway for it."""
    store = await Store.open(database_url)
    version = 1
    async with asyncio.timeout(WAIT_SECONDS):
        while version == 1:
            async with store.read() as db:
                version = (await db.execute(select(tokens.c.version).where(tokens.c.user_id == user))).scalar_one()
            await asyncio.sleep(0.01)
    await store.close()


def _bearer(credential: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {credential}"}
