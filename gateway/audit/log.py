"""
The record's file: one JSON line a fact, appended, never rewritten.

Rules:
1. When `append` returns, the line is in the kernel: it survives kill -9 of this process.
2. A line is whole or absent. What a full disk cuts off is taken back, and the call is refused (`RecordUnavailable`).
3. One writer a file, by a lock that ends with its process; the file is private (0600).
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import structlog

from gateway.errors import RecordUnavailable

RECORD_FILE = Path("record") / "egress.jsonl"  # in the data directory
MAX_WRITERS = 64  # gateways on one data directory

log = structlog.get_logger()


class LogFile:
    """An open record. Made by `LogFile.open`, closed with `close`."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self._size = os.fstat(descriptor).st_size

    @classmethod
    def open(cls, path: Path) -> LogFile:
        """
        Open *path* for appending, and make it where it is missing; where another process writes to it, "name-2" and
        so on.

        Raises:
            OSError: it cannot be opened.
        """
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        for number in range(1, MAX_WRITERS + 1):
            name = path if number == 1 else path.with_stem(f"{path.stem}-{number}")
            descriptor = os.open(name, flags, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                continue
            return cls(name, descriptor)
        raise OSError(errno.EUSERS, f"{MAX_WRITERS} processes write to this record already", str(path))

    def append(self, line: bytes) -> None:
        """
        Write *line*, one JSON object without a line break.

        Raises:
            RecordUnavailable: the file did not take the whole line; nothing of it stays.
        """
        data = line + b"\n"
        try:
            written = os.write(self._descriptor, data)
        except OSError as exc:
            log.error("record_unavailable", error=type(exc).__name__, errno=exc.errno)
            raise RecordUnavailable(retry_after=5) from exc
        if written != len(data):
            log.error("record_unavailable", error="short write")
            try:
                os.ftruncate(self._descriptor, self._size)
            except OSError as exc:
                raise RecordUnavailable(retry_after=5) from exc
            raise RecordUnavailable(retry_after=5)
        self._size += written

    def close(self) -> None:
        """Bring the file to the disk and close it."""
        try:
            os.fsync(self._descriptor)
        except OSError as exc:  # a disk that fails now must not keep the rest from being closed
            log.error("record_not_synced", error=type(exc).__name__, errno=exc.errno)
        finally:
            os.close(self._descriptor)
