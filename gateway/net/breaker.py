"""
Whether a dependency that has failed is asked at all: after some failures in a row, not for a while (threats.md R7).

Rules:
1. FAILURES in a row, and nothing is asked for PAUSE_SECONDS: callers are refused at once instead of each waiting for a
   time-out, and the dependency is left alone while it recovers.
2. Then one caller asks, the probe. Its success lets everyone through; its failure begins the next pause. A probe that
   never tells how it ended counts as lost after PROBE_SECONDS.
3. Success at any time forgets all failures: what was answered to one call says that the dependency is there.

Monotonic time: a clock that jumps neither opens nor closes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

FAILURES = 5
PAUSE_SECONDS = 5.0
PROBE_SECONDS = 30.0  # longer than any time-out of ours


class Breaker:
    """Of one dependency. *monotonic* gives seconds."""

    def __init__(self, *, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._failures = 0
        self._closed_until = float("-inf")

    def __repr__(self) -> str:
        return f"<Breaker failures={self._failures}>"

    def wait_seconds(self) -> int | None:
        """Return how many whole seconds to wait, at least one; None: ask, and tell with `succeeded` or `failed`."""
        if self._failures < FAILURES:
            return None
        now = self._monotonic()
        if now < self._closed_until:
            return max(1, math.ceil(min(self._closed_until - now, PAUSE_SECONDS)))
        self._closed_until = now + PROBE_SECONDS
        return None

    def succeeded(self) -> None:
        """The dependency has answered."""
        self._failures = 0

    def failed(self) -> bool:
        """The dependency has not answered. Return whether that begins the first pause of this outage."""
        self._failures += 1
        if self._failures >= FAILURES:
            self._closed_until = self._monotonic() + PAUSE_SECONDS
        return self._failures == FAILURES
