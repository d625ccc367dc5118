"""Whether the disk has room: from which mark on, until when, and what is told of it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from structlog.testing import capture_logs

from gateway.audit.space import DiskSpace
from tests.disk import fill, release, small_disk

GIB = 1 << 30
MIB = 1 << 20


class Disks:
    """File systems that say what a test wants; by default 100 GiB, half of them free."""

    def __init__(self) -> None:
        self.free: dict[Path, int] = {}
        self.size = 100 * GIB
        self.error: OSError | None = None

    def __call__(self, path: Path) -> os.statvfs_result:
        if self.error is not None:
            raise self.error
        free = self.free.get(path, self.size // 2) // 4096
        # bsize, frsize, blocks, bfree, bavail, files, ffree, favail, flag, namemax; bfree holds what root alone may use
        return os.statvfs_result((1 << 20, 4096, self.size // 4096, free + 1000, free, 9, 9, 9, 0, 255))


DATA, RECORD = Path("/data"), Path("/data/record")


@pytest.mark.parametrize(
    ("case", "mark", "size", "free", "is_low"),
    [
        ("plenty", None, 100 * GIB, 50 * GIB, False),
        ("a large disk, at the mark", None, 100 * GIB, 256 * MIB, False),
        ("a large disk, below it", None, 100 * GIB, 256 * MIB - 4096, True),
        ("a small disk, above a twentieth", None, GIB, 52 * MIB, False),
        ("a small disk, below a twentieth", None, GIB, 51 * MIB, True),
        ("a mark of the operator's", 2 * GIB, 100 * GIB, GIB, True),
        ("above it", 4096, 100 * GIB, GIB, False),
        ("no mark", 0, 100 * GIB, 0, False),
        ("nothing left", None, 100 * GIB, 0, True),
        ("a mark above the disk's size", GIB, GIB // 2, GIB // 2, True),
    ],
)
def test_low_is(case: str, mark: int | None, size: int, free: int, is_low: bool) -> None:
    """
    There is too little below the mark: the operator's, or the smaller of 256 MiB and a twentieth of the disk.
    """
    disks = Disks()
    disks.size, disks.free[DATA] = size, free
    space = DiskSpace({"data": DATA}, min_free_bytes=mark, statvfs=disks)
    space.look()

    assert is_low == space.is_low, case


def test_low_ends_above_the_mark_and_each_end_is_one_line() -> None:
    """
    What has become too little stays so until a quarter more than the mark is free; the log has a line for each.
    """
    disks = Disks()
    space = DiskSpace({"data": DATA, "record": RECORD}, min_free_bytes=100 * MIB, statvfs=disks)
    seen = []
    with capture_logs() as lines:
        for mebibytes in (200, 99, 99, 100, 124, 99, 125, 101, 99):
            disks.free[RECORD] = mebibytes * MIB
            space.look()
            seen.append(space.is_low)

    assert [False, True, True, True, True, True, False, False, True] == seen
    assert ["disk_low", "disk_low_ended", "disk_low"] == [line["event"] for line in lines]
    assert {"record": 99 * MIB} == lines[0]["free_bytes"]


def test_disk_that_cannot_be_asked_is_not_full() -> None:
    """
    An error, or a file system without a size, changes nothing but the metric, and is told once until it is over.
    """
    disks = Disks()
    space = DiskSpace({"data": DATA}, statvfs=disks)
    registry = CollectorRegistry()
    registry.register(space)
    with capture_logs() as lines:
        disks.error = OSError(errno.EIO, "disk", str(DATA))
        space.look()
        space.look()
        is_low_unknown = space.is_low
        disks.error = None
        disks.free[DATA] = 0
        space.look()
        is_low_full = space.is_low
        disks.size = 0
        space.look()
        text = generate_latest(registry).decode()

    assert (False, True, True) == (is_low_unknown, is_low_full, space.is_low)
    assert ["disk_not_read", "disk_low", "disk_not_read"] == [line["event"] for line in lines]
    assert [("OSError", errno.EIO), ("no size", None)] == [
        (line["error"], line["errno"]) for line in lines if line["event"] == "disk_not_read"
    ]
    assert "gateway_disk_free_bytes{" not in text


def test_metric_is_what_a_process_may_use() -> None:
    """
    The gauge counts what is free for everybody, place by place.
    """
    disks = Disks()
    disks.free[DATA] = 7 * MIB
    space = DiskSpace({"data": DATA, "record": RECORD}, statvfs=disks)
    registry = CollectorRegistry()
    registry.register(space)
    space.look()
    text = generate_latest(registry).decode()

    assert 'gateway_disk_free_bytes{place="data"} 7.340032e+06' in text
    assert 'gateway_disk_free_bytes{place="record"} 5.36870912e+10' in text


def test_real_file_system(tmp_path: Path) -> None:
    """
    A disk that fills up is low, and is not when something was removed.
    """
    with small_disk(tmp_path / "disk", mebibytes=8) as disk:
        space = DiskSpace({"data": disk})
        seen = []
        for free in (4 * MIB, MIB // 4, 0):
            fill(disk, leaving_bytes=free)
            space.look()
            seen.append(space.is_low)
        release(disk)
        space.look()

    assert [False, True, True, False] == [*seen, space.is_low]
