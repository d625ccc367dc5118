"""
How many requests a minute one caller may send over one route, and how many of its calls may be under way at once.

Rules:
1. Evenly spaced tokens (the generic cell rate algorithm): up to a minute's worth may come at once, then one per
   interval.
2. Callers are told apart by who they are, not by which credential they showed.
3. State is bounded; the caller that was seen longest ago is forgotten first, which can only let it send more.
   Calls under way are never forgotten: the route bounds them.
"""

from __future__ import annotations

from collections.abc import Hashable
from math import ceil

MAX_CALLERS = 100_000


class RateLimit:
    """The limit of one route: *per_minute* requests of each caller. Times are monotonic seconds."""

    def __init__(self, per_minute: int) -> None:
        self._interval = 60.0 / per_minute
        self._burst = 60.0 - self._interval
        self._full_at: dict[Hashable, float] = {}

    def take(self, caller: Hashable, *, now: float) -> int | None:
        """Return None and count the request of *caller*, or the whole seconds after which to try again."""
        full_at = max(self._full_at.pop(caller, now), now)
        wait = full_at - now - self._burst
        # Put back at the end: the dict stays in the order in which callers were last seen.
        self._full_at[caller] = full_at if wait > 0 else full_at + self._interval
        if len(self._full_at) > MAX_CALLERS:
            del self._full_at[next(iter(self._full_at))]
        return ceil(wait) if wait > 0 else None


class ConcurrencyLimit:
    """How many calls of each caller may be under way at once on one route: *at_once*."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._under_way: dict[Hashable, int] = {}

    def enter(self, caller: Hashable) -> bool:
        """Count a call of *caller* as under way, until `leave`; false, and not counted, if it is one too many."""
        count = self._under_way.get(caller, 0)
        if count >= self._at_once:
            return False
        self._under_way[caller] = count + 1
        return True

    def leave(self, caller: Hashable) -> None:
        """A call that entered is over."""
        count = self._under_way[caller] - 1
        if count:
            self._under_way[caller] = count
        else:
            del self._under_way[caller]
