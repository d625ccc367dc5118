"""The database: private, durable settings, write transactions that take the lock first."""

from __future__ import annotations

import asyncio
import multiprocessing
import sqlite3
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import func, insert, select, text
from sqlalchemy.exc import DatabaseError, IntegrityError

from gateway.store.engine import FAILURES, PAUSE_SECONDS, DatabasePaused, Store, sqlite_url
from gateway.store.schema import changes, connections, tokens

ROUNDS = 25


def write_file(path: Path, content: bytes, mode: int) -> None:
    """Put *content* where the database should be, in a directory that others can read."""
    path.parent.mkdir(mode=0o755)
    path.write_bytes(content)
    path.chmod(mode)


def mode_of(path: Path) -> int:
    """The permission bits."""
    return stat.S_IMODE(path.stat().st_mode)


def is_database(path: Path) -> bool:
    """Whether the file begins as SQLite's do."""
    return path.read_bytes().startswith(b"SQLite format 3")


async def count(store: Store) -> int:
    """How many changes are stored."""
    async with store.read() as connection:
        return int((await connection.execute(select(func.count()).select_from(changes))).scalar_one())


async def add(store: Store, subject: str = "s") -> None:
    """Write one change."""
    async with store.write() as connection:
        await connection.execute(insert(changes).values(topic="t", subject=subject, at=1.0))


@pytest.mark.parametrize("engine", ["sqlite"])
async def test_files_are_private(store: Store, database_path: Path) -> None:
    """
    The directory is 0700 and every file of the database 0600, also those that SQLite adds.
    """
    await add(store)

    assert 0o700 == stat.S_IMODE(database_path.parent.stat().st_mode)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in database_path.parent.iterdir()}
    assert {"gateway.db", "gateway.db-wal", "gateway.db-shm"} == set(modes)
    assert {0o600} == set(modes.values())


async def test_opening_makes_an_open_directory_private(database_path: Path) -> None:
    """
    A directory and a file that others could read are closed to them.
    """
    write_file(database_path, b"", 0o644)
    await (await Store.open(sqlite_url(database_path))).close()

    assert [0o700, 0o600] == [mode_of(database_path.parent), mode_of(database_path)]


SETTINGS = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "secure_delete": 1, "busy_timeout": 5000}


@pytest.mark.parametrize("engine", ["sqlite"])
@pytest.mark.parametrize(("name", "expected"), SETTINGS.items(), ids=SETTINGS)
async def test_every_connection_has_the_settings(store: Store, name: str, expected: object) -> None:
    """
    WAL, FULL, foreign keys and secure delete hold on each connection of the pool.
    """
    async with store.read() as one, store.read() as two:
        for connection in (one, two):
            assert expected == (await connection.execute(text(f"PRAGMA {name}"))).scalar_one()


async def test_write_is_kept_and_failure_undone(store: Store) -> None:
    """
    A transaction that ends is committed; one that raises leaves nothing.
    """
    await add(store)
    with pytest.raises(ZeroDivisionError):
        async with store.write() as connection:
            await connection.execute(insert(changes).values(topic="t", subject="s", at=1.0))
            raise ZeroDivisionError

    assert 1 == await count(store)


async def test_read_sees_one_snapshot(store: Store) -> None:
    """
    What is written while a reader reads is not seen by it, and does not wait for it.
    """
    async with store.read() as connection:
        counted = select(func.count()).select_from(changes)
        before = (await connection.execute(counted)).scalar_one()
        await add(store)
        assert before == (await connection.execute(counted)).scalar_one()

    assert before + 1 == await count(store)


async def test_read_writes_nothing(store: Store) -> None:
    """
    What a read connection changed is rolled back.
    """
    async with store.read() as connection:
        await connection.execute(insert(changes).values(topic="t", subject="s", at=1.0))

    assert 0 == await count(store)


async def test_concurrent_writers_wait_for_each_other(store: Store) -> None:
    """
    Thirty read-then-write transactions at once lose no update and none fails for a lock.
    """

    async def increment() -> None:
        async with store.write() as connection:
            number = (await connection.execute(select(func.count()).select_from(changes))).scalar_one()
            await connection.execute(insert(changes).values(topic="t", subject=str(number), at=1.0))

    await asyncio.gather(*(increment() for _ in range(30)))
    async with store.read() as connection:
        subjects = (await connection.execute(select(changes.c.subject).order_by(changes.c.seq))).scalars().all()

    assert [str(number) for number in range(30)] == subjects


async def test_unknown_connection_is_refused(store: Store) -> None:
    """
    A token of a connection that does not exist cannot be stored: foreign keys are on.
    """
    with pytest.raises(IntegrityError):
        async with store.write() as connection:
            await connection.execute(insert(tokens).values(id="t", connection_id="none", created_at=1, updated_at=1))


async def test_one_identity_is_one_token(store: Store) -> None:
    """
    An absent tenant is the empty string, so that two rows of one identity collide.
    """
    row = {"connection_id": "c", "user_id": "u", "created_at": 1.0, "updated_at": 1.0}
    async with store.write() as connection:
        await connection.execute(insert(connections).values(id="c", settings={}, created_at=1, updated_at=1))
        await connection.execute(insert(tokens).values(id="t1", **row))
    with pytest.raises(IntegrityError) as caught:
        async with store.write() as connection:
            await connection.execute(insert(tokens).values(id="t2", **(row | {"token_sub": "canary-9f3"})))

    assert "canary-9f3" not in str(caught.value)  # parameters stay out of errors


async def test_deleting_a_connection_deletes_its_tokens(store: Store) -> None:
    """
    Contract section 11: a connection's tokens go with it.
    """
    async with store.write() as connection:
        await connection.execute(insert(connections).values(id="c", settings={}, created_at=1, updated_at=1))
        await connection.execute(insert(tokens).values(id="t", connection_id="c", created_at=1, updated_at=1))
        await connection.execute(connections.delete())
        left = (await connection.execute(select(func.count()).select_from(tokens))).scalar_one()

    assert 0 == left


async def test_seq_is_never_used_twice(store: Store) -> None:
    """
    A reader that waits behind the newest change does not miss the next one after a deletion.
    """
    await add(store)
    await add(store)
    async with store.write() as connection:
        newest = (await connection.execute(select(func.max(changes.c.seq)))).scalar_one()
        await connection.execute(changes.delete())
    await add(store)
    async with store.read() as connection:
        assert newest + 1 == (await connection.execute(select(func.max(changes.c.seq)))).scalar_one()


@pytest.mark.parametrize("engine", ["sqlite"])
async def test_deleted_content_is_overwritten(store: Store, database_path: Path) -> None:
    """
    What was deleted is in no file any more once the log is folded in.
    """
    await add(store, "canary-7d1")
    async with store.write() as connection:
        await connection.execute(changes.delete())
    await store.close()

    assert not [file.name for file in database_path.parent.iterdir() if b"canary-7d1" in file.read_bytes()]


async def test_url_may_leave_the_driver_out(database_path: Path) -> None:
    """
    sqlite:///PATH means the driver that is installed.
    """
    await (await Store.open(f"sqlite:///{database_path}")).close()

    assert is_database(database_path)


async def test_opening_waits_for_who_writes_without_a_log(database_path: Path) -> None:
    """
    A new file has no write-ahead log yet. SQLite refuses to begin one at once, busy timeout or not, while another
    process writes, as one does that is opened at the same moment.
    """
    database_path.parent.mkdir(mode=0o700)
    other = sqlite3.connect(database_path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    opening = asyncio.create_task(Store.open(sqlite_url(database_path)))
    await asyncio.sleep(0.2)
    assert not opening.done()
    other.execute("COMMIT")
    other.close()
    store = await opening
    await add(store)
    await store.close()


async def test_file_that_is_no_database_is_refused(database_path: Path) -> None:
    """
    A broken database is an error, never silently made anew.
    """
    write_file(database_path, b"this is no database, " * 200, 0o600)
    with pytest.raises(DatabaseError, match="not a database"):
        await Store.open(sqlite_url(database_path))

    assert not is_database(database_path)


def _write_rounds(url: str, name: str) -> None:
    async def rounds() -> None:
        store = await Store.open(url)
        for number in range(ROUNDS):
            await add(store, f"{name}-{number}")
        await store.close()

    asyncio.run(rounds())


async def test_two_processes_write_and_lose_nothing(database_url: str) -> None:
    """
    Two processes that create, upgrade and write one database at the same time both succeed.
    """
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=_write_rounds, args=(database_url, name)) for name in ("a", "b")]
    for writer in writers:
        writer.start()
    for writer in writers:
        await asyncio.to_thread(writer.join, 60)
    store = await Store.open(database_url)

    assert [0, 0] == [writer.exitcode for writer in writers]
    assert 2 * ROUNDS == await count(store)
    await store.close()


@pytest.mark.parametrize("engine", ["sqlite"])
async def test_readers_do_not_wait_for_a_writer(store: Store, database_path: Path) -> None:
    """
    While one transaction holds the lock, other connections read on; a writer that may not wait is told "locked".
    """
    impatient = sqlite3.connect(database_path, timeout=0.05, isolation_level=None)
    async with store.write() as connection:
        await connection.execute(insert(changes).values(topic="t", subject="s", at=1.0))
        assert 0 == await count(store)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            impatient.execute("BEGIN IMMEDIATE")
    impatient.execute("BEGIN IMMEDIATE")
    impatient.execute("ROLLBACK")
    impatient.close()

    assert 1 == await count(store)


class Clock:
    """Monotonic seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def watched(database_url: str) -> AsyncIterator[tuple[Store, Clock]]:
    """A database, and the clock by which it is left alone."""
    clock = Clock()
    store = await Store.open(database_url, monotonic=clock)
    yield store, clock
    await store.close()


async def fail(store: Store, error: type[Exception] = DatabaseError) -> None:
    """A read that the database cannot answer; or that fails with another *error*, which is not the database's."""
    with pytest.raises(error):
        async with store.read() as connection:
            if error is not DatabaseError:
                raise error
            await connection.execute(text("SELECT nothing FROM nowhere"))


async def test_reads_that_fail_in_a_row_pause_the_database(watched: tuple[Store, Clock]) -> None:
    """
    Readers and writers are refused at once then, with the seconds to wait; one probe lets everybody through again.
    """
    store, clock = watched
    for _ in range(FAILURES):
        await fail(store)
    for ask in (count, add):
        with pytest.raises(DatabasePaused) as info:
            await ask(store)
        assert 1 == info.value.retry_after
    clock.now += PAUSE_SECONDS

    assert 0 == await count(store)
    await add(store)


async def test_failures_count_only_in_a_row(watched: tuple[Store, Clock]) -> None:
    """
    A read or a write that succeeds in between says that the database is there.
    """
    store, _ = watched
    for ask in (count, add, count):
        for _ in range(FAILURES - 1):
            await fail(store)
        await ask(store)


async def test_errors_of_the_reader_count_for_nothing(watched: tuple[Store, Clock]) -> None:
    """
    What fails for another cause says nothing about the database, and leaves the probe to the next.
    """
    store, clock = watched
    for _ in range(2 * FAILURES):
        await fail(store, ValueError)
    assert 0 == await count(store)
    for _ in range(FAILURES):
        await fail(store)
    clock.now += PAUSE_SECONDS
    await fail(store, ValueError)

    assert 0 == await count(store)


async def test_writes_that_fail_pause_nothing_but_a_probe_does(watched: tuple[Store, Clock]) -> None:
    """
    A write may have failed over a lock; where a write is the probe, its failure begins the next pause.
    """
    store, clock = watched

    async def write(error: type[Exception]) -> None:
        with pytest.raises(error):
            async with store.write() as connection:
                if error is ValueError:
                    raise error
                await connection.execute(text("DELETE FROM nowhere"))

    for _ in range(2 * FAILURES):
        await write(DatabaseError)
    assert 0 == await count(store)
    for _ in range(FAILURES):
        await fail(store)
    clock.now += PAUSE_SECONDS
    await write(ValueError)
    await write(DatabaseError)
    await write(DatabasePaused)
    clock.now += PAUSE_SECONDS
    await add(store)

    assert 1 == await count(store)
