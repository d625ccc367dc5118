"""
What every test may use: a strict OAuth provider, a PostgreSQL server, and a database of either engine.

A test that takes `engine`, `database_url`, or a fixture made of them runs on both engines. Where the rule is one
engine's, or not the database's, `pytest.mark.parametrize("engine", ["sqlite"])` says so. The rooms keep their own
fixtures.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import structlog

from gateway.store.engine import sqlite_url
from tests.oidc_provider_process import OidcProviderProcess
from tests.postgres import PostgresServer

ENGINES = ("sqlite", "postgresql")


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    """What a command or a gateway of one test has made of the logs, the next test does not meet."""
    yield
    structlog.reset_defaults()


@pytest.fixture
async def oidc_provider() -> AsyncIterator[OidcProviderProcess]:
    """npm's oidc-provider, freshly started: rotation always on, reuse revokes the grant."""
    async with OidcProviderProcess() as provider:
        yield provider


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server; each test takes a database of its own from it."""
    with PostgresServer() as server:
        yield server


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """Which engine the database is: one of `ENGINES`."""
    return str(request.param)


@pytest.fixture
def database_path(tmp_path: Path) -> Path:
    """Where SQLite's file lies."""
    return tmp_path / "data" / "gateway.db"


@pytest.fixture
def database_url(engine: str, database_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty database of this test's own."""
    if engine == "sqlite":
        yield sqlite_url(database_path)
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    url = server.new_database()
    yield url
    server.give_back(url)
