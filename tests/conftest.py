"""What every test may use: a strict OAuth provider and a PostgreSQL server. The rooms keep their own fixtures."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import structlog

from tests.oidc_provider_process import OidcProviderProcess
from tests.postgres import PostgresServer


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
