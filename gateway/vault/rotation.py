"""
A new sealing key, while gateways serve: published, used, and in the end the only one.

The order, and why nothing is lost at any point of it (a kill included):
1. Publish. The key is on disk before anything names it. Processes open with it as soon as they meet it.
2. Wait until every process that serves from this data directory says that it opens with it. A key service may fail in
   one of them: then nothing was sealed with the new key yet, and the rotation ends here. The next one goes on.
3. Activate. One atomic replacement of the order; processes seal with the new key from their next seal on, because they
   look at the order each time (key_ring.py). Both keys open.
4. Re-wrap, in batches: only the wrapped data key changes, so a value's content and binding stay as they are. Each value
   is replaced only where its bytes still are those that were read (compare-and-swap): what a refresh or an upload wrote
   meanwhile wins. A token's version does not change, so no exchange under way is disturbed; nothing is announced,
   because no token changed.
5. Again, until no value of another key is left: a process may have sealed with the old key just before step 3.
6. Retire, only when asked: no value is sealed with the key, no process seals with it, and the order has stood for
   SETTLE_SECONDS, so that no write that was sealed before is still on its way. The key's file is kept aside, and
   rotations open with it: should a write have slept for longer (a stopped machine), the next rotation saves it.

What is not bound: a value to its row's version. A row whose version *and* ciphertext are put back is whole again
whatever is bound, and writers that change the version alone (a grant that died) would have to seal again. What it costs
is in docs/sealing.md.
Source: threats.md H2, H3, H6.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Column, bindparam, select, tuple_, update

from gateway.store.engine import Store
from gateway.vault.key_attendance import Attendant, attendants
from gateway.vault.key_census import count_keys, key_id_in, sealed_columns
from gateway.vault.key_directory import KeyDirectory
from gateway.vault.key_ring import SealingRing
from gateway.vault.sealing import SealBroken, Sealer, SealingKeyError

BATCH = 100  # values a write transaction: some 10 ms of the database's one writer
PAUSE_SECONDS = 0.01  # between batches: as long again for everybody else
MAX_PASSES = 20  # a pass leaves what was written during it, and what cannot be opened
ATTEND_SECONDS = 30.0  # a process looks twice a second; a key service may take its 10 s
POLL_SECONDS = 0.1
SETTLE_SECONDS = 30.0  # a write waits 5 s for a connection and 5 s for the lock, and some for this machine


class RotationStopped(Exception):
    """The rotation cannot go on; the message says why and what holds now. Running it again goes on from there."""


@dataclass(frozen=True, slots=True)
class Broken:
    """A sealed value that cannot be opened with any key there is, or was changed."""

    table: str
    column: str
    row: str


@dataclass(slots=True)
class Rotated:
    """What a rotation did. *is_new*: it made a key; False: it finished an earlier rotation, or others keep the keys."""

    key_id: bytes
    is_new: bool
    rewrapped: int = 0
    broken: set[Broken] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a rotation goes, in values and seconds."""

    batch: int = BATCH
    pause_seconds: float = PAUSE_SECONDS
    attend_seconds: float = ATTEND_SECONDS
    settle_seconds: float = SETTLE_SECONDS


async def rotate(
    store: Store, ring: SealingRing, *, random_bytes: Callable[[int], bytes], pace: Pace | None = None
) -> Rotated:
    """
    Make a new key, or go on with an interrupted rotation, and re-wrap what other keys have sealed.

    Where others keep the keys (environment, file) the first of theirs is the new one. *ring* has retired keys as well.

    Raises:
        RotationRunning: another one runs.
        RotationStopped: a process cannot open with the new key, or values keep coming with an old one.
        SealingKeyError: a key cannot be made or written.
    """
    pace = pace or Pace()
    sealer = Sealer(ring, random_bytes)
    directory = ring.directory
    if directory is None:
        done = Rotated(ring.current.key_id, is_new=False)
        await _rewrap_all(store, sealer, done, pace)
        return done
    with directory.rotating():
        done = await _next_key(store, ring, directory, random_bytes)
        await ring.refresh()
        if ring.current.key_id != done.key_id:
            await _attended(
                directory.path,
                lambda process: done.key_id in process.opens,
                f"has not opened key {done.key_id.hex()} yet: nothing was sealed with it",
                pace,
            )
            directory.activate(done.key_id)
            if ring.current.key_id != done.key_id:
                raise RotationStopped(f"key {done.key_id.hex()} cannot be opened here: run the rotation again")
        await _rewrap_all(store, sealer, done, pace)
    return done


async def retire(
    store: Store,
    ring: SealingRing,
    key_id: bytes,
    *,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    pace: Pace | None = None,
) -> Path:
    """
    Take a key out of the data directory's ring once nothing needs it, and return where its file is kept.

    Raises:
        RotationRunning, RotationStopped: it is needed still; nothing was changed.
        SealingKeyError: it is not in the ring, seals, or others keep the keys.
    """
    pace = pace or Pace()
    directory = ring.directory
    if directory is None:
        raise SealingKeyError("these keys are not kept in the data directory: take the old one out where they are kept")
    with directory.rotating():
        await ring.refresh()
        if ring.current.key_id == key_id or key_id not in {
            entry.key_id for entry in KeyDirectory(directory.path).read()
        }:
            raise SealingKeyError(f"key {key_id.hex()} cannot be retired: it is not in the ring, or it seals")
        await _attended(directory.path, lambda process: process.seals != key_id, "still seals with this key", pace)
        settled = directory.sealed_since() + pace.settle_seconds - clock()
        if settled > 0:
            await sleep(min(settled, pace.settle_seconds))
        left = sum(counted.values for counted in await count_keys(store) if counted.key_id == key_id)
        if left:
            raise RotationStopped(f"{left} values are sealed with key {key_id.hex()}: run gateway sealing rotate first")
        return directory.retire(key_id)


async def _next_key(
    store: Store, ring: SealingRing, directory: KeyDirectory, random_bytes: Callable[[int], bytes]
) -> Rotated:
    """Return the key to rotate to: an interrupted rotation's, or a new one, published."""
    pending = directory.pending()
    if pending is not None:
        return Rotated(pending, is_new=False)
    used = {counted.key_id for counted in await count_keys(store)}
    current = ring.current.key_id
    if any(key_id != current and ring.find(key_id) is not None for key_id in used):
        return Rotated(current, is_new=False)
    key_id, text = await ring.new_key(random_bytes)
    directory.publish(key_id, text)
    return Rotated(key_id, is_new=True)


async def _attended(data_dir: Path, is_ready: Callable[[Attendant], bool], problem: str, pace: Pace) -> None:
    """Wait until every process that serves is ready."""
    for _ in range(max(1, int(pace.attend_seconds / POLL_SECONDS))):
        late = [process for process in attendants(data_dir) if not is_ready(process)]
        if not late:
            return
        await asyncio.sleep(POLL_SECONDS)
    names = ", ".join(process.process.partition("-")[0] for process in late)
    raise RotationStopped(f"process {names} {problem}")


async def _rewrap_all(store: Store, sealer: Sealer, done: Rotated, pace: Pace) -> None:
    for _ in range(MAX_PASSES):
        done.broken.clear()
        for column in sealed_columns():
            await _rewrap_column(store, sealer, column, done, pace)
        left = sum(counted.values for counted in await count_keys(store) if counted.key_id != done.key_id)
        if left <= len(done.broken):
            return
    raise RotationStopped("some process keeps sealing with another key: is it an older version, or another ring?")


async def _rewrap_column(store: Store, sealer: Sealer, column: Column[Any], done: Rotated, pace: Pace) -> None:
    """Go once through the values of *column* that another key has sealed, in the order of the primary key."""
    keys = list(column.table.primary_key.columns)
    after: tuple[Any, ...] | None = None
    while True:
        query = (
            select(*keys, column)
            .where(column.is_not(None), key_id_in(column) != sealer.key_id)
            .order_by(*keys)
            .limit(pace.batch)
        )
        if after is not None:
            query = query.where(tuple_(*keys) > tuple_(*after))
        async with store.read() as db:
            rows = (await db.execute(query)).all()
        if not rows:
            return
        after = tuple(rows[-1][:-1])
        done.rewrapped += await _swap(store, sealer, column, rows, done)
        await asyncio.sleep(pace.pause_seconds)


async def _swap(store: Store, sealer: Sealer, column: Column[Any], rows: Any, done: Rotated) -> int:
    """Write the values of *rows* re-wrapped, each only where it is as it was read, and return how many were."""
    keys = list(column.table.primary_key.columns)
    swaps: list[dict[str, Any]] = []
    for *row, sealed in rows:
        try:
            rewrapped = sealer.rewrap(bytes(sealed))
        except SealBroken:
            done.broken.add(Broken(column.table.name, column.name, "/".join(map(str, row))))
            continue
        same_row = {f"is_{key.name}": value for key, value in zip(keys, row, strict=True)}
        swaps.append(same_row | {"was_sealed": sealed, "now_sealed": rewrapped})
    if not swaps:
        return 0
    # One statement for all: 100 of them cost 100 changes of threads within the transaction.
    swap = (
        update(column.table)
        .where(*(key == bindparam(f"is_{key.name}") for key in keys), column == bindparam("was_sealed"))
        .values({column.name: bindparam("now_sealed")})
    )
    async with store.write() as db:
        return max(0, (await db.execute(swap, swaps)).rowcount)
