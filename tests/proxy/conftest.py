"""One gateway with one route, an upstream, a provider and an issuer: what most tests of the data path need."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.proxy.tokens import ConnectionTokens
from tests.proxy.ledger import KEY, T1, Clock, Ledger
from tests.world import Issuer, Provider, Running, Upstream, create_connection, running, settings


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    """An upstream that takes any token until told otherwise."""
    server = await Upstream().start()
    yield server
    await server.stop()


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    """A provider that rotates refresh tokens."""
    server = await Provider().start()
    yield server
    await server.stop()


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    """An issuer that the gateway trusts."""
    server = await Issuer().start()
    yield server
    await server.stop()


@pytest.fixture
async def gateway(tmp_path: Path, upstream: Upstream, provider: Provider, issuer: Issuer) -> AsyncIterator[Running]:
    """A gateway with the route /api; user "ada" is connected with the token T1."""
    route = {"name": "api", "prefix": "/api", "upstream": upstream.url, "connection": "api"}
    async with running(settings(route, issuers=(issuer,)), tmp_path / "data") as gateway:
        await create_connection(gateway, provider)
        await gateway.connect("ada", access_token="T1", refresh_token=provider.issue())
        yield gateway


@pytest.fixture
def clock() -> Clock:
    """The clock of `tokens`."""
    return Clock()


@pytest.fixture
def ledger() -> Ledger:
    """A token service with one token."""
    service = Ledger()
    service.stored[KEY] = T1
    return service


@pytest.fixture
def tokens(ledger: Ledger, clock: Clock) -> ConnectionTokens:
    """The data path's tokens, from `ledger`."""
    return ConnectionTokens(ledger, clock=clock, monotonic=clock)
