"""
The record's file: one JSON line a fact, appended, never rewritten.

Rules:
1. When `append` returns, the line is in the kernel: it survives kill -9 of this process.
2. A line is whole or absent. What a full disk cuts off is taken back, and the call is refused (`RecordUnavailable`).
3. One writer a file; the file is private (0600).
"""

from __future__ import annotations

import os
from pathlib import Path

import structlog

from gateway.errors import RecordUnavailable

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
        Open *path* for appending, and make it where it is missing.

        Raises:
            OSError: it cannot be opened.
        """
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        return cls(path, os.open(path, flags, 0o600))

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
            os.ftruncate(self._descriptor, self._size)
            log.error("record_unavailable", error="short write")
            raise RecordUnavailable(retry_after=5)
        self._size += written

    def close(self) -> None:
        """Bring the file to the disk and close it."""
        os.fsync(self._descriptor)
        os.close(self._descriptor)
