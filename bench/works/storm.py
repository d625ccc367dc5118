"""
A refresh storm: 500 callers come at once with credentials of their own, and the one token that they share is dead.

The API refuses the old token with 401; the provider takes each refresh token once. All must get an answer of 200.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import aiohttp
import uvloop

from bench.report import Table
from bench.session import Session
from tests.e2e.gateway_process import serving
from tests.world import Issuer, Provider, Upstream, create_connection, settings

CALLERS = 500
USER = "ada"
DEAD = "T1"


async def _all(url: str, credentials: list[str]) -> list[int]:
    """Return the statuses of one call each with *credentials*, all at once."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def call(credential: str) -> int:
            headers = {"Authorization": f"Bearer {credential}"}
            async with session.get(f"{url}/api/v1/me", headers=headers) as response:
                await response.read()
                return response.status

        return list(await asyncio.gather(*map(call, credentials)))


async def storm(data: Path) -> tuple[float, int, int, int]:
    """Return how long it took, and how many exchanges, answers of 200 and requests with the dead token there were."""
    upstream, provider, issuer = await Upstream().start(), await Provider().start(), await Issuer().start()
    upstream.live = set()
    provider.on_exchange = upstream.live.add
    route = {"name": "api", "prefix": "/api", "upstream": upstream.url, "connection": "api"}
    credentials = [issuer.token(USER, jti=f"caller-{number}") for number in range(CALLERS)]
    try:
        async with serving(settings(route, issuers=(issuer,)), data) as gateway:
            await create_connection(gateway, provider)
            await gateway.connect(USER, access_token=DEAD, refresh_token=provider.issue())
            began = time.perf_counter()
            statuses = await _all(gateway.url, credentials)
            seconds = time.perf_counter() - began
    finally:
        await issuer.stop()
        await provider.stop()
        await upstream.stop()
    dead = sum(value == f"Bearer {DEAD}" for value in upstream.authorizations)
    return seconds, provider.exchanges, statuses.count(200), dead


def run(session: Session) -> list[Table]:
    """Return the table of one storm."""
    data = session.directory / "storm"
    data.mkdir()
    seconds, exchanges, answered, dead = uvloop.run(storm(data))
    if answered != CALLERS:
        raise SystemExit(f"bench: {CALLERS - answered} of {CALLERS} callers were not served in the storm")
    columns = ["callers", "exchanges", "seconds until all had their answer", "requests with the dead token"]
    rows = [[f"{CALLERS:,}", str(exchanges), f"{seconds:.2f}", f"{dead:,}"]]
    return [
        Table(
            "Refresh storm",
            columns,
            rows,
            ["Each caller's JWT was new to the gateway; API and provider are in Python."],
        )
    ]
