"""A database that is locked, frozen, restarted or away: bounded waits, clear errors, and recovery by itself."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import func, insert, select, text
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from gateway.store import engine as engine_module
from gateway.store.engine import DatabaseUrlInvalid, Store
from gateway.store.schema import changes
from tests.postgres import PostgresServer

ROW = {"topic": "t", "subject": "s", "at": 1.0}


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A server that a test may ill-treat; what it acknowledged is on disk."""
    with PostgresServer(is_durable=True) as server:
        yield server


@pytest.fixture
async def remote(server: PostgresServer) -> AsyncIterator[Store]:
    """An open database on it."""
    store = await Store.open(server.new_database())
    yield store
    await store.close()


async def add(store: Store) -> None:
    """Write one change."""
    async with store.write() as connection:
        await connection.execute(insert(changes).values(ROW))


async def count(store: Store) -> int:
    """How many there are."""
    async with store.read() as connection:
        return int((await connection.execute(select(func.count()).select_from(changes))).scalar_one())


@pytest.mark.parametrize("engine", ["sqlite"])
async def test_locked_file_is_waited_for_and_then_told(
    store: Store, database_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    While another program holds SQLite's write lock, reads go on; a write waits for it, or fails when the wait is over.
    """
    other = sqlite3.connect(database_path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    waiting = asyncio.create_task(add(store))
    assert 0 == await count(store)
    await asyncio.sleep(0.3)
    assert not waiting.done()
    other.execute("ROLLBACK")
    await waiting
    assert 1 == await count(store)

    monkeypatch.setattr(engine_module, "BUSY_TIMEOUT_SECONDS", 0.1)
    impatient = await Store.open(f"sqlite+aiosqlite:///{database_path}")
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(OperationalError, match="locked"):
        await add(impatient)
    other.execute("ROLLBACK")
    other.close()
    await add(impatient)
    await impatient.close()


@pytest.mark.parametrize("engine", ["postgresql"])
async def test_locks_of_others_are_waited_for_and_then_told(
    database_url: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    While another writer holds PostgreSQL's lock, reads go on; a write fails when the wait is over.
    """
    monkeypatch.setitem(engine_module.POSTGRES_CONNECT, "options", "-c lock_timeout=100")
    impatient = await Store.open(database_url)
    async with store.write() as connection:
        await connection.execute(insert(changes).values(ROW))
        assert 0 == await count(impatient)
        with pytest.raises(OperationalError, match="lock timeout"):
            await add(impatient)
    await add(impatient)
    await impatient.close()

    assert 2 == await count(store)


async def test_restarted_server_costs_nobody_an_error(server: PostgresServer, remote: Store) -> None:
    """
    Connections that died with the server are found out before use: the next calls succeed without a retry.
    """
    await asyncio.gather(*(add(remote) for _ in range(4)))
    server.stop()
    with pytest.raises((SQLAlchemyError, OSError)):
        await add(remote)
    server.start()

    await asyncio.gather(*(add(remote) for _ in range(4)))
    assert 8 == await count(remote)


async def test_crashed_server_keeps_what_was_acknowledged(server: PostgresServer, remote: Store) -> None:
    """
    A server that crashes in a transaction undoes it, and the gateway goes on with the next one.
    """
    await add(remote)
    with pytest.raises((SQLAlchemyError, OSError)):
        async with remote.write() as connection:
            await connection.execute(insert(changes).values(ROW))
            server.stop(signal.SIGQUIT)
            await connection.execute(select(1))
    server.start()

    assert 1 == await count(remote)


async def test_frozen_server_is_bounded(server: PostgresServer, remote: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A server process that accepts a query and never answers costs a bounded wait; later calls are answered again.
    """
    await add(remote)
    monkeypatch.setattr(engine_module, "TRANSACTION_SECONDS", 0.5)
    frozen = server.backends("test_1")
    for process in frozen:
        os.kill(process, signal.SIGSTOP)
    try:
        async with asyncio.timeout(30):
            with pytest.raises((SQLAlchemyError, OSError)):
                await count(remote)
    finally:
        for process in frozen:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)
    monkeypatch.undo()

    assert 1 == await count(remote)


async def test_writer_that_was_cut_off_does_not_hold_the_lock(server: PostgresServer, remote: Store) -> None:
    """
    A writer whose connection is ended in mid transaction loses the lock with it.
    """
    with pytest.raises((SQLAlchemyError, OSError)):
        async with remote.write() as connection:
            (process,) = (await connection.execute(text("SELECT pg_backend_pid()"))).one()
            server.execute(f"SELECT pg_terminate_backend({process})")
            await connection.execute(insert(changes).values(ROW))
    await add(remote)

    assert 1 == await count(remote)


@pytest.mark.parametrize("engine", ["postgresql"])
async def test_settings_bound_every_wait(store: Store) -> None:
    """
    Each session tells the server to end what takes too long.
    """
    async with store.read() as connection:
        for name, milliseconds in engine_module.POSTGRES_SETTINGS.items():
            shown = (await connection.execute(text(f"SHOW {name}"))).scalar_one()
            assert f"{milliseconds // 1000}s" == shown


UNUSABLE = {
    "no URL": "canary-pw",
    "a database that is neither": "mysql://user:canary-pw@host/db",
    "another driver": "postgresql+asyncpg://user:canary-pw@host/db",
    "a database that nobody knows": "nosuchdb://user:canary-pw@host/db",
    "a port that is no number": "postgresql://user:canary-pw@host:port/db",
    "SQLite without a file": "sqlite://",
    "SQLite in memory": "sqlite+aiosqlite:///:memory:",
}


@pytest.mark.parametrize("url", UNUSABLE.values(), ids=UNUSABLE)
async def test_url_of_another_database_is_refused(url: str) -> None:
    """
    A URL that names neither a file of SQLite nor PostgreSQL is told as such, and nothing of it is repeated.
    """
    with pytest.raises(DatabaseUrlInvalid, match=r"expected postgresql://.* or sqlite:///") as refused:
        await Store.open(url)

    assert "canary" not in str(refused.value)


async def test_missing_driver_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Where PostgreSQL's driver was not installed, the refusal says how to get it.
    """
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(DatabaseUrlInvalid, match=r"pip install .*\[postgres\]"):
        await Store.open("postgresql://user:canary-pw@host/db")


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
@pytest.mark.parametrize("engine", ["postgresql"])
async def test_usual_spellings_of_the_url_work(database_url: str, scheme: str) -> None:
    """
    A URL that names only the database means the driver that is installed.
    """
    await (await Store.open(database_url.replace("postgresql+psycopg", scheme))).close()
