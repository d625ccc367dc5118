"""Where connections come in: floods, addresses, no free descriptor, and the end."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from gateway.listen.acceptor import Acceptor
from tests.listen.site import DONE, GUARD_SECONDS, LOOPS, REQUEST, Site, contexts, listening, run
from tests.tools import ROOT


def descriptors() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # counted, not named


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
from tests.listen.site import DONE, listening, run

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
