"""One connection: time for a head, refusals that arrive, limits, and what is logged of it all."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway.errors import Refusal
from gateway.listen.acceptor import Acceptor
from gateway.listen.connection import HEAD_SECONDS, KEEPALIVE_SECONDS, LINGER_BYTES, LINGER_SECONDS, MAX_TURNED_AWAY
from gateway.listen.head import RequestHead
from gateway.models import TrafficLimits
from gateway.net.body_stream import Body
from gateway.proxy.listener import CallerConnection
from gateway.proxy.traffic import TrafficServer
from tests.net.certificates import Authority
from tests.proxy.wire import eventually

DONE = b"HTTP/1.1 204 No Content\r\n\r\n"
WAIT_SECONDS = 5.0


class Listener:
    """A traffic listener whose every request is answered with DONE, and whose sweeps come by hand."""

    def __init__(self, limits: TrafficLimits | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        self.refused: list[str] = []
        self.server = TrafficServer(self._serve, on_refused=self._refuse, loop=self.loop, limits=limits)
        self.port = 0
        self._acceptor: Acceptor | None = None

    async def _serve(self, _: RequestHead, __: Body, client: CallerConnection) -> bool:
        client.send(DONE)
        return True

    def _refuse(self, refusal: Refusal) -> None:
        self.refused.append(refusal.code)

    async def start(self, tls: ssl.SSLContext | None = None) -> Listener:
        self._acceptor = await Acceptor.listen(self.server, "127.0.0.1", 0, tls=tls)
        self.port = self._acceptor.port
        return self

    async def stop(self) -> None:
        assert self._acceptor is not None
        await self._acceptor.end()
        self.server.pre_shutdown()
        await self.server.shutdown(1.0)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    @property
    def has_half_a_head(self) -> bool:
        """Whether a connection waits for the rest of a head."""
        return any(each._head_since is not None for each in self.server._open)

    async def holds(self, number: int) -> bool:
        """Wait until *number* connections are open; return whether they are."""
        return await eventually(lambda: len(self.server._open) == number)

    def sweep(self, seconds: float) -> None:
        """Sweep as it would be done in *seconds*."""
        self.server.sweep(self.loop.time() + seconds)


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    """A listener without limits."""
    listener = await Listener().start()
    yield listener
    await listener.stop()


async def within(awaited: Awaitable[bytes]) -> bytes:
    """Return what is awaited, soon."""
    async with asyncio.timeout(WAIT_SECONDS):
        return await awaited


async def test_half_a_head_is_told_408(listener: Listener) -> None:
    """A head that is not whole in time is told so, and counted; until then nothing happens."""
    reader, writer = await listener.connect()
    writer.write(b"GET / HTTP/1.1\r\nHost:")
    assert await eventually(lambda: listener.has_half_a_head)
    listener.sweep(HEAD_SECONDS - 1)
    assert [] == listener.refused
    listener.sweep(HEAD_SECONDS)
    got = await within(reader.read())
    writer.close()

    assert got.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"request_timeout"' in got
    assert ["request_timeout"] == listener.refused


async def test_head_in_time_is_served(listener: Listener) -> None:
    """A slow head that becomes whole is served, and its clock is stopped; so is one that waits for nothing."""
    reader, writer = await listener.connect()
    writer.write(b"GET / HTTP/1.1\r\nHo")
    assert await eventually(lambda: listener.has_half_a_head)
    writer.write(b"st: x\r\n\r\n")
    assert await eventually(lambda: not listener.has_half_a_head)
    listener.sweep(10 * HEAD_SECONDS)

    assert DONE == await within(reader.readexactly(len(DONE)))
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n\r\n")  # an empty line behind is nothing that has begun
    assert DONE == await within(reader.readexactly(len(DONE)))
    listener.sweep(10 * HEAD_SECONDS)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert DONE == await within(reader.readexactly(len(DONE)))
    writer.close()


async def test_each_head_has_its_own_time(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests whose packets always end within the next head are not late, however long they go on."""
    reader, writer = await listener.connect()
    whole = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    writer.write(whole[:9])
    assert await eventually(lambda: listener.has_half_a_head)
    now = listener.loop.time()
    monkeypatch.setattr(listener.loop, "time", lambda: now + HEAD_SECONDS - 1)
    writer.write(whole[9:] + whole[:9])
    assert DONE == await reader.readexactly(len(DONE))
    listener.server.sweep(now + HEAD_SECONDS + 1)
    monkeypatch.undo()
    writer.write(whole[9:])

    assert DONE == await within(reader.readexactly(len(DONE)))
    assert [] == listener.refused
    writer.close()


async def test_refusal_is_not_reset_by_what_follows_it(listener: Listener) -> None:
    """A caller that goes on sending behind its refused request can read the refusal."""
    reader, writer = await listener.connect()
    writer.write(b"GET  / HTTP/1.1\r\n\r\n")
    for _ in range(5):
        await asyncio.sleep(0.01)
        writer.write(b"x" * 10_000)
    got = await within(reader.read())
    writer.close()

    assert got.startswith(b"HTTP/1.1 400 ")
    assert b"Connection: close" in got


async def test_refusal_arrives_over_tls(tmp_path: Path) -> None:
    """Over TLS, where no connection ends by halves, a refusal arrives as well, and the connection ends with a sweep."""
    authority = Authority(tmp_path)
    listener = await Listener().start(authority.server_context())
    trusting = ssl.create_default_context(cafile=authority.ca_file)
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port, ssl=trusting)
    writer.write(b"GET  / HTTP/1.1\r\n\r\n")
    got = await within(reader.readuntil(b"\r\n\r\n"))
    writer.write(b"x" * 10_000)
    left = [LINGER_BYTES - 10_000]
    assert await eventually(lambda: left == [each._linger_left for each in listener.server._open])
    listener.sweep(LINGER_SECONDS + 1)
    rest = await within(reader.read())
    writer.close()
    await listener.stop()

    assert got.startswith(b"HTTP/1.1 400 ")
    assert b'"code":"invalid_request"' in rest


async def test_who_sends_on_for_ever_is_cut(listener: Listener) -> None:
    """Behind a refusal so many bytes are thrown away, and for so long."""
    reader, writer = await listener.connect()
    writer.write(b"GET  / HTTP/1.1\r\n\r\n")
    await within(reader.read())
    with pytest.raises(ConnectionError):
        for _ in range(1000):
            writer.write(b"x" * LINGER_BYTES)
            await writer.drain()
            await asyncio.sleep(0.005)
    silent_reader, silent_writer = await listener.connect()
    silent_writer.write(b"GET  / HTTP/1.1\r\n\r\n")
    await within(silent_reader.read())
    listener.sweep(LINGER_SECONDS + 1)

    assert await eventually(lambda: [] == listener.server.connections)
    for each in (writer, silent_writer):
        each.close()


async def test_connections_are_limited() -> None:
    """One connection too many, in all or from its address, is told 503 and closed; a closed one makes room."""
    for limits in (TrafficLimits(2, 9), TrafficLimits(9, 2)):
        listener = await Listener(limits).start()
        first, second = [await listener.connect() for _ in range(2)]
        assert await listener.holds(2)
        reader, writer = await listener.connect()
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        got = await within(reader.read())
        writer.close()
        first[1].close()
        assert await listener.holds(1)
        reader, writer = await listener.connect()
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        after = await within(reader.readexactly(len(DONE)))
        for each in (second[1], writer):
            each.close()
        await listener.stop()

        assert got.startswith(b"HTTP/1.1 503 ")
        assert b'"code":"too_many_connections"' in got
        assert b"Retry-After: 5\r\n" in got
        assert (["too_many_connections"], DONE) == (listener.refused, after)


async def test_flood_beyond_the_limit_holds_nothing() -> None:
    """Of connections over the limit so many are told so at once; the rest is reset, and none is left behind."""
    listener = await Listener(TrafficLimits(1, 1)).start()
    held = await listener.connect()
    assert await listener.holds(1)
    told = [await listener.connect() for _ in range(MAX_TURNED_AWAY)]
    assert await eventually(lambda: len(listener.server._turned_away) == MAX_TURNED_AWAY)
    for _ in range(20):
        with pytest.raises(ConnectionResetError):
            reader, writer = await listener.connect()  # on a busy machine it is made before it is reset
            told.append((reader, writer))
            await within(reader.readexactly(1))
    for _, writer in (*told, held):
        writer.close()
    listener.sweep(LINGER_SECONDS + 1)

    assert await eventually(lambda: (0, 0) == (len(listener.server._turned_away), len(listener.server._open)))
    assert MAX_TURNED_AWAY + 20 == len(listener.refused)
    await listener.stop()


async def test_refusals_are_one_line_a_sweep(listener: Listener) -> None:
    """However many requests were refused: a line per kind with their number, and none of their bytes."""
    for data in [b"CANARY /\r\n\r\n"] * 3 + [b"GET /CANARY HTTP/3.0\r\n\r\n"]:
        reader, writer = await listener.connect()
        writer.write(data)
        await within(reader.read())
        writer.close()
    with capture_logs() as lines:
        listener.sweep(0)
        listener.sweep(0)

    assert [
        {"event": "requests_refused", "log_level": "warning", "listener": "traffic", "code": code, "count": count}
        for code, count in (("invalid_request", 3), ("http_version_not_supported", 1))
    ] == lines


async def test_who_does_not_read_its_refusal_is_let_go(listener: Listener) -> None:
    """A connection whose last answer is not read is reset in the end."""
    _, writer = await listener.connect()
    writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's transport can
    writer.write(b"GET  / HTTP/1.1\r\n\r\n")
    assert await eventually(lambda: any(each._linger_until is not None for each in listener.server._open))
    listener.sweep(LINGER_SECONDS + KEEPALIVE_SECONDS + 1)

    assert await eventually(lambda: [] == listener.server.connections)
    writer.close()
