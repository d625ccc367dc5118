"""The states of an attempt, each once, and their bounds."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import pytest

from gateway.store.engine import Store
from gateway.vault import attempts as module
from gateway.vault.attempts import MAX_OPEN_PER_SUBJECT, Attempts, NewAttempt, TooManyAttempts, new_secret
from gateway.vault.connection import Connection
from gateway.vault.connections import Connections
from gateway.vault.sealing import Sealer, SealingKey
from tests.vault.conftest import Clock

NEW = NewAttempt("c", "ada", "", "", "ada", ("read",), "")


@pytest.fixture
def clock() -> Clock:
    """The time of a test."""
    return Clock()


@pytest.fixture
async def attempts(database_url: str, clock: Clock) -> AsyncIterator[Attempts]:
    """The table, and the connection "c"."""
    store = await Store.open(database_url)
    sealer = Sealer(SealingKey.from_bytes(os.urandom(32)), os.urandom)
    await Connections(store, sealer, clock=clock, random_bytes=os.urandom).create(Connection("c", "c"))
    yield Attempts(store, sealer, clock=clock, random_bytes=os.urandom)
    await store.close()


async def test_each_step_goes_through_once(attempts: Attempts) -> None:
    """Of several that take the same step at once, one does."""
    attempt, _ = await attempts.begin(NEW)
    moved = await asyncio.gather(*(attempts.move(attempt, "refused") for _ in range(8)))

    assert 1 == sum(moved)


async def test_verifier_is_gone_after_its_step(attempts: Attempts) -> None:
    """The verifier is there for one exchange and dropped by the step that uses it."""
    attempt, secret = await attempts.begin(NEW)
    state, verifier = new_secret(os.urandom), new_secret(os.urandom)
    assert await attempts.bind(attempt, "browser")
    assert await attempts.ask(attempt, state=state, verifier=verifier, issuer="https://i", callback_url="https://c")
    asked = await attempts.of_state(state)
    assert asked is not None
    assert (verifier, "https://i", attempt.id) == (asked.verifier, asked.issuer, asked.id)
    assert verifier not in repr(asked)
    assert await attempts.move(asked, "exchanging")
    later = await attempts.of_link(secret)
    assert later is not None
    assert ("exchanging", None) == (later.status, later.verifier)


async def test_subjects_oldest_makes_room(attempts: Attempts, clock: Clock) -> None:
    """A subject has a bounded number of open attempts; the newest works."""
    first, _ = await attempts.begin(NEW)
    for _ in range(MAX_OPEN_PER_SUBJECT):
        clock.now += 1
        last, _ = await attempts.begin(NEW)

    assert await attempts.get(first.id) is None
    assert await attempts.get(last.id) is not None


async def test_all_attempts_are_bounded(database_url: str, attempts: Attempts, clock: Clock) -> None:
    """When too many are under way no further one begins; when they are over, one does, and old rows are swept."""
    store = await Store.open(database_url)
    sealer = Sealer(SealingKey.from_bytes(os.urandom(32)), os.urandom)
    attempts = Attempts(store, sealer, clock=clock, random_bytes=os.urandom, max_open=2)
    ids = [(await attempts.begin(NEW))[0].id for _ in range(2)]
    with pytest.raises(TooManyAttempts):
        await attempts.begin(NEW)
    clock.now += module.STEP_SECONDS + module.KEEP_SECONDS + 1
    await attempts.begin(NEW)

    assert [None, None] == [await attempts.get(attempt_id) for attempt_id in ids]
    await store.close()


async def test_expired_attempt_moves_no_more(attempts: Attempts, clock: Clock) -> None:
    """What has expired cannot be bound, asked or moved."""
    attempt, _ = await attempts.begin(NEW)
    clock.now += module.STEP_SECONDS

    assert not await attempts.bind(attempt, "browser")
    assert not await attempts.move(attempt, "connected")
    expired = await attempts.get(attempt.id)
    assert expired is not None
    assert "expired" == expired.status
