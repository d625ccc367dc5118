"""The record's file: whole lines or none, private, and no call without it."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway.audit.log import LogFile
from gateway.errors import RecordUnavailable
from gateway.proxy.steps import Signal
from tests.disk import Syncs, fill, release, small_disk
from tests.tools import ROOT


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


async def append_durably(log: LogFile, line: bytes) -> None:
    """Write *line* to *log*, and return when it is on the disk, as a call does."""
    answered = Signal()
    written = log.append_durably(line, answered)
    await answered
    written.check()


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


async def test_what_may_wait_is_written_with_the_next_line(tmp_path: Path) -> None:
    """
    A line that may wait leaves in one write with the next one, or at the end of the turn; closing leaves none out.
    """
    log = LogFile.open(tmp_path / "egress.jsonl")
    log.append_soon(b"1")
    before = log.path.read_bytes()
    log.append(b"2")
    together = log.path.read_bytes()
    log.append_soon(b"3")
    log.append_soon(b"4")
    await asyncio.sleep(0)
    alone = log.path.read_bytes()
    log.append_soon(b"5")
    log.close()

    assert (b"", b"1\n2\n", b"1\n2\n3\n4\n") == (before, together, alone)
    assert b"1\n2\n3\n4\n5\n" == log.path.read_bytes()
    assert 0 == lost(log)


async def test_what_could_not_be_written_in_time_is_counted(tmp_path: Path) -> None:
    """
    A next line that finds no room takes nothing with it: what waits is tried alone, and counted where that fails, too.
    """
    log = LogFile.open(tmp_path / "egress.jsonl")
    log.append_soon(b"1" * 40)
    with capture_logs(), file_size_limit(60):
        with pytest.raises(RecordUnavailable):
            log.append(b"2" * 40)
        await asyncio.sleep(0)
        log.append_soon(b"3" * 40)
        log.append_soon(b"4" * 40)
        await asyncio.sleep(0)
    log.append(b"5")
    log.close()

    assert b"1" * 40 + b"\n5\n" == log.path.read_bytes()
    assert 2 == lost(log)


async def test_each_turn_has_its_end(tmp_path: Path) -> None:
    """
    What waits behind a line that took others along, and what comes in later turns, is written at the end of its turn.
    """
    log = LogFile.open(tmp_path / "egress.jsonl")
    log.append_soon(b"1")
    log.append(b"2")
    log.append_soon(b"3")
    await asyncio.sleep(0)
    first = log.path.read_bytes()
    log.append_soon(b"4")
    await asyncio.sleep(0)
    second = log.path.read_bytes()
    log.close()

    assert (b"1\n2\n3\n", b"1\n2\n3\n4\n") == (first, second)


def lost(log: LogFile) -> float:
    return next(
        sample.value
        for metric in log.collect()
        for sample in metric.samples
        if sample.name == "gateway_outcomes_lost_total"
    )


@pytest.mark.parametrize(
    ("case", "before", "after"),
    [
        ("nothing", b"", b"3\n"),
        ("whole lines", b"1\n2\n", b"1\n2\n3\n"),
        ("half a line", b"1\n{2", b"1\n{2\n3\n"),
        ("blocks that never got to the disk", b"1\n\0\0", b"1\n\0\0\n3\n"),
    ],
)
def test_torn_end_does_not_spoil_the_next_line(tmp_path: Path, case: str, before: bytes, after: bytes) -> None:
    """
    What a crash of the machine has left of a line stands alone; the next one is whole, and nothing is rewritten.
    """
    path = tmp_path / "egress.jsonl"
    path.write_bytes(before)
    log = LogFile.open(path)
    log.append(b"3")
    log.close()

    assert after == path.read_bytes(), case


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


def test_flood_of_refusals_is_two_lines(tmp_path: Path) -> None:
    """
    However many lines find no room, the log says when that begins, and when it has ended with their number.
    """
    log = LogFile.open(tmp_path / "egress.jsonl")
    with capture_logs() as lines:
        for _ in range(2):
            with file_size_limit(5):
                for _ in range(100):
                    with pytest.raises(RecordUnavailable):
                        log.append(b"123456")
            log.append(b"1")
            log.append(b"2")
    log.close()

    assert ["record_unavailable", "record_available"] * 2 == [line["event"] for line in lines]
    assert ("short write", 100) == (lines[0]["error"], lines[1]["refused"])


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


async def test_durable_line_is_written_before_the_disk_is_asked(tmp_path: Path) -> None:
    """
    The sync that a line waits for begins when the line is in the file; `append` asks for none.
    """
    syncs = Syncs()
    log = LogFile.open(tmp_path / "egress.jsonl", sync=syncs)
    seen: list[bytes] = []
    syncs.on_sync = lambda: seen.append(log.path.read_bytes())
    log.append(b"1")
    await append_durably(log, b"2")
    log.append(b"3")
    metrics = [sample for metric in log.collect() for sample in metric.samples]
    log.close()

    assert ("gateway_record_sync_seconds_count", 1) in [(each.name, each.value) for each in metrics]
    assert [b"1\n2\n"] == seen
    assert b"1\n2\n3\n" == log.path.read_bytes()


async def test_failed_disk_refuses_every_line(tmp_path: Path) -> None:
    """
    After a failed sync nothing is recorded in this file any more, nor said to be: what it holds may be lost.
    """
    syncs = Syncs()
    syncs.error = OSError(errno.EIO, "EIO")
    log = LogFile.open(tmp_path / "egress.jsonl", sync=syncs)
    with pytest.raises(RecordUnavailable):
        await append_durably(log, b"1")
    syncs.error = None
    with pytest.raises(RecordUnavailable):
        await append_durably(log, b"2")
    with pytest.raises(RecordUnavailable):
        log.append(b"3")
    is_available = log.is_available
    log.close()
    again = LogFile.open(log.path, sync=syncs)
    await append_durably(again, b"4")
    again.close()

    assert not is_available
    assert b"1\n4\n" == log.path.read_bytes()


async def test_disk_that_hangs_refuses_before_it_writes(tmp_path: Path) -> None:
    """
    While the disk hangs no line of a call that waits for it is written; lines that nobody waits for are.
    """
    syncs = Syncs()
    syncs.hold()
    log = LogFile.open(tmp_path / "egress.jsonl", sync=syncs, limit_seconds=0.05)
    for line in (b"1", b"2"):
        with pytest.raises(RecordUnavailable):
            await append_durably(log, line)
    log.append(b"3")
    is_available = log.is_available
    log.close()
    syncs.let_go()

    assert not is_available
    assert b"1\n3\n" == log.path.read_bytes()


async def test_full_disk_refuses_durable_lines_too(tmp_path: Path) -> None:
    """
    On a disk that is really full a line is refused whole, without a sync; with room again the next one is durable.
    """
    syncs = Syncs()
    with small_disk(tmp_path / "disk", mebibytes=1) as disk:
        log = LogFile.open(disk / "egress.jsonl", sync=syncs)
        await append_durably(log, b"1")
        fill(disk, leaving_bytes=0)
        with pytest.raises(RecordUnavailable):
            await append_durably(log, b"x" * 10_000)
        begun = syncs.begun
        release(disk)
        await append_durably(log, b"2")
        log.close()
        content = log.path.read_bytes()

    assert (1, 2) == (begun, syncs.begun)
    assert b"1\n2\n" == content


async def test_durable_lines_survive_kill_9(tmp_path: Path) -> None:
    """
    Each line of which a process has said that it is durable is there, whole, after the process was killed.
    """
    path = tmp_path / "egress.jsonl"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", WRITER, str(path)), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    said = [(await process.stdout.readline()).decode().strip() for _ in range(50)]
    process.kill()
    said += (await process.stdout.read()).decode().split("\n")[:-1]
    await process.wait()
    lines = path.read_text().split("\n")

    assert set(said) <= set(lines[:-1])
    assert "" == lines[-1]


WRITER = """
import asyncio, pathlib, sys
from gateway.audit.log import LogFile
from gateway.proxy.steps import Signal

log = LogFile.open(pathlib.Path(sys.argv[1]))

async def append_durably(log, line):
    answered = Signal()
    written = log.append_durably(line, answered)
    await answered
    written.check()

async def write(name):
    for number in range(100_000):
        line = f'{{"writer": {name}, "number": {number}}}'
        await append_durably(log, line.encode())
        print(line, flush=True)

async def main():
    await asyncio.gather(*map(write, range(8)))

asyncio.run(main())
"""
