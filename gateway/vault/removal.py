"""
Deleting tokens and connections: revoked at the provider where that can be done, then gone here, whatever it said.

Rules (descope-contract.md section 11; RFC 7009):
1. Revocation is best effort: REVOKE_SECONDS for all of one call, MAX_REVOKED tokens, CONCURRENT at a time. Every live
   token whose connection says where to revoke it and that was not revoked is counted, told in the record, and deleted
   all the same: it must not be served again.
2. Deleting by user leaves tenants' tokens alone; those go by id, or with their connection.
3. What waits for a user's confirmation goes with its connection: taken out before, revoked beside, not counted.
4. Caches are told in the transaction of the delete: by owner, or by connection where that would be too many lines.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy import ColumnElement, delete, func, select

from gateway.models import token_owner
from gateway.store.changes import announce
from gateway.store.engine import Store
from gateway.store.schema import tokens as table
from gateway.vault.client_auth import text_of
from gateway.vault.connections import Connections
from gateway.vault.sealing import SealBroken
from gateway.vault.stored_token import StoredToken
from gateway.vault.tokens import Tokens

REVOKE_SECONDS = 10.0  # callers wait for it, and Python's SDK waits for 60 s at most
MAX_REVOKED = 200
CONCURRENT = 8
MAX_OWNERS = 100  # that are announced one by one
_SECRETS = (table.c.sealed_refresh_token, table.c.sealed_access_token)

Revoke = Callable[[StoredToken], Awaitable[bool]]  # True: the provider was told, and took it
Forget = Callable[[str], Awaitable[None]]  # gives back what a connection's attempts hold for a confirmation

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Removed:
    """What was done: tokens *deleted*, *revoked* of those, and *unrevoked* although their provider takes it."""

    deleted: int
    revoked: int = 0
    unrevoked: int = 0
    tokens: tuple[str, ...] = ()

    def for_the_record(self) -> dict[str, object]:
        """The fields of a record line: counts, and the ids where they are few."""
        return {
            "deleted": self.deleted,
            "revoked": self.revoked,
            "unrevoked": self.unrevoked,
            "tokens": list(self.tokens),
        }


class Removal:
    """Deletes. *revoke* tells a provider about one token; None where this gateway cannot."""

    def __init__(
        self,
        store: Store,
        tokens: Tokens,
        connections: Connections,
        *,
        clock: Callable[[], float],
        revoke: Revoke | None = None,
    ) -> None:
        self._store = store
        self._tokens = tokens
        self._connections = connections
        self._clock = clock
        self.revoke = revoke  # set once, by whoever can
        self.forget: Forget | None = None  # as well

    async def one(self, token_id: str) -> Removed:
        """Delete the token of this id, a user's or a tenant's; *deleted* is 0 where there is none."""
        return await self._remove([table.c.id == token_id])

    async def of_users(self, *, connection: str | None, user: str | None) -> Removed:
        """Delete users' tokens: of *connection*, of *user*, or of both; one of them is given."""
        if connection is None and user is None:
            raise ValueError("expected a connection or a user")
        where = [table.c.user_id != "" if user is None else table.c.user_id == user]
        if connection is not None:
            where.append(table.c.connection_id == connection)
        return await self._remove(where)

    async def connection(self, connection_id: str, *, is_forced: bool = False) -> Removed:
        """
        Delete the connection of this id and all its tokens; *is_forced* also one that belongs to routes.yaml.

        Raises:
            ConnectionMissing, ConnectionReadOnly: nothing was done.
        """
        async with self._store.read() as db:
            await self._connections.check_owned_in(db, connection_id, is_forced=is_forced)
        where = [table.c.connection_id == connection_id]
        revoked, unrevoked = await self._revoke_all(where)
        if self.forget is not None:
            await self.forget(connection_id)
        async with self._store.write() as db:
            await self._connections.check_owned_in(db, connection_id, is_forced=is_forced)
            deleted = (await db.execute(delete(table).where(*where))).rowcount
            await self._connections.delete_in(db, connection_id)
        return Removed(deleted, revoked, unrevoked)

    async def _remove(self, where: Sequence[ColumnElement[bool]]) -> Removed:
        revoked, unrevoked = await self._revoke_all(where)
        named = select(table.c.id, table.c.connection_id, table.c.user_id, table.c.tenant_id).where(*where)
        async with self._store.write() as db:
            rows = (await db.execute(named.limit(MAX_OWNERS + 1))).all()
            is_many = len(rows) > MAX_OWNERS
            touched: set[tuple[str, str]] = {("tokens", token_owner(*row[1:])) for row in rows}
            if is_many:
                connections = (await db.execute(select(table.c.connection_id).where(*where).distinct())).scalars()
                touched = {("connections", connection) for connection in connections}
            deleted = (await db.execute(delete(table).where(*where))).rowcount
            for topic, subject in sorted(touched):
                await announce(db, topic, subject, at=self._clock())
        return Removed(deleted, revoked, unrevoked, () if is_many else tuple(row[0] for row in rows))

    async def _revoke_all(self, where: Sequence[ColumnElement[bool]]) -> tuple[int, int]:
        """Tell the providers, and return how many tokens were revoked, and how many could have been and were not."""
        has_endpoint = {
            connection.id
            for connection in await self._connections.list()
            if connection.revocation_url or text_of(connection, "discoveryUrl")
        }
        held = (*where, table.c.dead.is_(False), func.coalesce(*_SECRETS).is_not(None))
        by_connection = select(table.c.connection_id, func.count()).where(*held).group_by(table.c.connection_id)
        async with self._store.read() as db:
            counts = {
                connection: count
                for connection, count in (await db.execute(by_connection)).all()
                if connection in has_endpoint
            }
            named = select(table.c.id).where(*held, table.c.connection_id.in_(counts)).limit(MAX_REVOKED)
            ids = (await db.execute(named)).scalars().all()
        revoked = await self._tell(await self._opened(ids))
        return revoked, sum(counts.values()) - revoked

    async def _tell(self, tokens: Sequence[StoredToken]) -> int:
        """Tell the providers within the time that there is, and return how many took it."""
        revoke = self.revoke
        if revoke is None or not tokens:
            return 0
        gate = asyncio.Semaphore(CONCURRENT)

        async def tell(token: StoredToken) -> bool:
            async with gate:
                return await revoke(token)

        tasks = [asyncio.create_task(tell(token), name="token-revocation") for token in tokens]
        done, late = await asyncio.wait(tasks, timeout=REVOKE_SECONDS)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        for task in done:
            if not task.cancelled() and task.exception() is not None:
                log.warning("token_revocation_failed", error=type(task.exception()).__name__)
        return sum(1 for task in done if not task.cancelled() and task.exception() is None and task.result())

    async def _opened(self, ids: Sequence[str]) -> list[StoredToken]:
        """Return those tokens that still are there and open."""
        found: list[StoredToken] = []
        for token_id in ids:
            try:
                token = await self._tokens.get(token_id)
            except SealBroken as exc:  # what cannot be opened cannot be revoked, and can be deleted
                log.critical("seal_broken", token=token_id, reason=str(exc))
                continue
            if token is not None and not token.dead:
                found.append(token)
        return found
