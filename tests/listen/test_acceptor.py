"""Where connections come in: what counts from when on, handshakes that fail, addresses, floods, and the end."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import ssl
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader

from gateway.listen.acceptor import Acceptor
from gateway.listen.connection import MAX_TURNED_AWAY
from gateway.models import TrafficLimits
from gateway.proxy.listener import CallerConnection
from gateway.proxy.traffic import TrafficServer
from tests.net.certificates import Authority
from tests.tools import ROOT

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
DONE = b"HTTP/1.1 204 No Content\r\n\r\n"
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
HALF_HELLO = b"\x16\x03\x01\x02\x00\x01"
NEVER_SECONDS = 600.0
GUARD_SECONDS = 30.0
RESET = struct.pack("ii", 1, 0)
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Site:
    """A traffic listener whose every request is answered with DONE, and what its loop complained of."""

    def __init__(self, limits: TrafficLimits | None, *, is_shared: Callable[[str], bool]) -> None:
        self.loop = asyncio.get_running_loop()
        self.complaints: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.complaints.append(context))
        self.refused: list[str] = []
        self.served: list[CallerConnection] = []
        self.server = TrafficServer(
            self._serve,
            on_refused=lambda refusal: self.refused.append(refusal.code),
            loop=self.loop,
            limits=limits,
            is_shared=is_shared,
        )
        self.acceptor: Acceptor

    async def _serve(self, _: RawRequestMessage, __: StreamReader, client: CallerConnection) -> bool:
        self.served.append(client)
        client.send(DONE)
        return True

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.acceptor.port

    @property
    def counted(self) -> int:
        """How many connections count."""
        return len(self.server._open)

    async def call(self, tls: ssl.SSLContext | None = None) -> bytes:
        """Return the beginning of what a caller is answered."""
        reader, writer = await asyncio.open_connection(*self.address, ssl=tls)
        writer.write(REQUEST)
        try:
            return await reader.readuntil(b"\r\n\r\n")
        finally:
            writer.transport.abort()

    async def counts(self, number: int) -> None:
        """Return once *number* connections count."""
        while self.counted != number:  # noqa: ASYNC110  # the guard of the test bounds it
            await asyncio.sleep(0.01)


@asynccontextmanager
async def listening(
    limits: TrafficLimits | None = None,
    *,
    tls: ssl.SSLContext | None = None,
    handshake_seconds: float = NEVER_SECONDS,
    is_shared: Callable[[str], bool] = lambda _: False,
) -> AsyncIterator[Site]:
    """Run a listener on a free port, and end all of it."""
    site = Site(limits, is_shared=is_shared)
    site.acceptor = await Acceptor.listen(site.server, "127.0.0.1", 0, tls=tls, handshake_seconds=handshake_seconds)
    try:
        async with asyncio.timeout(GUARD_SECONDS):
            yield site
    finally:
        await site.acceptor.end()
        await site.server.shutdown(1.0)
        await site.counts(0)
        assert [] == site.complaints


def run(loop: str, scenario: Coroutine[Any, Any, None]) -> None:
    """Run *scenario* on the loop of this name."""
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(scenario)


def contexts(directory: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return what a listener on loopback shows, and what trusts it."""
    authority = Authority(directory)
    return authority.server_context(), ssl.create_default_context(cafile=authority.ca_file)


def descriptors() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # counted, not named


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("limits", [TrafficLimits(6, 99), TrafficLimits(99, 6)], ids=["in all", "from one address"])
def test_handshakes_count(tmp_path: Path, loop: str, limits: TrafficLimits) -> None:
    """
    Who holds all places with handshakes that do not end holds them until their time is over; one more is told so.
    """
    shown, trusted = contexts(tmp_path)

    async def scenario() -> None:
        async with listening(limits, tls=shown, handshake_seconds=1.0) as site:
            silent = [await asyncio.open_connection(*site.address) for _ in range(6)]
            for _, writer in silent[3:]:
                writer.write(HALF_HELLO)
            await site.counts(6)
            turned_away = await site.call(trusted)
            ends = await asyncio.gather(*(reader.read() for reader, _ in silent), return_exceptions=True)
            await site.counts(0)
            served = await site.call(trusted)
            for _, writer in silent:
                writer.close()

        assert turned_away.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: 5\r\n" in turned_away
        assert [True] * 6 == [end == b"" or isinstance(end, ConnectionError) for end in ends]
        assert (["too_many_connections"], DONE) == (site.refused, served)

    run(loop, scenario())


@pytest.mark.parametrize("loop", LOOPS)
def test_handshakes_over_the_limit_are_bounded(tmp_path: Path, loop: str) -> None:
    """
    Of those over the limit so many may shake hands to be told; further ones are reset, and none is left in the end.
    """
    shown, _ = contexts(tmp_path)

    async def scenario() -> None:
        async with listening(TrafficLimits(1, 1), tls=shown) as site:
            callers = [await asyncio.open_connection(*site.address)]
            await site.counts(1)
            for _ in range(MAX_TURNED_AWAY):
                callers.append(await asyncio.open_connection(*site.address))
            while len(site.refused) < MAX_TURNED_AWAY:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            for _ in range(5):
                with pytest.raises(ConnectionResetError):
                    reader, writer = await asyncio.open_connection(*site.address)
                    callers.append((reader, writer))
                    await reader.readexactly(1)
            for _, writer in callers:
                writer.close()
            while site.server._turned_away or site.acceptor._connecting:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

        assert MAX_TURNED_AWAY + 5 == len(site.refused)

    run(loop, scenario())


@pytest.mark.parametrize("loop", LOOPS)
def test_trusted_proxy_has_no_limit_of_its_own(tmp_path: Path, loop: str) -> None:
    """Handshakes from an address that many callers share are counted in all, not by address."""
    shown, trusted = contexts(tmp_path)

    async def scenario() -> None:
        limits = TrafficLimits(5, 2)
        async with listening(limits, tls=shown, is_shared=lambda address: address == "127.0.0.1") as site:
            silent = [await asyncio.open_connection(*site.address) for _ in range(4)]
            await site.counts(4)
            served = await site.call(trusted)
            await site.counts(4)
            silent.append(await asyncio.open_connection(*site.address))
            await site.counts(5)
            turned_away = await site.call(trusted)
            for _, writer in silent:
                writer.close()

        assert (DONE, b"HTTP/1.1 503 ") == (served, turned_away[:13])

    run(loop, scenario())


def garbage(peer: socket.socket) -> None:
    peer.sendall(b"\x00\xff" * 500)


def plain_request(peer: socket.socket) -> None:
    peer.sendall(REQUEST)


def half_a_hello(peer: socket.socket) -> None:
    peer.sendall(HALF_HELLO)
    peer.shutdown(socket.SHUT_WR)


def nothing(peer: socket.socket) -> None:
    peer.shutdown(socket.SHUT_WR)


def reset(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    peer.close()


def hello_and_reset(peer: socket.socket) -> None:
    tls = ssl.create_default_context()
    outgoing = ssl.MemoryBIO()
    shaking = tls.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with suppress(ssl.SSLWantReadError):
        shaking.do_handshake()
    peer.sendall(outgoing.read())
    reset(peer)


def distrust(peer: socket.socket) -> None:
    with suppress(ssl.SSLError, ConnectionError):
        ssl.create_default_context().wrap_socket(peer, server_hostname="localhost")


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    "spoil",
    [garbage, plain_request, half_a_hello, nothing, reset, hello_and_reset, distrust],
    ids=lambda each: each.__name__,
)
def test_failed_handshake_is_counted_down(
    tmp_path: Path, loop: str, spoil: Callable[[socket.socket], None], caplog: pytest.LogCaptureFixture
) -> None:
    """
    However a handshake fails, its place is free again at once, and no line of the log speaks of it.
    """
    shown, trusted = contexts(tmp_path)

    def spoil_one(address: tuple[str, int]) -> None:
        with socket.create_connection(address, timeout=GUARD_SECONDS) as peer:
            spoil(peer)
            with suppress(OSError):
                while peer.recv(1024):
                    pass

    async def scenario() -> None:
        async with listening(TrafficLimits(3, 3), tls=shown) as site:
            for _ in range(2):
                await asyncio.gather(*(asyncio.to_thread(spoil_one, site.address) for _ in range(3)))
                await site.counts(0)
            served = await site.call(trusted)
            await site.counts(0)

        assert (DONE, []) == (served, site.refused)

    caplog.set_level(logging.DEBUG)
    run(loop, scenario())

    assert [] == [record for record in caplog.records if record.levelno > logging.DEBUG]


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("over_tls", [False, True], ids=["plain", "tls"])
def test_many_at_once_are_all_served(tmp_path: Path, loop: str, over_tls: bool) -> None:
    """
    500 connections that come at once, while others are kept busy, are served without one that is refused or lost.
    """
    shown, trusted = contexts(tmp_path) if over_tls else (None, None)

    async def scenario() -> None:
        async with listening(tls=shown) as site:
            over = asyncio.Event()

            async def keep_busy() -> None:
                reader, writer = await asyncio.open_connection(*site.address, ssl=trusted)
                while not over.is_set():
                    writer.write(REQUEST)
                    assert DONE == await reader.readexactly(len(DONE))
                writer.transport.abort()

            busy = [asyncio.create_task(keep_busy()) for _ in range(5)]
            answers = await asyncio.gather(*(site.call(trusted) for _ in range(500)))
            over.set()
            await asyncio.gather(*busy)
        assert {DONE} == set(answers)

    run(loop, scenario())


@pytest.mark.parametrize("loop", LOOPS)
def test_answers_are_not_delayed(loop: str) -> None:
    """Each connection has Nagle's algorithm off, and is not handed down to child processes."""

    async def scenario() -> None:
        async with listening() as site:
            _, writer = await asyncio.open_connection(*site.address)
            await site.counts(1)
            while not site.server.connections:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            transport = site.server.connections[0].transport
            assert transport is not None
            connection = transport.get_extra_info("socket")
            assert 1 == connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert not os.get_inheritable(connection.fileno())
            writer.close()

    run(loop, scenario())


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    ("host", "callers"),
    [("", ["127.0.0.1", "::1"]), ("::", ["::1"]), ("0.0.0.0", ["127.0.0.1"]), ("localhost", ["127.0.0.1"])],
)
def test_every_address_of_a_name_listens(loop: str, host: str, callers: list[str]) -> None:
    """
    All addresses of a name have one port; "::" leaves IPv4 to others; a caller counts under its own address.
    """
    if "::1" in callers and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")

    async def scenario() -> None:
        site = Site(None, is_shared=lambda _: False)
        site.acceptor = await Acceptor.listen(site.server, host, 0)
        streams = [await asyncio.open_connection(caller, site.acceptor.port) for caller in callers]
        await site.counts(len(callers))
        assert sorted(callers) == sorted(site.server._open.values())
        if host == "::":
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", site.acceptor.port)
        for _, writer in streams:
            writer.close()
        await site.acceptor.end()
        await site.server.shutdown(1.0)

    run(loop, scenario())


@pytest.mark.parametrize("loop", LOOPS)
def test_port_in_use_leaves_nothing_open(loop: str) -> None:
    """Where one of several addresses is taken, none listens; with `reuse_port` several listen on one."""

    async def scenario() -> None:
        server = Site(None, is_shared=lambda _: False).server
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            before = descriptors()
            for host in ("127.0.0.1", ""):
                with pytest.raises(OSError, match="in use") as failed:
                    await Acceptor.listen(server, host, port)
                assert errno.EADDRINUSE == failed.value.errno
            assert before == descriptors()
        first = await Acceptor.listen(server, "127.0.0.1", 0, reuse_port=True)
        second = await Acceptor.listen(server, "127.0.0.1", first.port, reuse_port=True)
        assert first.port == second.port
        await first.end()
        await second.end()
        with pytest.raises(socket.gaierror):
            await Acceptor.listen(server, "no such name.invalid", 0)

    run(loop, scenario())


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("over_tls", [False, True], ids=["plain", "tls"])
def test_end_leaves_nothing_behind(tmp_path: Path, loop: str, over_tls: bool) -> None:
    """
    At its end new connections are refused, handshakes are cut although they had time, and tasks and descriptors are
    what they were.
    """
    shown, trusted = contexts(tmp_path) if over_tls else (None, None)

    async def scenario() -> None:
        async with listening() as first:  # what a loop opens at its first use is open now
            await first.call()
        before, tasks = descriptors(), len(asyncio.all_tasks())
        async with listening(tls=shown) as site:
            assert DONE == await site.call(trusted)
            pending = [await asyncio.open_connection(*site.address) for _ in range(20)]
            await asyncio.sleep(0.05)
            address = site.address
            await site.acceptor.end()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(*address)
            if over_tls:
                assert 0 == site.counted
                with suppress(ConnectionError):
                    for reader, _ in pending:
                        assert b"" == await reader.read()
            for _, writer in pending:
                writer.close()
        async with asyncio.timeout(GUARD_SECONDS):
            while (before, tasks) != (descriptors(), len(asyncio.all_tasks())):  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    run(loop, scenario())


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("turns", range(8))
def test_nothing_is_served_that_a_drain_does_not_know(loop: str, turns: int) -> None:
    """
    A request whose connection is being made while the listener closes is served before the drain ends, or never.
    """

    async def scenario() -> None:
        async with listening() as site:
            with socket.create_connection(site.address) as caller:
                caller.sendall(REQUEST)
                for _ in range(turns):
                    await asyncio.sleep(0)
                site.acceptor.close()
                await site.server.drain(5.0)
                served = len(site.served)
                await asyncio.sleep(0.05)
                assert served == len(site.served)

    run(loop, scenario())


EXHAUSTED = """
import asyncio, resource, socket, sys, time
from contextlib import suppress
from structlog.testing import capture_logs
from tests.listen.test_acceptor import DONE, LOOPS, listening, run

async def scenario():
    async with listening() as site:
        resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))
        sockets = []
        with suppress(OSError):
            while True:
                sockets.append(socket.socket())
        held, others = sockets[:10], sockets[10:]
        for each in held:
            each.connect(site.address)
        before = time.process_time()
        await asyncio.sleep(1.0)
        is_idle = time.process_time() - before < 0.5
        counted = site.counted
        for each in others:
            each.close()
        await site.counts(10)
        for each in held:
            each.close()
        await site.counts(0)
        assert DONE == await site.call()
        print("counted", counted, "idle", is_idle)

with capture_logs() as lines:
    run(sys.argv[1], scenario())
print("lines", lines)
"""


@pytest.mark.parametrize("loop", LOOPS)
def test_exhausted_descriptors_stop_nothing(loop: str) -> None:
    """
    Without a free descriptor connections wait and cost nothing; all are taken once there are some, and the log has said
    it once.
    """
    done = subprocess.run(
        [sys.executable, "-c", EXHAUSTED, loop], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )

    line = {"listener": "traffic", "error": "EMFILE", "event": "accept_failed", "log_level": "error"}
    assert ("", 0) == (done.stderr, done.returncode)
    assert ["counted 0 idle True", f"lines {[line]}"] == done.stdout.splitlines()
