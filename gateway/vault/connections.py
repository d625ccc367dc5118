"""
The connections that the vault keeps, in the database.

Rules:
1. A connection's settings are plain; its client secret is sealed and bound to the connection's id.
2. Ids and names are unique (contract section 2).
3. What routes.yaml lists is owned by the file: the file is the truth on every start, and wins over a connection of the
   same id that was made by the API. A connection that has left the file stays, read-only, with its tokens, and is
   reported: deleting it would destroy grants that users gave, for a line that somebody commented out. A client that a
   provider registered is no part of the file, and stays (connection.py, rule 6).
4. Every write announces the connection in the same transaction: caches hold its origins beside its tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.store.changes import announce
from gateway.store.engine import Store
from gateway.store.schema import connections as table
from gateway.vault.connection import Connection, ConnectionInvalid, check, with_client_of
from gateway.vault.sealing import Binding, Sealer

__all__ = [
    "Connection",
    "ConnectionExists",
    "ConnectionInvalid",
    "ConnectionMissing",
    "ConnectionReadOnly",
    "Connections",
    "FileConnections",
    "settings_in",
]


class ConnectionExists(Exception):
    """Another connection has this id or this name."""


class ConnectionMissing(Exception):
    """There is no connection of this id."""


class ConnectionReadOnly(Exception):
    """The connection is owned by routes.yaml, and changed there only."""


@dataclass(frozen=True, slots=True)
class FileConnections:
    """What loading the file's connections did: ids *written*, *taken_over* from the API, or that *left* it."""

    written: tuple[str, ...]
    taken_over: tuple[str, ...]
    left: tuple[str, ...]


class Connections:
    """The table of connections, secrets opened."""

    def __init__(
        self, store: Store, sealer: Sealer, *, clock: Callable[[], float], random_bytes: Callable[[int], bytes]
    ) -> None:
        self._store = store
        self._sealer = sealer
        self._clock = clock
        self._random_bytes = random_bytes

    def new_id(self) -> str:
        """Return an id that no connection has: 80 random bits."""
        return f"C{self._random_bytes(10).hex()}"

    async def create(self, connection: Connection) -> Connection:
        """
        Store *connection*, owned by the API, and return it.

        Raises:
            ConnectionInvalid: a field is not valid.
            ConnectionExists: its id or its name is taken.
        """
        connection = replace(connection, owner="api")
        check(connection)
        try:
            async with self._store.write() as db:
                if await _is_name_taken(db, connection):
                    raise ConnectionExists(f"another connection is named like {connection.id}")
                await self._insert(db, connection)
        except IntegrityError as exc:
            raise ConnectionExists(f"connection {connection.id} exists") from exc
        return connection

    async def check_free(self, connection: Connection) -> None:
        """
        Do nothing where no other connection has the id or the name of *connection*.

        Raises:
            ConnectionExists
        """
        async with self._store.read() as db:
            found = await db.execute(select(table.c.id).where(table.c.id == connection.id))
            if found.one_or_none() is not None or await _is_name_taken(db, connection):
                raise ConnectionExists(f"connection {connection.id} exists, or another one of this name")

    async def update(self, connection_id: str, change: Callable[[Connection], Connection]) -> Connection:
        """
        Make the stored connection what *change* returns for it, in one transaction, and return it. Its id stays.

        Raises:
            ConnectionMissing, ConnectionReadOnly: there is none to change.
            ConnectionInvalid: a field is not valid.
            ConnectionExists: its new name is taken.
        """
        async with self._store.write() as db:
            await self.check_owned_in(db, connection_id)
            stored = await self.load_in(db, connection_id)
            if stored is None:
                raise ConnectionMissing(connection_id)
            changed = replace(change(stored), id=stored.id, owner=stored.owner)
            check(changed)
            if await _is_name_taken(db, changed):
                raise ConnectionExists(f"another connection is named like {connection_id}")
            if changed != stored:
                await self._update(db, changed)
        return changed

    async def store_client(self, registered: Connection) -> bool:
        """
        Store the client of *registered* for its connection, whoever owns that, and tell whether it still waited for it.

        False: it is gone, has a client by now, or is to be registered elsewhere.
        """
        async with self._store.write() as db:
            stored = await self.load_in(db, registered.id)
            if stored is None or not stored.awaits_registration:
                return False
            changed = with_client_of(stored, registered)
            if changed.awaits_registration:
                return False
            check(changed)
            await self._update(db, changed)
        return True

    async def check_owned_in(self, db: AsyncConnection, connection_id: str, *, is_forced: bool = False) -> None:
        """
        Do nothing where the API owns the connection of this id, or where *is_forced* it exists at all.

        Raises:
            ConnectionMissing, ConnectionReadOnly
        """
        owner = (await db.execute(select(table.c.owner).where(table.c.id == connection_id))).scalar_one_or_none()
        if owner is None:
            raise ConnectionMissing(connection_id)
        if owner != "api" and not is_forced:
            raise ConnectionReadOnly(connection_id)

    async def delete_in(self, db: AsyncConnection, connection_id: str) -> None:
        """Delete the connection of this id, and with it its tokens, in the write transaction of *db*."""
        await db.execute(delete(table).where(table.c.id == connection_id))
        await announce(db, "connections", connection_id, at=self._clock())

    async def load(self, connection_id: str) -> Connection | None:
        """Return the connection of this id, its client secret opened, or None."""
        async with self._store.read(is_lookup=True) as db:
            return await self.load_in(db, connection_id)

    async def load_in(self, db: AsyncConnection, connection_id: str) -> Connection | None:
        """Return the same as `load`, read in the transaction of *db*."""
        row = (await db.execute(select(table).where(table.c.id == connection_id))).mappings().one_or_none()
        return None if row is None else self._open(row)

    async def list(self) -> list[Connection]:
        """Return all connections, by id, without their client secrets; how each authenticates is filled in."""
        async with self._store.read() as db:
            rows = (await db.execute(select(table).order_by(table.c.id))).mappings().all()
        return [_without_secret(row) for row in rows]

    async def known(self, connection_id: str) -> bool:
        """Tell whether there is a connection of this id."""
        async with self._store.read() as db:
            found = await db.execute(select(table.c.id).where(table.c.id == connection_id))
            return found.one_or_none() is not None

    async def is_name_taken(self, connection: Connection) -> bool:
        """Tell whether another connection has the name of *connection*."""
        async with self._store.read() as db:
            return await _is_name_taken(db, connection)

    async def upsert_from_file(self, connections: Iterable[Connection]) -> FileConnections:
        """
        Make the stored connections what the file says (rule 3), all of them or none, and tell what changed.

        Raises:
            ConnectionInvalid: a field is not valid; the message begins with the connection's id.
        """
        wanted = [replace(connection, owner="file") for connection in connections]
        for connection in wanted:
            try:
                check(connection)
            except ConnectionInvalid as exc:
                raise ConnectionInvalid(f"{connection.id}: {exc}") from exc
        written: list[str] = []
        taken_over: list[str] = []
        async with self._store.write() as db:
            for connection in wanted:
                stored = await self.load_in(db, connection.id)
                connection = with_client_of(connection, stored)
                if stored == connection:
                    continue
                written.append(connection.id)
                if stored is None:
                    await self._insert(db, connection)
                    continue
                if stored.owner == "api":
                    taken_over.append(connection.id)
                await self._update(db, connection)
            owned = (await db.execute(select(table.c.id).where(table.c.owner == "file"))).scalars().all()
        left = sorted(set(owned) - {connection.id for connection in wanted})
        return FileConnections(tuple(written), tuple(taken_over), tuple(left))

    async def _insert(self, db: AsyncConnection, connection: Connection) -> None:
        now = self._clock()
        values = self._values(connection) | {"id": connection.id, "created_at": now, "updated_at": now}
        await db.execute(insert(table).values(values))
        await announce(db, "connections", connection.id, at=now)

    async def _update(self, db: AsyncConnection, connection: Connection) -> None:
        now = self._clock()
        values = self._values(connection) | {"updated_at": now}
        await db.execute(update(table).where(table.c.id == connection.id).values(values))
        await announce(db, "connections", connection.id, at=now)

    def _values(self, connection: Connection) -> dict[str, object]:
        sealed = None
        if connection.client_secret is not None:
            sealed = self._sealer.seal(connection.client_secret.encode(), binding=_binding(connection.id))
        return {
            "owner": connection.owner,
            "settings": _to_settings(connection),
            "sealed_client_secret": sealed,
        }

    def _open(self, row: Any) -> Connection:
        connection = _from_settings(row)
        sealed = row["sealed_client_secret"]
        if sealed is None:
            return connection
        secret = self._sealer.open(bytes(sealed), binding=_binding(connection.id)).decode()
        return replace(connection, client_secret=secret)


async def settings_in(db: AsyncConnection, ids: Collection[str]) -> dict[str, Connection]:
    """Return the connections of these ids as `Connections.list` does, by id, read in the transaction of *db*."""
    rows = (await db.execute(select(table).where(table.c.id.in_(ids)))).mappings().all()
    return {row["id"]: _without_secret(row) for row in rows}


def _without_secret(row: Any) -> Connection:
    connection = _from_settings(row)
    if row["sealed_client_secret"] is None:
        return connection
    # The default way to authenticate depends on there being a secret, which is not opened here.
    return replace(connection, token_auth=replace(connection, client_secret="sealed").client_authentication)  # noqa: S106


async def _is_name_taken(db: AsyncConnection, connection: Connection) -> bool:
    named = select(table.c.id).where(
        table.c.settings["name"].as_string() == connection.name, table.c.id != connection.id
    )
    return (await db.execute(named.limit(1))).first() is not None


def _binding(connection_id: str) -> Binding:
    return Binding(table="connections", column="sealed_client_secret", row_id=connection_id, connection=connection_id)


def _to_settings(connection: Connection) -> dict[str, object]:
    """The settings column: names as in `Connection`, without id, owner and secret."""
    return {
        "name": connection.name,
        "description": connection.description,
        "kind": connection.kind,
        "client_id": connection.client_id,
        "authorization_url": connection.authorization_url,
        "token_url": connection.token_url,
        "revocation_url": connection.revocation_url,
        "default_scopes": list(connection.default_scopes),
        "origins": None if connection.origins is None else list(connection.origins),
        "pkce": connection.pkce,
        "token_auth": connection.token_auth,
        "authorization_params": [list(pair) for pair in connection.authorization_params],
        "token_params": [list(pair) for pair in connection.token_params],
        "extra": dict(connection.extra),
        "template": connection.template,
        "variables": [list(pair) for pair in connection.variables],
    }


def _from_settings(row: Any) -> Connection:
    settings: dict[str, Any] = row["settings"]
    origins = settings["origins"]
    return Connection(
        id=row["id"],
        owner=row["owner"],
        name=settings["name"],
        description=settings["description"],
        kind=settings["kind"],
        client_id=settings["client_id"],
        authorization_url=settings["authorization_url"],
        token_url=settings["token_url"],
        revocation_url=settings["revocation_url"],
        default_scopes=tuple(settings["default_scopes"]),
        origins=None if origins is None else tuple(origins),
        pkce=settings["pkce"],
        token_auth=settings["token_auth"],
        authorization_params=tuple((key, value) for key, value in settings["authorization_params"]),
        token_params=tuple((key, value) for key, value in settings["token_params"]),
        extra=settings["extra"],
        template=settings.get("template"),  # rows of version 0.1.0 have neither
        variables=tuple((name, value) for name, value in settings.get("variables", ())),
    )
