"""Several gateways on one database: what one of them refreshes, and what a database that fails costs their callers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import text

from gateway.errors import TokenServiceUnavailable
from gateway.proxy.tokens import ConnectionTokens
from gateway.store import engine as engine_module
from gateway.store.changes import ChangeFeed
from gateway.store.engine import Store
from gateway.vault.service import Vault
from tests.vault.conftest import ANYBODY, KEY, House


@asynccontextmanager
async def gateway(house: House) -> AsyncIterator[tuple[Vault, ConnectionTokens]]:
    """A gateway as far as tokens go: a vault, a cache in front of it, and the feed that tells it what changed."""
    async with house.vault() as vault:
        store = await Store.open(house.database_url)
        feed = ChangeFeed(store, clock=time.time, monotonic=time.monotonic)
        cache = ConnectionTokens(vault, clock=house.clock, monotonic=house.clock)
        feed.subscribe("tokens", cache.forget_owner)
        await feed.start()
        try:
            yield vault, cache
        finally:
            await feed.stop()
            await cache.close()
            await store.close()


async def test_what_one_gateway_refreshes_leaves_the_others_caches(house: House) -> None:
    """A token that was refreshed or deleted through one gateway is forgotten by the other, which was told nothing."""
    async with gateway(house) as (one, _), gateway(house) as (_, theirs):
        await one.connections.create(house.connection())
        stored = await house.grant(one)
        rejected = await theirs.fetch(KEY, caller=ANYBODY, credential="")
        assert theirs.cached(KEY, "") is not None

        await one.replace(KEY, rejected=rejected, caller=ANYBODY, credential="")
        await _forgotten(theirs)
        assert "AT-alice-1" == (await theirs.fetch(KEY, caller=ANYBODY, credential="")).access_token

        await one.tokens.delete(stored.id)
        await _forgotten(theirs)


async def _forgotten(cache: ConnectionTokens) -> None:
    for _ in range(600):
        if cache.cached(KEY, "") is None:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("the cache was never told")


async def test_locked_database_refuses_for_a_while_and_loses_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reads go on; a refresh that cannot be leased is not begun, its caller is told to repeat, and then it succeeds."""
    monkeypatch.setattr(engine_module, "BUSY_TIMEOUT_SECONDS", 0.1)
    monkeypatch.setitem(engine_module.POSTGRES_CONNECT, "options", "-c lock_timeout=100")
    async with house.vault() as vault, house.vault() as other:
        await vault.connections.create(house.connection())
        await house.grant(vault, seconds=100.0)
        async with other._store.write() as db:
            await db.execute(text("UPDATE tokens SET account = account"))
            assert "AT-alice-0" == (await vault.fetch(KEY, caller=ANYBODY, credential="")).access_token
            house.clock.now += 101.0
            with pytest.raises(TokenServiceUnavailable) as refusal:
                await vault.fetch(KEY, caller=ANYBODY, credential="")
        house.clock.now += refusal.value.retry_after or 0

        assert [] == house.provider.exchanges
        assert "AT-alice-1" == (await vault.fetch(KEY, caller=ANYBODY, credential="")).access_token
