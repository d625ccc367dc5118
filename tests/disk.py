"""
Disks that misbehave: one that is really full (a small tmpfs of a test's own), and one that hangs or fails to write.
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.tools import missing

BALLAST = "ballast"
GUARD_SECONDS = 30.0  # nothing is held for longer, whatever a test forgets


@contextmanager
def small_disk(path: Path, *, mebibytes: int) -> Iterator[Path]:
    """Mount a file system of *mebibytes* on *path*; the test is skipped where it may not mount, or fails in CI."""
    path.mkdir(parents=True)
    options = f"size={mebibytes}m,mode=700"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], capture_output=True, check=False)
    if mounted.returncode != 0:
        missing("the right to mount a tmpfs", "run the tests as root, with CAP_SYS_ADMIN")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def fill(disk: Path, *, leaving_bytes: int) -> None:
    """Take all of *disk* but *leaving_bytes*, in a file that `release` removes."""
    found = os.statvfs(disk)
    ballast = disk / BALLAST
    taken = ballast.stat().st_size if ballast.exists() else 0
    with ballast.open("ab") as file:
        os.posix_fallocate(file.fileno(), 0, taken + found.f_bavail * found.f_frsize - leaving_bytes)


def release(disk: Path) -> None:
    """Give back what `fill` has taken."""
    (disk / BALLAST).unlink()


class Syncs:
    """
    An fdatasync that counts, and does what a test wants: it holds those that begin until they are let go, and fails.

    *on_sync* is called by each as it begins, in the thread that syncs.
    """

    def __init__(self) -> None:
        self.begun = 0
        self.error: Exception | None = None
        self.on_sync: Callable[[], None] = lambda: None
        self._may_go = threading.Event()
        self._may_go.set()

    def __call__(self, descriptor: int) -> None:
        self.begun += 1
        self.on_sync()
        self._may_go.wait(GUARD_SECONDS)
        if self.error is not None:
            raise self.error
        os.fdatasync(descriptor)

    def hold(self) -> None:
        self._may_go.clear()

    def let_go(self) -> None:
        self._may_go.set()
