"""Work that outlives whoever asked for it."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from gateway.vault.jobs import Jobs


async def test_job_ends_although_its_caller_was_cancelled() -> None:
    """Who waits for a job does not take it along."""
    jobs, gate, done = Jobs("test", expected=()), asyncio.Event(), []

    async def work() -> None:
        await gate.wait()
        done.append("ended")

    task = jobs.spawn(work())
    caller = asyncio.create_task(asyncio.wait({task}))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    gate.set()
    await jobs.close(grace_seconds=5.0)

    assert ["ended"] == done


async def test_close_ends_what_lasts_too_long() -> None:
    """A job that does not end within the grace is cancelled, which the log tells, and closing goes on."""
    jobs = Jobs("test", expected=())
    task = jobs.spawn(asyncio.sleep(3600))

    with capture_logs() as logs:
        await jobs.close(grace_seconds=0.01)

    assert task.cancelled()
    assert [("jobs_cut", 1)] == [(line["event"], line["count"]) for line in logs]


async def test_close_waits_for_what_a_job_begins() -> None:
    """A job that is begun by another one while both are waited for ends, too."""
    jobs, gate, done = Jobs("test", expected=()), asyncio.Event(), []

    async def second() -> None:
        await asyncio.sleep(0.05)
        done.append("ended")

    async def first() -> None:
        await gate.wait()
        jobs.spawn(second())

    jobs.spawn(first())
    closing = asyncio.create_task(jobs.close(grace_seconds=5.0))
    await asyncio.sleep(0)
    gate.set()
    await closing

    assert (["ended"], 0) == (done, len(jobs))


async def test_only_unexpected_errors_are_logged() -> None:
    """An answer that happens to be an exception is no fault; another error is told by its class alone."""
    jobs = Jobs("test", expected=(KeyError,))

    async def fail(error: Exception) -> None:
        raise error

    with capture_logs() as logs:
        tasks = [jobs.spawn(fail(error)) for error in (KeyError("CANARY"), ValueError("CANARY"))]
        await asyncio.wait(tasks)
        await asyncio.sleep(0)

    assert [{"event": "job_broke", "job": "test", "error": "ValueError", "log_level": "error"}] == logs
