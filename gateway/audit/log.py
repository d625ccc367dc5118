"""
The record's file: one JSON line a fact, appended, never rewritten.

Rules:
1. When `append` returns, the line is in the kernel: it survives kill -9 of this process. `append_durably` tells when it
   is on the disk: it survives the machine. `append_soon` promises the kernel by the end of this turn of the loop.
2. A line is whole or absent. What a full disk cuts off is taken back, and the call is refused (`RecordUnavailable`).
   What a crash of the machine has left of one is ended when the file is opened, so that the next line is whole.
3. One writer a file, by a lock that ends with its process; the file is private (0600).
4. Once the disk has failed to write (`commit.py`), nothing is recorded here any more and every call is refused: what
   stands in the file may not be on the disk, and vanish from memory. A gateway that is started anew goes on.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import structlog
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, SummaryMetricFamily
from prometheus_client.registry import Collector

from gateway.audit.commit import LIMIT_SECONDS, Group, GroupCommit, Waiting, fdatasync
from gateway.errors import RecordUnavailable

RECORD_FILE = Path("record") / "egress.jsonl"  # in the data directory
MAX_WRITERS = 64  # gateways on one data directory

log = structlog.get_logger()


class LogFile(Collector):
    """
    An open record. Made by `LogFile.open`, closed with `close`. Its metrics are how many outcomes were lost, and what
    waiting for the disk takes.
    """

    def __init__(
        self,
        path: Path,
        descriptor: int,
        *,
        sync: Callable[[int], None] = fdatasync,
        limit_seconds: float = LIMIT_SECONDS,
    ) -> None:
        self.path = path
        self._descriptor = descriptor
        self._loop: asyncio.AbstractEventLoop | None = None  # from the first line on that may wait
        self._soon: list[bytes] = []  # lines that go with the next one, or at the end of this turn of the loop
        self._is_flush_due = False  # in this turn of the loop
        self._lost = 0  # of those
        self._refused = 0  # lines since the last one that was written
        self._commit = GroupCommit(descriptor, sync=sync, limit_seconds=limit_seconds)

    @classmethod
    def open(
        cls, path: Path, *, sync: Callable[[int], None] = fdatasync, limit_seconds: float = LIMIT_SECONDS
    ) -> LogFile:
        """
        Open *path* for appending, and make it where it is missing; where another process writes to it, "name-2" and
        so on. *limit_seconds* is how long a line may take to the disk.

        Raises:
            OSError: it cannot be opened.
        """
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        for number in range(1, MAX_WRITERS + 1):
            name = path if number == 1 else path.with_stem(f"{path.stem}-{number}")
            descriptor = os.open(name, flags, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                continue
            _prepare(name, descriptor)
            return cls(name, descriptor, sync=sync, limit_seconds=limit_seconds)
        raise OSError(errno.EUSERS, f"{MAX_WRITERS} processes write to this record already", str(path))

    @property
    def is_available(self) -> bool:
        """Whether the disk takes lines, as far as anybody has waited for it."""
        return not (self._commit.is_hanging or self._commit.has_failed)

    def append(self, line: bytes) -> None:
        """
        Write *line*, one JSON object without a line break.

        Raises:
            RecordUnavailable: the file did not take the whole line, and nothing of it stays; or the disk has failed.
        """
        if self._commit.has_failed:  # 0.04 microseconds
            raise RecordUnavailable(retry_after=5)
        soon = self._soon
        data = b"\n".join((*soon, line, b"")) if soon else line + b"\n"
        try:
            written = os.write(self._descriptor, data)
        except OSError as exc:
            self._count_refused(type(exc).__name__, exc.errno)
            raise RecordUnavailable(retry_after=5) from exc
        if written != len(data):
            self._take_back(written)
        soon.clear()
        if self._refused:
            log.info("record_available", refused=self._refused)
            self._refused = 0

    def _take_back(self, written: int) -> NoReturn:
        """Refuse a line of which the file took no more than *written* bytes: these go, too."""
        self._count_refused("short write", None)
        try:
            os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - written)
        except OSError as exc:
            raise RecordUnavailable(retry_after=5) from exc
        raise RecordUnavailable(retry_after=5)

    def append_soon(self, line: bytes) -> None:
        """
        Write *line* together with the next one, at the end of this turn of the loop at the latest.

        For what has happened already and delays nobody: it saves most of the writes (2 microseconds each). One that
        cannot be written is counted.
        """
        if not self._is_flush_due:  # once a turn: asking for it costs as much as half a write
            if self._loop is None:
                self._loop = asyncio.get_running_loop()
            self._loop.call_soon(self._flush)
            self._is_flush_due = True
        self._soon.append(line)

    def _flush(self) -> None:
        self._is_flush_due = False
        if not self._soon:  # as a rule an intent has taken them along
            return
        soon, self._soon = self._soon, []
        try:
            self.append(b"\n".join(soon))
        except RecordUnavailable:
            # The intents are in the kernel; an intent without an outcome is found when the record is verified.
            self._lost += len(soon)

    def append_durably(self, line: bytes, waiting: Waiting) -> Group:
        """
        Write *line* as `append` does, and have *waiting* fired when it is on the disk; or it is not, says the group.

        Raises:
            RecordUnavailable: as `append` says, or the disk hangs: it has not answered others within the limit.
        """
        if self._commit.is_hanging:
            raise RecordUnavailable(retry_after=5)
        self.append(line)
        return self._commit.join(waiting)

    def _count_refused(self, error: str, number: int | None) -> None:
        """Tell the first of a row of lines that could not be written: a flood of calls must not fill a log as well."""
        if not self._refused:
            log.error("record_unavailable", error=error, errno=number)
        self._refused += 1

    def collect(self) -> Iterator[Metric]:
        """Yield what was lost, how often calls have waited for the disk, and how long. Called by prometheus-client."""
        lost = "Outcome lines that could not be written."
        yield CounterMetricFamily("gateway_outcomes_lost", lost, value=self._lost)
        commit, text = self._commit, "Waits of calls for the disk, many calls in each."
        yield SummaryMetricFamily(
            "gateway_record_sync_seconds", text, count_value=commit.syncs, sum_value=commit.sync_seconds
        )

    def close(self) -> None:
        """Bring the file to the disk and close it."""
        self._flush()
        if not self._commit.close():
            log.error("record_not_synced", error="the disk hangs", errno=None)
            return  # what is to be closed is in use, and ends with the process
        try:
            os.fsync(self._descriptor)
        except OSError as exc:  # a disk that fails now must not keep the rest from being closed
            log.error("record_not_synced", error=type(exc).__name__, errno=exc.errno)
        finally:
            os.close(self._descriptor)


def _prepare(path: Path, descriptor: int) -> None:
    """Make sure that the next line begins a line, and that a file which is new has its name on the disk."""
    size = os.fstat(descriptor).st_size
    if not size:
        _sync_directories(path.parent, path.parent.parent)
    elif os.pread(descriptor, 1, size - 1) != b"\n":
        log.warning("record_torn", path=str(path))
        os.write(descriptor, b"\n")


def _sync_directories(*directories: Path) -> None:
    """Bring the names of files that were made in *directories* to the disk: syncing a file does not (fsync(2))."""
    for directory in directories:
        with suppress(OSError):  # some file systems have no such thing, and keep names by themselves
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
