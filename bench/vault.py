"""
`make bench-vault`: what a fetch through the token API costs, and whether 100,000 stored tokens change that.

1. One gateway process as its users run it, one connection; the tokens are written into its database in bulk, sealed as
   the vault seals them.
2. "cached" fetches one user's token over and over, "cold" another user's each time. The token API keeps no tokens in
   memory, so the difference is the database's pages.
3. Latencies are of one connection, keep-alive, medians; throughput is of CONNECTIONS at once. Fails where a fetch among
   100,000 tokens takes more than twice as long as among 100.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from statistics import median

import aiohttp

from gateway.store.engine import Store, sqlite_url
from gateway.vault.key_ring import SealingRing
from gateway.vault.sealing import Binding, Sealer, SealingKey
from gateway.vault.stored_token import scopes_key
from tests.e2e.gateway_process import RunningProcess, serving
from tests.world import PROJECT, create_connection, settings

FEW, MANY = 100, 100_000
SAMPLES = 1000
SECONDS = 4.0
CONNECTIONS = 16
TOKENS = {"connection": "api", "token": "access"}
LATEST = "/v1/mgmt/outbound/app/user/token/latest"
COLUMNS = (
    "id", "connection_id", "user_id", "tenant_id", "account", "requested_scopes", "requested_scopes_key",
    "granted_scopes", "sealed_access_token", "token_type", "token_sub", "granted_by", "created_at", "updated_at",
    "last_refresh_error", "dead", "version", "lease_beat",
)  # fmt: skip


async def _sealing_key(data: Path) -> SealingKey:
    ring = await SealingRing.open(data, {})
    try:
        return ring.current
    finally:
        await ring.close()


def fill(data: Path, first: int, last: int, *, connection: str, token: str) -> None:
    """Write tokens of the users *first* to *last* for *connection*: each another one, which begins with *token*."""
    sealer = Sealer(asyncio.run(_sealing_key(data)), os.urandom)
    key = scopes_key(())

    def row(number: int) -> tuple[object, ...]:
        token_id, user = f"{number:032x}", f"user-{number}"
        binding = Binding("tokens", "sealed_access_token", token_id, connection, user, "", "")
        sealed = sealer.seal(f"{token}-{number}".encode(), binding=binding)
        return (
            token_id,
            connection,
            user,
            "",
            "",
            "[]",
            key,
            "[]",
            sealed,
            "Bearer",
            "",
            "",
            1.0,
            1.0,
            "",
            False,
            1,
            0,
        )

    insert = f"INSERT INTO tokens ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608
    with closing(sqlite3.connect(data / "gateway.db")) as db, db:
        db.executemany(insert, map(row, range(first, last)))


async def fetch(session: aiohttp.ClientSession, gateway: RunningProcess, number: int) -> None:
    """Fetch one user's token."""
    headers = {"Authorization": f"Bearer {PROJECT}:{gateway.management_key}"}
    body = {"appId": "api", "userId": f"user-{number}"}
    async with session.post(f"{gateway.process.token_api_url}{LATEST}", json=body, headers=headers) as response:
        answer = await response.json()
        assert f"access-{number}" == answer["token"]["accessToken"], answer


async def latency_us(gateway: RunningProcess, numbers: list[int]) -> float:
    """Return the median of single fetches, in microseconds."""
    took = []
    async with aiohttp.ClientSession() as session:
        for number in numbers:
            begun = time.perf_counter()
            await fetch(session, gateway, number)
            took.append(time.perf_counter() - begun)
    return 1e6 * median(took)


async def per_second(gateway: RunningProcess, numbers: list[int]) -> float:
    """Return how many fetches a second CONNECTIONS callers get."""
    end, count = time.monotonic() + SECONDS, 0

    async def caller(first: int) -> int:
        done = 0
        async with aiohttp.ClientSession() as session:
            while time.monotonic() < end:
                await fetch(session, gateway, numbers[(first + done * CONNECTIONS) % len(numbers)])
                done += 1
        return done

    begun = time.monotonic()
    count = sum(await asyncio.gather(*map(caller, range(CONNECTIONS))))
    return count / (time.monotonic() - begun)


async def measure() -> None:
    """Print the figures, or end with what is wrong."""
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as directory:
        data = Path(directory) / "data"
        await (await Store.open(sqlite_url(data / "gateway.db"))).close()
        async with serving(settings(), data) as gateway:
            await create_connection(gateway, None)
            await asyncio.to_thread(fill, data, 0, FEW, **TOKENS)
            await latency_us(gateway, list(range(FEW)))  # imports and connections are not what is measured
            few = await latency_us(gateway, [number % FEW for number in range(SAMPLES)])
            await asyncio.to_thread(fill, data, FEW, MANY, **TOKENS)
            step = MANY // SAMPLES
            many = await latency_us(gateway, [number * step for number in range(SAMPLES)])
            cached = await per_second(gateway, [7])
            cold = await per_second(gateway, [number * 7919 % MANY for number in range(MANY)])
    print(f"| fetch among {FEW:,} tokens, one caller, p50 | {few:,.0f} µs |")
    print(f"| fetch among {MANY:,} tokens, one caller, p50 | {many:,.0f} µs |")
    print(f"| fetches of one token, {CONNECTIONS} callers | {cached:,.0f} a second |")
    print(f"| fetches of {MANY:,} tokens in turn, {CONNECTIONS} callers | {cold:,.0f} a second |")
    if many > 2 * few:
        sys.exit(f"bench: a fetch among {MANY:,} tokens takes {many / few:.1f} times as long as among {FEW:,}")


if __name__ == "__main__":
    asyncio.run(measure())
