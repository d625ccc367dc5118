"""
Group commit: who has appended waits until the disk has it, and one fdatasync serves all who wait.

Rules:
1. One fdatasync runs at a time, in a thread of its own. It is believed for what was appended before it began; who comes
   while it runs waits for the next one.
2. Nobody waits longer than the limit. Then the disk hangs: all who wait are refused, and whoever comes is refused at
   once, until it has answered.
3. A failed fdatasync is final. The kernel reports a failed write once and may forget what it could not write; a second
   fdatasync would then succeed without it (fsync(2); PostgreSQL, etcd and Kafka stop there as well). All who wait are
   refused, and nothing is believed of this file any more.
4. A caller that goes away takes nothing with it: the line stays, the group goes on.
5. Who waits brings what it waits by (`Waiting`), and goes on inside of its `fire`: none of them needs a task, a future
   or a turn of the loop.
6. An fdatasync begins a turn of the loop after the first who waits for it, or after the one before: who is about to
   write comes along. It costs 0.15 ms of CPU, with its thread's ways, whoever shares it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Any, Protocol

import structlog

from gateway.errors import RecordUnavailable

fdatasync: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)  # macOS has none
LIMIT_SECONDS = 5.0  # a healthy disk takes milliseconds, a busy one may take a second

log = structlog.get_logger()


class Waiting(Protocol):
    """What one coroutine awaits until it is fired, once; fired while nobody awaits it, it does nothing."""

    def __await__(self) -> Generator[Any, None, None]:
        """Wait until it is fired."""

    def fire(self) -> None:
        """Have who waits go on."""


class Group:
    """Those who wait for one fdatasync, and when they wait no longer. *is_on_disk*: it has said so."""

    __slots__ = ("is_on_disk", "timer", "waiting")

    def __init__(self, timer: asyncio.TimerHandle) -> None:
        self.timer = timer
        self.waiting: list[Waiting] = []
        self.is_on_disk = False

    def check(self) -> None:
        """Return where the disk has what they have waited for, or raise RecordUnavailable."""
        if not self.is_on_disk:
            raise RecordUnavailable(retry_after=5)

    def end(self, *, is_on_disk: bool) -> None:
        """Have all who wait go on, once, and tell them whether the disk has it."""
        self.is_on_disk = is_on_disk
        self.timer.cancel()
        waiting, self.waiting = iter(self.waiting), []
        self._fire(waiting)

    def _fire(self, waiting: Iterator[Waiting]) -> None:
        try:
            for each in waiting:
                each.fire()
        except BaseException:
            asyncio.get_running_loop().call_soon(self._fire, waiting)  # the fault of one must not stop the others
            raise


class GroupCommit:
    """
    Brings to the disk what was written to *descriptor*, by *sync*. Belongs to one event loop, that of the first `join`.

    *is_hanging*: the disk has not answered within the limit. *has_failed*: it has said no, which is final. *syncs* have
    ended, and took *sync_seconds* in all, the way to their thread and back included.
    """

    def __init__(
        self, descriptor: int, *, sync: Callable[[int], None] = fdatasync, limit_seconds: float = LIMIT_SECONDS
    ) -> None:
        self._descriptor = descriptor
        self._sync = sync
        self._limit_seconds = limit_seconds
        self._gathering: Group | None = None
        self._running: Group | None = None
        self._orders: SimpleQueue[bool] = SimpleQueue()  # True: one fdatasync; False: the end
        self._thread: Thread | None = None
        self.is_hanging = False
        self.has_failed = False
        self.syncs = 0
        self.sync_seconds = 0.0
        self._began = 0.0

    def join(self, waiting: Waiting) -> Group:
        """
        Have *waiting* fired when all that has been written is on the disk, or will not be: the group says which.

        Raises:
            RecordUnavailable: the disk hangs or has failed.
        """
        if self.is_hanging or self.has_failed:
            raise RecordUnavailable(retry_after=5)
        group = self._gathering
        if group is None:
            loop = asyncio.get_running_loop()
            group = self._gathering = Group(loop.call_later(self._limit_seconds, self._hang))
            if self._running is None:
                loop.call_soon(self._begin)
        group.waiting.append(waiting)
        return group

    def close(self) -> bool:
        """Let the thread end. Return whether it has: one in a disk that hangs is left behind."""
        if self._thread is None:
            return True
        self._orders.put(False)
        if not self.is_hanging:
            self._thread.join(self._limit_seconds)
        return not self._thread.is_alive()

    def _begin(self) -> None:
        """Have the disk write what the group that has gathered waits for."""
        if self._gathering is None or self._running is not None:
            return  # the loop stood still for so long that it was refused first
        loop = asyncio.get_running_loop()
        if self._thread is None:
            # A daemon: one that the disk never lets go of must not keep the process from ending.
            thread = Thread(target=self._work, args=(loop,), name="record-commit", daemon=True)
            thread.start()  # where the system gives none, who waits is refused at the limit, and the next one tries
            self._thread = thread
        self._running, self._gathering = self._gathering, None
        self._began = loop.time()
        self._orders.put(True)

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._orders.get():
            error: Exception | None = None
            try:
                self._sync(self._descriptor)
            except Exception as exc:
                error = exc
            with suppress(RuntimeError):  # the loop has been closed meanwhile: nobody waits
                loop.call_soon_threadsafe(self._ended, error)

    def _ended(self, error: Exception | None) -> None:
        group, self._running = self._running, None
        assert group is not None  # one order, one answer
        self.syncs += 1
        self.sync_seconds += asyncio.get_running_loop().time() - self._began
        if self.is_hanging:
            self.is_hanging = False
            log.info("record_hang_ended")
        if error is not None:
            self.has_failed = True
            log.error("record_not_synced", error=type(error).__name__, errno=getattr(error, "errno", None))
            self._refuse(group)
            return
        if self._gathering is not None:
            # Not at once: 15 calls a sync instead of 13, 1 to 4 microseconds of a call's 67. Waiting while each turn
            # brings more: 22, but fewer calls a second, since too few are left to be served meanwhile.
            asyncio.get_running_loop().call_soon(self._begin)
        group.end(is_on_disk=True)

    def _hang(self) -> None:
        """Refuse all who wait: the oldest of them has waited as long as anybody may."""
        if self._running is not None:
            self.is_hanging = True
            log.error("record_hangs", seconds=self._limit_seconds)
        self._refuse(self._running)

    def _refuse(self, running: Group | None) -> None:
        """Refuse those who wait for the sync that is *running*, and those who would have had the next one."""
        gathering, self._gathering = self._gathering, None
        try:
            if running is not None:
                running.end(is_on_disk=False)
        finally:  # the fault of one must not keep the others waiting
            if gathering is not None:
                gathering.end(is_on_disk=False)
