"""
Run a coroutine from callback to callback, without a task, for as long as nothing but `Signal`s makes it wait.

A task costs a request 2.6 microseconds, and each future that wakes it 2 more and a turn of the loop. Most requests wait
once, for the head of their answer, and whoever reads that head can as well go on with the request.

Rules:
1. `Steps` runs one coroutine at a time: up to a `Signal`, and on from there when it is fired, inside of `fire`.
2. Where the coroutine waits for anything else, or asks for a task (`in_task`), it is handed over: somebody awaits
   `rest()`, which goes on with it in a task of theirs.
3. What needs to know its task (asyncio.timeout, TaskGroup) comes behind an `await in_task()`.
4. `cancel` ends the coroutine as a task's would: CancelledError is raised where it waits.

In a task a `Signal` is an ordinary future.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from types import coroutine
from typing import Any

_SIGNAL = object()  # what a coroutine yields to `Steps` at a signal
_ONE_SIGNAL = (_SIGNAL,)
_TASK = object()  # and where it needs a task

_current: Steps | None = None  # whose coroutine runs at the moment


class Signal:
    """Something that one coroutine waits for, again and again. Fired while nobody waits, it is lost."""

    __slots__ = ("waiter",)

    def __init__(self) -> None:
        self.waiter: Steps | asyncio.Future[None] | None = None

    def __await__(self) -> Generator[Any, None, None]:
        """Wait until it is fired."""
        if _current is not None:
            self.waiter = _current
            _current.waits_at = self
            once: Generator[Any, None, None] = iter(_ONE_SIGNAL)  # type: ignore[assignment]  # it will do, and is cheaper
            return once
        self.waiter = asyncio.get_running_loop().create_future()
        return self.waiter.__await__()

    def fire(self) -> None:
        """Have who waits go on: at once, if it runs in steps."""
        waiter = self.waiter
        if isinstance(waiter, Steps):
            self.waiter = None
            waiter.run()
        elif waiter is not None and not waiter.done():
            waiter.set_result(None)


@coroutine
def in_task() -> Generator[Any, None, None]:
    """Go on in a task."""
    if _current is not None:
        yield _TASK


class Steps:
    """
    Runs one coroutine after another; each returns whether its owner goes on.

    *on_end* gets what one returned that is not True, or the exception that ended it, and nothing of one that was
    cancelled. *on_hand_over* is told that it cannot go on without a task (*awaits_task*): `rest` is to be awaited.
    *under_way* is the coroutine that no task has taken, while there is one.
    """

    __slots__ = ("_cleaning_up", "_on_end", "_on_hand_over", "_rest", "awaits_task", "under_way", "waits_at")

    def __init__(self, *, on_end: Callable[[bool | Exception], None], on_hand_over: Callable[[], None]) -> None:
        self._on_end = on_end
        self._on_hand_over = on_hand_over
        self.under_way: Coroutine[Any, None, bool] | None = None
        self.awaits_task = False
        self.waits_at: Signal | None = None  # or has waited last
        self._rest: Any = None  # what it waits for then
        self._cleaning_up: asyncio.Task[bool] | None = None

    def run(self, new: Coroutine[Any, None, bool] | None = None) -> None:
        """Run *new*, or what is under way and was waiting for a signal, as far as it goes."""
        global _current
        if new is not None:
            self.under_way = new
        assert self.under_way is not None
        before, _current = _current, self
        try:
            waits_for = self.under_way.send(None)
        except BaseException as end:
            waits_for = self._end(end)
        finally:
            _current = before
        if waits_for is not _SIGNAL:
            self._rest = waits_for
            self.awaits_task = True
            self._on_hand_over()

    def cancel(self) -> None:
        """Raise CancelledError where the coroutine waits, if one is under way here."""
        global _current
        self.awaits_task = False
        if self.under_way is None:
            return
        if self.waits_at is not None and self.waits_at.waiter is self:
            self.waits_at.waiter = None  # fired by what the coroutine does at its end, it must not resume it
        before, _current = _current, self
        try:
            waits_for = self.under_way.throw(asyncio.CancelledError())
        except BaseException as end:
            waits_for = self._end(end)
        finally:
            _current = before
        if waits_for is not _SIGNAL:
            self._rest = waits_for
            self._cleaning_up = asyncio.get_running_loop().create_task(self.rest(), name="cancelled-steps")

    def _end(self, end: BaseException) -> object:
        """Tell the owner by what the coroutine has *end*ed, and return `_SIGNAL`: it waits for nothing any more."""
        self.under_way = None
        if isinstance(end, StopIteration):
            if end.value is not True:
                self._on_end(end.value)
        elif isinstance(end, Exception):
            self._on_end(end)
        elif not isinstance(end, asyncio.CancelledError):
            raise end
        return _SIGNAL

    async def rest(self) -> bool:
        """Go on with the coroutine in this task, and return what it returns."""
        coroutine, self.under_way = self.under_way, None
        waits_for, self._rest = self._rest, None
        self.awaits_task = False
        assert coroutine is not None
        return await _go_on(coroutine, waits_for)


@coroutine
def _go_on(coroutine: Coroutine[Any, None, bool], waits_for: Any) -> Generator[Any, Any, bool]:
    """Have the task wait for what *coroutine* waits for, and go on with it."""
    while waits_for is not _TASK:
        try:
            yield waits_for
            break
        except BaseException as exc:
            try:
                waits_for = coroutine.throw(exc)
            except StopIteration as end:
                return bool(end.value)
    result: bool = yield from coroutine
    return result
