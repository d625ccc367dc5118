"""A database of either engine, empty; `engine` is overridden where a rule is about one of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.store.engine import Store, sqlite_url
from tests.postgres import PostgresServer

ENGINES = ("sqlite", "postgresql")


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """Every rule holds on both engines."""
    return str(request.param)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where SQLite's file lies."""
    return tmp_path / "state" / "gateway.db"


@pytest.fixture
def database_url(engine: str, path: Path, request: pytest.FixtureRequest) -> str:
    """A database of this test's own."""
    if engine == "sqlite":
        return sqlite_url(path)
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_database()


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    """An open database."""
    store = await Store.open(database_url)
    yield store
    await store.close()
