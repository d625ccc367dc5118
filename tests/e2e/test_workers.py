"""
`gateway serve --workers 2`: two processes behind one address, which are one gateway to everybody.

Which of them takes a connection is the kernel's choice, at random: CROWD connections reach both, but for once in half a
million times.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from tests.e2e.gateway_process import RunningProcess, children, serving
from tests.proxy.wire import eventually, request
from tests.world import Provider, Received, Upstream, answer, create_connection, key_ring, settings

CROWD = 20
SECONDS = 1.0  # after which a revoked key is refused
GUARD_SECONDS = 60.0


@pytest.fixture
def upstream(upstream: Upstream) -> Upstream:
    """An upstream that says which token it saw: the beginning of it."""

    async def respond(received: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(200, _token(received)))

    upstream.respond = respond
    return upstream


def _token(received: Received) -> bytes:
    return received.values("Authorization")[0].removeprefix("Bearer ")[:8].encode()


@asynccontextmanager
async def crew(
    tmp_path: Path, upstream: Upstream, *, environ: dict[str, str] | None = None, **more: Any
) -> AsyncIterator[RunningProcess]:
    """Run a gateway with two workers, both ready, and the route "api" to *upstream*; *more* is configuration."""
    route = {"name": "api", "prefix": "/api", "upstream": upstream.url, "connection": "api"}
    environ = {"GATEWAY_WORKERS": "2", **(environ or {})}
    configuration = settings(route, **more)
    async with asyncio.timeout(GUARD_SECONDS), serving(configuration, tmp_path / "data", environ=environ) as gateway:
        await _says(gateway, 200)
        yield gateway


async def test_two_workers_are_one_gateway(
    tmp_path: Path, database_url: str, upstream: Upstream, provider: Provider
) -> None:
    """
    Whoever of them is asked: one exchange renews a dead token, a token that is replaced is used, a revoked key is
    refused, and metrics tell of both. Both write a record, whole and their own.
    """
    async with crew(tmp_path, upstream, environ={"GATEWAY_DATABASE_URL": database_url}) as gateway:
        await create_connection(gateway, provider)
        await gateway.connect("ada", access_token="T1", refresh_token=provider.issue(), accessTokenExpiry=1)
        key = await gateway.agent_key("ada")

        assert {(200, "access-1")} == set(await _crowd(gateway, key))
        assert (1, 0) == (provider.exchanges, provider.reused)

        served = await _served(gateway)
        assert (["1", "2"], CROWD) == (sorted(served), sum(served.values()))

        await gateway.connect("ada", access_token="T2")
        await asyncio.sleep(SECONDS)
        assert {(200, "T2")} == set(await _crowd(gateway, key))

        async with key_ring(gateway.data, database_url) as ring:
            assert await ring.revoke(key.split("_")[1])
        await asyncio.sleep(SECONDS)
        assert {(401, "caller_unauthenticated")} == set(await _crowd(gateway, key))

    records = _records(gateway)
    assert 2 == len(records)
    assert all(any(line["event"] == "intent" for line in record) for record in records)
    assert 2 * CROWD == sum(line["event"] == "intent" for record in records for line in record)


async def test_killed_worker_is_replaced(tmp_path: Path, upstream: Upstream, provider: Provider) -> None:
    """
    Kill -9 costs what was under way in that worker: the other serves on, grants stay, no line of a record is torn, and
    the gateway is ready again when the new worker is.
    """
    async with crew(tmp_path, upstream) as gateway:
        await create_connection(gateway, provider)
        await gateway.connect("ada", access_token="T1", refresh_token=provider.issue())
        key = await gateway.agent_key("ada")
        stop = asyncio.Event()
        load = asyncio.create_task(_until(stop, gateway, key))
        former = children(gateway.process.pid)

        os.kill(former[1], signal.SIGKILL)
        assert await eventually(lambda: len(set(children(gateway.process.pid)) - {former[1]}) == 2)
        now = children(gateway.process.pid)
        await _says(gateway, 200)
        assert {(200, "T1")} == set(await _crowd(gateway, key))
        stop.set()
        statuses = await load
        served = await _served(gateway)
        await gateway.connect("ada", access_token="T2", refresh_token=provider.issue(), accessTokenExpiry=1)
        await asyncio.sleep(SECONDS)
        assert {200} == {status for status, _ in await _crowd(gateway, key)}

    assert former[0] in now and former[1] not in now
    assert ["1", "2"] == sorted(served)
    assert {200} <= set(statuses) <= {200, None}  # None: reset with the worker that was killed
    assert 0 == gateway.process.exit_code
    assert (1, 0) == (provider.exchanges, provider.reused)
    assert all(line["event"] for record in _records(gateway) for line in record)


async def test_stop_drains_both_workers(tmp_path: Path, upstream: Upstream) -> None:
    """
    After SIGTERM the gateway is not ready, serves on for `drain_delay_seconds`, and ends with 0 when all that is in
    flight in either worker has ended.
    """
    go = asyncio.Event()

    async def respond(received: Received, writer: asyncio.StreamWriter) -> None:
        await go.wait()
        writer.write(answer(200, _token(received)))

    upstream.respond = respond
    async with crew(tmp_path, upstream, drain_delay_seconds=3.5) as gateway:
        await create_connection(gateway, None)
        await gateway.connect("ada", access_token="T1")
        key = await gateway.agent_key("ada")
        calls = [asyncio.create_task(_call(gateway, key)) for _ in range(CROWD)]
        assert await eventually(lambda: len(upstream.received) == CROWD)

        os.kill(gateway.process.pid, signal.SIGTERM)
        await _says(gateway, 503)
        late = asyncio.create_task(_call(gateway, key))
        assert await eventually(lambda: len(upstream.received) == CROWD + 1)
        go.set()
        answers = await asyncio.gather(*calls, late)
        await gateway.process.ended()
        finished = [json.loads(line)["finished"] for line in gateway.process.stderr.splitlines() if '"drained"' in line]

    assert {(200, "T1")} == set(answers)
    assert 2 == len(finished)
    assert 0 == gateway.process.exit_code


async def test_second_signal_ends_both_workers_at_once(tmp_path: Path, upstream: Upstream) -> None:
    """
    Whoever cannot wait signals again: the supervisor ends by that signal, and no worker is left.
    """

    async def respond(received: Received, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(GUARD_SECONDS)

    upstream.respond = respond
    async with crew(tmp_path, upstream, drain_seconds=GUARD_SECONDS) as gateway:
        await create_connection(gateway, None)
        await gateway.connect("ada", access_token="T1")
        key = await gateway.agent_key("ada")
        call = asyncio.create_task(_call(gateway, key))
        assert await eventually(lambda: len(upstream.received) == 1)
        workers = children(gateway.process.pid)
        os.kill(gateway.process.pid, signal.SIGTERM)
        await _says(gateway, 503)
        os.kill(gateway.process.pid, signal.SIGTERM)
        await gateway.process.ended()
        call.cancel()

    assert -signal.SIGTERM == gateway.process.exit_code
    assert not _alive(workers)


async def test_workers_end_with_a_killed_supervisor(tmp_path: Path, upstream: Upstream) -> None:
    """
    When the supervisor is killed its workers drain for a moment and end: nothing is left, and the address is free.
    """
    async with crew(tmp_path, upstream) as gateway:
        workers = children(gateway.process.pid)
        os.kill(gateway.process.pid, signal.SIGKILL)
        await gateway.process.ended()  # no worker holds its stderr any more
        assert await eventually(lambda: not _alive(workers))
        with pytest.raises(aiohttp.ClientConnectionError):
            await _readyz(gateway)

    assert 2 == gateway.process.stderr.count('"supervisor_died"') == gateway.process.stderr.count('"stopped"')


async def _crowd(gateway: RunningProcess, key: str) -> list[tuple[int | None, str]]:
    """Call CROWD times at once, each over a connection of its own."""
    return await asyncio.gather(*(_call(gateway, key) for _ in range(CROWD)))


async def _call(gateway: RunningProcess, key: str) -> tuple[int | None, str]:
    """Return the status of a call over a new connection, and the token that the upstream saw or the refusal's code."""
    url = urlsplit(gateway.url)
    try:
        reader, writer = await asyncio.open_connection(url.hostname, url.port)
        writer.write(request("GET", "/api/me", credential=key, fields=("Connection: close",)))
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
    except OSError:
        return None, ""
    if not head:
        return None, ""
    status = int(head.split()[1])
    return status, body.decode() if status == 200 else json.loads(body)["code"]


async def _until(stop: asyncio.Event, gateway: RunningProcess, key: str) -> list[int | None]:
    statuses = []
    while not stop.is_set():
        statuses.append((await _call(gateway, key))[0])
    return statuses


async def _readyz(gateway: RunningProcess) -> int:
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session,
        session.get(f"{gateway.process.console_url}/readyz") as response,
    ):
        return response.status


async def _says(gateway: RunningProcess, status: int) -> None:
    """Return when `/readyz` answers *status*."""
    while await _readyz(gateway) != status:  # noqa: ASYNC110  # only asking tells
        await asyncio.sleep(0.01)


def _alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


async def _metrics(gateway: RunningProcess) -> str:
    async with gateway.session.get(f"{gateway.process.console_url}/metrics") as response:
        return await response.text()


async def _served(gateway: RunningProcess) -> dict[str, float]:
    """Return how many calls each worker has answered with 200."""
    found = re.findall(r'^gateway_requests_total{worker="(\d)",.*status="200"} (\S+)$', await _metrics(gateway), re.M)
    return {number: float(count) for number, count in found}


def _records(gateway: RunningProcess) -> list[list[dict[str, Any]]]:
    """Return the lines of each worker's record; one that is torn is a test that fails."""
    paths = (gateway.data / "record").glob("egress*.jsonl")
    return [[json.loads(line) for line in path.read_text().splitlines()] for path in paths]
