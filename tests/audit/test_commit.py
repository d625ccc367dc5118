"""Group commit: what one fdatasync is believed for, who waits for the next, and disks that hang or fail."""

from __future__ import annotations

import asyncio
import errno
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop
from structlog.testing import capture_logs

from gateway.audit.commit import GroupCommit
from gateway.errors import RecordUnavailable
from gateway.proxy.steps import Signal, Steps
from tests.disk import Syncs
from tests.proxy.wire import eventually

LONG_SECONDS = 60.0  # no test waits for it
HANG_SECONDS = 0.8  # tests wait for it; a disk that is well and the way to its thread take less


@pytest.fixture
def syncs() -> Iterator[Syncs]:
    """The disk; whatever it still holds at the end is let go."""
    disk = Syncs()
    yield disk
    disk.let_go()


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    """A file to sync."""
    with (tmp_path / "file").open("wb") as file:
        yield file.fileno()


@pytest.fixture
def commit(syncs: Syncs, descriptor: int) -> Iterator[GroupCommit]:
    """A group commit that is not in a hurry."""
    made = GroupCommit(descriptor, sync=syncs, limit_seconds=LONG_SECONDS)
    yield made
    syncs.let_go()
    assert made.close()


async def wait(commit: GroupCommit) -> None:
    """Return when all that has been written is on the disk, as a call does."""
    answered = Signal()
    group = commit.join(answered)
    await answered
    group.check()


async def outcomes(*waiting: asyncio.Task[None]) -> list[object]:
    return [
        type(each) if isinstance(each, BaseException) else each
        for each in await asyncio.gather(*waiting, return_exceptions=True)
    ]


def waiting(commit: GroupCommit, number: int) -> list[asyncio.Task[None]]:
    return [asyncio.create_task(wait(commit)) for _ in range(number)]


async def test_who_comes_together_shares_one_sync(commit: GroupCommit, syncs: Syncs) -> None:
    """
    Fifty that wait in one turn of the loop cost one fdatasync, and one more after that another.
    """
    assert [None] * 50 == await outcomes(*waiting(commit, 50))
    assert 1 == syncs.begun
    await wait(commit)

    assert (2, 2) == (syncs.begun, commit.syncs)
    assert 0 < commit.sync_seconds < LONG_SECONDS


async def test_who_comes_while_one_runs_waits_for_the_next(commit: GroupCommit, syncs: Syncs) -> None:
    """
    A sync that has begun is not believed for what is written after that: those who come share the next one.
    """
    syncs.hold()
    first = waiting(commit, 1)
    assert await eventually(lambda: 1 == syncs.begun)
    later = waiting(commit, 20)
    await asyncio.sleep(0.05)
    assert (1, 0) == (syncs.begun, sum(task.done() for task in later))
    syncs.let_go()

    assert [None] * 21 == await outcomes(*first, *later)
    assert 2 == syncs.begun


async def test_who_runs_in_steps_waits_without_a_task(commit: GroupCommit, syncs: Syncs) -> None:
    """
    Who waits goes on inside of the answer, and may wait again there: for the next sync, together with the others.
    """
    ended: list[int] = []
    needed_task: list[int] = []

    async def wait_twice(number: int) -> bool:
        await wait(commit)
        await wait(commit)
        ended.append(number)
        return True

    for number in range(20):
        steps = Steps(on_end=lambda _: None, on_hand_over=lambda: needed_task.append(1))
        steps.run(wait_twice(number))

    assert await eventually(lambda: 20 == len(ended))
    assert (list(range(20)), [], 2) == (ended, needed_task, syncs.begun)


class Broken(Signal):
    """Who waits by it fails as it goes on."""

    __slots__ = ()

    def fire(self) -> None:
        raise ValueError("broken")


async def test_fault_of_one_does_not_stop_the_others(commit: GroupCommit) -> None:
    """
    Those behind one that fails as it goes on are served, and the fault is told.
    """
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context.get("exception")))
    broken = commit.join(Broken())
    served = await outcomes(*waiting(commit, 3))
    broken.check()

    assert [None] * 3 == served
    assert [ValueError] == [type(fault) for fault in faults]


async def test_fault_of_one_does_not_keep_who_came_later_waiting(commit: GroupCommit, syncs: Syncs) -> None:
    """
    Where the disk fails, those who would have had the next sync are refused now, and not at their limit.
    """
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    syncs.hold()
    syncs.error = OSError(errno.EIO, "EIO")
    commit.join(Broken())
    assert await eventually(lambda: 1 == syncs.begun)
    later = commit.join(Broken())
    syncs.let_go()
    assert await eventually(lambda: commit.has_failed)

    assert later.timer.cancelled()


@pytest.mark.parametrize("error", [OSError(errno.EIO, "EIO"), OSError(errno.ENOSPC, "ENOSPC"), ValueError("closed")])
async def test_failed_sync_is_final(commit: GroupCommit, syncs: Syncs, error: Exception) -> None:
    """
    All who wait are refused, those who came meanwhile too; nobody asks the disk again, which might then say yes.
    """
    syncs.hold()
    syncs.error = error
    first = waiting(commit, 2)
    assert await eventually(lambda: 1 == syncs.begun)
    later = waiting(commit, 2)
    await asyncio.sleep(0)
    with capture_logs() as lines:
        syncs.let_go()
        refused = await outcomes(*first, *later)
    syncs.error = None
    refused += await outcomes(*waiting(commit, 2))

    assert [RecordUnavailable] * 6 == refused
    assert (1, True, False) == (syncs.begun, commit.has_failed, commit.is_hanging)
    assert [("record_not_synced", type(error).__name__)] == [(line["event"], line["error"]) for line in lines]


async def test_disk_that_hangs_refuses_within_the_limit(syncs: Syncs, descriptor: int) -> None:
    """
    All who wait are refused at the limit, and who comes then at once; when the disk has answered, all is well.
    """
    commit = GroupCommit(descriptor, sync=syncs, limit_seconds=HANG_SECONDS)
    syncs.hold()
    with capture_logs() as lines:
        first = waiting(commit, 2)
        assert await eventually(lambda: 1 == syncs.begun)
        later = waiting(commit, 2)
        refused = await outcomes(*first, *later)
        assert commit.is_hanging
        refused += await outcomes(*waiting(commit, 100))
        syncs.let_go()
        assert await eventually(lambda: not commit.is_hanging)
        await wait(commit)

    assert [RecordUnavailable] * 104 == refused
    assert 2 == syncs.begun
    assert ["record_hangs", "record_hang_ended"] == [line["event"] for line in lines]
    assert commit.close()


async def test_disk_that_hangs_and_then_fails_has_failed(syncs: Syncs, descriptor: int) -> None:
    """
    The answer of a disk that was given up counts when it comes.
    """
    commit = GroupCommit(descriptor, sync=syncs, limit_seconds=HANG_SECONDS)
    syncs.hold()
    syncs.error = OSError(errno.EIO, "EIO")
    assert [RecordUnavailable] == await outcomes(*waiting(commit, 1))
    syncs.let_go()

    assert await eventually(lambda: commit.has_failed and not commit.is_hanging)
    assert commit.close()


async def test_caller_that_goes_away_leaves_nothing(commit: GroupCommit, syncs: Syncs) -> None:
    """
    Those who wait for the same sync are served, whoever else gives up, also where all of a group do.
    """
    syncs.hold()
    first = waiting(commit, 2)
    assert await eventually(lambda: 1 == syncs.begun)
    later = waiting(commit, 2)
    await asyncio.sleep(0)
    for task in (first[0], *later):
        task.cancel()
    gone = await outcomes(first[0], *later)
    syncs.let_go()

    assert [asyncio.CancelledError] * 3 == gone
    assert [None] == await outcomes(first[1])
    await wait(commit)
    assert {asyncio.current_task()} == asyncio.all_tasks()


async def test_close_leaves_a_disk_that_hangs_behind(syncs: Syncs, descriptor: int) -> None:
    """
    What the disk holds on to does not hold up the end; its late answer finds nobody, and breaks nothing.
    """
    commit = GroupCommit(descriptor, sync=syncs, limit_seconds=HANG_SECONDS)
    syncs.hold()
    await outcomes(*waiting(commit, 1))

    assert not commit.close()
    syncs.let_go()
    assert await eventually(lambda: "record-commit" not in [thread.name for thread in threading.enumerate()])


def test_answer_after_the_end_of_the_loop_is_nobodys(syncs: Syncs, descriptor: int) -> None:
    """
    A sync that outlives its loop ends quietly.
    """
    commit = GroupCommit(descriptor, sync=syncs, limit_seconds=LONG_SECONDS)
    syncs.hold()

    async def give_up() -> None:
        task = asyncio.create_task(wait(commit))
        assert await eventually(lambda: 1 == syncs.begun)
        task.cancel()

    asyncio.run(give_up())
    syncs.let_go()

    assert commit.close()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_loop_that_stood_still_is_no_disk_that_hangs(run: object, syncs: Syncs, descriptor: int) -> None:
    """
    Who waits through a pause of the process beyond the limit may be refused; who comes then is served.
    """
    commit = GroupCommit(descriptor, sync=syncs, limit_seconds=HANG_SECONDS)

    async def stand_still() -> None:
        task = asyncio.create_task(wait(commit))
        await asyncio.sleep(0)
        time.sleep(1.5 * HANG_SECONDS)  # noqa: ASYNC251  # this is the pause
        await outcomes(task)
        assert await eventually(lambda: not commit.is_hanging)
        await wait(commit)

    assert callable(run)
    run(stand_still())

    assert commit.close()


def test_nothing_is_started_where_nobody_waits(syncs: Syncs, descriptor: int) -> None:
    """
    Without anybody who waits for the disk there is no thread and no sync.
    """
    commit = GroupCommit(descriptor, sync=syncs)

    assert "record-commit" not in [thread.name for thread in threading.enumerate()]
    assert commit.close()
    assert 0 == syncs.begun
