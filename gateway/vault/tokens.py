"""
The connection tokens that the vault keeps: whose they are, which one is meant, and how they change.

Rules:
1. A token's identity is (connection, user, tenant, account, requested scopes). Storing it again keeps its id; a user's,
   a user's within a tenant and a tenant's token are never looked up in each other's place.
2. "Latest" is the newest by creation; a refresh or a re-upload does not count as creation (contract section 11), a
   user's consent does: who has just connected an account means that one. "By scopes" is set equality with the
   requested or the granted set, the newest wins.
3. `version` counts writes of the grant. What an exchange writes, `exchange_rows.py` knows.
4. Each write announces the token's owner (`TokenKey.owner`) in its own transaction.
5. A row that was read is compared with what was asked for, and opened with a binding made of its identity: a row that
   was moved or exchanged in the database is refused, not served.
6. What a row says, and what an upload over it keeps, is in `token_row.py`; many uploads at once are in `uploads.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from sqlalchemy import Select, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.models import TokenKey, token_owner
from gateway.store.changes import announce
from gateway.store.engine import Store
from gateway.store.schema import tokens as table
from gateway.vault.exchange_rows import ExchangeRows
from gateway.vault.sealing import SealBroken, Sealer
from gateway.vault.spent_tokens import COLUMN as SPENT
from gateway.vault.spent_tokens import SpentTokens
from gateway.vault.stored_token import StoredToken, TokenDraft, preview, scopes_key, token_of_row
from gateway.vault.token_row import RowSealer, carried_over, created, replaced

CREATION_STEP_SECONDS = (
    1e-6  # two tokens of one user are never created at the same time, so that "newest" is one of them
)


class Tokens:
    """The table of connection tokens. Methods named `…_in` work in the caller's transaction."""

    def __init__(
        self, store: Store, sealer: Sealer, *, clock: Callable[[], float], random_bytes: Callable[[int], bytes]
    ) -> None:
        self._store = store
        self._row_sealer = RowSealer(sealer)
        self.spent = SpentTokens(sealer)
        self._clock = clock
        self._random_bytes = random_bytes
        self.rows = ExchangeRows(store, sealer, clock=clock)

    async def put(self, draft: TokenDraft) -> StoredToken:
        """
        Store *draft* as the token of its identity, and return it.

        A token of that identity keeps id and creation time; everything else is replaced. An exchange that is under way
        with another refresh token finds another version and discards what it got (rule 6).
        """
        async with self._store.write() as db:
            return await self.put_in(db, draft)

    async def put_consented(self, draft: TokenDraft) -> StoredToken:
        """Do the same as `put` for what a user has just consented to: it is the newest of its subject from now on."""
        async with self._store.write() as db:
            stored = await self.put_in(db, draft)
            created_at = await _next_creation(db, draft, self._clock())
            await db.execute(update(table).where(table.c.id == stored.id).values(created_at=created_at))
        return replace(stored, created_at=created_at)

    async def put_in(self, db: AsyncConnection, draft: TokenDraft) -> StoredToken:
        """Do the same as `put`, in the write transaction of *db*."""
        now = self._clock()
        row = (await db.execute(_same_identity(draft))).mappings().one_or_none()
        token_id = row["id"] if row is not None else self._random_bytes(16).hex()
        values: dict[str, Any] = self._row_sealer.seal(token_id, draft) | replaced(draft, now=now)
        if draft.spent is not None and draft.spent != draft.refresh_token:
            before = None if row is None else row[SPENT]
            whose = replace(preview(draft, now=now), id=token_id, sealed_spent=before)
            values[SPENT] = self.spent.sealed(whose, draft.spent)
        if row is None:
            created_at = await _next_creation(db, draft, now)
            await db.execute(insert(table).values(values | created(draft, token_id=token_id, at=created_at)))
        else:
            values |= carried_over(is_same=self._has_refresh_token_of(row, draft))
            await db.execute(update(table).where(table.c.id == token_id).values(values))
        await announce(db, "tokens", token_owner(draft.connection, draft.user, draft.tenant), at=now)
        stored = await self.get_in(db, token_id)
        if stored is None:
            raise RuntimeError("a token that was just written is not there")
        return stored

    async def ensure(self, draft: TokenDraft) -> StoredToken:
        """Return the token of *draft*'s identity; where there is none, *draft* is stored first."""
        async with self._store.write() as db:
            row = (await db.execute(_same_identity(draft))).mappings().one_or_none()
            return self._open(row) if row is not None else await self.put_in(db, draft)

    async def find(self, key: TokenKey) -> StoredToken | None:
        """Return the token that *key* means (rules 1 and 2), or None."""
        async with self._store.read(is_lookup=True) as db:
            return await self.find_in(db, key)

    async def find_in(self, db: AsyncConnection, key: TokenKey) -> StoredToken | None:
        """Return the same as `find`, read in the transaction of *db*."""
        if not all(map(_is_storable, (key.connection, key.user or "", key.tenant or "", key.account or ""))):
            return None
        wanted = _of_subject(key.connection, key.user or "", key.tenant or "", key.account or "")
        newest_first = wanted.order_by(table.c.created_at.desc(), table.c.id)
        if key.scopes is None:
            row = (await db.execute(newest_first.limit(1))).mappings().one_or_none()
            return None if row is None else self._open_for(row, key)
        scopes = sorted(set(key.scopes))
        for row in (await db.execute(newest_first)).mappings():
            if row["requested_scopes_key"] == scopes_key(scopes) or row["granted_scopes"] == scopes:
                return self._open_for(row, key)
        return None

    async def exact(self, key: TokenKey) -> StoredToken | None:
        """Return the token of exactly *key*'s identity (rule 1), the one that `put` replaces, or None."""
        subject = _of_subject(key.connection, key.user or "", key.tenant or "", key.account or "")
        query = subject.where(table.c.requested_scopes_key == scopes_key(key.scopes or ()))
        async with self._store.read(is_lookup=True) as db:
            row = (await db.execute(query)).mappings().one_or_none()
        return None if row is None else self._open_for(row, key)

    async def of_subject(self, connection: str, user: str, tenant: str) -> list[StoredToken]:
        """Return each token of one user, or of one tenant, in a connection, of all accounts and scopes, that opens."""
        own = [table.c.connection_id == connection, table.c.user_id == user]
        if not user:
            own.append(table.c.tenant_id == tenant)
        found: list[StoredToken] = []
        async with self._store.read() as db:
            for row in (await db.execute(select(table).where(*own))).mappings().all():
                with suppress(SealBroken):
                    found.append(self._open(row))
        return found

    async def latest(self, key: TokenKey) -> StoredToken | None:
        """Return the newest token of the key's connection and subject, whatever its scopes."""
        return await self.find(key._replace(scopes=None))

    async def get(self, token_id: str) -> StoredToken | None:
        """Return the token of this id, or None."""
        async with self._store.read(is_lookup=True) as db:
            return await self.get_in(db, token_id)

    async def get_in(self, db: AsyncConnection, token_id: str) -> StoredToken | None:
        """Return the same as `get`, read in the transaction of *db*."""
        row = (await db.execute(select(table).where(table.c.id == token_id))).mappings().one_or_none()
        return None if row is None else self._open(row)

    async def list(self, connection: str | None = None, user: str | None = None) -> list[StoredToken]:
        """Return the tokens, of one connection or user where given, without their secrets, oldest first."""
        query = select(table).order_by(table.c.created_at, table.c.id)
        if connection is not None:
            query = query.where(table.c.connection_id == connection)
        if user is not None:
            query = query.where(table.c.user_id == user)
        async with self._store.read() as db:
            rows = (await db.execute(query)).mappings().all()
        return [token_of_row(row, access_token=None, refresh_token=None) for row in rows]

    async def delete(self, token_id: str) -> bool:
        """Delete the token of this id, and tell whether there was one. It is not revoked at the provider."""
        async with self._store.write() as db:
            owner = select(table.c.connection_id, table.c.user_id, table.c.tenant_id).where(table.c.id == token_id)
            found = (await db.execute(owner)).one_or_none()
            if found is None:
                return False
            await db.execute(delete(table).where(table.c.id == token_id))
            await announce(db, "tokens", token_owner(*found), at=self._clock())
        return True

    def _has_refresh_token_of(self, row: Any, draft: TokenDraft) -> bool:
        try:
            return draft.refresh_token is not None and self._open(row).refresh_token == draft.refresh_token
        except SealBroken:  # an upload is the way out of it
            return False

    def _open(self, row: Any) -> StoredToken:
        return self._row_sealer.open(row)

    def _open_for(self, row: Any, key: TokenKey) -> StoredToken:
        token = self._open(row)
        asked = (key.connection, key.user or "", key.tenant or "", key.account or "")
        if (token.connection, token.user, token.tenant, token.account) != asked:
            # A database that compares text without case or trailing spaces would bring us here.
            raise SealBroken("the row that was found is not the one that was asked for")
        return token


def _of_subject(connection: str, user: str, tenant: str, account: str) -> Select[Any]:
    return select(table).where(
        table.c.connection_id == connection,
        table.c.user_id == user,
        table.c.tenant_id == tenant,
        table.c.account == account,
    )


def _is_storable(text: str) -> bool:
    """Whether both engines can compare *text* at all: PostgreSQL has no NUL, neither of them a lone surrogate."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def _same_identity(draft: TokenDraft) -> Select[Any]:
    subject = _of_subject(draft.connection, draft.user, draft.tenant, draft.account)
    return subject.where(table.c.requested_scopes_key == scopes_key(draft.scopes))


async def _next_creation(db: AsyncConnection, draft: TokenDraft, now: float) -> float:
    """Return *now*, or the moment after the subject's newest token where the clock stood still or went back."""
    newest = select(func.max(table.c.created_at)).where(
        table.c.connection_id == draft.connection,
        table.c.user_id == draft.user,
        table.c.tenant_id == draft.tenant,
        table.c.account == draft.account,
    )
    created_at: float | None = (await db.execute(newest)).scalar_one()
    return now if created_at is None else max(now, created_at + CREATION_STEP_SECONDS)
