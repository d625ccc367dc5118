"""
A refresh token that somebody uploads to be verified: exchanged once, by one process, and stored only if that succeeds.

Rules (contract sections 2 and 11, `verifyRefresh`):
1. Nothing is written for a refresh token that its provider refuses.
2. It may be stored already: then its row's own job exchanges it (`refresh.py`), and no second one begins. Or its row
   has spent it, most often for this same upload: then nobody is asked, and the row is the answer.
3. It may be uploaded twice at once (a client that repeats its request): the first one claims it, in a row of
   `connect_attempts` under a digest of connection and token; others are told to come back. A claim whose holder died
   ends by the clock, after CLAIM_SECONDS: longer than an exchange and its write can take.
4. What is uploaded without being verified is `uploads.py`'s, and so is why no two rows hold one refresh token.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import structlog
from sqlalchemy import delete, insert
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from gateway.store.engine import Store
from gateway.store.schema import connect_attempts as claims
from gateway.vault.backoff import RefreshFailed
from gateway.vault.connection import Connection
from gateway.vault.exchanges import word_of
from gateway.vault.oauth import ExchangeFailed, Granted
from gateway.vault.refresh import Refresher
from gateway.vault.stored_token import StoredToken, TokenDraft, preview, scopes_key
from gateway.vault.tokens import Tokens

CLAIM_SECONDS = 900.0
RETRY_SECONDS = 5
TURN_SECONDS = 25.0  # as long as its caller waits (`lease.py`)

log = structlog.get_logger()


class RefreshTokenStored(Exception):
    """The refresh token is another row's: *token_id*."""

    def __init__(self, token_id: str) -> None:
        self.token_id = token_id
        super().__init__(token_id)


class Adoption:
    """Verifies and stores uploads. *clock* gives POSIX seconds."""

    def __init__(
        self,
        store: Store,
        tokens: Tokens,
        refresher: Refresher,
        *,
        clock: Callable[[], float],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._store = store
        self._tokens = tokens
        self._refresher = refresher
        self._clock = clock
        self._random_bytes = random_bytes

    async def adopt(self, draft: TokenDraft, connection: Connection) -> StoredToken:
        """
        Exchange the refresh token of *draft*, detached from whoever asks, and return the row with what came of it.

        Raises:
            RefreshFailed: "invalid_grant": the provider refused it, nothing was written; else it could not be verified.
            RefreshTokenStored: another row of its subject holds it.
        """
        return await self._refresher.detached(self._adopt(draft, connection))

    async def _adopt(self, draft: TokenDraft, connection: Connection) -> StoredToken:
        async with self._claimed(draft):
            holder = await self._holder(draft)
            if holder is None:
                return await self._exchange(draft, connection)
        if not _is_same(holder, draft):
            raise RefreshTokenStored(holder.id)
        stored = holder
        if holder.refresh_token == draft.refresh_token:
            stored = (await self._refresher.refresh(holder, connection, is_usable=False)).token
        if stored.dead:
            raise RefreshFailed("invalid_grant", retry_after=RETRY_SECONDS)
        return stored

    async def _exchange(self, draft: TokenDraft, connection: Connection) -> StoredToken:
        asked, exchange_id = preview(draft, now=self._clock()), self._random_bytes(16).hex()
        exchanges = self._refresher.exchanges
        turn = await exchanges.turn(connection, asked, wait_seconds=TURN_SECONDS)
        outcome = await exchanges.ask(connection, asked, exchange_id=exchange_id, turn=turn)
        if not isinstance(outcome, Granted):
            is_lost = isinstance(outcome, ExchangeFailed) and outcome.is_outcome_unknown
            error = "answer_lost" if is_lost else word_of(outcome)
            exchanges.ended(asked, outcome, exchange_id=exchange_id, stored=False, error=error)
            raise RefreshFailed(error, retry_after=RETRY_SECONDS)
        fresh = replace(
            draft,
            spent=draft.refresh_token,
            access_token=outcome.access_token,
            refresh_token=outcome.refresh_token or draft.refresh_token,
            token_type=outcome.token_type,
            expires_at=outcome.expires_at,
            granted_scopes=outcome.scopes,
        )
        stored = await self._refresher.persist(None, lambda: self._tokens.put(fresh))
        exchanges.ended(stored, outcome, exchange_id=exchange_id, stored=True)
        return stored

    async def _holder(self, draft: TokenDraft) -> StoredToken | None:
        """Return the row of the draft's subject that holds its refresh token, or else that has spent it, or None."""
        tokens = await self._tokens.of_subject(draft.connection, draft.user, draft.tenant)
        holding = [token for token in tokens if token.refresh_token == draft.refresh_token]
        spenders = [token for token in tokens if self._tokens.spent.has(token, draft.refresh_token)]
        return next(iter([*holding, *sorted(spenders, key=lambda token: not _is_same(token, draft))]), None)

    @asynccontextmanager
    async def _claimed(self, draft: TokenDraft) -> AsyncIterator[None]:
        """Hold the claim of *draft*'s refresh token while the body runs, or raise RefreshFailed (rule 3)."""
        now, claim_id = self._clock(), self._random_bytes(16).hex()
        values = {
            "id": claim_id,
            "link_digest": claim_digest(draft),
            "connection_id": draft.connection,
            "user_id": draft.user,
            "tenant_id": draft.tenant,
            "account": draft.account,
            "scopes": [],
            "status": "exchanging",
            "created_at": now,
            "expires_at": now + CLAIM_SECONDS,
        }
        try:
            async with self._store.write() as db:
                over = (claims.c.link_digest == claim_digest(draft), claims.c.expires_at <= now)
                await db.execute(delete(claims).where(*over))
                await db.execute(insert(claims).values(values))
        except IntegrityError as exc:
            raise RefreshFailed("in_progress", retry_after=RETRY_SECONDS) from exc
        try:
            yield
        finally:
            try:
                async with self._store.write() as db:
                    await db.execute(delete(claims).where(claims.c.id == claim_id))
            except (SQLAlchemyError, OSError) as exc:  # it ends by the clock
                log.warning("claim_not_released", connection=draft.connection, error=type(exc).__name__)


def claim_digest(draft: TokenDraft) -> str:
    """Return under what a refresh token is claimed: for minutes at most, so no secret goes into it (threats.md H9)."""
    text = "\0".join((draft.connection, draft.refresh_token or ""))
    return hashlib.sha256(text.encode()).hexdigest()


def _is_same(row: StoredToken, draft: TokenDraft) -> bool:
    return row.account == draft.account and scopes_key(row.requested_scopes) == scopes_key(draft.scopes)
