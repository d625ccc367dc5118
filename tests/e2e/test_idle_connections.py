"""Strangers who connect and say nothing, or half a sentence: they cost little, and nobody else notices."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e import crowd
from tests.e2e.gateway_process import MAX_LOOP_LAG_SECONDS, serving, witness
from tests.proxy.wire import RawCaller, calling, request
from tests.world import Received, Upstream, answer, create_connection, settings

STRANGERS = 10_000  # threats G1, R33
FEWEST_STRANGERS = 4_000  # where the system gives no more descriptors
SPARE_DESCRIPTORS = 1_000
MAX_BYTES_EACH = 40 << 10  # threats R33: 10,000 in 400 MiB
GUARD_SECONDS = 120.0
BODY_BYTES = 100_000

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/fd").exists() or os.geteuid() != 0,
    reason="memory and descriptors of a process are read from Linux's /proc, and those of a serving gateway are root's",
)


@needs_proc
async def test_strangers_who_say_nothing_cost_little(tmp_path: Path, upstream: Upstream) -> None:
    """
    10,000 strangers connect and wait, then every tenth begins a head: these are told 408, the others are kept, calls
    are served all the while, and afterwards nothing is left of any.
    """

    async def respond(received: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(200, body_of(received.request_line.split(" ")[1])))

    upstream.respond = respond
    route = {"name": "api", "prefix": "/api", "upstream": upstream.url, "connection": "api"}
    configuration = settings(route)
    with crowd.many_descriptors() as most:
        count = min(STRANGERS, most - SPARE_DESCRIPTORS)
        if count < FEWEST_STRANGERS:
            pytest.skip(f"the system gives {most} descriptors: ulimit -Hn")
        configuration["listeners"]["traffic"]["limits"] = {"connections": count + 100}
        async with (
            asyncio.timeout(GUARD_SECONDS),
            witness() as machine,
            serving(configuration, tmp_path / "data") as gateway,
        ):
            await create_connection(gateway, None)
            await gateway.connect("ada", access_token="T1")
            key = await gateway.agent_key("ada")
            process = gateway.process
            async with calling(gateway, wait_seconds=30) as caller:
                assert await is_served(caller, key, 0)
                rss, descriptors = process.rss_bytes, process.descriptors
                is_over = asyncio.Event()
                calls = asyncio.create_task(call_until(is_over, caller, key))
                strangers = await asyncio.to_thread(crowd.connect, gateway.url, count)
                try:
                    assert await eventually(lambda: process.descriptors >= descriptors + count)
                    bytes_each = (process.rss_bytes - rss) / count
                    talking, silent = strangers[::10], [each for n, each in enumerate(strangers) if n % 10]
                    await asyncio.to_thread(crowd.say, talking, b"GET /api/x HTTP/1.1\r\nHost: ")
                    told = await asyncio.to_thread(crowd.hear, talking)
                    kept = sum(map(crowd.is_open, silent))
                finally:
                    await leave(strangers)
                is_back = await eventually(lambda: process.descriptors <= descriptors)
                is_over.set()
                served = await calls
            lag = await machine.lag_beyond(gateway)

    print(f"{count} strangers: {bytes_each / 1024:.1f} KiB each, {served} calls meanwhile, lag {lag * 1000:.0f} ms")
    assert {b"HTTP/1.1 408 "} == {got[:13] for got in told}
    assert len(silent) == kept
    assert bytes_each < MAX_BYTES_EACH
    assert is_back
    assert 0 < served
    assert lag < MAX_LOOP_LAG_SECONDS


def body_of(path: str) -> bytes:
    return path.encode().ljust(BODY_BYTES, b".")


async def is_served(caller: RawCaller, key: str, number: int) -> bool:
    """Call on a connection that stays, and return whether the whole of the right answer came."""
    await caller.send(request("GET", f"/api/{number}", credential=key))
    got = await caller.answer()
    return (200, body_of(f"/{number}"), True) == (got.status, got.body, got.is_whole)


async def call_until(is_over: asyncio.Event, caller: RawCaller, key: str) -> int:
    """Call again and again; return how many calls were served, or 0 if one was not."""
    number = 0
    while not is_over.is_set():
        number += 1
        if not await is_served(caller, key, number):
            return 0
        await asyncio.sleep(0.01)  # others need the machine too
    return number


async def leave(strangers: list[socket.socket]) -> None:
    """End all connections, some at a time: what all at once costs, `make soak` measures."""
    for start in range(0, len(strangers), 200):
        for stranger in strangers[start : start + 200]:
            stranger.close()
        await asyncio.sleep(0.01)


async def eventually(holds: Callable[[], bool]) -> bool:
    """Wait until *holds* is true, for as long as a crowd may take; return whether it is."""
    for _ in range(300):
        if holds():
            return True
        await asyncio.sleep(0.1)
    return False
