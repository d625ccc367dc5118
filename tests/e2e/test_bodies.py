"""Bodies pass as they come: no size fills the gateway's memory, no slow side makes it collect, no stream waits."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from tests.e2e.gateway_process import RunningProcess, serving
from tests.world import Received, Upstream, answer, create_connection, settings

BLOCK = os.urandom(1 << 20)
BLOCKS = 200
BODY_BYTES = BLOCKS * len(BLOCK)
MAX_GROWTH_BYTES = 30 << 20  # issue 2: "with the process' memory flat (within 30 MB)"
MAX_SECONDS = 20.0

Pace = Callable[[int], Awaitable[None]]


class Meter:
    """Counts what passed one end of a transfer, and digests it."""

    def __init__(self) -> None:
        self.bytes = 0
        self._hash = hashlib.sha256()

    def count(self, data: bytes) -> None:
        """Add *data*."""
        self.bytes += len(data)
        self._hash.update(data)

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    async def wait_until_stalled(self) -> None:
        """Return when nothing has passed for a while: the other end has been stopped by back-pressure, or by the end."""
        before, quiet = -1, 0
        while quiet < 10:
            await asyncio.sleep(0.01)
            quiet = quiet + 1 if self.bytes == before else 0
            before = self.bytes


@pytest.fixture
async def gateway(tmp_path: Path, upstream: Upstream) -> AsyncIterator[RunningProcess]:
    """A gateway process with the route /api for bodies up to 256 MB; user "ada" is connected."""
    route = {"name": "api", "prefix": "/api", "upstream": upstream.url, "connection": "api"}
    route_with_limits = {**route, "limits": {"max_body_bytes": 256 << 20}}
    async with serving(settings(route_with_limits), tmp_path / "data") as gateway:
        await create_connection(gateway, None)
        await gateway.connect("ada", access_token="T1")
        yield gateway


@pytest.mark.parametrize("slow", ["neither side is slow", "the caller reads slowly", "the upstream writes slowly"])
async def test_download_passes_with_flat_memory(gateway: RunningProcess, upstream: Upstream, slow: str) -> None:
    """
    A 200 MB answer reaches the caller whole, and the gateway holds no more than it did before.
    """
    sent, received = Meter(), Meter()

    async def pace_writing(number: int) -> None:
        if slow == "the upstream writes slowly":
            await asyncio.sleep(0.005)

    async def pace_reading(number: int) -> None:
        if slow == "the caller reads slowly" and number % (BLOCKS // 4) == 1:
            await sent.wait_until_stalled()

    upstream.respond = _download(sent, pace_writing)
    headers = await _headers(gateway)
    await _call_once(gateway, headers)
    before = gateway.process.rss_bytes
    gateway.process.forget_peak()

    async with (
        asyncio.timeout(MAX_SECONDS),
        gateway.session.get(f"{gateway.url}/api/large", headers=headers) as response,
    ):
        number = 0
        async for chunk in response.content.iter_chunked(len(BLOCK)):
            if received.bytes // len(BLOCK) > number:
                number = received.bytes // len(BLOCK)
                await pace_reading(number)
            received.count(chunk)

    assert 200 == response.status
    assert BODY_BYTES == received.bytes
    assert sent.digest == received.digest
    assert gateway.process.peak_rss_bytes - before < MAX_GROWTH_BYTES


@pytest.mark.parametrize("framing", ["Content-Length", "chunked"])
@pytest.mark.parametrize("slow", ["neither side is slow", "the upstream reads slowly", "the caller writes slowly"])
async def test_upload_passes_with_flat_memory(
    gateway: RunningProcess, upstream: Upstream, slow: str, framing: str
) -> None:
    """
    A 200 MB request reaches the upstream whole, and the gateway holds no more than it did before.
    """
    sent, received = Meter(), Meter()

    async def pace_reading(number: int) -> None:
        if slow == "the upstream reads slowly" and number % (BLOCKS // 4) == 1:
            await sent.wait_until_stalled()

    async def body() -> AsyncIterator[bytes]:
        for number in range(BLOCKS):
            if slow == "the caller writes slowly":
                await asyncio.sleep(0.005)
            block = _block(number)
            sent.count(block)
            yield block

    headers = await _headers(gateway)
    await _call_once(gateway, headers)
    reader = UploadReader(received, pace_reading)
    server = await asyncio.start_server(reader.serve, "127.0.0.1", 0)
    upstream.early = None
    before = gateway.process.rss_bytes
    gateway.process.forget_peak()
    if framing == "Content-Length":
        headers["Content-Length"] = str(BODY_BYTES)

    async with (
        asyncio.timeout(MAX_SECONDS),
        gateway.session.put(f"{gateway.url}/api/large", data=body(), headers=headers) as response,
    ):
        await response.read()

    server.close()
    assert 200 == response.status
    assert BODY_BYTES == received.bytes
    assert sent.digest == received.digest
    assert gateway.process.peak_rss_bytes - before < MAX_GROWTH_BYTES
