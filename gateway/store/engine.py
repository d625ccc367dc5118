"""
The database, SQLite or PostgreSQL: one engine, short reads, and write transactions that take the lock first.

Rules:
1. SQLite by default (WAL, synchronous FULL: an acknowledged write survives power loss), foreign keys on, deleted
   content overwritten. A write transaction begins with BEGIN IMMEDIATE, so it never fails half way for a lock.
2. The schema is brought to head when the store is opened; a schema newer than this program is refused.
3. The file's directory is private (0700), the file 0600.
4. PostgreSQL behaves the same: a read is one snapshot, a write transaction begins with one advisory lock, so what was
   read in it stays true until it ends. A writer of one row that decides in a single statement may go without
   (`is_alone=False`); it announces nothing, so that it never waits for the lock while it holds a row.
5. Every wait is bounded: for a free connection, for a lock, for a statement, for a transaction as a whole, for a server
   that stopped answering. The time-out is an error like any other of the database, and the next call starts anew:
   connections are tried before use, so a server that was restarted costs nobody an error. A connection that is given
   up is closed, not waited for (`postgres.py`).
6. Reads tell whether the database is there: they wait for nobody's lock. Where they fail in a row everybody is refused
   at once, and one in a while is let through to look (`breaker.py`).

Source: sqlite.org/pragma.html; PostgreSQL 15 sections 13.3.5, 19.11, 34.1.2; threats.md H11-H13, M9, R24, R45.
"""

from __future__ import annotations

import asyncio
import math
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import event, func, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from gateway.breaker import Breaker
from gateway.store.migrate import upgrade_to_head

BUSY_TIMEOUT_SECONDS = 5.0  # how long a writer waits for another process' transaction; ours last milliseconds
WAL_PAUSE_SECONDS = 0.02  # between two tries to begin the write-ahead log of a new file

POOL_TIMEOUT_SECONDS = 5.0  # for a free connection; a caller is refused rather than kept waiting
LOOKUP_SECONDS = 4.0  # for what a call waits for, one row or a few, and the connection to read them
TRANSACTION_SECONDS = 12.0  # a lock waited for twice, and the work; counted here, so also where the server is frozen

WRITE_LOCK = 0x6761_7465  # any number that nothing else in this database locks
# What a URL's scheme may be, and what it means: the drivers that the gateway brings.
DRIVERS = {
    scheme: driver
    for driver, schemes in {
        "postgresql+psycopg": ("postgresql", "postgres", "postgresql+psycopg"),
        "sqlite+aiosqlite": ("sqlite", "sqlite+aiosqlite"),
    }.items()
    for scheme in schemes
}
# Sent by us to a server of ours, which frees what a gateway holds that was frozen or cut off in a transaction.
POSTGRES_SETTINGS = {
    "statement_timeout": 5_000,
    "lock_timeout": 5_000,
    "idle_in_transaction_session_timeout": 10_000,
}
POSTGRES_CONNECT: dict[str, Any] = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "application_name": "connection-gateway",
    "options": " ".join(f"-c {name}={milliseconds}" for name, milliseconds in POSTGRES_SETTINGS.items()),
}
# Eight connections a process, kept: eleven processes fit into a server's default of 100, and none is refused for
# "too many clients". A connection more is a process more at the server, which costs 5 ms to begin.
POSTGRES_POOL: dict[str, Any] = {
    "pool_size": 8,
    "max_overflow": 0,
    "pool_pre_ping": True,
}
# A connection is a thread here. Eight, kept: SQLAlchemy's five with ten to spare opened and closed the spare ones again
# and again, 900 against 1,700 reads a second with 16 callers.
SQLITE_POOL: dict[str, Any] = {"pool_size": 8, "max_overflow": 0}


# A failure means that a time-out of seconds has passed, or that nobody listens. The change feed looks every 0.4 s, so
# it is rarely a caller who finds out that the database is back.
FAILURES = 2
PAUSE_SECONDS = 1.0

log = structlog.get_logger()


class DatabasePaused(SQLAlchemyError):
    """The database has not answered several times in a row, and is not asked for *retry_after* whole seconds."""

    def __init__(self, retry_after: int) -> None:
        self.retry_after = retry_after
        super().__init__("the database does not answer, and is left alone for a moment")


class DatabaseUrlInvalid(ArgumentError):
    """The database URL names none that can be used. The message says what was expected, and nothing of the URL."""


def sqlite_url(path: Path) -> str:
    """Return the database URL of the SQLite file at *path*."""
    return f"sqlite+aiosqlite:///{path}"


class Store:
    """An open database. Made by `Store.open`, closed with `close`."""

    def __init__(self, engine: AsyncEngine, *, monotonic: Callable[[], float]) -> None:
        self._engine = engine
        self._is_sqlite = engine.dialect.name == "sqlite"
        self._breaker = Breaker(monotonic=monotonic, failures=FAILURES, pause_seconds=PAUSE_SECONDS)

    @classmethod
    async def open(cls, database_url: str, *, monotonic: Callable[[], float] = time.monotonic) -> Store:
        """
        Open the database at *database_url*, create or upgrade its schema, and return it. *monotonic* gives seconds.

        Raises:
            DatabaseUrlInvalid: it is neither PostgreSQL nor a file of SQLite.
            SchemaTooNew: another, newer version of the gateway has upgraded this database.
            sqlalchemy.exc.SQLAlchemyError: the database cannot be opened.
        """
        url = _read_url(database_url)
        is_sqlite = url.get_backend_name() == "sqlite"
        if is_sqlite and url.database:
            _make_private(Path(url.database))
        try:
            engine = create_async_engine(
                url,
                hide_parameters=True,
                pool_timeout=POOL_TIMEOUT_SECONDS,
                **(SQLITE_POOL if is_sqlite else _postgres_pool()),
            )
        except ImportError as exc:
            raise DatabaseUrlInvalid(
                "the driver of PostgreSQL is missing: pip install connection-gateway[postgres]"
            ) from exc
        if not is_sqlite:
            event.listen(engine.sync_engine, "checkin", _unbound)
        else:
            event.listen(engine.sync_engine, "connect", _configure_sqlite)
            event.listen(engine.sync_engine, "begin", _begin_sqlite)
        try:
            async with engine.connect() as connection:
                await connection.execution_options(gateway_write=True)
                async with connection.begin():
                    await _begin_alone(connection)
                    await connection.run_sync(upgrade_to_head)
        except BaseException:
            await asyncio.shield(engine.dispose())
            raise
        return cls(engine, monotonic=monotonic)

    @property
    def dialect(self) -> str:
        """The engine's dialect: "sqlite" or "postgresql"."""
        return self._engine.dialect.name

    @asynccontextmanager
    async def read(self, *, is_lookup: bool = False) -> AsyncIterator[AsyncConnection]:
        """
        Yield a connection that sees one snapshot and is rolled back at the end.

        *is_lookup*: a call waits for it, LOOKUP_SECONDS at most.

        Raises:
            DatabasePaused: the database is not asked for now.
        """
        is_probe, answers = self._admit(), self._breaker.answers
        try:
            seconds = LOOKUP_SECONDS if is_lookup else TRANSACTION_SECONDS
            async with asyncio.timeout(seconds) as limit, self._engine.connect() as connection:
                if not self._is_sqlite:
                    _bound(connection, limit)
                    await connection.execution_options(isolation_level="REPEATABLE READ")
                yield connection
        except (SQLAlchemyError, OSError):
            self._failed(answers)
            raise
        except BaseException:  # of whoever reads, or who reads has gone: it says nothing about the database
            if is_probe:
                self._breaker.withdrawn()
            raise
        self._succeeded()

    @asynccontextmanager
    async def write(self, *, is_alone: bool = True) -> AsyncIterator[AsyncConnection]:
        """
        Yield a connection inside a write transaction: committed at the end, rolled back on an exception.

        No other one writes meanwhile. On PostgreSQL *is_alone* False lifts that, for writers of one row (rule 4).

        Raises:
            DatabasePaused: the database is not asked for now.
        """
        is_probe, answers = self._admit(), self._breaker.answers
        try:
            async with asyncio.timeout(TRANSACTION_SECONDS) as limit, self._engine.connect() as connection:
                if not self._is_sqlite:
                    _bound(connection, limit)
                await connection.execution_options(gateway_write=True)
                async with connection.begin():
                    if is_alone:
                        await _begin_alone(connection)
                    yield connection
        except BaseException as exc:
            # A write that fails may have waited for a lock: it tells nothing, but that a probe has found nobody.
            if is_probe and isinstance(exc, SQLAlchemyError | OSError):
                self._failed(answers)
            elif is_probe:
                self._breaker.withdrawn()
            raise
        self._succeeded()

    def _admit(self) -> bool:
        """Return whether what follows is the breaker's probe. Raises DatabasePaused where nothing may follow."""
        if self._breaker.is_closed():
            return False
        if (wait := self._breaker.wait_seconds()) is not None:
            raise DatabasePaused(wait)
        return True

    def _succeeded(self) -> None:
        if not self._breaker.is_closed():
            log.info("database_answers")
        self._breaker.succeeded()

    def _failed(self, answers_before: int) -> None:
        if self._breaker.failed(answers_before=answers_before):
            log.error("database_paused", failures=FAILURES, pause_seconds=PAUSE_SECONDS)

    async def close(self) -> None:
        """Close every connection. What was committed is on disk."""
        await self._engine.dispose()


async def _begin_alone(connection: AsyncConnection) -> None:
    """Wait for the other writers' transactions. SQLite has done so with BEGIN IMMEDIATE."""
    if connection.dialect.name == "postgresql":
        await connection.execute(select(func.pg_advisory_xact_lock(WRITE_LOCK)))


def _bound(connection: AsyncConnection, limit: asyncio.Timeout) -> None:
    """Let nothing on *connection* last longer than *limit*, its end neither, which SQLAlchemy does not let cancel."""
    if connection.sync_connection is not None:
        driver: Any = connection.sync_connection.connection.driver_connection
        driver.until = limit.when()


def _unbound(dbapi_connection: Any, _record: Any) -> None:
    if dbapi_connection is not None:
        dbapi_connection.driver_connection.until = math.inf


def _postgres_pool() -> dict[str, Any]:
    """Return the settings of the engine for PostgreSQL. Raises ImportError where its driver is missing."""
    from gateway.store.postgres import PromptConnection  # an extra: SQLite does without

    arguments = POSTGRES_CONNECT | {"async_creator_fn": PromptConnection.connect}
    return POSTGRES_POOL | {"connect_args": arguments}


def _read_url(text: str) -> URL:
    """Return *text* as a URL with the driver that the gateway brings for it. Raises DatabaseUrlInvalid."""
    expected = "GATEWAY_DATABASE_URL: expected postgresql://USER@HOST/NAME or sqlite:///PATH"
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        # The error's text is the URL, and with it the password.
        raise DatabaseUrlInvalid(expected) from None
    driver = DRIVERS.get(url.drivername)
    if driver is None or (driver.startswith("sqlite") and url.database in {None, "", ":memory:"}):
        raise DatabaseUrlInvalid(expected)
    return url.set(drivername=driver)


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
    dbapi_connection.run_async(_use_wal)
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute("PRAGMA secure_delete = ON")
    cursor.close()


async def _use_wal(connection: Any) -> None:
    """
    Begin the write-ahead log, or find it begun.

    A file that has none yet is locked for that moment: whoever meets another that begins it, or writes, is refused at
    once by SQLite, which would wait for neither (the busy timeout is for locks that cannot wait for each other).
    """
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + BUSY_TIMEOUT_SECONDS
    while True:
        try:
            await connection.execute_fetchall("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode != sqlite3.SQLITE_BUSY or loop.time() > give_up_at:
                raise
        else:
            return
        await asyncio.sleep(WAL_PAUSE_SECONDS)


def _begin_sqlite(connection: Any) -> None:
    write = connection.get_execution_options().get("gateway_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
