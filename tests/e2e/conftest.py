"""The servers around a gateway that runs as a process of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from websockets.asyncio.server import serve

from tests.e2e.websocket_ends import MEGABYTE, Echo
from tests.world import Issuer, Provider, Upstream


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    """An upstream that takes any token until told otherwise, and records what arrives."""
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
    """An issuer that the gateways trust."""
    server = await Issuer().start()
    yield server
    await server.stop()


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    """A WebSocket server."""
    echo = Echo()
    async with serve(
        echo.handle,
        "127.0.0.1",
        0,
        process_request=echo.judge,
        max_size=4 * MEGABYTE,
        select_subprotocol=lambda _, offered: offered[0] if offered else None,
    ) as server:
        echo.port = next(iter(server.sockets)).getsockname()[1]
        yield echo
