"""
Work that outlives whoever asked for it: an exchange under way is finished and stored, whatever becomes of its caller.

Rules:
1. A job runs in a task of its own, which `Jobs` owns until it ends. A caller who is cancelled, or stops waiting,
   changes nothing for it.
2. Everybody who asked may have gone: an error that nobody expects is then told in the log, by its class.
3. `close` waits for the jobs under way and for those that they begin, for a bounded time, and then ends them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import structlog

T = TypeVar("T")

log = structlog.get_logger()


class Jobs:
    """The tasks of one part, called *name*. *expected* are the errors that are answers, told to whoever asked."""

    def __init__(self, name: str, *, expected: tuple[type[Exception], ...]) -> None:
        self._name = name
        self._expected = expected
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, job: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin *job*, and return its task."""
        task = asyncio.create_task(job, name=self._name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def __len__(self) -> int:
        """How many jobs are under way."""
        return len(self._tasks)

    async def close(self, *, grace_seconds: float) -> None:
        """Wait for the jobs under way, at most *grace_seconds*; those that last longer are cancelled."""
        now = asyncio.get_running_loop().time
        until = now() + grace_seconds
        while self._tasks and (left := until - now()) > 0:
            await asyncio.wait(set(self._tasks), timeout=left)
        late = set(self._tasks)
        if late:
            log.warning("jobs_cut", job=self._name, count=len(late))
        for task in late:
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, self._expected):
            log.error("job_broke", job=self._name, error=type(error).__name__)
