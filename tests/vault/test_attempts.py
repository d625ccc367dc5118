"""The states of an attempt, each once, and their bounds."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from sqlalchemy import insert, select

from gateway.store.engine import Store
from gateway.store.schema import connect_attempts
from gateway.vault import attempts as module
from gateway.vault.attempts import (
    MAX_OPEN_PER_SUBJECT,
    Attempt,
    Attempts,
    NewAttempt,
    Status,
    TooManyAttempts,
    new_secret,
)
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


async def step(attempts: Attempts, status: Status) -> Attempt:
    """Begin an attempt, and bring it to *status*: asked, exchanging or confirming."""
    attempt, _ = await attempts.begin(NEW)
    assert await attempts.bind(attempt, "browser")
    state = new_secret(os.urandom)
    assert await attempts.ask(attempt, state=state, verifier=None, issuer="", callback_url="https://c")
    attempt = replace(attempt, status="asked")
    if status != "asked":
        assert await attempts.move(attempt, "exchanging")
        attempt = replace(attempt, status="exchanging")
    if status == "confirming":
        assert await attempts.hold(attempt, b"CANARY")
    found = await attempts.of_state(state)
    assert found is not None
    assert status == found.status
    return found


async def test_users_at_the_provider_count(attempts: Attempts, clock: Clock) -> None:
    """Attempts whose user is at the provider are bounded like open ones, and make room after those."""
    asked = []
    for _ in range(MAX_OPEN_PER_SUBJECT - 1):
        clock.now += 1
        asked.append((await step(attempts, "asked")).id)
    begun = []
    for _ in range(2):
        clock.now += 1
        begun.append((await attempts.begin(NEW))[0].id)
    assert [True, *[False] * 8] == [await attempts.get(each) is None for each in begun[:1] + asked[:8]]

    last = await step(attempts, "asked")
    await attempts.begin(NEW)
    assert [True, False] == [await attempts.get(each) is None for each in (asked[0], last.id)]


@pytest.mark.parametrize("status", ["exchanging", "confirming"])
async def test_grants_make_no_room(attempts: Attempts, status: Status) -> None:
    """Attempts that hold a code or a grant count, and are not dropped for another one of their subject."""
    held = [await step(attempts, status) for _ in range(MAX_OPEN_PER_SUBJECT)]
    with pytest.raises(TooManyAttempts):
        await attempts.begin(NEW)
    await attempts.begin(replace(NEW, user="grace"))

    assert all([await attempts.get(each.id) for each in held])


async def test_uploads_being_verified_do_not_count(database_url: str, attempts: Attempts, clock: Clock) -> None:
    """Claims of refresh tokens that are being verified are no attempts of their user."""
    store = await Store.open(database_url)
    claim = {
        "connection_id": "c", "user_id": "ada", "scopes": [], "status": "exchanging", "created_at": clock.now,
        "expires_at": clock.now + 900,
    }  # fmt: skip
    async with store.write() as db:
        for number in range(MAX_OPEN_PER_SUBJECT):
            row = claim | {"id": f"claim{number}", "link_digest": f"digest{number}"}
            await db.execute(insert(connect_attempts).values(row))
    first, _ = await attempts.begin(NEW)
    second, _ = await attempts.begin(NEW)
    async with store.read() as db:
        claims = (await db.execute(select(connect_attempts.c.id).where(connect_attempts.c.browser_digest == ""))).all()
    await store.close()

    assert [first, second] == [await attempts.get(first.id), await attempts.get(second.id)]
    assert MAX_OPEN_PER_SUBJECT + 2 == len(claims)


async def test_abandoned_tokens_are_taken_once(attempts: Attempts, clock: Clock) -> None:
    """Held tokens can be taken when their time is over, however late, and once."""
    held = await step(attempts, "confirming")
    assert await attempts.take_abandoned() is None
    clock.now += module.STEP_SECONDS + module.KEEP_SECONDS + 1
    await attempts.begin(NEW)
    taken = await attempts.take_abandoned()

    assert taken is not None
    assert (held.id, b"CANARY") == (taken.id, taken.tokens)
    assert await attempts.take_abandoned() is None
    await attempts.begin(NEW)
    assert await attempts.get(held.id) is None
