"""
When a token whose refresh has failed may be tried again.

Rules:
1. In this process: 5 s after the first failure of a version of the token, doubled with each up to 300 s, with jitter,
   so that replicas spread; never sooner than the provider asks (Retry-After), up to 300 s.
2. Across processes: 5 s, by what the row says.
3. A clock that jumped back holds nobody up for longer than a back-off can last.
4. A connection whose settings were changed is tried anew: that may have been the cause.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from cachetools import LRUCache

from gateway.vault.stored_token import StoredToken

BACKOFF_FIRST_SECONDS = 5.0
BACKOFF_MAX_SECONDS = 300.0
MAX_TOKENS = 10_000


class RefreshFailed(Exception):
    """No newer token for a cause that may pass. *error* is a word for the operator, *retry_after* in whole seconds."""

    def __init__(self, error: str, *, retry_after: int) -> None:
        self.error = error
        self.retry_after = retry_after
        super().__init__(error)


class Wait(NamedTuple):
    """Why a token cannot be tried yet, and for how many whole seconds."""

    error: str
    seconds: int


class _Backoff(NamedTuple):
    connection: str
    version: int
    failures: int
    not_before: float
    error: str


class Backoffs:
    """What this process knows of failed refreshes. *clock* gives POSIX seconds."""

    def __init__(self, clock: Callable[[], float], random_bytes: Callable[[int], bytes]) -> None:
        self._clock = clock
        self._random_bytes = random_bytes
        self._known: LRUCache[str, _Backoff] = LRUCache(maxsize=MAX_TOKENS)

    def wait_for(self, token: StoredToken) -> Wait | None:
        """Return how long *token* must not be tried, or None: it may be."""
        now = self._clock()
        known = self._known.get(token.id)
        if known and known.version == token.version and 0 < known.not_before - now <= BACKOFF_MAX_SECONDS * 2:
            return Wait(known.error, math.ceil(known.not_before - now))
        if token.last_refresh_error and 0 <= now - token.updated_at < BACKOFF_FIRST_SECONDS:
            return Wait(token.last_refresh_error, int(BACKOFF_FIRST_SECONDS))
        return None

    def is_failure_shared(self, row: StoredToken, seen: StoredToken) -> bool:
        """Whether the job that was waited for since *seen* has failed: its failure is shared, not repeated."""
        is_news = (row.updated_at, row.last_refresh_error) != (seen.updated_at, seen.last_refresh_error)
        return is_news and bool(row.last_refresh_error) and 0 <= self._clock() - row.updated_at < BACKOFF_FIRST_SECONDS

    def failed(self, token: StoredToken, *, error: str, at_least: int | None) -> int:
        """Note a failure, and return for how many seconds *token* is not tried; its provider asks for *at_least*."""
        before = self._known.get(token.id)
        failures = before.failures + 1 if before and before.version == token.version else 1
        seconds = min(BACKOFF_FIRST_SECONDS * 2.0 ** min(failures - 1, 10), BACKOFF_MAX_SECONDS)
        seconds *= 1.0 + self._random_bytes(1)[0] / 1024  # up to a quarter more
        seconds = max(seconds, min(float(at_least or 0), BACKOFF_MAX_SECONDS))
        self._known[token.id] = _Backoff(token.connection, token.version, failures, self._clock() + seconds, error)
        return math.ceil(seconds)

    def forget_connection(self, connection: str) -> None:
        """The connection's settings have changed (rule 4)."""
        for token_id in [token_id for token_id, known in self._known.items() if known.connection == connection]:
            del self._known[token_id]

    def forget(self, token_id: str) -> None:
        """The token has been refreshed."""
        self._known.pop(token_id, None)
