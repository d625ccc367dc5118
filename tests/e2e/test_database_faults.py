"""
A PostgreSQL that fails, slowly and in the middle: what is refused and what still serves, and that all is well again
without a restart.
"""

from __future__ import annotations

import asyncio
import gc
import struct
from asyncio import Task
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from gateway.store.changes import POLL_SECONDS
from tests.e2e.faults import PASSED, Seen, at_once, call, call_until, let_go, refused, seen
from tests.fault_proxy import Fault, fault_proxy
from tests.postgres import PostgresServer
from tests.world import Issuer, Running, Upstream, create_connection, running, settings


def _says(length: Callable[[int], int]) -> Callable[[bytes], bytes]:
    """Return what changes the length that the first message of an answer says (PostgreSQL 15 section 55.7)."""

    def rewrite(data: bytes) -> bytes:
        if len(data) < 5:  # the answer to "may this be TLS?" is a byte
            return data
        return data[:1] + struct.pack("!I", length(*struct.unpack_from("!I", data, 1))) + data[5:]

    return rewrite


FAULTS = {
    "nothing": Fault(),
    "connections that are reset at once": Fault("accept"),
    "connections that are closed at once": Fault("accept", "close"),
    "connections that nobody serves": Fault("accept", "hang"),
    "a reset when a statement comes": Fault("request"),
    "an end when a statement comes": Fault("request", "close"),
    "silence when a statement comes": Fault("request", "hang"),
    "a reset in the middle of an answer": Fault("answer", "reset", -3),
    "an end in the middle of an answer": Fault("answer", "close", -3),
    "silence in the middle of an answer": Fault("answer", "hang", -3),
    "answers that drip but come": Fault(drip_seconds=0.001, drip_bytes=64),
    "answers that drip for too long": Fault(drip_seconds=0.5),
    "a length that is too large": Fault(rewrite=_says(lambda length: length + 1000)),
    "a length that is too small": Fault(rewrite=_says(lambda length: length - 1)),
    "a length that is none": Fault(rewrite=_says(lambda _: 0)),
    "a length of a gigabyte": Fault(rewrite=_says(lambda _: 1 << 30)),
    "garbage": Fault(rewrite=lambda _: b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
}
SERVED = (PASSED, (200, None), ["Bearer T-ada", "Bearer T-bob", "Bearer T-eve"])
UNAVAILABLE = (refused(503, "token_service_unavailable"), (503, "keys_unavailable"), ["Bearer T-bob"])
DATABASE = {
    "nothing": SERVED,
    "connections that are reset at once": UNAVAILABLE,
    "connections that are closed at once": UNAVAILABLE,
    "connections that nobody serves": UNAVAILABLE,
    "a reset when a statement comes": UNAVAILABLE,
    "an end when a statement comes": UNAVAILABLE,
    "silence when a statement comes": UNAVAILABLE,
    "a reset in the middle of an answer": UNAVAILABLE,
    "an end in the middle of an answer": UNAVAILABLE,
    "silence in the middle of an answer": UNAVAILABLE,
    "answers that drip but come": SERVED,
    "answers that drip for too long": UNAVAILABLE,
    "a length that is too large": UNAVAILABLE,
    "a length that is too small": UNAVAILABLE,
    "a length that is none": UNAVAILABLE,
    "a length of a gigabyte": UNAVAILABLE,
    "garbage": UNAVAILABLE,
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of calls while the fault lasts and after it: of who needs the database, and of who does not."""

    with_token: Seen
    with_agent_key: tuple[int, str | None]
    with_token_in_memory: int
    reached: list[str]  # the tokens that the upstream has seen meanwhile
    after: list[int]


@pytest.fixture(scope="module")
def database_outcomes(tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer) -> dict[str, Task[Outcome]]:
    """What became of each row of the table; they ran at the same time."""
    return asyncio.run(_all(tmp_path_factory.mktemp("faults"), postgres))


@pytest.mark.parametrize("fault", FAULTS)
def test_database_with(database_outcomes: dict[str, Task[Outcome]], fault: str) -> None:
    """
    A database that cannot be asked is 503 for a token and a key that are not in memory, in bounded time, while those
    in memory serve; and all is well again by itself.
    """
    got = database_outcomes[fault].result()

    assert DATABASE[fault] == (got.with_token, got.with_agent_key, got.reached)
    assert 200 == got.with_token_in_memory
    assert [200, 200, 200] == got.after


async def _all(data: Path, postgres: PostgresServer) -> dict[str, Task[Outcome]]:
    issuer = await Issuer().start()
    starting = asyncio.Lock()  # Alembic upgrades one schema of a process at a time
    try:
        return await at_once(
            FAULTS, lambda row: _run(data / row.replace(" ", "-"), row, postgres, issuer=issuer, starting=starting)
        )
    finally:
        await issuer.stop()


async def _run(data: Path, row: str, postgres: PostgresServer, *, issuer: Issuer, starting: asyncio.Lock) -> Outcome:
    async with AsyncExitStack() as owned:
        url = postgres.new_database()
        owned.callback(postgres.give_back, url)
        upstream = await Upstream().start()
        owned.push_async_callback(upstream.stop)
        proxy = await owned.enter_async_context(fault_proxy(path=postgres.socket_path))
        through = f"postgresql+psycopg://gateway@127.0.0.1:{proxy.port}{urlsplit(url).path}"
        route = {"name": "api", "prefix": "/api", "upstream": upstream.url, "connection": "api"}
        configuration = settings(route, issuers=(issuer,))
        async with starting:
            gateway = await owned.enter_async_context(running(configuration, data, database_url=through))
            credentials = [issuer.token("ada"), issuer.token("bob"), await gateway.agent_key("eve")]
        await _connect(gateway, in_memory=credentials[1])
        proxy.fault = FAULTS[row]
        if proxy.fault.at == "accept":
            proxy.cut()
        ada, bob, eve = await asyncio.gather(*(call(gateway, "/api/x", each) for each in credentials))
        reached = sorted(upstream.authorizations[1:])
        proxy.fault = Fault()
        gc.collect()  # psycopg leaves a connection whose opening was given up to the collector
        assert await let_go(proxy)
        after = [(await call_until(gateway, "/api/x", each, status=200)).status for each in credentials]
        lines = {line["subject"]["user"]: line for line in reversed(gateway.lines("outcome"))}
        return Outcome(seen(ada, lines["ada"]), (eve.status, eve.code), bob.status, reached, after)


async def _connect(gateway: Running, *, in_memory: str) -> None:
    """Connect three users, and have the token that *in_memory* uses in the gateway's memory."""
    await create_connection(gateway, None)
    for user in ("ada", "bob", "eve"):
        await gateway.connect(user, access_token=f"T-{user}")
    await asyncio.sleep(3 * POLL_SECONDS)  # the gateway hears of its own uploads, and drops what they changed
    assert 200 == (await call(gateway, "/api/x", in_memory)).status
