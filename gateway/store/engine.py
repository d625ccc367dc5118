"""
The database: one engine, short reads, and write transactions that take the lock first.

Rules:
1. SQLite by default (WAL, synchronous FULL: an acknowledged write survives power loss), foreign keys on, deleted
   content overwritten. A write transaction begins with BEGIN IMMEDIATE, so it never fails half way for a lock.
2. The schema is brought to head when the store is opened; a schema newer than this program is refused.
3. The file's directory is private (0700), the file 0600.

Source: sqlite.org/pragma.html; threats.md H11-H13, M9.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from gateway.store.migrate import upgrade_to_head

BUSY_TIMEOUT_SECONDS = 5.0  # how long a writer waits for another process' transaction; ours last milliseconds

POOL_TIMEOUT_SECONDS = 5.0  # for a free connection; a caller is refused rather than kept waiting


def sqlite_url(path: Path) -> str:
    """Return the database URL of the SQLite file at *path*."""
    return f"sqlite+aiosqlite:///{path}"


class Store:
    """An open database. Made by `Store.open`, closed with `close`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._is_sqlite = engine.dialect.name == "sqlite"

    @classmethod
    async def open(cls, database_url: str) -> Store:
        """
        Open the database at *database_url*, create or upgrade its schema, and return it.

        Raises:
            SchemaTooNew: another, newer version of the gateway has upgraded this database.
            sqlalchemy.exc.SQLAlchemyError: the database cannot be opened.
        """
        url = make_url(database_url)
        if url.get_backend_name() == "sqlite" and url.database:
            _make_private(Path(url.database))
        engine = create_async_engine(url, hide_parameters=True, pool_timeout=POOL_TIMEOUT_SECONDS)
        if engine.dialect.name == "sqlite":
            event.listen(engine.sync_engine, "connect", _configure_sqlite)
            event.listen(engine.sync_engine, "begin", _begin_sqlite)
        try:
            async with engine.connect() as connection:
                await connection.execution_options(gateway_write=True)
                async with connection.begin():
                    await connection.run_sync(upgrade_to_head)
        except BaseException:
            await asyncio.shield(engine.dispose())
            raise
        return cls(engine)

    @property
    def dialect(self) -> str:
        """The engine's dialect: "sqlite" or "postgresql"."""
        return self._engine.dialect.name

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """Yield a connection that sees one snapshot and is rolled back at the end."""
        async with self._engine.connect() as connection:
            yield connection

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """Yield a connection inside a write transaction: committed at the end, rolled back on an exception."""
        async with self._engine.connect() as connection:
            await connection.execution_options(gateway_write=True)
            async with connection.begin():
                yield connection

    async def close(self) -> None:
        """Close every connection. What was committed is on disk."""
        await self._engine.dispose()


def _make_private(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.parent.chmod(0o700)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    path.chmod(0o600)


def _configure_sqlite(dbapi_connection: Any, _record: Any) -> None:
    # isolation_level None: the driver begins no transaction of its own; `_begin_sqlite` says which kind.
    dbapi_connection.isolation_level = None
    cursor = dbapi_connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_SECONDS * 1000)}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute("PRAGMA secure_delete = ON")
    cursor.close()


def _begin_sqlite(connection: Any) -> None:
    write = connection.get_execution_options().get("gateway_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
