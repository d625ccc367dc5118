"""What changed, told to every process that shares the database."""

from __future__ import annotations

import asyncio
import time

import pytest
from sqlalchemy import func, select, text

from gateway.store.changes import KEEP_SECONDS, STALE_SECONDS, ChangeFeed, announce
from gateway.store.engine import Store
from gateway.store.schema import changes


class Clock:
    """Time that a test moves."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Both clocks of a feed."""
    return Clock()


@pytest.fixture
def feed(store: Store, clock: Clock) -> ChangeFeed:
    """A feed that the test polls."""
    return ChangeFeed(store, clock=clock, monotonic=clock)


async def tell(store: Store, topic: str, subject: str, at: float = 1000.0) -> None:
    """Announce one change in a transaction of its own."""
    async with store.write() as connection:
        await announce(connection, topic, subject, at=at)


def is_live(feed: ChangeFeed, clock: Clock) -> bool:
    """Whether caches may be believed now."""
    return clock.now < feed.live_until


async def test_subscribers_hear_their_topic_in_order(store: Store, feed: ChangeFeed) -> None:
    """
    Every subscriber of a topic hears each change of it once, in order, and none of another topic.
    """
    one: list[str] = []
    two: list[str] = []
    feed.subscribe("keys", one.append)
    feed.subscribe("keys", two.append)
    for topic, subject in (("keys", "a"), ("tokens", "x"), ("keys", "b"), ("keys", "a")):
        await tell(store, topic, subject)
    await feed.poll()
    await feed.poll()

    assert ["a", "b", "a"] == one == two


async def test_a_change_that_is_undone_is_not_told(store: Store, feed: ChangeFeed) -> None:
    """
    The line belongs to the transaction of the change.
    """
    heard: list[str] = []
    feed.subscribe("keys", heard.append)
    with pytest.raises(ZeroDivisionError):
        async with store.write() as connection:
            await announce(connection, "keys", "a", at=1.0)
            raise ZeroDivisionError
    await feed.poll()

    assert [] == heard


async def test_starts_behind_the_newest_change(store: Store, feed: ChangeFeed, clock: Clock) -> None:
    """
    A process that starts cold is not told what was before it.
    """
    await tell(store, "keys", "old")
    heard: list[str] = []
    feed.subscribe("keys", heard.append)
    await feed.start()
    try:
        assert is_live(feed, clock)
        await tell(store, "keys", "new")
        await feed.poll()
    finally:
        await feed.stop()

    assert ["new"] == heard


async def test_is_live_only_after_a_recent_read(feed: ChangeFeed, clock: Clock) -> None:
    """
    A feed that never read, or has not read for STALE_SECONDS, is not to be believed.
    """
    assert not is_live(feed, clock)
    await feed.poll()
    assert is_live(feed, clock)
    clock.now += STALE_SECONDS + 0.01
    assert not is_live(feed, clock)


async def test_a_failing_read_ends_the_trust_and_a_later_one_catches_up(
    store: Store, feed: ChangeFeed, clock: Clock
) -> None:
    """
    While the database cannot be read nothing is believed; afterwards nothing was missed.
    """
    heard: list[str] = []
    feed.subscribe("keys", heard.append)
    await feed.poll()
    await tell(store, "keys", "a")
    async with store.write() as connection:
        await connection.execute(text("ALTER TABLE changes RENAME TO away"))
    clock.now += STALE_SECONDS + 0.01
    with pytest.raises(Exception, match="changes"):
        await feed.poll()
    assert not is_live(feed, clock)
    async with store.write() as connection:
        await connection.execute(text("ALTER TABLE away RENAME TO changes"))
    await feed.poll()

    assert is_live(feed, clock)
    assert ["a"] == heard


async def test_background_reading_tells_another_process_store(database_url: str) -> None:
    """
    What one open database writes, the started feed of another one tells, without anyone polling.
    """
    writer, reader = await Store.open(database_url), await Store.open(database_url)
    feed = ChangeFeed(reader, clock=time.time, monotonic=time.monotonic)
    heard = asyncio.Event()
    feed.subscribe("keys", lambda _: heard.set())
    await feed.start()
    await tell(writer, "keys", "a")
    await asyncio.wait_for(heard.wait(), 30)
    await feed.stop()
    await feed.stop()
    for store in (writer, reader):
        await store.close()


async def test_changes_that_are_committed_at_once_are_all_told(database_url: str, clock: Clock) -> None:
    """
    Twelve writers of two processes commit in any order while a reader polls without pause: it misses none.
    """
    stores = [await Store.open(database_url) for _ in range(3)]
    feed = ChangeFeed(stores[2], clock=clock, monotonic=clock)
    heard: list[str] = []
    feed.subscribe("keys", heard.append)

    async def write(number: int) -> None:
        async with stores[number % 2].write() as connection:
            await announce(connection, "keys", f"{number}", at=1.0)
            await asyncio.sleep(number * 7 % 5 / 1000)  # whoever is numbered first is not committed first by itself

    writing = asyncio.gather(*(write(number) for number in range(12)))
    while not writing.done():
        await feed.poll()
    await feed.poll()
    for store in stores:
        await store.close()

    assert sorted(map(str, range(12))) == sorted(heard)


async def test_prunes_what_everyone_has_seen(store: Store, feed: ChangeFeed, clock: Clock) -> None:
    """
    Lines are kept for an hour, then removed.
    """
    await tell(store, "keys", "old", at=clock.now - KEEP_SECONDS - 1)
    await tell(store, "keys", "new", at=clock.now - KEEP_SECONDS + 1)
    await feed.prune()
    async with store.read() as connection:
        assert 1 == (await connection.execute(select(func.count()).select_from(changes))).scalar_one()


async def test_quiet_hours_are_no_gap(store: Store, feed: ChangeFeed, clock: Clock) -> None:
    """
    The newest line stays however old it is: a reader that has seen it has missed nothing.
    """
    gaps: list[str] = []
    feed.on_gap(lambda: gaps.append("gap"))
    for subject in ("a", "b"):
        await tell(store, "keys", subject)
    await feed.poll()
    clock.now += 10 * KEEP_SECONDS
    await feed.prune()
    await feed.poll()

    assert [] == gaps


# What becomes of the lines 1 to 3, of which a reader has seen the first.
HISTORIES = {
    "pruned while the reader was away": "DELETE FROM changes WHERE seq < 3",
    "a database that was emptied": "DELETE FROM changes",
    "a database that lost its last lines, and wrote others": "UPDATE changes SET subject = 'other' WHERE seq = 1",
}


@pytest.mark.parametrize("statement", HISTORIES.values(), ids=HISTORIES)
async def test_missed_changes_are_told_as_a_gap(store: Store, feed: ChangeFeed, statement: str) -> None:
    """
    A reader whose last line is not there any more does not know what it missed: it tells so once, and reads on.
    """
    heard: list[str] = []
    feed.subscribe("keys", heard.append)
    feed.on_gap(lambda: heard.append("gap"))
    await tell(store, "keys", "a")
    await feed.poll()
    for subject in ("b", "c"):
        await tell(store, "keys", subject)
    async with store.write() as connection:
        await connection.execute(text(statement))
    await feed.poll()
    await feed.poll()
    await tell(store, "keys", "d")
    await feed.poll()

    assert ["a", "gap", "d"] == heard
