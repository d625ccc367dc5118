"""The one buffer that all large bodies are read into: bounded, and nobody sees another's bytes in it."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from gateway.net.backlog import Backlog
from gateway.net.body_stream import LENT_BYTES
from gateway.proxy import direct
from gateway.proxy.connection import UpstreamConnection
from gateway.proxy.direct import LARGE_BYTES, MAX_LENT_BYTES, SMALL_BYTES, DirectReader, Memory
from tests.listen.site import LOOPS, run
from tests.net.certificates import Authority
from tests.proxy.wire import RawCaller, calling, request
from tests.world import Received, Upstream, create_connection, running, settings

SIZE = 32 * LARGE_BYTES + 11  # more than the system holds for a caller who does not read
CALLERS = 4
WAIT_SECONDS = 30.0


def test_lent_memory_is_bounded() -> None:
    """
    Buffers are smaller while many of them are still to be written, and as large as before once they are.
    """
    memory = Memory()
    held: list[memoryview] = []
    while memory.lent_bytes < MAX_LENT_BYTES:
        held.append(memory.get())
        memory.lend()
    crowded = len(memory.get())
    held.clear()

    assert (SMALL_BYTES, 0, LARGE_BYTES) == (crowded, memory.lent_bytes, len(memory.get()))


async def test_never_more_is_read_than_is_left() -> None:
    """
    The buffer ends where the body does.
    """
    loop = asyncio.get_running_loop()
    reader = DirectReader(UpstreamConnection(loop, Backlog(loop)), 10)

    assert 10 == len(reader.get_buffer(-1))


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("over_tls", [False, True], ids=["plain", "tls"])
def test_no_caller_sees_bytes_of_another(tmp_path: Path, loop: str, over_tls: bool) -> None:
    """
    Callers who get large bodies at once get their own to the last byte, also those who let theirs wait in the buffer.
    """
    seen: dict[int, tuple[int, int]] = {}  # by caller: bytes that are missing, bytes that are another's

    async def respond(received: Received, writer: asyncio.StreamWriter) -> None:
        number = int(received.request_line.split(" ")[1].rpartition("/")[2])
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE)
        for at in range(0, SIZE, 100_000):
            writer.write(bytes([number]) * min(100_000, SIZE - at))
            await writer.drain()

    async def read(caller: RawCaller, number: int) -> None:
        await caller.reader.readuntil(b"\r\n\r\n")
        left, strange = SIZE, 0
        if number % 2:
            await asyncio.sleep(0.3)
        while left and (piece := await caller.reader.read(left)):
            left -= len(piece)
            strange += len(piece) - piece.count(bytes([number]))
        seen[number] = (left, strange)

    async def scenario() -> None:
        authority = Authority(tmp_path)
        authority.server_context()
        pem = str(tmp_path / "127.0.0.1-1.pem")
        upstream = await Upstream().start()
        upstream.respond = respond
        entry = {"name": "api", "prefix": "/api", "upstream": upstream.url, "connection": "api"}
        configuration = settings({**entry, "echo_guard": "off"})
        if over_tls:
            configuration["listeners"]["traffic"]["tls"] = {"cert": pem, "key": pem}
        trusted = ssl.create_default_context(cafile=authority.ca_file) if over_tls else None
        async with asyncio.timeout(WAIT_SECONDS), AsyncExitStack() as stack:
            gateway = await stack.enter_async_context(running(configuration, tmp_path / "data"))
            await create_connection(gateway, None)
            await gateway.connect("ada", access_token="T1")
            key = await gateway.agent_key("ada")
            callers = [await stack.enter_async_context(calling(gateway, tls=trusted)) for _ in range(CALLERS)]
            for number, caller in enumerate(callers):
                await caller.send(request("GET", f"/api/{number}", credential=key))
            await asyncio.gather(*(read(caller, number) for number, caller in enumerate(callers)))
        await upstream.stop()
        assert dict.fromkeys(range(CALLERS), (0, 0)) == seen

    run(loop, scenario())


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("piece_bytes", [300, 1_400, LENT_BYTES, LENT_BYTES + 4_000])
def test_silent_caller_costs_little_however_small_the_pieces_are(tmp_path: Path, loop: str, piece_bytes: int) -> None:
    """
    A large answer that comes piece by piece to a caller who does not read holds two buffers at most, not one a piece.
    """
    most, over = 0, asyncio.Event()

    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        nonlocal most
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE)
        with suppress(ConnectionError, TimeoutError):
            for _number in range(SIZE // piece_bytes):
                writer.write(b"x" * piece_bytes)
                async with asyncio.timeout(0.5):  # until nobody takes any more
                    await writer.drain()
                await asyncio.sleep(0)
                most = max(most, direct._memory.lent_bytes)
        writer.transport.abort()
        over.set()

    async def scenario() -> None:
        upstream = await Upstream().start()
        upstream.respond = respond
        entry = {"name": "api", "prefix": "/api", "upstream": upstream.url, "connection": "api"}
        async with asyncio.timeout(WAIT_SECONDS), running(settings(entry), tmp_path / "data") as gateway:
            await create_connection(gateway, None)
            await gateway.connect("ada", access_token="T1")
            caller = socket.socket()
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            with caller:
                caller.connect(("127.0.0.1", int(gateway.url.rpartition(":")[2])))
                caller.sendall(request("GET", "/api/x", credential=await gateway.agent_key("ada")))
                await over.wait()
        await upstream.stop()

    run(loop, scenario())
    assert most <= 2 * LARGE_BYTES
