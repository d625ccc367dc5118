"""What the vault tells the record: before it happens, and how it ended."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from structlog.testing import capture_logs

import gateway
from gateway.errors import RecordUnavailable
from gateway.models import Caller
from gateway.vault.record import EVENTS, conclude, to_log, who, whose

DOCS = Path(__file__).parents[2] / "docs" / "record.md"
SOURCES = Path(gateway.__file__).parent
CALLS = re.compile(r'(?:\brecord|_record|\bnote|\bnote_done|\bconclude)\(\s*(?:(?:[\w.]+\.)?_?record, )?"(\w+)"')


def full_disk(event: str, /, **fields: object) -> None:
    """A record that takes nothing."""
    raise RecordUnavailable


def test_events_are_those_that_are_told() -> None:
    """The list of events is closed: what the sources tell stands in it, what stands in it is told, and documented."""
    told = {name for path in SOURCES.rglob("*.py") for name in CALLS.findall(path.read_text(encoding="utf-8"))}
    # An upload's event is its endpoint's argument.
    told |= {"token_uploaded", "api_key_uploaded"}

    assert told == EVENTS
    documented = set(re.findall(r"^\| `(\w+)`", DOCS.read_text(encoding="utf-8"), re.MULTILINE))
    assert documented >= EVENTS


def test_outcome_that_cannot_be_written_is_logged() -> None:
    """What has happened is not undone for want of a line; the log tells which."""
    with capture_logs() as logs:
        conclude(full_disk, "exchange_outcome", id="x", token="t")

    assert [("outcome_not_recorded", "exchange_outcome", "x")] == [
        (entry["event"], entry["what"], entry["id"]) for entry in logs
    ]
    with pytest.raises(RecordUnavailable):
        full_disk("exchange_intent")


def test_caller_and_subject_are_told_apart() -> None:
    """Who asked and for whom are different fields; an empty name is none."""
    line = who(Caller(kind="jwt", user="alice", client="app")) | whose("bob", "", "work")

    assert {"kind": "jwt", "user": "alice", "tenant": None, "client": "app", "key": None} == line["caller"]
    assert {"user": "bob", "tenant": None, "account": "work"} == line["subject"]


def test_without_a_record_lines_go_to_the_log() -> None:
    """A vault that was given none still tells."""
    with capture_logs() as logs:
        to_log("connected", token="t")

    assert [{"event": "connected", "token": "t", "log_level": "info"}] == logs
