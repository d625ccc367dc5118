"""More than the gateway takes: the surplus is refused at once, what is taken is right, and nothing of it lasts."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

from tests.e2e.gateway_process import MAX_LOOP_LAG_SECONDS, RunningProcess, serving, witness
from tests.proxy.wire import RawCaller, WireAnswer, calling, request
from tests.world import Received, Upstream, answer, create_connection, settings

CONCURRENT = 90
TIMES = 10  # threats R41
CONNECTIONS = 50
WAIT_SECONDS = 30.0
GUARD_SECONDS = 90.0


class Gate:
    """What an upstream does: it answers with the path that was asked for, once it is open."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()

    async def respond(self, received: Received, writer: asyncio.StreamWriter) -> None:
        await self.opened.wait()
        writer.write(answer(200, received.request_line.split(" ")[1].encode()))


async def test_calls_beyond_the_limit_are_refused_at_once(tmp_path: Path, upstream: Upstream) -> None:
    """
    Ten times what a route takes while its upstream hangs: the surplus is told 503 at once, another route serves all of
    its calls meanwhile, each call that was taken gets its own answer in the end, and so do as many after it.
    """
    gate, hanging = Gate(), await Upstream().start()
    hanging.respond = gate.respond
    slow = api(hanging, concurrent=CONCURRENT) | {"name": "slow", "prefix": "/slow"}
    async with witness() as machine, of_routes(tmp_path, slow, api(upstream, concurrent=CONCURRENT)) as gateway:
        key = await gateway.agent_key("ada")
        begun = calls(gateway, "/slow/1", key, TIMES * CONCURRENT)
        others = [await call(gateway, "/api/x", key) for _ in range(CONCURRENT)]
        refused, waiting = await surplus_of(begun)
        others += await asyncio.gather(*calls(gateway, "/api/x", key, CONCURRENT))
        gate.opened.set()
        served = await asyncio.gather(*waiting)
        after = await asyncio.gather(*calls(gateway, "/slow/2", key, CONCURRENT))
        lag = await machine.lag_beyond(gateway)
        outcomes = Counter(line["status"] for line in gateway.lines("outcome"))
    await hanging.stop()

    assert [(503, "upstream_overloaded", ["1"])] * ((TIMES - 1) * CONCURRENT) == list(map(said, refused))
    assert [200] * (2 * CONCURRENT) == [got.status for got in others]
    assert CONCURRENT == len({got.body for got in served if got.body.startswith(b"/1.")})
    assert [200] * CONCURRENT == [got.status for got in served]
    assert [(200, b"/2.%d" % number) for number in range(CONCURRENT)] == [(got.status, got.body) for got in after]
    assert 2 * CONCURRENT == len(hanging.received)  # nothing of the surplus was sent
    assert 4 * CONCURRENT == outcomes[200]
    assert lag < MAX_LOOP_LAG_SECONDS


async def test_greedy_caller_leaves_room_for_others(tmp_path: Path, upstream: Upstream) -> None:
    """
    One caller sends ten times what the route takes of each: its surplus is told 429, and another caller is served.
    """
    gate = Gate()

    async def respond(received: Received, writer: asyncio.StreamWriter) -> None:
        if received.values("Authorization") == ["Bearer T2"]:
            writer.write(answer(200, b"bob"))
        else:
            await gate.respond(received, writer)

    upstream.respond = respond
    async with of_routes(tmp_path, api(upstream, concurrent_per_caller=CONCURRENT)) as gateway:
        await gateway.connect("bob", access_token="T2")
        ada, bob = await gateway.agent_key("ada"), await gateway.agent_key("bob")
        greedy = calls(gateway, "/api/x", ada, TIMES * CONCURRENT)
        others = [await call(gateway, "/api/x", bob) for _ in range(CONCURRENT)]
        refused, waiting = await surplus_of(greedy)
        others += [await call(gateway, "/api/x", bob) for _ in range(CONCURRENT)]
        gate.opened.set()
        served = await asyncio.gather(*waiting)

    assert [(429, "rate_limited", ["1"])] * ((TIMES - 1) * CONCURRENT) == list(map(said, refused))
    assert [200] * CONCURRENT == [got.status for got in served]
    assert [(200, b"bob")] * (2 * CONCURRENT) == [(got.status, got.body) for got in others]


async def test_connections_beyond_the_limit_are_refused_at_once(tmp_path: Path, upstream: Upstream) -> None:
    """
    Ten times as many connections as are taken: the surplus is told 503, those that were taken are served, and when they
    have gone, a new one is taken.
    """
    async with of_routes(tmp_path, api(upstream), connections=CONNECTIONS) as gateway:
        key = await gateway.agent_key("ada")
        async with AsyncExitStack() as opened:
            held = [await opened.enter_async_context(calling(gateway)) for _ in range(CONNECTIONS)]
            before = [await ask(caller, "/api/x", key) for caller in held]
            surplus = await asyncio.gather(
                *calls(gateway, "/api/x", key, (TIMES - 1) * CONNECTIONS), return_exceptions=True
            )
            after = [await ask(caller, "/api/x", key) for caller in held]
        for _ in range(100):
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                if 200 == (late := await call(gateway, "/api/x", key)).status:
                    break
            await asyncio.sleep(0.1)

    assert [200] * 2 * CONNECTIONS == [got.status for got in before + after]
    told = [got for got in surplus if isinstance(got, WireAnswer)]
    assert [(503, "too_many_connections", ["5"])] * len(told) == list(map(said, told))
    # Some are told so at once, the others are reset.
    assert all(isinstance(got, WireAnswer | ConnectionError | asyncio.IncompleteReadError) for got in surplus)
    assert 200 == late.status


def api(upstream: Upstream, **limits: int) -> dict[str, Any]:
    route = {"name": "api", "prefix": "/api", "upstream": upstream.url, "connection": "api"}
    return {**route, "limits": limits}


@asynccontextmanager
async def of_routes(tmp_path: Path, *routes: dict[str, Any], **limits: int) -> AsyncIterator[RunningProcess]:
    """Run a gateway with *routes* and the connection *limits*; user "ada" is connected with the token T1."""
    configuration = settings(*routes)
    configuration["listeners"]["traffic"]["limits"] = limits
    async with asyncio.timeout(GUARD_SECONDS), serving(configuration, tmp_path / "data") as gateway:
        await create_connection(gateway, None)
        await gateway.connect("ada", access_token="T1")
        yield gateway


def calls(gateway: RunningProcess, path: str, key: str, count: int) -> list[asyncio.Task[WireAnswer]]:
    """Begin *count* calls at once, each on a connection and with a path of its own."""
    return [asyncio.create_task(call(gateway, f"{path}.{number}", key)) for number in range(count)]


async def call(gateway: RunningProcess, path: str, key: str) -> WireAnswer:
    async with calling(gateway, wait_seconds=WAIT_SECONDS) as caller:
        return await ask(caller, path, key)


async def ask(caller: RawCaller, path: str, key: str) -> WireAnswer:
    await caller.send(request("GET", path, credential=key))
    return await caller.answer()


async def surplus_of(
    begun: list[asyncio.Task[WireAnswer]],
) -> tuple[list[WireAnswer], list[asyncio.Task[WireAnswer]]]:
    """Return the answers that come while the upstream gives none, and the calls that the route has taken."""
    first = [await each for each in islice(asyncio.as_completed(begun), len(begun) - CONCURRENT)]
    return first, [each for each in begun if not each.done()]


def said(got: WireAnswer) -> tuple[int, str | None, list[str]]:
    return got.status, got.code, got.values("Retry-After")
