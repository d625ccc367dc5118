"""A PostgreSQL server that falls silent: nobody waits for it longer than agreed, and its connections are let go."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from sqlalchemy import func, insert, select
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from gateway.store import engine as engine_module
from gateway.store import postgres as postgres_module
from gateway.store.engine import DatabasePaused, Store
from gateway.store.schema import changes
from tests.fault_proxy import Fault, FaultProxy, fault_proxy
from tests.postgres import PostgresServer

SILENCE = Fault("request", "hang")
LIMIT_SECONDS = 8.0  # less than psycopg's own cancel takes (5 s, and 5 more for the answer), far more than it should


@dataclass
class Remote:
    """A database behind a network that can fall silent. *direct* leads around it."""

    store: Store
    proxy: FaultProxy
    direct: Store


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[str]:
    """An empty database of this test's own."""
    url = postgres.new_database()
    yield url
    postgres.give_back(url)


@asynccontextmanager
async def reached(postgres: PostgresServer, database: str) -> AsyncIterator[Remote]:
    """Yield *database* through a proxy. What was opened is closed, however it ends."""
    async with fault_proxy(path=postgres.socket_path) as proxy:
        direct = await Store.open(database)
        url = f"postgresql+psycopg://gateway@127.0.0.1:{proxy.port}{urlsplit(database).path}"
        store = await Store.open(url)
        try:
            yield Remote(store, proxy, direct)
        finally:
            await store.close()
            await direct.close()


@pytest.fixture
async def remote(postgres: PostgresServer, database: str) -> AsyncIterator[Remote]:
    """A database that answers, until a test has it fall silent."""
    async with reached(postgres, database) as remote:
        yield remote


async def count(store: Store) -> int:
    """How many changes there are, for somebody who waits."""
    async with store.read(is_lookup=True) as connection:
        return int((await connection.execute(select(func.count()).select_from(changes))).scalar_one())


async def add(store: Store) -> None:
    """Write one change."""
    async with store.write() as connection:
        await connection.execute(insert(changes).values(topic="t", subject="s", at=1.0))


async def is_lost(store: Store) -> bool:
    """Whether a read fails; nothing of the error is kept, whose frames hold on to what was opened in them."""
    try:
        await count(store)
    except (SQLAlchemyError, OSError):
        return True
    return False


def open_sockets() -> int:
    """How many descriptors of this process are sockets."""
    return sum(path.is_socket() for path in Path("/proc/self/fd").iterdir())


async def in_a_pooled_connection(remote: Remote) -> None:
    """The connection of an earlier read is tried before use."""
    await count(remote.store)
    remote.proxy.fault = SILENCE
    await count(remote.store)


async def in_a_new_connection(remote: Remote) -> None:
    """There is none in the pool, and nobody greets."""
    await remote.store.close()
    remote.proxy.fault = SILENCE
    await count(remote.store)


async def between_statements(remote: Remote) -> None:
    """The snapshot was begun, and the next statement is not answered."""
    async with remote.store.read(is_lookup=True) as connection:
        await connection.execute(select(1))
        remote.proxy.fault = SILENCE
        await connection.execute(select(1))


async def at_the_end(remote: Remote) -> None:
    """Everything was read; the rollback is not answered."""
    async with remote.store.read(is_lookup=True) as connection:
        await connection.execute(select(1))
        remote.proxy.fault = SILENCE


async def in_a_write(remote: Remote) -> None:
    """A statement of a write transaction is not answered."""
    async with remote.store.write() as connection:
        await connection.execute(select(1))
        remote.proxy.fault = SILENCE
        await connection.execute(insert(changes).values(topic="t", subject="s", at=1.0))


async def at_the_commit(remote: Remote) -> None:
    """The commit does not reach the server."""
    async with remote.store.write() as connection:
        await connection.execute(insert(changes).values(topic="t", subject="s", at=1.0))
        remote.proxy.fault = SILENCE


MOMENTS: tuple[Callable[[Remote], Awaitable[None]], ...] = (
    in_a_pooled_connection,
    in_a_new_connection,
    between_statements,
    at_the_end,
    in_a_write,
    at_the_commit,
)


@contextmanager
def hasty() -> Iterator[None]:
    """Transactions end after a time that a test can wait for; a single answer may take longer than they."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "LOOKUP_SECONDS", 1.0)
        patch.setattr(engine_module, "TRANSACTION_SECONDS", 1.0)
        yield


@pytest.mark.parametrize("moment", MOMENTS, ids=[moment.__name__ for moment in MOMENTS])
async def test_silence_costs_the_agreed_time(remote: Remote, moment: Callable[[Remote], Awaitable[None]]) -> None:
    """
    Whenever the server falls silent, the wait ends when its time is over: nobody is asked to cancel, or waited for; the
    next call is served.
    """
    await add(remote.direct)
    connections = remote.proxy.connections + (moment is in_a_new_connection)
    with hasty():
        async with asyncio.timeout(LIMIT_SECONDS):
            with pytest.raises((SQLAlchemyError, OSError)):
                await moment(remote)
    seen = remote.proxy.connections
    remote.proxy.fault = Fault()

    assert connections == seen
    assert 1 == await count(remote.store)


@pytest.mark.parametrize("moment", MOMENTS, ids=[moment.__name__ for moment in MOMENTS])
async def test_caller_that_goes_away_is_let_go(
    remote: Remote, moment: Callable[[Remote], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A call that is cancelled while the server is silent ends, at the latest when its time is over.
    """
    for name in ("LOOKUP_SECONDS", "TRANSACTION_SECONDS"):
        monkeypatch.setattr(engine_module, name, LIMIT_SECONDS / 2)
    caller = asyncio.ensure_future(moment(remote))
    await asyncio.sleep(0.5)  # it is waiting by now; were it not begun, it would end all the same
    caller.cancel()
    async with asyncio.timeout(LIMIT_SECONDS):
        with pytest.raises((asyncio.CancelledError, SQLAlchemyError)):
            await caller


async def test_single_answer_is_bounded_by_itself(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A server that does not answer one statement is told as such, before the transaction's time is over.
    """
    monkeypatch.setattr(postgres_module, "ANSWER_SECONDS", 0.3)
    with pytest.raises(OperationalError, match="does not answer"):
        await between_statements(remote)
    remote.proxy.fault = Fault()

    assert 0 == await count(remote.store)


async def test_commit_whose_answer_is_lost_is_an_error_and_may_count(remote: Remote) -> None:
    """
    A write of which nobody knows whether it was committed raises: here it was.
    """
    await add(remote.store)
    with hasty(), pytest.raises((SQLAlchemyError, OSError)):
        async with remote.store.write() as connection:
            await connection.execute(insert(changes).values(topic="t", subject="s", at=1.0))
            remote.proxy.fault = Fault("answer", "hang", 0)
    remote.proxy.fault = Fault()

    assert 2 == await count(remote.direct)


async def test_nothing_is_left_behind(postgres: PostgresServer, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    After a hundred calls of a silent server, more than there are connections, and their recovery, descriptors and tasks
    are what they were.
    """
    async with reached(postgres, database) as warm:
        await count(warm.store)
    before = (open_sockets(), len(asyncio.all_tasks()))
    monkeypatch.setattr(engine_module, "FAILURES", 1000)
    async with asyncio.timeout(60), reached(postgres, database) as remote:
        await asyncio.gather(*(count(remote.store) for _ in range(8)))
        remote.proxy.fault = SILENCE
        with hasty():
            lost = await asyncio.gather(*(is_lost(remote.store) for _ in range(100)))
        remote.proxy.fault = Fault()
        served = await asyncio.gather(*(count(remote.store) for _ in range(20)))

    assert all(lost)
    assert [0] * 20 == served
    async with asyncio.timeout(20):
        while before != (open_sockets(), len(asyncio.all_tasks())):
            await asyncio.sleep(0.1)
            gc.collect()  # psycopg leaves a connection whose opening was given up to the collector


async def test_silent_server_is_left_alone(
    postgres: PostgresServer, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    After two reads without an answer everybody is refused at once, readers and writers, until one has been answered.
    """
    monkeypatch.setattr(engine_module, "PAUSE_SECONDS", 4.0)
    async with asyncio.timeout(60), reached(postgres, database) as remote:
        await count(remote.store)
        remote.proxy.fault = SILENCE
        with hasty():
            assert [True, True] == [await is_lost(remote.store) for _ in range(2)]
        connections = remote.proxy.connections
        for ask in (count, add, count):
            with pytest.raises(DatabasePaused) as info:
                await ask(remote.store)
            assert 1 <= info.value.retry_after <= 4
        assert connections == remote.proxy.connections
        remote.proxy.fault = Fault()
        for _ in range(200):
            if not await is_lost(remote.store):
                break
            await asyncio.sleep(0.1)
        await add(remote.store)

        assert 1 == await count(remote.direct)
