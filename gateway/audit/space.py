"""
Whether the disk still has room for the record and the data: below a watermark the gateway says that it is not ready.

Rules:
1. What is too little ends later than it begins, so that readiness does not flap at the mark.
2. One line in the log says when it begins, one when it ends.
3. A file system that cannot be asked, or says that it has no size, is not full: nothing new is known of it.
4. This refuses no call. Whether a line can be written is known when it is written (`log.py`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import structlog
from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

# At 1 KB a call, 100 calls a second take 40 minutes to fill 256 MiB: time for a balancer, and for somebody to come.
MIN_FREE_BYTES = 256 << 20
# Of a small disk less, so that one that is made for little is not "low" for ever: 51 MiB of 1 GiB.
MIN_FREE_SHARE = 20  # the share is one in so many
END_FACTOR = 1.25  # low until so many times the mark is free again

log = structlog.get_logger()


class DiskSpace(Collector):
    """
    What is free where *directories*, by name, lie; `look` asks, and everything else tells what it found.

    *min_free_bytes* is the mark: None for the smaller of MIN_FREE_BYTES and a share of the disk, 0 for none. Free is
    what a process without privileges may use.
    """

    def __init__(
        self,
        directories: Mapping[str, Path],
        *,
        min_free_bytes: int | None = None,
        statvfs: Callable[[Path], os.statvfs_result] = os.statvfs,
    ) -> None:
        self._directories = directories
        self._min_free_bytes = min_free_bytes
        self._statvfs = statvfs
        self._free_bytes: dict[str, int] = {}
        self._unread: set[str] = set()
        self._low: set[str] = set()

    @property
    def is_low(self) -> bool:
        """Whether there was too little at the last look."""
        return bool(self._low)

    def look(self) -> None:
        """Ask each file system. Does not fail: what cannot be asked is told in the log, once."""
        # Once a second, 3 microseconds for both directories: a local file system answers from memory.
        was_low = self.is_low
        for name, directory in self._directories.items():
            try:
                found = self._statvfs(directory)
            except OSError as exc:
                self._forget(name, error=type(exc).__name__, errno=exc.errno)
                continue
            if not found.f_blocks:
                self._forget(name, error="no size", errno=None)
                continue
            self._unread.discard(name)
            self._judge(name, found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize)
        if self.is_low and not was_low:
            log.warning("disk_low", free_bytes={name: self._free_bytes.get(name) for name in sorted(self._low)})
        elif was_low and not self.is_low:
            log.info("disk_low_ended", free_bytes=dict(self._free_bytes))

    def collect(self) -> Iterator[Metric]:
        """Yield what the last look found. Called by prometheus-client."""
        free = GaugeMetricFamily(
            "gateway_disk_free_bytes", "Free where the data and the record lie.", labels=("place",)
        )
        for name, free_bytes in self._free_bytes.items():
            free.add_metric((name,), free_bytes)
        yield free

    def _judge(self, name: str, free_bytes: int, size_bytes: int) -> None:
        self._free_bytes[name] = free_bytes
        mark = self._min_free_bytes
        if mark is None:
            mark = min(MIN_FREE_BYTES, size_bytes // MIN_FREE_SHARE)
        if free_bytes < mark:
            self._low.add(name)
        elif free_bytes >= mark * END_FACTOR:
            self._low.discard(name)

    def _forget(self, name: str, *, error: str, errno: int | None) -> None:
        self._free_bytes.pop(name, None)
        if name not in self._unread:
            self._unread.add(name)
            log.warning("disk_not_read", place=name, error=error, errno=errno)
