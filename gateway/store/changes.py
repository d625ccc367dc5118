"""
What changed, told to every process that shares the database.

Rules:
1. A writer adds its line in the transaction of the change itself (`announce`): no change is ever silent. That is a
   transaction of `Store.write`, alone: numbers are handed out in the order in which they are committed, so a reader
   that has seen one has seen every smaller one (PostgreSQL hands them out before it commits).
2. `ChangeFeed` reads what is new every POLL_SECONDS and calls the subscribers, in this process and in every other,
   so a revoked key or a deleted token is out of every cache within a second.
3. A read holds for STALE_SECONDS: from `live_until` on, in monotonic seconds, caches that depend on the feed must not
   be used: doubt refuses.
4. A reader that was away for so long that lines were pruned, or whose database was put back to an older state, finds
   its last line gone: it does not know what it missed, and everything that is cached is forgotten (`on_gap`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress

import structlog
from sqlalchemy import delete, insert, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.store.engine import DatabasePaused, Store
from gateway.store.schema import changes

POLL_SECONDS = 0.4  # two polls fit into the second after which a revoked key must be refused
STALE_SECONDS = 0.9
KEEP_SECONDS = 3600.0  # how long a line stays for a process that was stopped meanwhile; after it, rule 4

log = structlog.get_logger()


_Line = tuple[int, str, str, float]  # seq, topic, subject, at: as a whole, because a number may be given out again
_LINES = select(changes.c.seq, changes.c.topic, changes.c.subject, changes.c.at)


async def announce(connection: AsyncConnection, topic: str, *subjects: str, at: float) -> None:
    """Add to *connection*'s transaction a line that each of *subjects* (a row's id) of *topic* changed at *at*."""
    await connection.execute(insert(changes), [{"topic": topic, "subject": subject, "at": at} for subject in subjects])


class ChangeFeed:
    """
    Calls subscribers with the id of each row that any process changed. Owns one task between start and stop.

    *live_until* is the monotonic time at which the last successful read is too old for caches to be believed.
    """

    def __init__(self, store: Store, *, clock: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._monotonic = monotonic
        self._subscribers: dict[str, list[Callable[[str], None]]] = {}
        self._on_gap: list[Callable[[], None]] = []
        self._last: _Line | None = None  # the newest one seen
        self.live_until = float("-inf")  # an attribute: each call compares it with the time that it has
        self._task: asyncio.Task[None] | None = None

    def subscribe(self, topic: str, on_change: Callable[[str], None]) -> None:
        """Call *on_change* with the row's id for each change of *topic* from now on."""
        self._subscribers.setdefault(topic, []).append(on_change)

    def on_gap(self, forget: Callable[[], None]) -> None:
        """Call *forget* when changes of any topic may have been missed (rule 4)."""
        self._on_gap.append(forget)

    async def start(self) -> None:
        """Begin after the newest change there is, and read on in the background."""
        async with self._store.read() as connection:
            self._last = await _newest(connection)
        self.live_until = self._monotonic() + STALE_SECONDS
        self._task = asyncio.create_task(self._run(), name="change-feed")

    async def stop(self) -> None:
        """End the background reading."""
        if self._task is None:
            return
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        self._task = None

    async def poll(self) -> None:
        """Read once and call the subscribers for what is new."""
        began = self._monotonic()
        async with self._store.read(is_lookup=True) as connection:
            # From the last one seen on, that one included: is it gone, then others may be.
            since = 0 if self._last is None else self._last[0]
            rows = (await connection.execute(_LINES.where(changes.c.seq >= since).order_by(changes.c.seq))).all()
            lines: list[_Line] = [tuple(row) for row in rows]
            is_gap = self._last is not None and lines[:1] != [self._last]
            newest = await _newest(connection) if is_gap else None
        if is_gap:
            log.warning("changes_missed", last=since)
            self._last = newest
            for forget in self._on_gap:
                forget()
        else:
            self._tell(lines if self._last is None else lines[1:])
        self.live_until = began + STALE_SECONDS

    async def prune(self) -> None:
        """Delete the lines that every process has seen long ago; the newest stays, so that none finds it gone."""
        is_old = changes.c.at < self._clock() - KEEP_SECONDS
        async with self._store.write() as connection:
            newest = await _newest(connection)
            if newest is not None:
                await connection.execute(delete(changes).where(is_old, changes.c.seq < newest[0]))

    def _tell(self, lines: Iterable[_Line]) -> None:
        for line in lines:
            self._last = line
            for on_change in self._subscribers.get(line[1], ()):
                on_change(line[2])

    async def _run(self) -> None:
        polls = 0
        while True:
            await asyncio.sleep(POLL_SECONDS)
            try:
                await self.poll()
                polls += 1
                if polls % 1000 == 0:
                    await self.prune()
            except DatabasePaused:
                continue  # the store has told when it began
            except (SQLAlchemyError, OSError) as exc:
                log.warning("change_feed_failed", error=type(exc).__name__)


async def _newest(connection: AsyncConnection) -> _Line | None:
    row = (await connection.execute(_LINES.order_by(changes.c.seq.desc()).limit(1))).one_or_none()
    return None if row is None else tuple(row)
