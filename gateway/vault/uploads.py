"""
Tokens that somebody brings, one or many, stored whole or not at all.

Rules:
1. Two rows of one subject never hold one refresh token, unless its provider never rotates: each would spend it for the
   other. That is looked at in the transaction that writes, so it holds for two uploads at once as well.
2. While a refresh token is being verified (`adoption.py`) it is not stored: its exchange is under way.
3. Many are one transaction of a few statements, whatever their number; nobody else writes meanwhile. Opening and
   sealing is done before it, and within it again only for a row that has changed in between.
   Among 100,000 tokens, 500 new ones hold the lock for 81 ms on SQLite and 82 ms on PostgreSQL, 500 changed ones for 77
   and 146 ms; one after the other (`Tokens.put_in`) they held it for 3,345 and 1,719, 3,632 and 1,322 ms. Medians of
   three alternating rounds in one run, two cores with other work (load 3 to 4), both engines syncing to disk; from the
   lock taken to the commit's end.
4. A refresh token that its row has spent (`spent_tokens.py`) says that the upload is older than the row: it is passed
   over, and its caller told that it is stored. Another row of the subject that has spent it is named as with rule 1.
5. The rest of the rules for a token's row are `tokens.py`'s and `token_row.py`'s, for one and for many alike.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Any

from sqlalchemy import Select, Update, and_, bindparam, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.models import token_owner
from gateway.store.changes import announce
from gateway.store.engine import Store
from gateway.store.schema import connect_attempts as claims
from gateway.store.schema import tokens as table
from gateway.vault.adoption import RETRY_SECONDS, RefreshTokenStored, claim_digest
from gateway.vault.backoff import RefreshFailed
from gateway.vault.connections import settings_in
from gateway.vault.sealing import SealBroken, Sealer
from gateway.vault.spent_tokens import COLUMN as SPENT
from gateway.vault.spent_tokens import SpentTokens, digest_of
from gateway.vault.stored_token import StoredToken, TokenDraft, scopes_key
from gateway.vault.token_row import RowSealer, carried_over, created, replaced
from gateway.vault.tokens import CREATION_STEP_SECONDS, Tokens

AT_A_TIME = 50  # tokens sealed or opened, some 40 us each, before the loop's other work has its turn

Identity = tuple[str, str, str, str, str]  # connection, user, tenant, account, digest of the scopes
Subject = tuple[str, str, str]  # connection, user, and the tenant where there is no user


class RefreshTokenRepeated(Exception):
    """Two drafts of one subject bring one refresh token. *drafts* are the later ones."""

    def __init__(self, drafts: Sequence[TokenDraft]) -> None:
        self.drafts = tuple(drafts)
        super().__init__(f"{len(self.drafts)} drafts")


class Uploads:
    """Stores drafts. *clock* gives POSIX seconds."""

    def __init__(
        self,
        store: Store,
        tokens: Tokens,
        sealer: Sealer,
        *,
        clock: Callable[[], float],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._store = store
        self._tokens = tokens
        self._sealer = RowSealer(sealer)
        self._clock = clock
        self._random_bytes = random_bytes

    async def put(self, draft: TokenDraft) -> StoredToken:
        """
        Store *draft* as `Tokens.put` does, and return it.

        Raises:
            RefreshTokenStored, RefreshFailed: as `put_all`.
        """
        async with self._store.write() as db:
            if draft.refresh_token is not None:
                batch, rows = _Batch([draft], self._sealer, self._tokens.spent), await _rows_of(db, [draft])
                newer = await self._check_unshared(db, batch, rows)
                if newer:
                    return self._sealer.open(newer[0])
            return await self._tokens.put_in(db, draft)

    async def put_all(self, drafts: Sequence[TokenDraft]) -> tuple[str, ...]:
        """
        Store every draft as `Tokens.put` does, all of them or none, and return their ids in order.

        No two of them have one identity.

        Raises:
            RefreshTokenStored: another row of a draft's subject holds its refresh token (rule 1).
            RefreshTokenRepeated: two drafts of one subject have the same one.
            RefreshFailed: one is being verified at the moment (rule 2).
            sqlalchemy.exc.IntegrityError: a connection is not there.
        """
        if not drafts:
            return ()
        batch = _Batch(drafts, self._sealer, self._tokens.spent)
        async with self._store.read() as db:
            rows = await _rows_of(db, drafts)
        await batch.prepare(rows, [self._random_bytes(16).hex() for _ in drafts])
        async with self._store.write() as db:
            rows = await _rows_of(db, drafts)
            newer = await self._check_unshared(db, batch, rows)
            return await self._write(db, batch, rows, newer={row["id"] for row in newer})

    async def _check_unshared(self, db: AsyncConnection, batch: _Batch, rows: Sequence[Any]) -> list[Any]:
        """
        Return those of *rows*, its subjects' own, that have spent what the batch brings for them (rule 4).

        Raises what rules 1 and 2 say.
        """
        with_refresh_token = [draft for draft in batch.drafts if draft.refresh_token is not None]
        connections = await settings_in(db, {draft.connection for draft in with_refresh_token})
        rotating = {name for name, it in connections.items() if it.quirks.refresh_token_rotates is not False}
        watched = [draft for draft in with_refresh_token if draft.connection in rotating]
        if not watched:
            return []
        holders: dict[tuple[Subject, str | None], Any] = {}
        for row in rows:
            token = batch.open(row)
            if token is not None:
                holders[_subject(token), token.refresh_token] = row
        seen: set[tuple[Subject, str | None]] = set()
        repeated: list[TokenDraft] = []
        for draft in watched:
            held = (_subject(draft), draft.refresh_token)
            if held in holders and _identity_of(holders[held]) != _identity(draft):
                raise RefreshTokenStored(holders[held]["id"])
            if held in seen:
                repeated.append(draft)
            seen.add(held)
        if repeated:
            raise RefreshTokenRepeated(repeated)
        newer = _newer(batch, rows, watched)
        digests = [claim_digest(draft) for draft in watched]
        under_way = (claims.c.link_digest.in_(digests), claims.c.expires_at > self._clock())
        if (await db.execute(select(claims.c.id).where(*under_way).limit(1))).first() is not None:
            raise RefreshFailed("in_progress", retry_after=RETRY_SECONDS)
        return newer

    async def _write(
        self, db: AsyncConnection, batch: _Batch, rows: Sequence[Any], *, newer: Collection[str] = ()
    ) -> tuple[str, ...]:
        now = self._clock()
        present = {_identity_of(row): row for row in rows}
        newest = _newest(rows)
        new: list[dict[str, object]] = []
        over: dict[bool, list[tuple[str, dict[str, object]]]] = {True: [], False: []}
        ids: list[str] = []
        stored: list[TokenDraft] = []
        for draft, new_id in zip(batch.drafts, batch.new_ids, strict=True):
            row = present.get(_identity(draft))
            token_id = new_id if row is None else row["id"]
            ids.append(token_id)
            if token_id in newer:
                continue
            stored.append(draft)
            values = batch.sealed(token_id, draft) | replaced(draft, now=now)
            if row is None:
                whose = _identity(draft)[:4]
                newest[whose] = max(now, newest.get(whose, 0.0) + CREATION_STEP_SECONDS)
                new.append(values | created(draft, token_id=token_id, at=newest[whose]))
            else:
                over[batch.has_refresh_token_of(row, draft)].append((token_id, values))
        if new:
            await db.execute(insert(table), new)
        for is_same, changed in over.items():
            if changed:
                await db.execute(*_over(changed, is_same=is_same))
        if stored:
            owners = dict.fromkeys(token_owner(draft.connection, draft.user, draft.tenant) for draft in stored)
            await announce(db, "tokens", *owners, at=now)
        return tuple(ids)


class _Batch:
    """Drafts, and what was sealed and opened for them before the transaction: what is as it was is not done again."""

    def __init__(self, drafts: Sequence[TokenDraft], sealer: RowSealer, spent: SpentTokens) -> None:
        self.drafts = drafts
        self._spent = spent
        self._digests: dict[bytes, list[bytes]] = {}
        self.new_ids: Sequence[str] = ()
        self._sealer = sealer
        self._opened: dict[tuple[str, bytes | None, bytes | None, bytes | None], StoredToken | None] = {}
        self._sealed: dict[str, dict[str, object]] = {}

    async def prepare(self, rows: Sequence[Any], new_ids: Sequence[str]) -> None:
        """Open *rows* and seal every draft: for the row of its identity, or for one of *new_ids*."""
        self.new_ids = new_ids
        for number, row in enumerate(rows, start=1):
            self.digests(row)
            if number % AT_A_TIME == 0:
                await asyncio.sleep(0)
        ids = {_identity_of(row): row["id"] for row in rows}
        for number, (draft, new_id) in enumerate(zip(self.drafts, new_ids, strict=True), start=1):
            token_id = ids.get(_identity(draft), new_id)
            self._sealed[token_id] = self._sealer.seal(token_id, draft)
            if number % AT_A_TIME == 0:
                await asyncio.sleep(0)

    def open(self, row: Any) -> StoredToken | None:
        """Return *row* opened; None where it does not open."""
        key = (row["id"], row["sealed_access_token"], row["sealed_refresh_token"], row[SPENT])
        if key not in self._opened:
            try:
                self._opened[key] = self._sealer.open(row)
            except SealBroken:
                self._opened[key] = None
        return self._opened[key]

    def digests(self, row: Any) -> list[bytes]:
        """Return the digests of the refresh tokens that *row* has spent."""
        token = self.open(row)
        if token is None or token.sealed_spent is None:
            return []
        if token.sealed_spent not in self._digests:
            self._digests[token.sealed_spent] = self._spent.digests(token)
        return self._digests[token.sealed_spent]

    def has_refresh_token_of(self, row: Any, draft: TokenDraft) -> bool:
        """Tell whether *draft* brings the refresh token that *row* has."""
        token = self.open(row)
        return token is not None and draft.refresh_token is not None and token.refresh_token == draft.refresh_token

    def sealed(self, token_id: str, draft: TokenDraft) -> dict[str, object]:
        """Return the sealed columns of the row *token_id* that is to hold *draft*."""
        return self._sealed.get(token_id) or self._sealer.seal(token_id, draft)


def _newer(batch: _Batch, rows: Sequence[Any], drafts: Sequence[TokenDraft]) -> list[Any]:
    """
    Return those of *rows* that have spent what one of *drafts* brings for them (rule 4).

    Raises:
        RefreshTokenStored: another row of a draft's subject has spent it.
    """
    brought: dict[Subject, dict[bytes, TokenDraft]] = {}
    for draft in drafts:
        brought.setdefault(_subject(draft), {})[digest_of(draft.refresh_token or "")] = draft
    newer: list[Any] = []
    for row in rows:
        its_own = brought.get(_subject_of(row), {})
        for digest in batch.digests(row):
            spent = its_own.get(digest)
            if spent is None or batch.has_refresh_token_of(row, spent):
                continue
            if _identity_of(row) != _identity(spent):
                raise RefreshTokenStored(row["id"])
            newer.append(row)
    return newer


async def _rows_of(db: AsyncConnection, drafts: Sequence[TokenDraft]) -> Sequence[Any]:
    """Return every row of the drafts' subjects."""
    rows: Sequence[Any] = (await db.execute(_of_subjects(drafts))).mappings().all()
    return rows


def _of_subjects(drafts: Sequence[TokenDraft]) -> Select[Any]:
    users: dict[str, set[str]] = {}
    tenants: dict[str, set[str]] = {}
    for draft in drafts:
        of, name = (users, draft.user) if draft.user else (tenants, draft.tenant)
        of.setdefault(draft.connection, set()).add(name)
    # By connection, not as IN over tuples: for those SQLite reads the whole table.
    wanted = [
        *(and_(table.c.connection_id == its, table.c.user_id.in_(sorted(names))) for its, names in users.items()),
        *(
            and_(table.c.connection_id == its, table.c.user_id == "", table.c.tenant_id.in_(sorted(names)))
            for its, names in tenants.items()
        ),
    ]
    return select(table).where(or_(*wanted))


def _over(rows: Sequence[tuple[str, dict[str, object]]], *, is_same: bool) -> tuple[Update, list[dict[str, object]]]:
    """Return the statement that writes values over rows, and its parameters, from the rows' ids and values."""
    values: dict[str, Any] = {name: bindparam(f"new_{name}") for name in rows[0][1]}
    statement = update(table).where(table.c.id == bindparam("row_id")).values(values | carried_over(is_same=is_same))
    return statement, [{"row_id": it} | {f"new_{name}": value for name, value in new.items()} for it, new in rows]


def _newest(rows: Sequence[Any]) -> dict[tuple[str, ...], float]:
    """Return when the newest token of each connection, user, tenant and account was created."""
    newest: dict[tuple[str, ...], float] = {}
    for row in rows:
        whose = _identity_of(row)[:4]
        newest[whose] = max(row["created_at"], newest.get(whose, row["created_at"]))
    return newest


def _identity(draft: TokenDraft) -> Identity:
    return (draft.connection, draft.user, draft.tenant, draft.account, scopes_key(draft.scopes))


def _identity_of(row: Any) -> Identity:
    return (row["connection_id"], row["user_id"], row["tenant_id"], row["account"], row["requested_scopes_key"])


def _subject(token: TokenDraft | StoredToken) -> Subject:
    return (token.connection, token.user, "" if token.user else token.tenant)


def _subject_of(row: Any) -> Subject:
    return (row["connection_id"], row["user_id"], "" if row["user_id"] else row["tenant_id"])
