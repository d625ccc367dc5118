"""
When a grant is somebody's to exchange: how long a lease stands still before its holder counts as dead.

Rules (threats.md R10, R12, R28, R44):
1. A lease is an owner and a beat in the token's row. Its holder moves the beat every `renew_seconds`, during the
   exchange and while it writes what the exchange brought.
2. No clock is compared with another one. Whoever waits looks at the row, and adds up by its own monotonic clock for
   how long owner and beat have stood still; after `lease_seconds` of it the holder is dead. A clock that jumps, and two
   hosts whose clocks differ, change nothing.
3. Time counts only while it is looked: a look adds `MAX_LOOK_SECONDS` at most. A watcher that was stopped, or could
   not reach the database, has not seen the holder stand still: so after an outage a holder that lives has the whole
   lease to write its answer, before anybody presents the same refresh token again.
4. A lease that was called dead is ended, not given away: what its holder brings late is still written as long as no
   other exchange has begun (`tokens.py` rule 3).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import NamedTuple

import structlog
from cachetools import LRUCache
from sqlalchemy.exc import SQLAlchemyError

from gateway.vault.jobs import Jobs
from gateway.vault.stored_token import StoredToken
from gateway.vault.tokens import Tokens

MAX_LOOK_SECONDS = 0.5  # several times POLL_SECONDS: a busy machine, and not a stopped one
MAX_WATCHED = 10_000

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Timing:
    """
    How long everything about a refresh may take, in seconds.

    *exchange*: a provider's answer; long, because what is cut short is lost, and nobody waits for it by need. *close*:
    how long a process that stops waits for exchanges under way: the provider's metadata, its answer, and the write, so
    that no stop cuts one. *lease*: how long a holder may be silent, four or five
    renewals of it. *wait*: how long a caller without a usable token waits; longer than a lease, so that one call lives
    through a takeover. *usable_wait*: how long one with a usable token waits before that is served.
    """

    exchange_seconds: float = 60.0
    close_seconds: float = 90.0
    lease_seconds: float = 15.0
    renew_seconds: float = 3.0
    poll_seconds: float = 0.1
    wait_seconds: float = 25.0
    usable_wait_seconds: float = 5.0


# For who waits to the end, an operator's command: another process' exchange, its lease should it die, and one more.
PATIENT = Timing(wait_seconds=200.0)


class _Look(NamedTuple):
    owner: str | None
    beat: int
    at: float
    still_seconds: float


class Watch:
    """What this process has seen of others' leases. *monotonic* gives seconds that never go back."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._looks: LRUCache[str, _Look] = LRUCache(maxsize=MAX_WATCHED)

    def look(self, token: StoredToken) -> float:
        """Return for how many seconds the lease of *token*, just read, has been seen to stand still."""
        now = self._monotonic()
        before = self._looks.get(token.id)
        still = 0.0
        if before is not None and (before.owner, before.beat) == (token.lease_owner, token.lease_beat):
            still = before.still_seconds + min(max(0.0, now - before.at), MAX_LOOK_SECONDS)
        self._looks[token.id] = _Look(token.lease_owner, token.lease_beat, now, still)
        return still

    def forget(self, token_id: str) -> None:
        """The lease has ended."""
        self._looks.pop(token_id, None)


@asynccontextmanager
async def held(tokens: Tokens, row: StoredToken, *, owner: str, timing: Timing, jobs: Jobs) -> AsyncIterator[None]:
    """Renew the lease of *owner* on *row* for as long as the body runs, by a job of its own."""
    is_over = asyncio.Event()
    jobs.spawn(_renew(tokens, row, owner=owner, timing=timing, is_over=is_over))
    try:
        yield
    finally:
        # A renewal under way is left to end: it changes nothing once the lease has ended.
        is_over.set()


async def _renew(tokens: Tokens, row: StoredToken, *, owner: str, timing: Timing, is_over: asyncio.Event) -> None:
    while True:
        with suppress(TimeoutError):
            await asyncio.wait_for(is_over.wait(), timing.renew_seconds)
        if is_over.is_set():
            return
        try:
            if not await tokens.rows.renew(row, owner=owner, seconds=timing.lease_seconds):
                return
        except (SQLAlchemyError, OSError) as exc:
            log.warning("refresh_lease_not_renewed", token=row.id, error=type(exc).__name__)
