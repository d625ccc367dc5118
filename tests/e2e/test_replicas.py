"""
Two gateways on one database, each with a data directory of its own, as on two machines: what changes through one.

A change must hold in the other within SECONDS. Whoever waits asks again and again until then; what decides is the
answer to a request that was sent after the change had been seen, or after SECONDS.
"""

from __future__ import annotations

import asyncio
import base64
import os
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from tests.e2e.gateway_process import RunningProcess, serving
from tests.world import Issuer, Upstream, create_connection, key_ring, settings

SECONDS = 1.0
Answer = tuple[int, str]  # the status, and the refusal's code or the token that the upstream saw


async def test_what_changes_through_one_holds_in_the_other(
    tmp_path: Path, database_url: str, upstream: Upstream, issuer: Issuer
) -> None:
    """
    A token that is replaced or deleted, a connection's narrower origins and a revoked key leave every gateway's caches.
    """
    environ = {"GATEWAY_DATABASE_URL": database_url, "GATEWAY_SEALING_KEY": base64.b64encode(os.urandom(32)).decode()}
    route = {"name": "api", "prefix": "/api", "upstream": upstream.url, "connection": "api"}
    configuration = settings(route, issuers=(issuer,))
    async with (
        serving(configuration, tmp_path / "one", environ=environ) as one,
        serving(configuration, tmp_path / "two", environ=environ) as two,
    ):
        await create_connection(one, None)
        await one.connect("ada", access_token="T1")
        ada, agent = issuer.token("ada"), await one.agent_key("ada")
        for gateway in (one, two):
            assert (200, "T1") == await _call(gateway, upstream, ada) == await _call(gateway, upstream, agent)
            assert 200 == await _fetch(gateway, one.management_key)
        call = partial(_call, two, upstream, ada)

        await one.connect("ada", access_token="T2")
        assert (200, "T2") == await _at_last((200, "T2"), call)

        app = {"id": "api", "name": "The API", "clientId": "client", "origins": ["https://elsewhere.example"]}
        await one.api("/v1/mgmt/outbound/app/update", {"app": app})
        assert (403, "origin_not_allowed") == await _at_last((403, "origin_not_allowed"), call)

        await _delete(one, "user/tokens?appId=api&userId=ada")
        assert (403, "connection_required") == await _at_last((403, "connection_required"), call)

        async with key_ring(one.data, database_url) as ring:
            for secret in (agent, one.management_key):
                assert await ring.revoke(secret.split("_")[1])
        for gateway in (two, one):
            refused = (401, "caller_unauthenticated")
            assert refused == await _at_last(refused, partial(_call, gateway, upstream, agent))
            assert 401 == await _at_last(401, partial(_fetch, gateway, one.management_key))


@pytest.mark.parametrize("engine", ["postgresql"])
async def test_cache_is_not_believed_while_changes_cannot_be_read(
    tmp_path: Path, database_url: str, upstream: Upstream, issuer: Issuer
) -> None:
    """
    A gateway that cannot hear of changes asks the database for each call: a token that is gone is used no more.
    """
    route = {"name": "api", "prefix": "/api", "upstream": upstream.url, "connection": "api"}
    environ = {"GATEWAY_DATABASE_URL": database_url}
    async with serving(settings(route, issuers=(issuer,)), tmp_path / "data", environ=environ) as gateway:
        await create_connection(gateway, None)
        await gateway.connect("ada", access_token="T1")
        call = partial(_call, gateway, upstream, issuer.token("ada"))
        assert (200, "T1") == await call()

        engine = create_async_engine(database_url)
        async with engine.connect() as locks, engine.connect() as deletes:
            await locks.execute(text("LOCK TABLE changes IN ACCESS EXCLUSIVE MODE"))
            assert (200, "T1") == await call()
            await deletes.execute(text("DELETE FROM tokens"))
            await deletes.commit()
            assert (403, "connection_required") == await _at_last((403, "connection_required"), call)
        await engine.dispose()


async def _at_last(wanted: Any, ask: Callable[[], Awaitable[Any]]) -> Any:
    """Ask until the answer is *wanted* or SECONDS are over, and return the answer to one more request."""
    until = time.monotonic() + SECONDS
    while True:
        is_over = time.monotonic() >= until
        if await ask() == wanted or is_over:
            return await ask()
        await asyncio.sleep(0.02)


async def _call(gateway: RunningProcess, upstream: Upstream, credential: str) -> Answer:
    headers = {"Authorization": f"Bearer {credential}"}
    async with gateway.session.get(f"{gateway.url}/api/me", headers=headers) as response:
        content = await response.json(content_type=None)
        if response.status == 200:
            return 200, upstream.authorizations[-1].removeprefix("Bearer ")
        return response.status, content["code"]


async def _fetch(gateway: RunningProcess, management_key: str) -> int:
    headers = {"Authorization": f"Bearer acme:{management_key}"}
    url = f"{gateway.process.token_api_url}/v1/mgmt/outbound/app/user/token/latest"
    async with gateway.session.post(url, json={"appId": "api", "userId": "ada"}, headers=headers) as response:
        await response.read()
        return response.status


async def _delete(gateway: RunningProcess, what: str) -> None:
    headers = {"Authorization": f"Bearer acme:{gateway.management_key}"}
    url = f"{gateway.process.token_api_url}/v1/mgmt/outbound/{what}"
    async with gateway.session.delete(url, headers=headers) as response:
        assert 200 == response.status
