"""
Whether a dependency that has failed is asked at all: after some failures in a row, not for a while (threats.md R7).

Rules:
1. FAILURES in a row, and nothing is asked for PAUSE_SECONDS (or as its owner says): callers are refused at once instead
   of each waiting for a time-out, and the dependency is left alone while it recovers.
2. Then one caller asks, the probe. Its success lets everyone through; its failure begins the next pause. A probe that
   never tells how it ended counts as lost after PROBE_SECONDS (or as its owner says); one that was not made after all
   is withdrawn, and the next caller makes it.
3. Success at any time forgets all failures: what was answered to one call says that the dependency is there. Who says
   with *answers_before* when he began has no failure counted that began before the last answer: whoever hung while the
   dependency was away does not pause it again.
4. Given *random_bytes*, each pause is up to a quarter longer, so that replicas do not probe together.

Monotonic time: a clock that jumps neither opens nor closes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

FAILURES = 5
PAUSE_SECONDS = 5.0
PROBE_SECONDS = 30.0  # longer than any time-out of ours


class Breaker:
    """Of one dependency. *monotonic* gives seconds; *failures* in a row begin a pause of *pause_seconds*."""

    def __init__(
        self,
        *,
        monotonic: Callable[[], float],
        failures: int = FAILURES,
        pause_seconds: float = PAUSE_SECONDS,
        probe_seconds: float = PROBE_SECONDS,
        random_bytes: Callable[[int], bytes] | None = None,
    ) -> None:
        self._monotonic = monotonic
        self._limit = failures
        self._pause_seconds = pause_seconds
        self._probe_seconds = probe_seconds
        self._random_bytes = random_bytes
        self._failures = 0
        self._closed_until = float("-inf")
        self.answers = 0

    def __repr__(self) -> str:
        return f"<Breaker failures={self._failures}>"

    def is_closed(self) -> bool:
        """Whether everybody may ask: the dependency has not failed often enough in a row."""
        return self._failures < self._limit

    def wait_seconds(self) -> int | None:
        """Return how many whole seconds to wait, at least one; None: ask, and tell with `succeeded` or `failed`."""
        if self.is_closed():
            return None
        now = self._monotonic()
        if now < self._closed_until:
            return max(1, math.ceil(min(self._closed_until - now, self._pause_seconds)))
        self._closed_until = now + self._probe_seconds
        return None

    def withdrawn(self) -> None:
        """The probe was not made: whoever comes next makes it."""
        self._closed_until = self._monotonic()

    def succeeded(self) -> None:
        """The dependency has answered."""
        self._failures = 0
        self.answers += 1

    def failed(self, *, answers_before: int | None = None) -> bool:
        """The dependency has not answered. Return whether that begins the first pause of this outage."""
        if answers_before not in (None, self.answers):
            return False
        self._failures += 1
        if not self.is_closed():
            longer = 0.0 if self._random_bytes is None else self._random_bytes(1)[0] / 1024
            self._closed_until = self._monotonic() + self._pause_seconds * (1.0 + longer)
        return self._failures == self._limit
