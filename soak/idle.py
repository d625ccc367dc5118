"""
Thousands of strangers who connect and say nothing: what they cost, and what the loop does when all of them go at once.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.e2e import crowd
from tests.e2e.gateway_process import RunningProcess, serving
from tests.proxy.wire import calling, request
from tests.world import Upstream, create_connection, settings

CALLS_APART_SECONDS = 0.02
LOOK_SECONDS = 0.2
MAX_SECONDS = 300.0  # they are let go after 75, and the machine may have other work


@dataclass(frozen=True, slots=True)
class Idle:
    """What *strangers* idle connections cost. Lags are the loop's worst in the minute after which they were read."""

    strangers: int
    bytes_each: float
    lag_when_they_leave: float
    lag_when_let_go: float
    seconds_until_let_go: float
    descriptors_left: int
    calls: int
    calls_refused: int
    slowest_call_seconds: float


async def idle(data: Path, *, strangers: int) -> Idle:
    """Have so many strangers come and leave at once, and as many come and be let go, while one caller calls."""
    upstream = await Upstream().start()
    configuration = settings({"name": "api", "prefix": "/api", "upstream": upstream.url, "connection": "api"})
    configuration["listeners"]["traffic"]["limits"] = {"connections": strangers + 100}
    async with asyncio.timeout(MAX_SECONDS), serving(configuration, data) as gateway:
        await create_connection(gateway, None)
        await gateway.connect("ada", access_token="T1")  # noqa: S106  # made up
        calls: list[tuple[int, float]] = []
        calling_on = asyncio.create_task(_call(gateway, await gateway.agent_key("ada"), calls))
        await _until(lambda: bool(calls))
        memory, descriptors = gateway.process.rss_bytes, gateway.process.descriptors

        come = await _come(gateway, strangers, descriptors)
        bytes_each = (gateway.process.rss_bytes - memory) / strangers
        for stranger in come:
            stranger.close()
        await _until(lambda: gateway.process.descriptors <= descriptors)
        lag_when_they_leave = await gateway.loop_lag_seconds()

        come = await _come(gateway, strangers, descriptors)
        began = time.monotonic()
        await _until(lambda: gateway.process.descriptors <= descriptors)
        seconds = time.monotonic() - began
        lag_when_let_go = await gateway.loop_lag_seconds()
        left = gateway.process.descriptors - descriptors
        calling_on.cancel()
        for stranger in come:
            stranger.close()
    await upstream.stop()
    return Idle(
        strangers=strangers,
        bytes_each=bytes_each,
        lag_when_they_leave=lag_when_they_leave,
        lag_when_let_go=lag_when_let_go,
        seconds_until_let_go=seconds,
        descriptors_left=left,
        calls=len(calls),
        calls_refused=sum(status != 200 for status, _ in calls),
        slowest_call_seconds=max(took for _, took in calls),
    )


async def _call(gateway: RunningProcess, key: str, calls: list[tuple[int, float]]) -> None:
    async with calling(gateway, wait_seconds=MAX_SECONDS) as caller:
        while True:
            began = time.monotonic()
            await caller.send(request("GET", "/api/x", credential=key))
            status = (await caller.answer()).status
            calls.append((status, time.monotonic() - began))
            await asyncio.sleep(CALLS_APART_SECONDS)


async def _come(gateway: RunningProcess, strangers: int, descriptors: int) -> list[socket.socket]:
    come = await asyncio.to_thread(crowd.connect, gateway.url, strangers)
    await _until(lambda: gateway.process.descriptors >= descriptors + strangers)
    return come


async def _until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110  # what is waited for happens in another process
        await asyncio.sleep(LOOK_SECONDS)
