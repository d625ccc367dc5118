"""Bytes both ways between two connections, until one of them ends."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from gateway.errors import CallerUnauthenticated, DeniedByPolicy, KeysUnavailable, RateLimited, Refusal
from gateway.proxy import tunnel as module
from gateway.proxy.tunnel import Tunnel, TunnelBroken

WAIT_SECONDS = 15.0


class Owner(asyncio.Protocol):
    """Whom a transport belonged to before: it keeps what it saw."""

    def __init__(self) -> None:
        self.made: asyncio.Future[asyncio.Transport] = asyncio.get_running_loop().create_future()
        self.received = b""
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.made.set_result(transport)

    def data_received(self, data: bytes) -> None:
        self.received += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True


@dataclass
class Ends:
    """A tunnel between two connections, the far ends of both, and who had them before."""

    tunnel: Tunnel
    caller: tuple[asyncio.StreamReader, asyncio.StreamWriter]
    upstream: tuple[asyncio.StreamReader, asyncio.StreamWriter]
    owners: list[Owner]


async def _nothing() -> None:
    return


@asynccontextmanager
async def between(
    *, idle_seconds: float = 60.0, decide_again: Callable[[], Awaitable[None]] = _nothing
) -> AsyncIterator[Ends]:
    loop = asyncio.get_running_loop()
    owners: list[Owner] = []

    def owner() -> Owner:
        owners.append(Owner())
        return owners[-1]

    server = await loop.create_server(owner, "127.0.0.1", 0)
    far = [await asyncio.open_connection(*server.sockets[0].getsockname()[:2]) for _ in range(2)]
    async with asyncio.timeout(WAIT_SECONDS):
        while len(owners) < 2:  # noqa: ASYNC110  # two accepts
            await asyncio.sleep(0.01)
        near = [await each.made for each in owners]
    yield Ends(Tunnel(near[0], near[1], idle_seconds=idle_seconds, decide_again=decide_again), far[0], far[1], owners)
    for _, writer in far:
        writer.transport.abort()
    server.close()


async def test_bytes_pass_until_one_side_ends() -> None:
    """
    What was under way arrives; then both are ended, their owners told, and the bytes of each direction counted.
    """
    async with asyncio.timeout(WAIT_SECONDS), between() as ends:
        running = asyncio.create_task(ends.tunnel.run(b"first "))
        ends.caller[1].write(b"hello")
        assert b"hello" == await ends.upstream[0].readexactly(5)
        ends.upstream[1].write(b"bye")
        ends.upstream[1].close()
        seen = await ends.caller[0].read()
        await running

    assert b"first bye" == seen
    assert (5, 9) == (ends.tunnel.received_bytes, ends.tunnel.sent_bytes)
    assert [True, True] == [owner.lost for owner in ends.owners]
    assert [b"", b""] == [owner.received for owner in ends.owners]


@pytest.mark.parametrize(("side", "reason"), [("caller", "client_aborted"), ("upstream", "upstream_cut")])
async def test_reset_of_one_side_resets_the_other(side: str, reason: str) -> None:
    """
    Who breaks off is told apart.
    """
    async with asyncio.timeout(WAIT_SECONDS), between() as ends:
        running = asyncio.create_task(ends.tunnel.run())
        reader, writer = ends.caller if side == "caller" else ends.upstream
        other = ends.upstream if side == "caller" else ends.caller
        other[1].write(b"unread")
        await reader.readexactly(6)
        _reset(writer)
        with pytest.raises(TunnelBroken) as broken:
            await running
        assert b"" == await other[0].read()

    assert reason == broken.value.reason


async def test_side_that_does_not_take_the_rest_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    One side has ended, and the other does not read what is under way to it: it is cut after a while, which is no end.
    """
    monkeypatch.setattr(module, "CLOSING_SECONDS", 0.2)
    async with asyncio.timeout(WAIT_SECONDS), between() as ends:
        running = asyncio.create_task(ends.tunnel.run())
        near = await ends.owners[0].made
        ends.caller[0]._transport.pause_reading()  # type: ignore[attr-defined]  # a reader's buffer would take it all
        while not near.get_write_buffer_size():  # until the sockets between are full
            ends.upstream[1].write(bytes(16_384))
            await asyncio.sleep(0)
        ends.upstream[1].close()
        with pytest.raises(TunnelBroken) as broken:
            await running

    assert "client_aborted" == broken.value.reason


async def test_silence_ends_both() -> None:
    """
    Where nothing moves for the idle time both are cut; what moves starts it anew.
    """
    async with asyncio.timeout(WAIT_SECONDS), between(idle_seconds=2.0) as ends:
        running = asyncio.create_task(ends.tunnel.run())
        for _ in range(3):
            await asyncio.sleep(0.8)
            ends.caller[1].write(b"x")
        assert not running.done()
        with pytest.raises(TunnelBroken) as broken:
            await running

    assert "tunnel_idle" == broken.value.reason


async def test_caller_that_may_no_more_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    It is decided again and again while the tunnel is open; the refusal's code is the reason.
    """
    monkeypatch.setattr(module, "DECIDE_SECONDS", 0.1)
    decisions = 0

    async def decide_again() -> None:
        nonlocal decisions
        decisions += 1
        if decisions == 3:
            raise CallerUnauthenticated

    async with asyncio.timeout(WAIT_SECONDS), between(decide_again=decide_again) as ends:
        with pytest.raises(TunnelBroken) as broken:
            await ends.tunnel.run()

    assert (3, "caller_unauthenticated") == (decisions, broken.value.reason)


async def test_caller_that_cannot_be_judged_at_the_moment_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A refusal for a while cuts nothing, however often it comes; the first that says no does.
    """
    monkeypatch.setattr(module, "DECIDE_SECONDS", 0.1)
    left: list[Refusal] = [KeysUnavailable(), KeysUnavailable(), RateLimited(), DeniedByPolicy()]

    async def decide_again() -> None:
        raise left.pop(0)

    async with asyncio.timeout(WAIT_SECONDS), between(decide_again=decide_again) as ends:
        with pytest.raises(TunnelBroken) as broken:
            await ends.tunnel.run()

    assert ([], "denied_by_policy") == (left, broken.value.reason)


async def test_cancelled_tunnel_leaves_nothing_open() -> None:
    """
    Whoever runs it and is cancelled, in a drain, ends both sides.
    """
    async with asyncio.timeout(WAIT_SECONDS), between() as ends:
        running = asyncio.create_task(ends.tunnel.run())
        await asyncio.sleep(0.05)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        seen = [await reader.read() for reader, _ in (ends.caller, ends.upstream)]

    assert [b"", b""] == seen


def _reset(writer: asyncio.StreamWriter) -> None:
    """End *writer*'s connection with a reset."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
