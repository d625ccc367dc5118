"""Callers that do not read: each costs a bounded piece of memory, and nobody else notices."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.e2e.gateway_process import MAX_LOOP_LAG_SECONDS, RunningProcess, serving, witness
from tests.proxy.wire import request
from tests.world import Received, Upstream, answer, create_connection, settings

READERS = 200
ANSWER_BYTES = 1 << 30
BLOCK = b"\0" * 65_536
MAX_GROWTH_BYTES = 100 << 20  # threats G3: 200 slow readers of 1 GiB
GUARD_SECONDS = 60.0

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists() or os.geteuid() != 0,
    reason="the memory of a process is read from Linux's /proc, and that of a serving gateway is root's",
)


@needs_proc
async def test_slow_readers_cost_bounded_memory(tmp_path: Path, upstream: Upstream) -> None:
    """
    200 callers ask for 1 GiB each and stop reading: the gateway stops as well, stays small, and serves others.
    """
    written = dict.fromkeys(range(READERS), 0)
    over = asyncio.Event()

    async def respond(received: Received, writer: asyncio.StreamWriter) -> None:
        number = received.request_line.split(" ")[1].removeprefix("/large/")
        if not number.isdigit():
            writer.write(answer(200, b"{}"))
            return
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % ANSWER_BYTES)
        while not over.is_set() and written[int(number)] < ANSWER_BYTES:
            writer.write(BLOCK)
            await writer.drain()
            written[int(number)] += len(BLOCK)

    upstream.respond = respond
    route = {"name": "api", "prefix": "/api", "upstream": upstream.url, "connection": "api"}
    async with (
        asyncio.timeout(GUARD_SECONDS),
        witness() as machine,
        serving(settings(route), tmp_path / "data") as gateway,
    ):
        await create_connection(gateway, None)
        await gateway.connect("ada", access_token="T1")
        key = await gateway.agent_key("ada")
        assert 200 == await _call(gateway, key)
        before = gateway.process.rss_bytes
        gateway.process.forget_peak()
        writers = [await _ask(gateway, request("GET", f"/api/large/{n}", credential=key)) for n in range(READERS)]
        await _stalled(written)
        status = await _call(gateway, key)
        growth = gateway.process.peak_rss_bytes - before
        lag = await machine.lag_beyond(gateway)
        over.set()
        for writer in writers:
            writer.transport.abort()

    assert 200 == status
    assert min(written.values()) > 0
    assert growth < MAX_GROWTH_BYTES
    assert lag < MAX_LOOP_LAG_SECONDS


async def _call(gateway: RunningProcess, key: str) -> int:
    headers = {"Authorization": f"Bearer {key}"}
    async with gateway.session.get(f"{gateway.url}/api/small", headers=headers) as response:
        await response.read()
        return response.status


async def _ask(gateway: RunningProcess, data: bytes) -> asyncio.StreamWriter:
    """Send *data* on a connection of its own, of whose answer no more is read than fits the reader's buffer."""
    parts = urlsplit(gateway.url)
    _, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1024)
    writer.write(data)
    return writer


async def _stalled(written: dict[int, int]) -> None:
    """Return when nothing has been written for a while."""
    before, quiet = -1, 0
    while quiet < 10:
        await asyncio.sleep(0.1)
        now = sum(written.values())
        quiet = quiet + 1 if now == before else 0
        before = now
