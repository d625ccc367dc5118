"""
The refresh of one grant: a durable job that outlives whoever asked for it.

Rules (threats.md section 2, "Refresh protocol"; DESIGN section 7):
1. One flight per token in this process; everybody who asks meanwhile shares its result.
2. One lease per token in the database, taken by compare-and-swap on the row as it was read, and renewed until the job
   has written its outcome (`lease.py`). Whoever finds another's lease watches it, for a bounded time.
3. The provider is asked once per lease, never by two, and only in its turn (`token_endpoint.py`). What it answers is
   written before anybody is given it, with compare-and-swap on version and lease; a write that fails is repeated with
   the answer kept in memory.
4. The job runs in a task of its own: a caller who goes away, or stops waiting, changes nothing for it.
5. invalid_grant: the row is read again. It has moved: use it. Else the grant is marked dead; the row stays.
6. No clear answer (time-out, reset, 5xx, unreadable; a holder that died): the refresh token may be spent. The row
   says `answer_lost`; while the stored token serves, nothing is tried. Then one exchange at a time with the only
   refresh token there is; is that refused, the row says `rotation_interrupted`.
7. Any other failure leaves the row as it is, notes why, and backs off (`backoff.py`).
8. A grant without a refresh token (client credentials, JWT bearer, an app's installation) has nothing to lose: no
   answer of it is lost, and no refusal ends it.

The write of rule 3 and its three dangers. The database refuses writes (full, locked): the lease cannot be taken over
either, for that is a write. The database is away for everybody: time in which nobody sees the row does not count
against the holder, who has the whole lease for its write when it is back. The database is away for the holder alone:
after `lease_seconds` the row says `answer_lost`, and the holder's late write still counts until somebody begins another
exchange, after the stored token's expiry. What comes even later waits for that one, and is stored where the row still
has the refresh token that it replaces, dead or not. Meanwhile, and should the process end, it lies in `recovery.py`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import structlog
from sqlalchemy.exc import SQLAlchemyError

from gateway.net.client import OutboundClient
from gateway.vault.backoff import BACKOFF_FIRST_SECONDS, Backoffs, RefreshFailed
from gateway.vault.connection import Connection
from gateway.vault.discovery import Discovery
from gateway.vault.exchanges import Exchanges
from gateway.vault.grants import can_exchange, settle
from gateway.vault.jobs import Jobs
from gateway.vault.lease import Timing, Watch, held
from gateway.vault.oauth import ExchangeFailed, Granted, GrantRefused
from gateway.vault.record import Record, conclude, to_log
from gateway.vault.recovery import KeptAnswer, Recovery
from gateway.vault.sealing import SealBroken
from gateway.vault.stored_token import ANSWER_LOST, ROTATION_INTERRUPTED, StoredToken
from gateway.vault.token_endpoint import TokenEndpoints, Turn
from gateway.vault.tokens import Tokens

PERSIST_SECONDS = 600.0  # how long an answer that cannot be written is kept and tried again
PERSIST_FIRST_SECONDS = 0.05
PERSIST_MAX_SECONDS = 5.0
IN_PROGRESS = "in_progress"  # the error of a caller who has waited enough
RECOVER_SECONDS = 5.0  # how long a start waits for answers of an earlier process to be stored

T = TypeVar("T")

GiveBack = Callable[[Connection, StoredToken], Awaitable[object]]  # revokes a grant that has no row any more

log = structlog.get_logger()


class TokenGone(Exception):
    """The token was deleted meanwhile."""


@dataclass(frozen=True, slots=True)
class Refreshed:
    """The row after a job: a newer token, or one marked dead. *is_exchanged*: the provider was asked for it."""

    token: StoredToken
    is_exchanged: bool


class Refresher:
    """Runs the jobs of this process. `close` waits for those under way."""

    def __init__(
        self,
        tokens: Tokens,
        client: OutboundClient,
        *,
        clock: Callable[[], float],
        random_bytes: Callable[[int], bytes],
        monotonic: Callable[[], float] = time.monotonic,
        timing: Timing | None = None,
        discovery: Discovery | None = None,
        record: Record = to_log,
        recovery: Recovery | None = None,
    ) -> None:
        self._tokens = tokens
        self._clock = clock
        self._random_bytes = random_bytes
        self._timing = timing or Timing()
        self._watch = Watch(monotonic)
        self.counts: Counter[str] = Counter()  # of this process: exchanges by outcome, and what went wrong around them
        self._record = record
        self._recovery = recovery
        self.give_back: GiveBack | None = None  # set once, by whoever can revoke
        self.exchanges = Exchanges(
            client,
            discovery=discovery,
            record=record,
            seconds=self._timing.exchange_seconds,
            clock=clock,
            random_bytes=random_bytes,
            counts=self.counts,
            endpoints=TokenEndpoints(monotonic=monotonic, random_bytes=random_bytes),
        )
        self._flights: dict[tuple[str, int, bool], asyncio.Task[Refreshed]] = {}
        self._jobs = Jobs("token-refresh", expected=(RefreshFailed, TokenGone, SealBroken))
        self._renewals = Jobs("lease-renewal", expected=())
        self._is_closing = False
        self._backoffs = Backoffs(clock, random_bytes)

    async def refresh(
        self, token: StoredToken, connection: Connection, *, is_usable: bool, is_patient: bool = True
    ) -> Refreshed:
        """
        Return the row once it is newer than *token*, or dead, asking the provider only if nobody else has.

        *is_usable* tells that *token* can still be served: then nothing is risked after a lost answer (rule 6), and
        unless *is_patient* the caller is sent back to it after a few seconds, while the job goes on.

        Raises:
            RefreshFailed: the provider gave no token for now, or a job takes longer than a caller waits.
            TokenGone: the token was deleted.
            sqlalchemy.exc.SQLAlchemyError, OSError: the database failed before the provider was asked.
        """
        if is_usable and token.last_refresh_error == ANSWER_LOST:
            raise RefreshFailed(ANSWER_LOST, retry_after=int(BACKOFF_FIRST_SECONDS))
        if (wait := self._backoffs.wait_for(token)) is not None:
            raise RefreshFailed(wait.error, retry_after=wait.seconds)
        key = (token.id, token.version, is_usable)
        flight = self._flights.get(key)
        if flight is None:
            flight = self._jobs.spawn(self._run(token, connection, is_usable=is_usable))
            self._flights[key] = flight
            flight.add_done_callback(lambda _: self._flights.pop(key, None))
        timing = self._timing
        return await self._wait(flight, timing.wait_seconds if is_patient else timing.usable_wait_seconds)

    async def detached(self, job: Coroutine[Any, Any, T]) -> T:
        """
        Run *job* to its end, whatever becomes of the caller, and return what it returns.

        Raises:
            RefreshFailed: it takes longer than a caller waits, and goes on.
        """
        return await self._wait(self._jobs.spawn(job), self._timing.wait_seconds)

    async def recover(self) -> None:
        """Store the answers that an earlier process could not write (`recovery.py`), or begin to: RECOVER_SECONDS."""
        if self._recovery is None:
            return
        jobs = {self._jobs.spawn(self._recover(kept)) for kept in await asyncio.to_thread(self._recovery.all)}
        if jobs:
            await asyncio.wait(jobs, timeout=RECOVER_SECONDS)

    def forget_failures(self, connection_id: str) -> None:
        """The connection was changed: what failed with the old settings may be tried again at once."""
        self._backoffs.forget_connection(connection_id)

    async def close(self) -> None:
        """Begin no more exchanges, and wait for those under way: at most `close_seconds`, which is longer than one."""
        self._is_closing = True
        if count := len(self._jobs):
            log.info("waiting_for_exchanges", count=count, at_most_seconds=self._timing.close_seconds)
        await self._jobs.close(grace_seconds=self._timing.close_seconds)
        await self._renewals.close(grace_seconds=self._timing.renew_seconds)

    async def _run(self, token: StoredToken, connection: Connection, *, is_usable: bool) -> Refreshed:
        owner = self._random_bytes(16).hex()
        row, turn = await self._lease(token, connection, owner=owner, is_usable=is_usable)
        if turn is None:
            return Refreshed(row, is_exchanged=False)
        async with held(self._tokens, row, owner=owner, timing=self._timing, jobs=self._renewals):
            outcome = settle(connection, await self.exchanges.ask(connection, row, exchange_id=owner, turn=turn))
            if isinstance(outcome, Granted):
                return await self._settle_granted(row, outcome, connection, owner=owner)
            if isinstance(outcome, GrantRefused) and row.refresh_token is not None:
                return await self._settle_refused(row, owner=owner)
            refused = ExchangeFailed("invalid_grant", is_outcome_unknown=False)
            failed = outcome if isinstance(outcome, ExchangeFailed) else refused
            return await self._settle_failed(row, failed, connection, owner=owner)

    async def _lease(
        self, seen: StoredToken, connection: Connection, *, owner: str, is_usable: bool
    ) -> tuple[StoredToken, Turn | None]:
        """Return the row and the turn once this job holds the lease, or the row and None where it needs no exchange."""
        timing = self._timing
        for _ in range(math.ceil(timing.wait_seconds / timing.poll_seconds)):
            row = await self._tokens.get(seen.id)
            if row is None:
                raise TokenGone
            if self._is_closing:  # `close` waits for an exchange that had begun before
                raise RefreshFailed("shutting_down", retry_after=1)
            if row.version != seen.version or row.dead or not can_exchange(connection, row):
                return row, None
            if row.is_leased and self._watch.look(row) < timing.lease_seconds:
                await asyncio.sleep(timing.poll_seconds)
                continue
            if row.is_leased and is_usable and row.refresh_token is not None:
                if not await self._give_up(row, heir=None):
                    continue
                row = replace(row, last_refresh_error=ANSWER_LOST, lease_until=None)
            if not row.is_leased:
                self._watch.forget(row.id)
                is_risky = is_usable and row.last_refresh_error == ANSWER_LOST
                if is_risky or self._backoffs.is_failure_shared(row, seen):
                    raise RefreshFailed(row.last_refresh_error, retry_after=int(BACKOFF_FIRST_SECONDS))
            if (turn := await self._take(row, connection, owner=owner)) is not None:
                return replace(row, last_refresh_error=ANSWER_LOST) if row.is_leased else row, turn
        raise RefreshFailed(IN_PROGRESS, retry_after=1)

    async def _take(self, row: StoredToken, connection: Connection, *, owner: str) -> Turn | None:
        """Return the turn to exchange *row* once its lease is *owner*'s too; None where the row has moved meanwhile."""
        seconds = self._timing.lease_seconds
        turn = await self.exchanges.turn(connection, row, wait_seconds=self._timing.wait_seconds)
        if self._is_closing:
            turn.end()
            return None
        lease = self._give_up(row, heir=owner) if row.is_leased else None
        return await turn.if_taken(lease or self._tokens.rows.lease(row, owner=owner, seconds=seconds))

    async def _give_up(self, row: StoredToken, *, heir: str | None) -> bool:
        if not await self._tokens.rows.give_up(row, heir=heir, seconds=self._timing.lease_seconds):
            return False
        self.counts["lease_ran_out"] += 1
        log.warning("refresh_lease_ran_out", token=row.id, connection=row.connection)
        error = ANSWER_LOST if row.refresh_token is not None else ""
        conclude(
            self._record, "lease_ran_out", id=row.lease_owner, connection=row.connection, token=row.id, error=error
        )
        return True

    async def _settle_granted(
        self, row: StoredToken, granted: Granted, connection: Connection | None, *, owner: str
    ) -> Refreshed:
        kept = None
        if row.refresh_token is not None and granted.refresh_token is not None:
            kept = KeptAnswer(row.id, row.version, owner, row.refresh_token, granted)
        is_written = await self.persist(
            row.id, lambda: self._tokens.rows.store_granted(row, granted, owner=owner), kept=kept
        )
        self._backoffs.forget(row.id)
        if is_written:
            self.exchanges.ended(row, granted, exchange_id=owner, stored=True)
            return Refreshed(await self._read_again(row), is_exchanged=True)
        log.warning("refresh_answer_too_late", token=row.id, connection=row.connection)
        try:
            refreshed = await self._rescue(row, granted)
        except TokenGone:
            # Whoever deleted the token had it revoked by what was stored then: the provider has moved on since.
            self.counts["late_answer"] += 1
            self.exchanges.ended(row, granted, exchange_id=owner, stored=False)
            if self.give_back is not None and connection is not None:
                await self.give_back(
                    connection, replace(row, access_token=granted.access_token, refresh_token=granted.refresh_token)
                )
            raise
        is_stored = refreshed.token.refresh_token == granted.refresh_token is not None
        self.counts["late_answer"] += not is_stored
        self.exchanges.ended(
            row, granted, exchange_id=owner, stored=is_stored, error=refreshed.token.last_refresh_error
        )
        return refreshed

    async def _rescue(self, row: StoredToken, granted: Granted) -> Refreshed:
        """
        Store an answer that came after its lease had ended, once nobody exchanges; return what the row says then.

        Only where the row still has the refresh token that this answer has replaced, dead or not: then whatever the
        answer is worth, what the row has is worth less.
        """
        timing = self._timing
        while True:
            now = await self._read_again(row)
            if now.refresh_token != row.refresh_token or granted.refresh_token in (None, row.refresh_token):
                return self._moved(row, now)
            if now.is_leased and self._watch.look(now) < timing.lease_seconds:
                await asyncio.sleep(timing.poll_seconds)
                continue
            if now.is_leased:
                await self._give_up(now, heir=None)
                continue
            self._watch.forget(now.id)
            rescued = now
            if await self.persist(row.id, lambda: self._tokens.rows.rescue(rescued, granted)):  # noqa: B023  # awaited here
                self.counts["answer_rescued"] += 1
                log.warning("refresh_answer_rescued", token=row.id, connection=row.connection, was_dead=now.dead)
                conclude(self._record, "answer_rescued", connection=row.connection, token=row.id, was_dead=now.dead)
                return Refreshed(await self._read_again(row), is_exchanged=True)

    async def _settle_refused(self, row: StoredToken, *, owner: str) -> Refreshed:
        now = await self._read_again(row)
        refused = GrantRefused()
        if now.version != row.version:
            self.exchanges.ended(row, refused, exchange_id=owner, stored=False)
            return Refreshed(now, is_exchanged=False)
        error = ROTATION_INTERRUPTED if row.last_refresh_error == ANSWER_LOST else "invalid_grant"
        is_dead = await self.persist(row.id, lambda: self._tokens.rows.mark_dead(row, error=error, owner=owner))
        self.exchanges.ended(row, refused, exchange_id=owner, stored=is_dead, error=error if is_dead else "")
        if is_dead:
            self.counts["grant_dead"] += 1
            log.warning("grant_dead", token=row.id, connection=row.connection, error=error)
            return Refreshed(await self._read_again(row), is_exchanged=True)
        return self._moved(row, await self._read_again(row))

    async def _recover(self, kept: KeptAnswer) -> None:
        assert self._recovery is not None
        stored = await self._tokens.get(kept.token_id)
        if stored is not None:
            row = replace(stored, version=kept.version, refresh_token=kept.spent)
            with suppress(RefreshFailed, TokenGone):
                await self._settle_granted(row, kept.granted, None, owner=kept.owner)
        await asyncio.to_thread(self._recovery.drop, kept.token_id)

    async def _settle_failed(
        self, row: StoredToken, failed: ExchangeFailed, connection: Connection, *, owner: str
    ) -> Refreshed:
        if failed.refresh_token is not None and row.refresh_token is not None:
            store = partial(self._tokens.rows.store_renewed, row, failed.refresh_token, error=failed.error, owner=owner)
            await self.persist(row.id, store)
            self.exchanges.ended(row, failed, exchange_id=owner, stored=True, error=failed.error)
            raise RefreshFailed(failed.error, retry_after=int(BACKOFF_FIRST_SECONDS))
        # Once an answer was lost, no later failure makes the refresh token certain again: only a new one does.
        is_lost = failed.is_outcome_unknown or row.last_refresh_error == ANSWER_LOST
        # A refresh token that works for good is not spent by an answer that got lost.
        is_lost = is_lost and row.refresh_token is not None and connection.quirks.refresh_token_rotates is not False
        error = ANSWER_LOST if is_lost else failed.error
        wait = self._backoffs.failed(row, error=error, at_least=failed.retry_after)
        is_noted = False
        try:
            is_noted = await self._tokens.rows.note_failure(row, error=error, owner=owner)
        except (SQLAlchemyError, OSError) as exc:
            # The lease will run out instead, and that tells the same.
            log.warning("refresh_failure_not_noted", token=row.id, error=type(exc).__name__)
        self.exchanges.ended(row, failed, exchange_id=owner, stored=is_noted, error=error)
        if is_lost:
            self.counts[ANSWER_LOST] += 1
        log.warning(
            "refresh_answer_lost" if is_lost else "refresh_failed",
            token=row.id,
            connection=row.connection,
            error=failed.error,
            retry_after=wait,
        )
        raise RefreshFailed(error, retry_after=wait)

    def _moved(self, row: StoredToken, now: StoredToken) -> Refreshed:
        """Return what another job has written meanwhile."""
        if now.version == row.version:
            raise RefreshFailed("lease_lost", retry_after=1)
        return Refreshed(now, is_exchanged=False)

    async def persist(
        self, token_id: str | None, write: Callable[[], Coroutine[Any, Any, T]], *, kept: KeptAnswer | None = None
    ) -> T:
        """Return what *write* returns, repeated while the database fails: its content exists nowhere else."""
        delay, waited = PERSIST_FIRST_SECONDS, 0.0
        while True:
            try:
                written = await write()
            except (SQLAlchemyError, OSError) as exc:
                log.critical("refreshed_token_not_stored", token=token_id, error=type(exc).__name__, waited=waited)
                if waited >= PERSIST_SECONDS:
                    raise
                if kept is not None and self._recovery is not None and not waited:
                    await asyncio.to_thread(self._recovery.keep, kept)
            else:
                if kept is not None and self._recovery is not None and waited:
                    await asyncio.to_thread(self._recovery.drop, kept.token_id)
                return written
            await asyncio.sleep(delay)
            waited, delay = waited + delay, min(delay * 2, PERSIST_MAX_SECONDS)

    async def _read_again(self, row: StoredToken) -> StoredToken:
        now = await self._tokens.get(row.id)
        if now is None:
            raise TokenGone
        return now

    async def _wait(self, task: asyncio.Task[T], seconds: float) -> T:
        # asyncio.wait neither cancels the task when the caller is cancelled, nor when the time is over.
        done, _ = await asyncio.wait({task}, timeout=seconds)
        if not done:
            raise RefreshFailed(IN_PROGRESS, retry_after=1)
        if task.cancelled():
            raise RefreshFailed("shutting_down", retry_after=1)
        return task.result()
