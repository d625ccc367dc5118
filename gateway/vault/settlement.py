"""
How an attempt ends: what the provider granted is stored, held for a yes, or given back; then its row says so.

Rules (threats.md J1, R15):
1. A grant that is not kept is revoked, whatever went wrong: the connection is gone, the database fails, a seal is
   broken. Where its account is known to have an older grant here, it is left (`grant_store.py`, rule 4).
   It is not kept aside as a refreshed token is (`recovery.py`): that is an old grant's only refresh token, and its user
   is not there; this one's user is, reads that nothing was connected, and can do it again.
2. A page tells only what is so. A row that cannot be written now is written when the database is back, as long as the
   attempt lives; what was stored is told as connected meanwhile, what was not as failed.
3. Tokens that wait for a yes are revoked when their time is over, or their connection is deleted, by jobs of their own.

How tokens are stored and revoked: `grant_store.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict, replace

import orjson
import structlog
from sqlalchemy.exc import SQLAlchemyError

from gateway.vault.attempts import Attempt, Attempts, ConnectStopped, Status
from gateway.vault.code_exchange import Held
from gateway.vault.connection import Connection
from gateway.vault.connections import Connections
from gateway.vault.grant_store import GrantStore
from gateway.vault.jobs import Jobs
from gateway.vault.record import Record, conclude
from gateway.vault.sealing import SealBroken

RETRY_FIRST_SECONDS = 0.2
RETRY_MAX_SECONDS = 5.0
FAILED = (SQLAlchemyError, OSError, SealBroken)  # the database, or what lies in it

log = structlog.get_logger()


class Settlement:
    """Ends attempts. Work that outlives its caller runs in *jobs*. *clock* gives POSIX seconds."""

    def __init__(
        self,
        attempts: Attempts,
        grants: GrantStore,
        jobs: Jobs,
        *,
        connections: Connections,
        clock: Callable[[], float],
        record: Record,
    ) -> None:
        self._attempts = attempts
        self._grants = grants
        self._jobs = jobs
        self._clock = clock
        self._record = record
        self._connections = connections
        self._sweep: asyncio.Task[None] | None = None

    async def settle(self, attempt: Attempt, held: Held, connection: Connection) -> Attempt:
        """
        Store *held*, which a code has just brought, or hold it until the user says yes to another account.

        Raises:
            ConnectStopped: the attempt has gone, with its connection; *held* has been revoked.
        """
        try:
            is_gone, is_other = await self._grants.persist(lambda: self._compared(attempt, held))
            if is_other:
                if await self._attempts.hold(attempt, orjson.dumps(asdict(held))):
                    return replace(attempt, status="confirming")
                is_gone = True
        except FAILED as exc:
            return await self._not_stored(attempt, exc, held=held, connection=connection)
        if is_gone:
            await self._grants.give_back(held, connection, attempt)
            raise ConnectStopped("connection_gone")
        return await self.keep(attempt, held, connection)

    async def _compared(self, attempt: Attempt, held: Held) -> tuple[bool, bool]:
        """Tell whether the attempt's row has gone, and whether *held* is for another account than before."""
        if await self._attempts.get(attempt.id) is None:
            return True, False
        return False, await self._grants.is_other_account(attempt, held)

    async def keep(self, attempt: Attempt, held: Held, connection: Connection) -> Attempt:
        """Store *held*, and end *attempt*: connected, or failed where the database does not take it."""
        try:
            stored = await self._grants.keep(attempt, held, connection)
        except FAILED as exc:
            return await self._not_stored(attempt, exc)
        if not await self._move(attempt, "connected", token_id=stored.id):
            log.warning("connect_attempt_gone", attempt=attempt.id)
        conclude(
            self._record, "connected", token=stored.id, scopes=list(stored.granted_scopes), **attempt.for_the_record()
        )
        return replace(attempt, status="connected", token_id=stored.id)

    async def discard(self, attempt: Attempt, held: Held, connection: Connection) -> Attempt:
        """Revoke *held*, which the user does not want, and end *attempt*."""
        try:
            await self._grants.give_back_unwanted(held, connection, attempt)
        except FAILED as exc:
            return await self._not_stored(attempt, exc, held=held, connection=connection)
        return await self.end(attempt, "refused", "other_account_refused")

    async def end(self, attempt: Attempt, status: Status, error: str) -> Attempt:
        """
        End *attempt* in *status* for the reason *error*, and return it so.

        Raises:
            ConnectStopped: it stands elsewhere by now, or has gone with its connection.
        """
        if not await self._move(attempt, status, error=error):
            is_gone = await self._attempts.get(attempt.id) is None
            raise ConnectStopped("connection_gone" if is_gone else "link_used", attempt)
        log.info("connect_ended", attempt=attempt.id, connection=attempt.connection, status=status, error=error)
        conclude(self._record, "connect_ended", status=status, error=error, **attempt.for_the_record())
        return replace(attempt, status=status, error=error)

    def give_back_abandoned(self) -> None:
        """Begin to revoke the tokens that nobody has said yes to in time (rule 3), unless that is under way."""
        if self._sweep is None or self._sweep.done():
            self._sweep = self._jobs.spawn(self._give_back_abandoned())

    async def forget(self, connection_id: str) -> None:
        """Take the tokens of a connection that is about to be deleted from its attempts, and begin to revoke them."""
        connection = await self._connections.load(connection_id)
        while connection is not None:
            try:
                attempt = await self._attempts.take_abandoned(connection_id)
            except SealBroken as exc:  # what cannot be opened cannot be revoked, and can be deleted
                log.critical("seal_broken", reason=str(exc))
                continue
            if attempt is None:
                return
            self._jobs.spawn(self._grants.give_back(held_of(attempt), connection, attempt))

    async def _give_back_abandoned(self) -> None:
        while True:
            try:
                attempt = await self._attempts.take_abandoned()
                if attempt is None:
                    return
                connection = await self._connections.load(attempt.connection)
                if connection is not None:
                    log.info("connect_abandoned", attempt=attempt.id, connection=connection.id)
                    await self._grants.give_back_unwanted(held_of(attempt), connection, attempt)
            except SealBroken as exc:  # what cannot be opened cannot be revoked; the next one may be
                log.critical("seal_broken", reason=str(exc))
            except (SQLAlchemyError, OSError) as exc:
                log.warning("connect_sweep_failed", error=type(exc).__name__)
                return

    async def _not_stored(
        self, attempt: Attempt, exc: Exception, *, held: Held | None = None, connection: Connection | None = None
    ) -> Attempt:
        log.critical("connected_token_given_up", attempt=attempt.id, error=type(exc).__name__)
        if held is not None and connection is not None:
            await self._grants.give_back(held, connection, attempt)
        return await self.end(attempt, "failed", "not_stored")

    async def _move(self, attempt: Attempt, status: Status, *, error: str = "", token_id: str = "") -> bool:
        """Move *attempt*, and tell whether it stood where it did; True also where the database fails (rule 2)."""
        try:
            return await self._attempts.move(attempt, status, error=error, token_id=token_id)
        except (SQLAlchemyError, OSError) as exc:
            log.critical("connect_outcome_not_written", attempt=attempt.id, status=status, error=type(exc).__name__)
        self._jobs.spawn(self._move_later(attempt, status, error=error, token_id=token_id))
        return True

    async def _move_later(self, attempt: Attempt, status: Status, *, error: str, token_id: str) -> None:
        pause = RETRY_FIRST_SECONDS
        while self._clock() < attempt.expires_at:
            await asyncio.sleep(pause)
            pause = min(pause * 2, RETRY_MAX_SECONDS)
            try:
                await self._attempts.move(attempt, status, error=error, token_id=token_id)
            except (SQLAlchemyError, OSError):  # told above; it expires by the clock in the end
                continue
            return


def held_of(attempt: Attempt) -> Held:
    """Return the tokens that *attempt*, as it was read, holds for a confirmation."""
    said = orjson.loads(attempt.tokens or b"")
    return Held(**{**said, "scopes": None if said["scopes"] is None else tuple(said["scopes"])})
