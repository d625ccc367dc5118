"""
The refresh of one grant: a durable job that outlives whoever asked for it.

Rules (threats.md section 2, "Refresh protocol"; DESIGN section 7):
1. One flight per token in this process; everybody who asks meanwhile shares its result.
2. One lease per token in the database, taken by compare-and-swap on the row as it was read, and renewed until the job
   has written its outcome (`lease.py`). Whoever finds another's lease watches it, for a bounded time.
3. The provider is asked once per lease, and never by two. What it answers is written before anybody is given it, with
   compare-and-swap on version and lease; a write that fails is repeated with the answer kept in memory.
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
after `lease_seconds` the row says `answer_lost`, the holder's late write still counts, and only an exchange that
somebody begins after the stored token's expiry ends that: then the answer is lost, and the row says so.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import structlog
from sqlalchemy.exc import SQLAlchemyError

from gateway.net.client import NOT_SENT, OutboundClient, OutboundError
from gateway.vault.backoff import BACKOFF_FIRST_SECONDS, Backoffs
from gateway.vault.client_auth import KeyUnusable
from gateway.vault.connection import Connection
from gateway.vault.discovery import Discovery, DiscoveryFailed
from gateway.vault.grants import can_exchange, exchange_request, read_exchange_answer, settle
from gateway.vault.lease import Timing, Watch
from gateway.vault.oauth import ExchangeFailed, Granted, GrantRefused, Outcome
from gateway.vault.sealing import SealBroken
from gateway.vault.stored_token import ANSWER_LOST, ROTATION_INTERRUPTED, StoredToken, TokenDraft, preview
from gateway.vault.tokens import Tokens

PERSIST_SECONDS = 600.0  # how long an answer that cannot be written is kept and tried again
PERSIST_FIRST_SECONDS = 0.05
PERSIST_MAX_SECONDS = 5.0
MAX_ANSWER_BYTES = 65_536

T = TypeVar("T")

log = structlog.get_logger()


class RefreshFailed(Exception):
    """No newer token for a cause that may pass. *error* is a word for the operator, *retry_after* in whole seconds."""

    def __init__(self, error: str, *, retry_after: int) -> None:
        self.error = error
        self.retry_after = retry_after
        super().__init__(error)


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
    ) -> None:
        self._tokens = tokens
        self._discovery = discovery
        self._client = client
        self._clock = clock
        self._random_bytes = random_bytes
        self._timing = timing or Timing()
        self._watch = Watch(monotonic)
        self.counts: Counter[str] = Counter()  # of this process: exchanges by outcome, and what went wrong around them
        self._flights: dict[tuple[str, int, bool], asyncio.Task[Refreshed]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
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
            flight = self._spawn(self._run(token, connection, is_usable=is_usable))
            self._flights[key] = flight
            flight.add_done_callback(lambda _: self._flights.pop(key, None))
        timing = self._timing
        return await self._wait(flight, timing.wait_seconds if is_patient else timing.usable_wait_seconds)

    async def adopt(self, draft: TokenDraft, connection: Connection) -> StoredToken:
        """
        Exchange the refresh token of *draft* and store what comes of it, detached like every exchange.

        Raises:
            RefreshFailed: the provider refused it or did not answer; nothing was written.
        """
        return await self._wait(self._spawn(self._adopt(draft, connection)), self._timing.wait_seconds)

    async def close(self) -> None:
        """Wait for the jobs under way, as long as an exchange takes; one cut short then counts as a lost answer."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=self._timing.exchange_seconds)
            for task in late:
                task.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await task

    # --- the job ---------------------------------------------------------------------------------------------------

    async def _run(self, token: StoredToken, connection: Connection, *, is_usable: bool) -> Refreshed:
        owner = self._random_bytes(16).hex()
        row, is_mine = await self._lease(token, connection, owner=owner, is_usable=is_usable)
        if not is_mine:
            return Refreshed(row, is_exchanged=False)
        async with self._held(row, owner=owner):
            outcome = settle(connection, await self._exchange(connection, row))
            self._tell(outcome, connection=row.connection, token=row.id)
            if isinstance(outcome, Granted):
                return await self._settle_granted(row, outcome, owner=owner)
            if isinstance(outcome, GrantRefused) and row.refresh_token is not None:
                return await self._settle_refused(row, owner=owner)
            failed = (
                outcome
                if isinstance(outcome, ExchangeFailed)
                else ExchangeFailed("invalid_grant", is_outcome_unknown=False)
            )
            return await self._settle_failed(row, failed, owner=owner)

    async def _lease(
        self, seen: StoredToken, connection: Connection, *, owner: str, is_usable: bool
    ) -> tuple[StoredToken, bool]:
        """Return the row and True once this job holds the lease, or the row and False where it needs no exchange."""
        timing = self._timing
        for _ in range(math.ceil(timing.wait_seconds / timing.poll_seconds)):
            row = await self._tokens.get(seen.id)
            if row is None:
                raise TokenGone
            if row.version != seen.version or row.dead or not can_exchange(connection, row):
                return row, False
            if row.is_leased and self._watch.look(row) < timing.lease_seconds:
                await asyncio.sleep(timing.poll_seconds)
                continue
            if row.is_leased:
                heir = None if is_usable and row.refresh_token is not None else owner
                if not await self._give_up(row, heir=heir):
                    continue
                row = replace(row, last_refresh_error=ANSWER_LOST if row.refresh_token is not None else "")
                if heir is not None:
                    return row, True
            self._watch.forget(row.id)
            is_risky = is_usable and row.last_refresh_error == ANSWER_LOST
            if is_risky or self._backoffs.is_failure_shared(row, seen):
                raise RefreshFailed(row.last_refresh_error, retry_after=int(BACKOFF_FIRST_SECONDS))
            if await self._tokens.lease(row, owner=owner, seconds=timing.lease_seconds):
                return row, True
        raise RefreshFailed("in_progress", retry_after=1)

    async def _give_up(self, row: StoredToken, *, heir: str | None) -> bool:
        if not await self._tokens.give_up(row, heir=heir, seconds=self._timing.lease_seconds):
            return False
        self.counts["lease_ran_out"] += 1
        log.warning("refresh_lease_ran_out", token=row.id, connection=row.connection)
        return True

    @asynccontextmanager
    async def _held(self, row: StoredToken, *, owner: str) -> AsyncIterator[None]:
        """Renew the lease of *owner* for as long as the body runs."""
        is_over = asyncio.Event()
        self._spawn(self._renew(row, owner=owner, is_over=is_over))
        try:
            yield
        finally:
            # A renewal under way is left to end: it changes nothing once the lease has ended.
            is_over.set()

    async def _renew(self, row: StoredToken, *, owner: str, is_over: asyncio.Event) -> None:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(is_over.wait(), self._timing.renew_seconds)
            if is_over.is_set():
                return
            try:
                if not await self._tokens.renew(row, owner=owner, seconds=self._timing.lease_seconds):
                    return
            except (SQLAlchemyError, OSError) as exc:
                log.warning("refresh_lease_not_renewed", token=row.id, error=type(exc).__name__)

    async def _exchange(self, connection: Connection, token: StoredToken) -> Outcome:
        """Ask the provider once. What is sent and what an answer means, `grants.py` knows."""
        seconds = self._timing.exchange_seconds
        try:
            if self._discovery is not None:
                connection = (await self._discovery.resolve(connection)).connection
            request = exchange_request(connection, token, now=self._clock(), random_bytes=self._random_bytes)
            # The client bounds every step; this bounds their sum.
            async with asyncio.timeout(seconds + 1.0):
                answer = await self._client.request(
                    "POST",
                    request.url,
                    headers=request.headers,
                    body=request.body,
                    timeout_seconds=seconds,
                    max_bytes=MAX_ANSWER_BYTES,
                )
        except DiscoveryFailed as exc:
            return ExchangeFailed(exc.reason, is_outcome_unknown=False)
        except KeyUnusable:
            return ExchangeFailed("client_key_unusable", is_outcome_unknown=False)
        except OutboundError as exc:
            return ExchangeFailed(exc.reason, is_outcome_unknown=exc.reason not in NOT_SENT)
        except TimeoutError:
            return ExchangeFailed("timeout", is_outcome_unknown=True)
        except Exception as exc:  # a fault of the client must not leave the lease behind, nor a spent token in use
            log.critical("token_exchange_broke", connection=connection.id, error=type(exc).__name__)
            return ExchangeFailed("internal_error", is_outcome_unknown=True)
        retry_after = next((value for name, value in answer.headers.items() if name.lower() == "retry-after"), None)
        return read_exchange_answer(connection, answer.status, answer.body, now=self._clock(), retry_after=retry_after)

    def _tell(self, outcome: Outcome, *, connection: str, token: str | None = None) -> None:
        self.counts[_word(outcome)] += 1
        log.info("token_exchanged", token=token, connection=connection, outcome=_word(outcome))

    async def _settle_granted(self, row: StoredToken, granted: Granted, *, owner: str) -> Refreshed:
        is_written = await self._persist(row, lambda: self._tokens.store_granted(row, granted, owner=owner))
        self._backoffs.forget(row.id)
        if is_written:
            return Refreshed(await self._read_again(row), is_exchanged=True)
        self.counts["late_answer"] += 1
        log.warning("refresh_answer_too_late", token=row.id, connection=row.connection)
        return await self._moved(row)

    async def _settle_refused(self, row: StoredToken, *, owner: str) -> Refreshed:
        now = await self._read_again(row)
        if now.version != row.version:
            return Refreshed(now, is_exchanged=False)
        error = ROTATION_INTERRUPTED if row.last_refresh_error == ANSWER_LOST else "invalid_grant"
        if await self._persist(row, lambda: self._tokens.mark_dead(row, error=error, owner=owner)):
            self.counts["grant_dead"] += 1
            log.warning("grant_dead", token=row.id, connection=row.connection, error=error)
            return Refreshed(await self._read_again(row), is_exchanged=True)
        return await self._moved(row)

    async def _settle_failed(self, row: StoredToken, failed: ExchangeFailed, *, owner: str) -> Refreshed:
        # Once an answer was lost, no later failure makes the refresh token certain again: only a new one does.
        is_lost = failed.is_outcome_unknown or row.last_refresh_error == ANSWER_LOST
        is_lost = is_lost and row.refresh_token is not None
        error = ANSWER_LOST if is_lost else failed.error
        wait = self._backoffs.failed(row, error=error, at_least=failed.retry_after)
        try:
            await self._tokens.note_failure(row, error=error, owner=owner)
        except (SQLAlchemyError, OSError) as exc:
            # The lease will run out instead, and that tells the same.
            log.warning("refresh_failure_not_noted", token=row.id, error=type(exc).__name__)
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

    async def _adopt(self, draft: TokenDraft, connection: Connection) -> StoredToken:
        outcome = await self._exchange(connection, preview(draft, now=self._clock()))
        self._tell(outcome, connection=connection.id)
        if not isinstance(outcome, Granted):
            raise RefreshFailed(_word(outcome), retry_after=int(BACKOFF_FIRST_SECONDS))
        fresh = replace(
            draft,
            access_token=outcome.access_token,
            refresh_token=outcome.refresh_token or draft.refresh_token,
            token_type=outcome.token_type,
            expires_at=outcome.expires_at,
        )
        return await self._persist(None, lambda: self._tokens.put(fresh))

    async def _moved(self, row: StoredToken) -> Refreshed:
        """Return what another job has written meanwhile."""
        now = await self._read_again(row)
        if now.version == row.version:
            raise RefreshFailed("lease_lost", retry_after=1)
        return Refreshed(now, is_exchanged=False)

    async def _persist(self, row: StoredToken | None, write: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return what *write* returns, repeated while the database fails: its content exists nowhere else."""
        delay, waited = PERSIST_FIRST_SECONDS, 0.0
        while True:
            try:
                return await write()
            except (SQLAlchemyError, OSError) as exc:
                name = row.id if row is not None else None
                log.critical("refreshed_token_not_stored", token=name, error=type(exc).__name__, waited_seconds=waited)
                if waited >= PERSIST_SECONDS:
                    raise
            await asyncio.sleep(delay)
            waited, delay = waited + delay, min(delay * 2, PERSIST_MAX_SECONDS)

    async def _read_again(self, row: StoredToken) -> StoredToken:
        now = await self._tokens.get(row.id)
        if now is None:
            raise TokenGone
        return now

    # --- tasks of their own (rule 4) -------------------------------------------------------------------------------

    def _spawn(self, job: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(job, name="token-refresh")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        # Everybody who asked may have gone: an error is then told here, and nowhere twice as "never retrieved".
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, RefreshFailed | TokenGone | SealBroken):
            log.error("refresh_job_broke", error=type(error).__name__)

    async def _wait(self, task: asyncio.Task[T], seconds: float) -> T:
        # asyncio.wait neither cancels the task when the caller is cancelled, nor when the time is over.
        done, _ = await asyncio.wait({task}, timeout=seconds)
        if not done:
            raise RefreshFailed("in_progress", retry_after=1)
        if task.cancelled():
            raise RefreshFailed("shutting_down", retry_after=1)
        return task.result()


def _word(outcome: Outcome) -> str:
    if isinstance(outcome, ExchangeFailed):
        return outcome.error
    return "granted" if isinstance(outcome, Granted) else "invalid_grant"
