"""
The record's lines of what is no call: exchanges, raw tokens, changes of the vault (`vault/record.py` lists them).

Rules:
1. A line has `event` and `time` (RFC 3339, UTC, milliseconds) first, as the lines of calls have (`proxy/record.py`).
2. When it returns, the line is in the kernel, or `RecordUnavailable` was raised (`log.py`).
3. Whatever text a field holds, the line is JSON in ASCII: nothing of it can end the line or hide what follows.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol


class Appends(Protocol):
    """A log of lines (`log.py`)."""

    def append(self, line: bytes) -> None:
        """Write *line*, or raise RecordUnavailable."""


class EventLog:
    """Writes events to *log*. *clock* gives POSIX seconds."""

    def __init__(self, log: Appends, *, clock: Callable[[], float]) -> None:
        self._log = log
        self._clock = clock

    def __call__(self, event: str, /, **fields: object) -> None:
        """
        Append the line of *event*.

        Raises:
            RecordUnavailable: it could not be written.
        """
        time = datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds")
        line = {"event": event, "time": time.replace("+00:00", "Z"), **fields}
        self._log.append(json.dumps(line, separators=(",", ":")).encode("ascii"))
