"""
The connection tokens that the vault keeps: whose they are, which one is meant, and how they change.

Rules:
1. A token's identity is (connection, user, tenant, account, requested scopes). Uploading it again keeps its id and its
   creation time; a user's, a user's within a tenant and a tenant's token are never looked up in each other's place.
2. "Latest" is the newest by creation; a refresh or a re-upload does not count as creation. "By scopes" is set equality
   with the requested or the granted set, the newest wins (contract section 11).
3. `version` counts writes of the grant. What follows an exchange is written only where the version is the one that was
   exchanged, and `lease_owner` still names that exchange (compare-and-swap). `lease_owner` is the exchange that was
   begun last, `lease_until` is set while it is under way: one that was given up may still report, unless another began.
4. Each write announces the token's owner (`TokenKey.owner`) in its own transaction; taking, renewing or releasing a
   lease is no change of the token.
5. A row that was read is compared with what was asked for, and opened with a binding made of its identity: a row that
   was moved or exchanged in the database is refused, not served.
6. What is known of a refresh token stays with it: uploading the same one again neither hides that an answer was lost,
   nor discards the answer of an exchange under way. Another one ends the lease: that exchange is not about it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import ColumnElement, Select, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.models import TokenKey, token_owner
from gateway.store.changes import announce
from gateway.store.engine import Store
from gateway.store.schema import tokens as table
from gateway.vault.oauth import Granted
from gateway.vault.sealing import Binding, SealBroken, Sealer
from gateway.vault.stored_token import ANSWER_LOST, StoredToken, TokenDraft, scopes_key, token_of_row

CREATION_STEP_SECONDS = (
    1e-6  # two tokens of one user are never created at the same time, so that "newest" is one of them
)


class Tokens:
    """The table of connection tokens. Methods named `…_in` work in the caller's transaction."""

    def __init__(
        self, store: Store, sealer: Sealer, *, clock: Callable[[], float], random_bytes: Callable[[int], bytes]
    ) -> None:
        self._store = store
        self._sealer = sealer
        self._clock = clock
        self._random_bytes = random_bytes

    async def put(self, draft: TokenDraft) -> StoredToken:
        """
        Store *draft* as the token of its identity, and return it.

        A token of that identity keeps id and creation time; everything else is replaced. An exchange that is under way
        with another refresh token finds another version and discards what it got (rule 6).
        """
        async with self._store.write() as db:
            return await self.put_in(db, draft)

    async def put_in(self, db: AsyncConnection, draft: TokenDraft) -> StoredToken:
        """Do the same as `put`, in the write transaction of *db*."""
        now = self._clock()
        scopes = sorted(set(draft.scopes))
        row = (await db.execute(_same_identity(draft))).mappings().one_or_none()
        token_id = row["id"] if row is not None else self._random_bytes(16).hex()
        values: dict[str, Any] = self._sealed(token_id, draft) | {
            "granted_scopes": scopes,
            "token_type": draft.token_type,
            "token_sub": draft.token_sub,
            "granted_by": draft.granted_by,
            "issued_at": now,
            "expires_at": draft.expires_at,
            "updated_at": now,
            "last_refresh_at": None,
            "last_refresh_error": "",
            "failing_since": None,
            "dead": False,
        }
        if row is None:
            values |= {
                "id": token_id,
                "connection_id": draft.connection,
                "user_id": draft.user,
                "tenant_id": draft.tenant,
                "account": draft.account,
                "requested_scopes": scopes,
                "requested_scopes_key": scopes_key(scopes),
                "created_at": await _next_creation(db, draft, now),
                "version": 1,
            }
            await db.execute(insert(table).values(values))
        else:
            values |= self._carried_over(row, draft)
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
        async with self._store.read() as db:
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

    async def latest(self, key: TokenKey) -> StoredToken | None:
        """Return the newest token of the key's connection and subject, whatever its scopes."""
        return await self.find(key._replace(scopes=None))

    async def get(self, token_id: str) -> StoredToken | None:
        """Return the token of this id, or None."""
        async with self._store.read() as db:
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

    # --- the refresh job's writes (rule 3) -------------------------------------------------------------------------

    async def lease(self, token: StoredToken, *, owner: str, seconds: float) -> bool:
        """
        Make *owner* the one who exchanges *token*, as it was just read, and tell whether that was possible.

        False: it is gone, has moved, is leased, or was leased since it was read. *seconds* is what operators are shown
        as its end; who may take it over is decided by `lease.py`.
        """
        free = (*_as_read(token), table.c.lease_until.is_(None))
        return await self._set_lease(free, owner=owner, until=self._clock() + seconds)

    async def renew(self, token: StoredToken, *, owner: str, seconds: float) -> bool:
        """Move the beat of *owner*'s lease, and tell whether it still holds it."""
        own = (table.c.id == token.id, table.c.lease_owner == owner, table.c.lease_until.is_not(None))
        return await self._set_lease(own, owner=owner, until=self._clock() + seconds)

    async def give_up(self, token: StoredToken, *, heir: str | None = None, seconds: float = 0.0) -> bool:
        """
        End the lease of a holder that stood still: what it asked of the provider, and what came of it, is unknown.

        *heir* has the lease from now on, as with `lease`; None leaves it to nobody. Without a refresh token nothing can
        have been spent, so nothing is noted. False: the holder was not dead after all.
        """
        now = self._clock()
        # Not `updated_at`: nobody has just tried and failed, so nobody need wait before the next attempt.
        values: dict[str, object] = {"lease_until": None}
        if heir is not None:
            values |= {"lease_owner": heir, "lease_until": now + seconds, "lease_beat": table.c.lease_beat + 1}
        if token.refresh_token is not None:
            values |= _failed(ANSWER_LOST, now)
        stands_still = (*_as_read(token), table.c.lease_owner == token.lease_owner, table.c.lease_until.is_not(None))
        async with self._store.write() as db:
            given_up = await db.execute(update(table).where(*stands_still).values(values))
            if given_up.rowcount == 0:
                return False
            await announce(db, "tokens", token_owner(token.connection, token.user, token.tenant), at=now)
        return True

    async def _set_lease(self, where: tuple[ColumnElement[bool], ...], *, owner: str, until: float) -> bool:
        values = {"lease_owner": owner, "lease_until": until, "lease_beat": table.c.lease_beat + 1}
        async with self._store.write(is_alone=False) as db:
            return (await db.execute(update(table).where(*where).values(values))).rowcount == 1

    async def store_granted(self, token: StoredToken, granted: Granted, *, owner: str) -> bool:
        """
        Write what an exchange of *token* brought, end its lease, and tell whether it was written.

        An absent refresh token keeps the old one (RFC 6749 section 6), absent scopes the old scopes. False: the row is
        gone, or has moved since, or the lease is another's.
        """
        return await self._swap(token, self._granted(token, granted), owner=owner, is_new_version=True)

    async def rescue(self, token: StoredToken, granted: Granted) -> bool:
        """
        Write a late answer to the exchange of *token*'s refresh token over the row, dead or not, as it was just read.

        False: it has moved, or somebody exchanges it again.
        """
        still = (
            table.c.id == token.id,
            table.c.version == token.version,
            table.c.lease_beat == token.lease_beat,
            table.c.lease_until.is_(None),
        )
        values = self._granted(token, granted) | {"dead": False}
        if token.last_refresh_error == ANSWER_LOST:
            values |= _failed(ANSWER_LOST, self._clock())  # of another exchange, begun after this one
        return await self._write(token, values | {"version": token.version + 1}, where=still)

    def _granted(self, token: StoredToken, granted: Granted) -> dict[str, object]:
        now = self._clock()
        values: dict[str, object] = {
            "sealed_access_token": self._seal(token, "sealed_access_token", granted.access_token),
            "token_type": granted.token_type,
            "issued_at": now,
            "expires_at": granted.expires_at,
            "last_refresh_at": now,
            "last_refresh_error": "",
            "failing_since": None,
        }
        if granted.refresh_token is not None:
            values["sealed_refresh_token"] = self._seal(token, "sealed_refresh_token", granted.refresh_token)
        if granted.scopes is not None:
            values["granted_scopes"] = sorted(set(granted.scopes))
        return values

    async def mark_dead(self, token: StoredToken, *, error: str, owner: str) -> bool:
        """Write that the provider refused the grant for good, under the conditions of `store_granted`."""
        return await self._swap(token, {"dead": True} | _failed(error, self._clock()), owner=owner, is_new_version=True)

    async def note_failure(self, token: StoredToken, *, error: str, owner: str) -> bool:
        """Write why an exchange failed for a passing cause, under the conditions of `store_granted`."""
        return await self._swap(token, _failed(error, self._clock()), owner=owner, is_new_version=False)

    async def _swap(self, token: StoredToken, values: dict[str, object], *, owner: str, is_new_version: bool) -> bool:
        if is_new_version:
            values["version"] = token.version + 1
        own = (table.c.id == token.id, table.c.version == token.version, table.c.lease_owner == owner)
        return await self._write(token, values, where=own)

    async def _write(
        self, token: StoredToken, values: dict[str, object], *, where: tuple[ColumnElement[bool], ...]
    ) -> bool:
        """Write *values* where the row is as it must be, end its lease, and tell whether it was."""
        now = self._clock()
        values |= {"updated_at": now, "lease_owner": None, "lease_until": None}
        async with self._store.write() as db:
            swapped = await db.execute(update(table).where(*where).values(values))
            if swapped.rowcount == 0:
                return False
            await announce(db, "tokens", token_owner(token.connection, token.user, token.tenant), at=now)
        return True

    def _carried_over(self, row: Any, draft: TokenDraft) -> dict[str, object]:
        """Return what an upload over *row* keeps and ends of it (rule 6)."""
        try:
            is_same = draft.refresh_token is not None and self._open(row).refresh_token == draft.refresh_token
        except SealBroken:  # an upload is the way out of it
            is_same = False
        if not is_same:
            return {"version": row["version"] + 1, "lease_owner": None, "lease_until": None}
        is_leased = row["lease_until"] is not None
        is_lost = row["last_refresh_error"] == ANSWER_LOST
        return {
            "version": row["version"] + (0 if is_leased else 1),
            "last_refresh_error": ANSWER_LOST if is_lost else "",
            "failing_since": row["failing_since"] if is_lost else None,
        }

    # --- sealing ---------------------------------------------------------------------------------------------------

    def _sealed(self, token_id: str, draft: TokenDraft) -> dict[str, object]:
        sealed: dict[str, object] = {}
        for column, secret in (
            ("sealed_access_token", draft.access_token),
            ("sealed_refresh_token", draft.refresh_token),
        ):
            binding = Binding("tokens", column, token_id, draft.connection, draft.user, draft.tenant, draft.account)
            sealed[column] = None if secret is None else self._sealer.seal(secret.encode(), binding=binding)
        return sealed

    def _seal(self, token: StoredToken, column: str, secret: str) -> bytes:
        binding = Binding("tokens", column, token.id, token.connection, token.user, token.tenant, token.account)
        return self._sealer.seal(secret.encode(), binding=binding)

    def _open(self, row: Any) -> StoredToken:
        secrets: dict[str, str | None] = {}
        identity = (row["connection_id"], row["user_id"], row["tenant_id"], row["account"])
        for column in ("sealed_access_token", "sealed_refresh_token"):
            sealed = row[column]
            binding = Binding("tokens", column, row["id"], *identity)
            secrets[column] = None if sealed is None else self._sealer.open(bytes(sealed), binding=binding).decode()
        return token_of_row(
            row, access_token=secrets["sealed_access_token"], refresh_token=secrets["sealed_refresh_token"]
        )

    def _open_for(self, row: Any, key: TokenKey) -> StoredToken:
        token = self._open(row)
        asked = (key.connection, key.user or "", key.tenant or "", key.account or "")
        if (token.connection, token.user, token.tenant, token.account) != asked:
            # A database that compares text without case or trailing spaces would bring us here.
            raise SealBroken("the row that was found is not the one that was asked for")
        return token


def _failed(error: str, now: float) -> dict[str, object]:
    """What a row says after a failure at *now*: why, and since when without a success between."""
    return {"last_refresh_error": error, "failing_since": func.coalesce(table.c.failing_since, now)}


def _as_read(token: StoredToken) -> tuple[ColumnElement[bool], ...]:
    """The conditions under which nobody has changed the grant, leased it or moved its beat since *token* was read."""
    return (
        table.c.id == token.id,
        table.c.version == token.version,
        table.c.lease_beat == token.lease_beat,
        table.c.dead.is_(False),
    )


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
