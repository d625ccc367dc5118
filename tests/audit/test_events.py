"""Events in the record: one line each, whatever they hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.audit.events import EventLog
from gateway.audit.log import LogFile
from gateway.errors import RecordUnavailable

HOSTILE = {
    "a line break": 'a\nb\r\n{"event":"forged"}',
    "a lone surrogate": "\ud800",
    "a terminal's escape": "\x1b[2J\u202e",
    "a quote": '"}',
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_text_cannot_break_a_line(tmp_path: Path, text: str) -> None:
    """What a stranger sent is one value in one line, and comes back as it was."""
    log = LogFile.open(tmp_path / "egress.jsonl")
    EventLog(log, clock=lambda: 1_800_000_000.1239)("token_uploaded", connection=text, scopes=[text])
    log.close()

    (line,) = log.path.read_bytes().splitlines()
    said = {"event": "token_uploaded", "time": "2027-01-15T08:00:00.123Z", "connection": text, "scopes": [text]}
    assert said == json.loads(line)
    assert line.isascii()


def test_event_that_cannot_be_written_is_refused() -> None:
    """The refusal of the log is the caller's to act on."""

    class FullLog:
        def append(self, line: bytes) -> None:
            raise RecordUnavailable

    with pytest.raises(RecordUnavailable):
        EventLog(FullLog(), clock=lambda: 0.0)("connected")
