"""The record's file: whole lines or none, private, and no call without it."""

from __future__ import annotations

import os
import resource
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.audit.log import LogFile
from gateway.errors import RecordUnavailable


@contextmanager
def file_size_limit(limit_bytes: int) -> Iterator[None]:
    """Let no file of this process grow beyond *limit_bytes*: the kernel then writes less than it was given."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_line_is_in_the_file_when_append_returns(tmp_path: Path) -> None:
    """
    A line is readable by others as soon as it was appended, and earlier ones stay.
    """
    path = tmp_path / "record" / "egress.jsonl"
    first = LogFile.open(path)
    first.append(b'{"n":1}')
    first.close()
    again = LogFile.open(path)
    again.append(b'{"n":2}')

    seen = path.read_bytes()
    again.close()

    assert b'{"n":1}\n{"n":2}\n' == seen


def test_file_is_private(tmp_path: Path) -> None:
    """
    Only the gateway's user may read the record.
    """
    log = LogFile.open(tmp_path / "record" / "egress.jsonl")
    log.close()

    assert 0o600 == stat.S_IMODE(log.path.stat().st_mode)
    assert 0o700 == stat.S_IMODE(log.path.parent.stat().st_mode)


def test_half_a_line_is_taken_back(tmp_path: Path) -> None:
    """
    Where only a part of a line fits, nothing of it stays, and the call is refused; later lines are whole.
    """
    log = LogFile.open(tmp_path / "egress.jsonl")
    log.append(b"x" * 99)
    with file_size_limit(150), pytest.raises(RecordUnavailable):
        log.append(b"y" * 99)
    log.append(b"z")
    log.close()

    assert b"x" * 99 + b"\nz\n" == log.path.read_bytes()


def test_full_disk_refuses() -> None:
    """
    A full disk refuses the call, and closing the record there breaks nothing.
    """
    log = LogFile(Path("/dev/full"), os.open("/dev/full", os.O_WRONLY))
    with pytest.raises(RecordUnavailable) as caught:
        log.append(b"{}")
    log.close()

    assert caught.value.retryable
    assert 5 == caught.value.retry_after


def test_lost_descriptor_refuses(tmp_path: Path) -> None:
    """
    A descriptor that is gone refuses the call; nothing is taken for written.
    """
    log = LogFile.open(tmp_path / "egress.jsonl")
    os.close(log._descriptor)

    with pytest.raises(RecordUnavailable):
        log.append(b"{}")


def test_directory_in_the_files_place_is_told(tmp_path: Path) -> None:
    """
    A path that cannot be opened is an error at start, not at the first call.
    """
    with pytest.raises(OSError, match="directory"):
        LogFile.open(tmp_path)
