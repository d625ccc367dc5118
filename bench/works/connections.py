"""
Connections that do little: 1,000 streams of events, and 5,000 that are idle. What each holds of the gateway's memory.

1. An event says when it was sent; it is late by what it took to arrive. The same streams without a proxy tell how late
   the API and the reader are themselves.
2. An idle connection has made one request; memory counts what it left behind as well.
3. Both ends are in Python, on the core of the load, and wait for the system to tell (uvloop).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import uvloop

from bench.contestants import Proxy
from bench.load import request
from bench.report import Table
from bench.session import Session, on_load_core

STREAMS, STREAM_SECONDS = 1_000, 10.0
IDLE, IDLE_SECONDS = 5_000, 3.0
AT_ONCE = 100  # connections that are being opened
OPEN_SECONDS = 60.0


class Client(asyncio.Protocol):
    """One connection that asks once, and passes what comes to *on_data* with itself."""

    def __init__(self, asked: bytes, on_data: Callable[[Client, bytes], None]) -> None:
        self._asked = asked
        self._on_data = on_data
        self.answered = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None
        self.events = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one without being a subclass
        self.transport.write(self._asked)

    def data_received(self, data: bytes) -> None:
        """Tell that something came."""
        if not self.answered.done():
            if data.startswith(b"HTTP/1.1 200 "):
                self.answered.set_result(None)
            else:
                self.answered.set_exception(ConnectionError(data.split(b"\r\n")[0].decode("latin-1")))
        self._on_data(self, data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who waits that nothing will come."""
        if not self.answered.done():
            self.answered.set_exception(exc or ConnectionError("closed without an answer"))


@dataclass(frozen=True, slots=True)
class Streams:
    """What came of the streams: how late events were, in seconds, and what the least of them got."""

    late: list[float]
    fewest: int
    bytes_each: float


async def _open(port: int, asked: bytes, count: int, on_data: Callable[[Client, bytes], None]) -> list[Client]:
    """Return *count* connections to *port*, each answered."""
    loop = asyncio.get_running_loop()
    places = asyncio.Semaphore(AT_ONCE)

    async def one() -> Client:
        async with places:
            _, client = await loop.create_connection(lambda: Client(asked, on_data), "127.0.0.1", port)
            await asyncio.wait_for(client.answered, OPEN_SECONDS)
            return client

    return list(await asyncio.gather(*(one() for _ in range(count))))


def _close(clients: list[Client]) -> None:
    for client in clients:
        if client.transport is not None:
            client.transport.close()


async def _stream(port: int, asked: bytes, proxy: Proxy | None) -> Streams:
    late: list[float] = []
    is_counting = False

    def take(client: Client, data: bytes) -> None:
        now = time.time()
        for line in data.split(b"\n") if is_counting else ():
            if line.startswith(b"data: "):
                late.append(now - float(line[6:]))
                client.events += 1

    before = proxy.memory_bytes() if proxy is not None else 0
    clients = await _open(port, asked, STREAMS, take)
    await asyncio.sleep(2)
    is_counting = True
    await asyncio.sleep(STREAM_SECONDS)
    is_counting = False
    after = proxy.memory_bytes() if proxy is not None else 0
    _close(clients)
    await asyncio.sleep(0.5)
    return Streams(late, min(client.events for client in clients), (after - before) / STREAMS)


async def _idle(proxy: Proxy, asked: bytes) -> float:
    before = proxy.memory_bytes()
    clients = await _open(proxy.port, asked, IDLE, lambda client, data: None)
    await asyncio.sleep(IDLE_SECONDS)
    after = proxy.memory_bytes()
    _close(clients)
    await asyncio.sleep(0.5)
    return (after - before) / IDLE


def run_streams(session: Session) -> list[Table]:
    """Return the table of streams."""
    streaming = session.gateway("streams")
    through = request("GET", "/api/events", credential=session.issuer.credential)
    without = request("GET", "/events", credential=session.upstream.token)
    with on_load_core():
        direct = uvloop.run(_stream(session.upstream.port, without, None))
        found = uvloop.run(_stream(streaming.port, through, streaming))
    expected = int(STREAM_SECONDS) - 1
    for name, each in (("the gateway", found), ("the API", direct)):
        if each.fewest < expected:
            raise SystemExit(f"bench: a stream of {name} had {each.fewest} events in {STREAM_SECONDS:.0f} seconds")
    columns = ["streams", "KB each", "events", "p50 ms late", "p99 ms late", "latest ms", "fewest events of one"]
    rows = [_row("gateway", found), _row("without a proxy", direct)]
    title = f"{STREAMS:,} streams with an event a second, for {STREAM_SECONDS:.0f} seconds"
    return [Table(title, columns, rows, ["KB: what the gateway's memory grew by, by the number of streams."])]


def _row(name: str, streams: Streams) -> list[str]:
    late = sorted(streams.late)
    cuts = [late[len(late) // 2], late[len(late) * 99 // 100], late[-1]]
    each = f"{streams.bytes_each / 1024:.1f}" if streams.bytes_each else "-"
    return [name, each, f"{len(late):,}", *(f"{1e3 * cut:.1f}" for cut in cuts), str(streams.fewest)]


def run_idle(session: Session) -> list[Table]:
    """Return the table of idle connections."""
    proxy = session.gateway("idle")
    asked = request("GET", "/api/people", credential=session.issuer.credential)
    recorded = proxy.recorded()
    with on_load_core():
        bytes_each = uvloop.run(_idle(proxy, asked))
    lines = proxy.recorded() - recorded
    if lines != IDLE:
        raise SystemExit(f"bench: the record has {lines} lines for {IDLE} idle connections' requests")
    rows = [["gateway", f"{bytes_each / 1024:.1f}"]]
    return [Table(f"{IDLE:,} idle connections", ["proxy", "KB each"], rows, ["Each has made one request."])]
