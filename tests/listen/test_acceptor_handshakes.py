"""TLS handshakes: they count from accept on, and one that fails leaves nothing behind."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from gateway.listen.connection import MAX_TURNED_AWAY
from gateway.models import TrafficLimits
from tests.listen.site import DONE, GUARD_SECONDS, LOOPS, REQUEST, contexts, listening, run

HALF_HELLO = b"\x16\x03\x01\x02\x00\x01"
RESET = struct.pack("ii", 1, 0)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("limits", [TrafficLimits(6, 99), TrafficLimits(99, 6)], ids=["in all", "from one address"])
def test_handshakes_count(tmp_path: Path, loop: str, limits: TrafficLimits) -> None:
    """
    Who holds all places with handshakes that do not end holds them until their time is over; one more is told so.
    """
    shown, trusted = contexts(tmp_path)

    async def scenario() -> None:
        async with listening(limits, tls=shown, handshake_seconds=2.0) as site:
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
