"""
Ten times the callers that a route takes, patient ones and hasty ones: how much it serves then, and after it.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from tests.e2e.gateway_process import RunningProcess, serving
from tests.proxy.wire import calling, request
from tests.world import Received, Upstream, answer, create_connection, settings

CONCURRENT = 20
TIMES = 10  # threats R41
UPSTREAM_SECONDS = 0.02  # 20 at once: 1,000 calls a second at most
PHASE_SECONDS = 5.0
WAIT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Phase:
    """What so many *callers* got in a second, and how many answers were neither theirs nor a proper refusal."""

    callers: int
    served_a_second: float
    refused_a_second: float
    wrong: int


@dataclass(frozen=True, slots=True)
class Overload:
    """Before: as many callers as the route takes. Patient ones heed Retry-After, hasty ones call again at once."""

    before: Phase
    patient: Phase
    hasty: Phase
    after: Phase


async def overload(data: Path) -> Overload:
    """Call a route with `concurrent` set, with as many callers as that and with ten times as many."""
    with _upstream() as url:
        route = {"name": "api", "prefix": "/api", "upstream": url, "connection": "api"}
        configuration = settings({**route, "limits": {"concurrent": CONCURRENT}})
        async with serving(configuration, data) as gateway:
            await create_connection(gateway, None)
            await gateway.connect("ada", access_token="T1")  # noqa: S106  # made up
            key = await gateway.agent_key("ada")
            return Overload(
                before=await _phase(gateway, key, callers=CONCURRENT, are_patient=True),
                patient=await _phase(gateway, key, callers=TIMES * CONCURRENT, are_patient=True),
                hasty=await _phase(gateway, key, callers=TIMES * CONCURRENT, are_patient=False),
                after=await _phase(gateway, key, callers=CONCURRENT, are_patient=True),
            )


async def _phase(gateway: RunningProcess, key: str, *, callers: int, are_patient: bool) -> Phase:
    served = refused = wrong = 0
    until = time.monotonic() + PHASE_SECONDS

    async def call_on(number: int) -> None:
        nonlocal served, refused, wrong
        async with calling(gateway, wait_seconds=WAIT_SECONDS) as caller:
            while time.monotonic() < until:
                await caller.send(request("GET", f"/api/{number}", credential=key))
                got = await caller.answer()
                if (got.status, got.body) == (200, b"/%d" % number):
                    served += 1
                elif got.code == "upstream_overloaded" and got.values("Retry-After"):
                    refused += 1
                    await asyncio.sleep(int(got.values("Retry-After")[0]) if are_patient else 0)
                else:
                    wrong += 1

    await asyncio.gather(*map(call_on, range(callers)))
    return Phase(callers, served / PHASE_SECONDS, refused / PHASE_SECONDS, wrong)


@contextmanager
def _upstream() -> Iterator[str]:
    """Run the upstream in a process of its own: what the callers cost is not its business."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        process.terminate()
        process.join()


def _serve(parent: Connection[str, str]) -> None:
    async def serve() -> None:
        upstream = await Upstream().start()

        async def respond(received: Received, writer: asyncio.StreamWriter) -> None:
            upstream.received.clear()
            await asyncio.sleep(UPSTREAM_SECONDS)
            writer.write(answer(200, received.request_line.split(" ")[1].encode()))

        upstream.respond = respond
        parent.send(upstream.url)
        await asyncio.Event().wait()

    asyncio.run(serve())
