"""
What becomes of a fresh grant: it is stored as granted, or given back to its provider.

Rules:
1. Asked and granted scopes are kept side by side (threats.md J7).
2. A provider that names no refresh token to an account it has given one before (Google, unless asked for consent) has
   not taken that one back: it stays. Where the provider does not say whose account it is, the old one goes: it may be
   another's.
3. The grant of another account that has lost its row is revoked. The same account's old one is left: at providers that
   keep one grant per user and client, revoking the old token would end the new grant. So is a grant that the user does
   not want, where the subject has one of its account stored.
4. A write that fails is tried again: what it holds exists nowhere else. What cannot be written in the end is revoked,
   but for an account whose older grant is still stored (rule 3).
5. What is inherited from, compared and revoked is the row that is overwritten (`Tokens.exact`). Another row that was
   granted the same scopes stays as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import structlog
from sqlalchemy.exc import SQLAlchemyError

from gateway.models import TokenKey
from gateway.vault.attempts import Attempt
from gateway.vault.code_exchange import Held
from gateway.vault.connection import Connection
from gateway.vault.revocation import Revocation
from gateway.vault.sealing import SealBroken
from gateway.vault.stored_token import StoredToken, TokenDraft
from gateway.vault.tokens import Tokens

WRITE_ATTEMPTS = 5
WRITE_PAUSE_SECONDS = 0.2

T = TypeVar("T")

log = structlog.get_logger()


class GrantStore:
    """Stores and gives back."""

    def __init__(self, tokens: Tokens, revocation: Revocation) -> None:
        self._tokens = tokens
        self._revocation = revocation

    async def is_other_account(self, attempt: Attempt, held: Held) -> bool:
        """
        Tell whether *held* is for another account than before; False where it cannot be told.

        "Before" is the token that *held* would replace: its grant is what a yes gives up. Where there is none, it is
        the subject's newest: nothing is lost, but calls that name no scopes would change to the new account.
        """
        key = _key(attempt)
        before = await self._tokens.exact(key) or await self._tokens.latest(key)
        return before is not None and _differs(before, held)

    async def keep(self, attempt: Attempt, held: Held, connection: Connection) -> StoredToken:
        """
        Store *held* as the token that *attempt* was about, and return it.

        Raises:
            sqlalchemy.exc.SQLAlchemyError, OSError, SealBroken: it could not be written; it has been revoked (rule 4).
        """
        try:
            before = await self.persist(lambda: self._tokens.exact(_key(attempt)))
        except (SQLAlchemyError, OSError, SealBroken):
            await self.give_back(held, connection, attempt)
            raise
        refresh_token = held.refresh_token
        if refresh_token is None and before is not None and _is_same(before, held):
            refresh_token = before.refresh_token
        draft = TokenDraft(
            connection=attempt.connection,
            user=attempt.user,
            tenant=attempt.tenant,
            account=attempt.account,
            scopes=attempt.scopes,
            access_token=held.access_token,
            refresh_token=refresh_token,
            token_type=held.token_type,
            expires_at=held.expires_at,
            token_sub=held.token_sub,
            granted_by=attempt.granted_by,
            granted_scopes=held.scopes,
        )
        try:
            stored = await self.persist(lambda: self._tokens.put_consented(draft))
        except (SQLAlchemyError, OSError, SealBroken):
            if before is None or _differs(before, held):
                await self.give_back(held, connection, attempt)
            raise
        log.info("connected", attempt=attempt.id, connection=attempt.connection, token=stored.id)
        if before is not None and _differs(before, held):
            await self.give_back(before, connection, attempt)
        return stored

    async def give_back_unwanted(self, held: Held, connection: Connection, attempt: Attempt) -> None:
        """Revoke *held*, which the user does not want; not where the subject has a grant of its account (rule 3)."""
        stored = await self._tokens.of_subject(attempt.connection, attempt.user, attempt.tenant)
        if not any(_is_same(token, held) for token in stored):
            await self.give_back(held, connection, attempt)

    async def give_back(self, token: Held | StoredToken, connection: Connection, attempt: Attempt) -> None:
        """Revoke *token*, which came up in *attempt*, at its provider, as far as that listens."""
        await self._revocation.revoke(
            connection,
            access_token=token.access_token,
            refresh_token=token.refresh_token,
            about=attempt.for_the_record(),
        )

    async def persist(self, write: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return what *write* (or read) returns, tried again where the database fails: the grant is nowhere else."""
        for number in range(WRITE_ATTEMPTS):
            try:
                return await write()
            except (SQLAlchemyError, OSError) as exc:
                log.critical("connected_token_not_stored", error=type(exc).__name__, tries=number + 1)
                if number == WRITE_ATTEMPTS - 1:
                    raise
            await asyncio.sleep(WRITE_PAUSE_SECONDS * 2**number)
        raise AssertionError("unreachable")


def _key(attempt: Attempt) -> TokenKey:
    return TokenKey(
        attempt.connection, attempt.user or None, attempt.tenant or None, attempt.scopes, attempt.account or None
    )  # fmt: skip


def _differs(before: StoredToken, held: Held) -> bool:
    return bool(before.token_sub and held.token_sub) and before.token_sub != held.token_sub


def _is_same(before: StoredToken, held: Held) -> bool:
    return bool(held.token_sub) and before.token_sub == held.token_sub and not before.dead
