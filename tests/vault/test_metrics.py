"""The vault's metrics: what is counted, under which bounded labels, and that a scrape asks nobody."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from sqlalchemy import text, update

from gateway.store import schema
from gateway.store.engine import Store
from gateway.vault.connection import Connection
from gateway.vault.connections import Connections
from gateway.vault.metrics import MAX_CONNECTIONS, MAX_OUTCOMES, VaultMetrics
from gateway.vault.sealing import Sealer, SealingKey
from gateway.vault.stored_token import TokenDraft
from gateway.vault.tokens import Tokens

NOW = 1_800_000_000.0
DAY = 86_400.0


class House:
    """A vault's tables, its metrics, and a registry that holds nothing else."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.counts: Counter[str] = Counter()
        self.monotonic = 0.0
        sealer = Sealer(SealingKey.from_bytes(os.urandom(32)), os.urandom)
        self.tokens = Tokens(store, sealer, clock=lambda: NOW, random_bytes=os.urandom)
        self.connections = Connections(store, sealer, clock=lambda: NOW, random_bytes=os.urandom)
        self.metrics = VaultMetrics(
            store,
            self.connections,
            counts=self.counts,
            clock=lambda: NOW,
            monotonic=lambda: self.monotonic,
            renews_itself=lambda connection: connection.id == "minted",
        )
        self._registry = CollectorRegistry()
        self._registry.register(self.metrics)

    async def connect(self, connection_id: str) -> None:
        """Make a connection."""
        await self.connections.create(Connection(id=connection_id, name=connection_id, client_id="me"))

    async def put(
        self, user: str, *, days: float | None, connection: str = "contacts", renewable: bool = False
    ) -> None:
        """Store a token that expires in *days* from now."""
        expires_at = None if days is None else NOW + days * DAY
        refresh_token = "R" if renewable else None
        await self.tokens.put(
            TokenDraft(connection, user=user, access_token="A", refresh_token=refresh_token, expires_at=expires_at)
        )

    async def mark(self, user: str, **values: object) -> None:
        """Write into a user's row what a refresh would."""
        async with self.store.write() as db:
            await db.execute(update(schema.tokens).where(schema.tokens.c.user_id == user).values(values))

    def scrape(self) -> list[str]:
        """The lines of a scrape, without comments."""
        return [line for line in generate_latest(self._registry).decode().splitlines() if not line.startswith("#")]


@pytest.fixture
async def house(database_url: str) -> AsyncIterator[House]:
    """An empty vault with the connection `contacts`."""
    store = await Store.open(database_url)
    house = House(store)
    await house.connect("contacts")
    yield house
    await house.metrics.close()
    await store.close()


def test_scrape_before_anything_was_read(house: House) -> None:
    """Before the first look nothing is said about tokens, and faults are zero."""
    assert [
        'gateway_token_refresh_faults_total{fault="lease_ran_out"} 0.0',
        'gateway_token_refresh_faults_total{fault="late_answer"} 0.0',
        'gateway_token_refresh_faults_total{fault="answer_rescued"} 0.0',
        'gateway_token_refresh_faults_total{fault="answer_lost"} 0.0',
        'gateway_token_refresh_faults_total{fault="grant_dead"} 0.0',
        'gateway_token_refresh_faults_total{fault="endpoint_paused"} 0.0',
        'gateway_token_refresh_faults_total{fault="endpoint_busy"} 0.0',
        "gateway_oldest_failing_grant_seconds 0.0",
    ] == house.scrape()


def test_counts_exchanges_by_outcome_and_faults_apart(house: House) -> None:
    """Outcomes and faults are two metrics, whatever is counted in one place."""
    house.counts.update(granted=3, timeout=1, lease_ran_out=2)
    lines = house.scrape()

    assert 'gateway_token_exchanges_total{outcome="granted"} 3.0' in lines
    assert 'gateway_token_exchanges_total{outcome="timeout"} 1.0' in lines
    assert 'gateway_token_refresh_faults_total{fault="lease_ran_out"} 2.0' in lines
    assert 2 == sum("exchanges_total" in line for line in lines)


def test_outcomes_are_bounded(house: House) -> None:
    """However many words come, there are at most so many series, and no exchange is uncounted."""
    house.counts.update({f"word_{number}": 1 for number in range(1000)})
    lines = [line for line in house.scrape() if "exchanges_total" in line]

    assert MAX_OUTCOMES + 1 == len(lines)
    assert 1000 == sum(float(line.rpartition(" ")[2]) for line in lines)


async def test_each_token_is_in_one_state(house: House) -> None:
    """Dead before failing before expired; what can be renewed is active, however old its access token."""
    await house.connect("minted")
    await house.put("dead", days=1)
    await house.put("failing", days=-1, renewable=True)
    await house.put("expired", days=-1)
    await house.put("due", days=-1, renewable=True)
    await house.put("forever", days=None)
    await house.put("made", days=-1, connection="minted")
    await house.mark("dead", dead=True, last_refresh_error="invalid_grant")
    await house.mark("failing", last_refresh_error="timeout")
    await house.metrics.refresh()

    assert [
        'gateway_tokens{connection="contacts",state="active"} 2.0',
        'gateway_tokens{connection="contacts",state="dead"} 1.0',
        'gateway_tokens{connection="contacts",state="expired"} 1.0',
        'gateway_tokens{connection="contacts",state="failing"} 1.0',
        'gateway_tokens{connection="minted",state="active"} 1.0',
    ] == [line for line in house.scrape() if line.startswith("gateway_tokens{")]


async def test_tells_what_dies_this_week(house: House) -> None:
    """Soon, and with nothing to renew it or failing; not what is dead, gone, far away or renewable."""
    await house.connect("minted")
    for user, days, renewable in (
        ("helpless", 6.9, False),
        ("later", 7.1, False),
        ("gone", -0.1, False),
        ("renewable", 1, True),
        ("failing", 1, True),
        ("dead", 1, False),
    ):
        await house.put(user, days=days, renewable=renewable)
    await house.put("made", days=1, connection="minted")
    await house.mark("failing", last_refresh_error="timeout")
    await house.mark("dead", dead=True)
    await house.metrics.refresh()

    assert [
        'gateway_tokens_dying{cause="failing",connection="contacts"} 1.0',
        'gateway_tokens_dying{cause="no_refresh_token",connection="contacts"} 1.0',
    ] == [line for line in house.scrape() if "dying" in line]


OLDEST: dict[str, tuple[dict[str, dict[str, object]], float]] = {
    "nothing fails": ({}, 0.0),
    "one began to fail at expiry": ({"alice": {"failing_since": NOW - DAY}}, DAY),
    "one began long before its expiry": ({"bob": {"failing_since": NOW - 5}}, 5.0),
    "the first to fail of several": ({"alice": {"failing_since": NOW - 7}, "bob": {"failing_since": NOW - 9}}, 9.0),
    "a grant that died": ({"alice": {"failing_since": NOW - 7}, "bob": {"failing_since": NOW - 9, "dead": 1}}, 7.0),
    "noted by an older release": ({"alice": {"updated_at": NOW - 3}}, 3.0),
    "a clock that went back": ({"alice": {"failing_since": NOW + 3}}, 0.0),
}


@pytest.mark.parametrize(("rows", "seconds"), OLDEST.values(), ids=OLDEST.keys())
async def test_oldest_failing_grant(house: House, rows: dict[str, dict[str, object]], seconds: float) -> None:
    """The age is counted from the first failure, whatever the expiry; a dead grant fails no more."""
    for user, days in (("alice", -1.0), ("bob", 30.0), ("carol", -9.0)):
        await house.put(user, days=days, renewable=True)
    for user, values in rows.items():
        await house.mark(user, last_refresh_error="timeout", **values)
    await house.metrics.refresh()

    assert f"gateway_oldest_failing_grant_seconds {seconds}" in house.scrape()


async def test_connections_are_bounded_and_users_never_labels(house: House) -> None:
    """Connections beyond the first hundred share a label, and users make no series."""
    for number in range(MAX_CONNECTIONS + 5):
        await house.connect(f"c{number:03}")
        await house.put(f"user{number}", days=None, connection=f"c{number:03}")
    await house.metrics.refresh()
    lines = [line for line in house.scrape() if line.startswith("gateway_tokens{")]

    assert MAX_CONNECTIONS + 1 == len(lines)
    assert 'gateway_tokens{connection="other",state="active"} 5.0' in lines
    assert "user1" not in "".join(lines)


async def test_scrape_goes_on_when_the_database_has_gone(house: House) -> None:
    """What was known is still told, with its age."""
    await house.put("alice", days=None)
    await house.metrics.refresh()
    async with house.store.write() as db:
        await db.execute(text("ALTER TABLE tokens RENAME TO gone"))
    house.monotonic = 90.0
    lines = house.scrape()

    assert 'gateway_tokens{connection="contacts",state="active"} 1.0' in lines
    assert "gateway_vault_metrics_age_seconds 90.0" in lines


async def test_reads_in_the_background(house: House) -> None:
    """From the start on the numbers come by themselves."""
    house.metrics.start()
    for _ in range(1000):
        if any("age_seconds" in line for line in house.scrape()):
            return
        await asyncio.sleep(0.01)
    pytest.fail("nothing was read")
