"""SIGTERM: what is in flight ends within `drain_seconds`, or is cut so that its caller sees it, and it is recorded."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.e2e.gateway_process import RunningProcess, serving
from tests.proxy.wire import eventually, request, respond_with
from tests.world import Provider, Received, Upstream, answer, create_connection, settings

DRAIN_SECONDS = 1.0
GUARD_SECONDS = 60.0
DELAY_SECONDS = 3.5
SHORT_CALL_SECONDS = 3.0  # a call must end within it, and streams are cut after it
ANSWER_BYTES = 30_000


async def test_stop_ends_or_cuts_what_is_in_flight(tmp_path: Path, upstream: Upstream) -> None:
    """
    A call that ends in time is answered whole; streams that do not are reset, whatever their framing; nothing waits for
    idle connections. The log counts both, the record names those that were cut.
    """
    go, over = asyncio.Event(), asyncio.Event()

    async def respond(received: Received, writer: asyncio.StreamWriter) -> None:
        if "/endless" not in received.request_line:
            await go.wait()
            writer.write(answer(200, b"{}"))
            return
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await over.wait()

    upstream.respond = respond
    route = {"name": "api", "prefix": "/api", "upstream": upstream.url, "connection": "api"}
    configuration = settings(route, drain_seconds=SHORT_CALL_SECONDS)
    async with asyncio.timeout(2 * GUARD_SECONDS), serving(configuration, tmp_path / "data") as gateway:
        await create_connection(gateway, None)
        await gateway.connect("ada", access_token="T1")
        key = await gateway.agent_key("ada")
        idle = await _open(gateway, b"")
        short = await _open(gateway, request("GET", "/api/short", credential=key))
        streams = [
            await _open(gateway, request("GET", f"/api/endless/{version}", credential=key, version=version))
            for version in ("1.1", "1.0")
        ]
        for reader, _ in streams:
            await reader.readuntil(b"hello")

        os.kill(gateway.process.pid, signal.SIGTERM)
        assert b"" == await idle[0].read()
        go.set()
        answered = await short[0].read()
        ends = [await _end(reader) for reader, _ in streams]
        await gateway.process.ended()
        over.set()
        outcomes = {line["path"]: line["error"] for line in gateway.lines("outcome")}
        said = _said(gateway, "drained")
        for _, writer in (idle, short, *streams):
            writer.close()

    assert answered.startswith(b"HTTP/1.1 200 ") and answered.endswith(b"{}")
    assert b"Connection: close\r\n" in answered
    assert ["reset", "reset"] == ends
    assert {"/short": None, "/endless/1.1": "drained", "/endless/1.0": "drained"} == outcomes
    assert (1, 2) == (said["finished"], said["cut"])
    assert 0 == gateway.process.exit_code


async def test_stop_waits_for_an_exchange(tmp_path: Path, provider: Provider) -> None:
    """A stop while a provider is slow waits for its answer, says so, and stores it: longer than `drain_seconds`."""
    async with asyncio.timeout(GUARD_SECONDS), _exchanging(tmp_path, provider) as gateway:
        os.kill(gateway.process.pid, signal.SIGTERM)
        await _saying(gateway, "waiting_for_exchanges")
        provider.delay_seconds = 1.0
        assert provider.gate is not None
        provider.gate.set()
        await gateway.process.ended()
        said, outcomes = _said(gateway, "waiting_for_exchanges"), gateway.lines("exchange_outcome")

    assert (0, 1) == (gateway.process.exit_code, said["count"])
    assert [("granted", True)] == [(line["outcome"], line["stored"]) for line in outcomes]
    assert "jobs_cut" not in gateway.process.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_second_signal_ends_at_once(tmp_path: Path, provider: Provider, number: signal.Signals) -> None:
    """Whoever cannot wait for the slow provider signals again."""
    async with asyncio.timeout(GUARD_SECONDS), _exchanging(tmp_path, provider) as gateway:
        os.kill(gateway.process.pid, number)
        await _saying(gateway, "waiting_for_exchanges")
        os.kill(gateway.process.pid, number)
        await gateway.process.ended()
        assert provider.gate is not None
        provider.gate.set()

    assert gateway.process.exit_code not in (0, None)


@asynccontextmanager
async def _exchanging(tmp_path: Path, provider: Provider) -> AsyncIterator[RunningProcess]:
    """A gateway with an exchange under way, which waits inside the provider."""
    route = {"name": "api", "prefix": "/api", "upstream": provider.url, "connection": "api"}
    async with serving(settings(route, drain_seconds=0), tmp_path / "data") as gateway:
        await create_connection(gateway, provider)
        await gateway.connect("ada", access_token="T1", refresh_token=provider.issue(), accessTokenExpiry=1)
        provider.gate = asyncio.Event()
        _, writer = await _open(gateway, request("GET", "/api/me", credential=await gateway.agent_key("ada")))
        await provider.entered.wait()
        yield gateway
        writer.close()


async def _saying(gateway: RunningProcess, event: str) -> None:
    """Return when the gateway's log has *event*."""
    while f'"event": "{event}"' not in gateway.process.stderr:  # noqa: ASYNC110  # another process' log
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("drain_seconds", "reads_on", "counted"), [(GUARD_SECONDS, True, (1, 0)), (DRAIN_SECONDS, False, (0, 1))]
)
async def test_stop_waits_for_who_has_not_read_its_answers(
    tmp_path: Path, upstream: Upstream, drain_seconds: float, reads_on: bool, counted: tuple[int, int]
) -> None:
    """
    Answers that have ended and lie in the gateway's buffer arrive whole; a caller that reads none in time is reset.
    """
    upstream.respond = respond_with(answer(200, b"x" * ANSWER_BYTES))
    route = {"name": "api", "prefix": "/api", "upstream": upstream.url, "connection": "api"}
    configuration = settings(route, drain_seconds=drain_seconds)
    async with asyncio.timeout(2 * GUARD_SECONDS), serving(configuration, tmp_path / "data") as gateway:
        await create_connection(gateway, None)
        await gateway.connect("ada", access_token="T1")
        key = await gateway.agent_key("ada")
        with socket.socket() as caller:
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 20_000)
            await _fill(gateway, caller, request("GET", "/api/x", credential=key))
            os.kill(gateway.process.pid, signal.SIGTERM)
            if not reads_on:
                await gateway.process.ended()
            got, end = await _rest(caller)
        await gateway.process.ended()
        said, answers = _said(gateway, "drained"), len(gateway.lines("outcome"))

    assert counted == (said["finished"], said["cut"])
    whole = got.count(b"x" * ANSWER_BYTES) == answers
    assert ("closed" if reads_on else "reset", reads_on) == (end, whole)


async def test_stop_serves_on_until_its_delay_is_over(tmp_path: Path, upstream: Upstream) -> None:
    """
    Who asks for readiness learns of the stop, and for `drain_delay_seconds` no call fails, on whatever connection.
    """
    upstream.respond = respond_with(answer(200, b"{}"))
    route = {"name": "api", "prefix": "/api", "upstream": upstream.url, "connection": "api"}
    configuration = settings(route, drain_delay_seconds=DELAY_SECONDS, drain_seconds=DRAIN_SECONDS)
    async with asyncio.timeout(2 * GUARD_SECONDS), serving(configuration, tmp_path / "data") as gateway:
        await create_connection(gateway, None)
        await gateway.connect("ada", access_token="T1")
        asked = request("GET", "/api/x", credential=await gateway.agent_key("ada"))
        reader, writer = await _open(gateway, asked)
        kept = [await reader.readuntil(b"{}")]
        ready = [await _readiness(gateway)]

        os.kill(gateway.process.pid, signal.SIGTERM)
        assert await eventually(lambda: '"draining"' in gateway.process.stderr)
        ready.append(await _readiness(gateway))
        writer.write(asked)
        kept.append(await reader.readuntil(b"{}"))
        other, other_writer = await _open(gateway, asked)
        new = await other.readuntil(b"{}")
        rest = await reader.read()
        await gateway.process.ended()
        for each in (writer, other_writer):
            each.close()

    assert [200, 503] == ready
    assert [True] * 3 == [got.startswith(b"HTTP/1.1 200 ") and b"Connection: close" not in got for got in (*kept, new)]
    assert (b"", 0) == (rest, gateway.process.exit_code)


@pytest.mark.parametrize("delay_seconds", [0, 300])
async def test_second_signal_ends_delay_and_drain_at_once(
    tmp_path: Path, upstream: Upstream, delay_seconds: float
) -> None:
    """
    Whoever asks twice does not wait: neither for the delay nor for a call under way.
    """
    over = asyncio.Event()

    async def respond(_: Received, __: asyncio.StreamWriter) -> None:
        await over.wait()

    upstream.respond = respond
    route = {"name": "api", "prefix": "/api", "upstream": upstream.url, "connection": "api"}
    configuration = settings(route, drain_delay_seconds=delay_seconds, drain_seconds=300)
    async with asyncio.timeout(2 * GUARD_SECONDS), serving(configuration, tmp_path / "data") as gateway:
        await create_connection(gateway, None)
        await gateway.connect("ada", access_token="T1")
        _, writer = await _open(gateway, request("GET", "/api/x", credential=await gateway.agent_key("ada")))
        assert await eventually(lambda: bool(upstream.received))
        os.kill(gateway.process.pid, signal.SIGTERM)
        assert await eventually(lambda: '"draining"' in gateway.process.stderr)
        os.kill(gateway.process.pid, signal.SIGTERM)
        await gateway.process.ended()
        over.set()
        writer.close()

    assert -signal.SIGTERM == gateway.process.exit_code


async def test_stop_stores_what_is_being_refreshed(tmp_path: Path, upstream: Upstream, provider: Provider) -> None:
    """
    The call that asked for a refresh is cut; the exchange ends, and the next gateway has its token.
    """
    tokens: list[str] = []

    async def respond(received: Received, writer: asyncio.StreamWriter) -> None:
        tokens.extend(received.values("Authorization"))
        writer.write(answer(401 if tokens[-1] == "Bearer T1" else 200, b"{}"))

    upstream.respond = respond
    provider.gate = asyncio.Event()
    route = {"name": "api", "prefix": "/api", "upstream": upstream.url, "connection": "api"}
    configuration = settings(route, drain_seconds=DRAIN_SECONDS)
    async with asyncio.timeout(2 * GUARD_SECONDS):
        async with serving(configuration, tmp_path / "data") as gateway:
            await create_connection(gateway, provider)
            await gateway.connect("ada", access_token="T1", refresh_token=provider.issue())
            asked = request("GET", "/api/x", credential=await gateway.agent_key("ada"))
            reader, writer = await _open(gateway, asked)
            await provider.entered.wait()
            os.kill(gateway.process.pid, signal.SIGTERM)
            end = await _end(reader)
            provider.gate.set()
            await gateway.process.ended()
            writer.close()
        async with serving(configuration, tmp_path / "data") as gateway:
            reader, writer = await _open(gateway, asked)
            got = await reader.readuntil(b"{}")
            writer.close()

    assert ("reset", 1, 0) == (end, provider.exchanges, provider.reused)
    assert got.startswith(b"HTTP/1.1 200 ")
    assert 2 == len(tokens) and tokens[1].startswith("Bearer access-1-")


async def _readiness(gateway: RunningProcess) -> int:
    async with gateway.session.get(f"{gateway.process.console_url}/readyz") as got:
        return got.status


async def _fill(gateway: RunningProcess, caller: socket.socket, asked: bytes) -> None:
    """Send *asked* again and again, reading nothing, until the gateway answers no more."""
    parts = urlsplit(gateway.url)
    caller.connect((parts.hostname, parts.port))
    caller.setblocking(False)
    answers, sent = -1, 0
    while answers < (answers := len(gateway.lines("outcome"))) or answers == 0:
        with suppress(BlockingIOError):
            for _ in range(200):
                sent += caller.send(asked)
        await asyncio.sleep(0.5)
    assert sent > answers * len(asked)


async def _rest(caller: socket.socket) -> tuple[bytes, str]:
    """Return what *caller* still receives, and how it ends."""
    loop, got = asyncio.get_running_loop(), b""
    try:
        while data := await loop.sock_recv(caller, 65_536):
            got += data
    except ConnectionResetError:
        return got, "reset"
    return got, "closed"


async def _open(gateway: RunningProcess, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(gateway.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(data)
    await writer.drain()
    return reader, writer


async def _end(reader: asyncio.StreamReader) -> str:
    """Return how the stream behind *reader* ends: "reset", or "closed" as if it were whole."""
    try:
        await reader.read()
    except ConnectionResetError:
        return "reset"
    return "closed"


def _said(gateway: RunningProcess, event: str) -> dict[str, Any]:
    lines = (json.loads(line) for line in gateway.process.stderr.splitlines() if line.startswith("{"))
    return next(line for line in lines if line["event"] == event)


async def test_upload_goes_on_while_the_gateway_stops(tmp_path: Path, upstream: Upstream) -> None:
    """A body that is still coming when a stop begins is read to its end, within `drain_seconds`, and answered."""
    arrived = asyncio.Event()

    async def on_body(_: bytes) -> None:
        arrived.set()

    upstream.on_body = on_body
    route = {"name": "api", "prefix": "/api", "upstream": upstream.url, "connection": "api"}
    async with asyncio.timeout(GUARD_SECONDS), serving(settings(route), tmp_path / "data") as gateway:
        await create_connection(gateway, None)
        await gateway.connect("ada", access_token="T1")
        key = await gateway.agent_key("ada")
        reader, writer = await _open(
            gateway, request("POST", "/api/x", credential=key, fields=("Content-Length: 10",)) + b"first"
        )
        await arrived.wait()
        os.kill(gateway.process.pid, signal.SIGTERM)
        await _saying(gateway, "draining")
        await asyncio.sleep(0.2)
        writer.write(b" rest")
        answered = await reader.read()
        await gateway.process.ended()
        said = _said(gateway, "drained")
        writer.close()

    assert answered.startswith(b"HTTP/1.1 200 ")
    assert [b"first rest"] == [each.body for each in upstream.received]
    assert (1, 0) == (said["finished"], said["cut"])
