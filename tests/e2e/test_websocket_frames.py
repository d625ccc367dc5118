"""What goes through an open WebSocket is the two ends' own: any frame, at any size, however rudely it ends (R39)."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from tests.e2e.test_bodies import needs_proc
from tests.e2e.websocket_ends import (
    BLOCK,
    ENDS,
    WAIT_SECONDS,
    Echo,
    at_a_stalled_end,
    echoed,
    ended_by,
    gateway_before,
    opened,
    outcome_of,
    pour,
    reset,
    swallow,
    switched,
    switching,
    tunnels,
)
from tests.proxy.wire import call, eventually, request

MAX_GROWTH_BYTES = 30 << 20  # as for bodies
PINGS = 20_000
SLOW = 100
SLOW_BYTES = 1 << 19  # of memory for each caller that does not read (threats G3); 0.3 MiB were measured


@needs_proc
async def test_frame_of_a_gibibyte_passes_in_small_memory(tmp_path: Path) -> None:
    """
    It is passed on piece by piece, at the pace of the end that reads, and not a byte of it is lost, either way.
    """
    ends: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    over = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends.put_nowait((reader, writer))
        await over.wait()

    async with switching(handle) as port, gateway_before(port, tmp_path) as gateway:
        async with switched(gateway, await gateway.agent_key("ada")) as caller:
            reader, writer = await ends.get()
            before = gateway.process.rss_bytes
            gateway.process.forget_peak()
            up = await at_a_stalled_end(pour(caller.writer, 256), swallow(reader, 256))
            down = await at_a_stalled_end(pour(writer, 1024), swallow(caller.reader, 1024))
            growth = gateway.process.peak_rss_bytes - before
        over.set()
        outcome = await outcome_of(gateway)

    assert up[0] == up[1]
    assert down[0] == down[1]
    assert growth < MAX_GROWTH_BYTES
    assert (up[0].count, down[0].count) == (outcome["bytes_received"], outcome["bytes_sent"])


@needs_proc
async def test_callers_that_do_not_read_cost_bounded_memory(tmp_path: Path) -> None:
    """
    100 callers let an endless message come and do not read: the gateway stops reading as well, and serves another.
    """
    written = dict.fromkeys(range(SLOW), 0)
    numbers = iter(range(SLOW + 1))
    over = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = next(numbers)
        if number == SLOW:
            writer.write(await reader.readexactly(5))
            return
        while not over.is_set():
            writer.write(BLOCK[:65_536])
            await writer.drain()
            written[number] += 65_536

    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(switching(handle))
        gateway = await stack.enter_async_context(gateway_before(port, tmp_path))
        key = await gateway.agent_key("ada")
        before = gateway.process.rss_bytes
        gateway.process.forget_peak()
        for _ in range(SLOW):
            caller = await stack.enter_async_context(switched(gateway, key))
            pausing = caller.writer.transport
            assert isinstance(pausing, asyncio.Transport)
            pausing.pause_reading()
        await _stalled(written)
        async with switched(gateway, key) as other:
            await other.send(b"hello")
            seen = await other.reader.readexactly(5)
        growth = gateway.process.peak_rss_bytes - before
        over.set()

    assert b"hello" == seen
    assert min(written.values()) > 0
    assert growth < SLOW * SLOW_BYTES


@needs_proc
async def test_flood_of_pings_is_answered_by_the_upstream(tmp_path: Path, echo: Echo) -> None:
    """
    Each ping of a caller that does not read gets the upstream's pong in the end; meanwhile others are served.
    """
    counted = [number.to_bytes(4) for number in range(PINGS)]
    flood = b"".join(b"\x89\x84\0\0\0\0" + each for each in counted)
    pongs = b"".join(b"\x8a\x04" + each for each in counted)
    async with gateway_before(echo.port, tmp_path) as gateway:
        key = await gateway.agent_key("ada")
        async with opened(gateway, key) as other, switched(gateway, key) as caller:
            before = gateway.process.rss_bytes
            gateway.process.forget_peak()
            sending = asyncio.create_task(caller.send(flood))
            seen = await echoed(other, "hello")
            got = await caller.reader.readexactly(len(pongs))
            await sending
            growth = gateway.process.peak_rss_bytes - before

    assert "hello" == seen
    assert pongs == got
    assert growth < MAX_GROWTH_BYTES


# What RFC 6455 allows, and what no end may send: the gateway tells them apart no more than a wire does.
FRAMES = {
    "fragments with a ping between": b"\x01\x83\0\0\0\0hal\x89\x80\0\0\0\0\x80\x82\0\0\0\0lo",
    "a frame without its mask": b"\x81\x05hello",
    "reserved bits": b"\xf1\x80\0\0\0\0",
    "an opcode that is none": b"\x83\x80\0\0\0\0",
    "a long ping": b"\x89\xfe\x01\0\0\0\0\0" + b"\0" * 256,
    "the rest of nothing": b"\x80\x80\0\0\0\0",
    "a length above all": b"\x82\xff" + b"\xff" * 8,
    "a request": b"GET /admin HTTP/1.1\r\nHost: x\r\n\r\n",
}


async def test_frames_pass_as_bytes(tmp_path: Path) -> None:
    """
    Whatever either end sends arrives at the other as it is, whether it is a frame or not.
    """
    sent = b"".join(FRAMES.values())
    arrived: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.append(await reader.readexactly(len(sent)))
        writer.write(arrived[-1])
        await writer.drain()

    async with switching(handle) as port, gateway_before(port, tmp_path) as gateway:
        async with switched(gateway, await gateway.agent_key("ada")) as caller:
            for frame in FRAMES.values():
                await caller.send(frame)
            back = await asyncio.wait_for(caller.reader.read(-1), WAIT_SECONDS)
        outcome = await outcome_of(gateway)

    assert ([sent], sent) == (arrived, back)
    assert (101, None, len(sent), len(sent)) == tuple(
        outcome[name] for name in ("status", "error", "bytes_received", "bytes_sent")
    )


async def test_broken_frame_is_told_by_the_end_that_reads_it(tmp_path: Path, echo: Echo) -> None:
    """
    A caller that does not mask its frames gets the upstream's close code for that.
    """
    async with gateway_before(echo.port, tmp_path) as gateway:
        async with switched(gateway, await gateway.agent_key("ada")) as caller:
            await caller.send(FRAMES["a frame without its mask"])
            frames = await asyncio.wait_for(caller.reader.read(4), WAIT_SECONDS)
            assert await caller.ended()
        outcome = await outcome_of(gateway)

    assert (0x88, 1002) == (frames[0], int.from_bytes(frames[2:4]))
    assert (101, None) == (outcome["status"], outcome["error"])


async def test_end_without_a_close_frame_ends_the_other_side(tmp_path: Path) -> None:
    """
    Whichever end vanishes, the other is ended, the record says how, and the one place of the route is free again.
    """
    upstreams: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    over = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstreams.put_nowait((reader, writer))
        await over.wait()

    seen: dict[str, str | None] = {}
    async with (
        switching(handle) as port,
        gateway_before(port, tmp_path, limits={"concurrent": 1}) as gateway,
    ):
        key = await gateway.agent_key("ada")
        for number, case in enumerate(ENDS, 1):
            async with switched(gateway, key) as caller:
                reader, writer = await upstreams.get()
                full = await call(gateway, request("GET", "/api/x", credential=key))
                assert (503, "upstream_overloaded") == (full.status, full.code)
                ending, left = (caller.writer, reader) if "caller" in case else (writer, caller.reader)
                if "reset" in case:
                    reset(ending)
                else:
                    ending.close()
                await ended_by(left)
                assert await eventually(lambda: len(tunnels(gateway)) == number)  # noqa: B023  # awaited here
                seen[case] = tunnels(gateway)[-1]
        over.set()

    assert ENDS == seen


async def _stalled(written: dict[int, int]) -> None:
    """Return when nothing has been written for a while."""
    before, quiet = -1, 0
    while quiet < 10:
        await asyncio.sleep(0.1)
        now = sum(written.values())
        quiet = quiet + 1 if now == before else 0
        before = now
