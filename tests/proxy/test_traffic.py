"""The server of callers' connections: it makes them, and ends them."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path

import pytest

from gateway.listen.acceptor import Acceptor
from gateway.listen.head import RequestHead
from gateway.net.body_stream import Body
from gateway.proxy.listener import CallerConnection
from gateway.proxy.traffic import TrafficServer
from tests.net.certificates import Authority

DONE = b"HTTP/1.1 204 No Content\r\n\r\n"
ANSWER_BYTES = 8_000_000  # more than the system takes for a caller that reads nothing


async def test_each_connection_is_served_and_ended() -> None:
    """
    Requests of each connection are served, malformed ones are counted instead, and a drain ends what is idle.
    """
    served: list[str] = []
    malformed: list[str] = []

    async def serve(head: RequestHead, _: Body, client: CallerConnection) -> bool:
        served.append(head.target)
        client.send(DONE)
        return True

    loop = asyncio.get_running_loop()
    traffic = TrafficServer(serve, on_refused=lambda refusal: malformed.append(refusal.code), loop=loop)
    acceptor = await Acceptor.listen(traffic, "127.0.0.1", 0)
    callers = [await asyncio.open_connection("127.0.0.1", acceptor.port) for _ in range(3)]
    async with asyncio.timeout(5):
        for number, (reader, writer) in enumerate(callers[:2]):
            writer.write(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number)
            assert DONE == await reader.readexactly(len(DONE))
        callers[2][1].write(b"garbage\r\n\r\n")
        assert (await callers[2][0].read()).startswith(b"HTTP/1.1 400 ")

        acceptor.close()
        drained = await traffic.drain(1.0)
        rests = [await reader.read() for reader, _ in callers[:2]]

    for _, writer in callers:
        writer.close()
    assert (["/0", "/1"], ["invalid_request"], [b"", b""]) == (served, malformed, rests)
    assert (0, 0) == drained


@pytest.mark.parametrize("reads", [True, False], ids=["reads on", "reads nothing"])
@pytest.mark.parametrize("keep_alive", [True, False], ids=["kept", "last"])
@pytest.mark.parametrize("over_tls", [False, True], ids=["plain", "tls"])
async def test_drain_waits_for_what_a_caller_has_not_read(
    tmp_path: Path, over_tls: bool, keep_alive: bool, reads: bool
) -> None:
    """
    An answer has ended when it has left this process, on a kept connection as on one that ends with it.
    """
    served = asyncio.Event()

    async def serve(_: RequestHead, __: Body, client: CallerConnection) -> bool:
        client.send(b"x" * ANSWER_BYTES)
        served.set()
        return keep_alive

    loop = asyncio.get_running_loop()
    traffic = TrafficServer(serve, on_refused=lambda _: None, loop=loop)
    authority = Authority(tmp_path)
    tls = authority.server_context() if over_tls else None
    trusted = ssl.create_default_context(cafile=authority.ca_file) if over_tls else None
    acceptor = await Acceptor.listen(traffic, "127.0.0.1", 0, tls=tls)
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 20_000)
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", acceptor.port))
        name = "127.0.0.1" if over_tls else None
        reader, writer = await asyncio.open_connection(sock=sock, ssl=trusted, server_hostname=name, limit=1000)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(20):
            await served.wait()
            acceptor.close()
            draining = asyncio.create_task(traffic.drain(10.0 if reads else 0.5))
            if not reads:
                await draining
            got, end = 0, "closed"
            try:
                while data := await reader.read(65_536):
                    got += len(data)
            except ConnectionResetError:
                end = "reset"
            drained = await draining
        writer.transport.abort()

    assert ((1, 0) if reads else (0, 1)) == drained
    assert ("closed", True) == (end, got == ANSWER_BYTES) if reads else ("reset", False) == (end, got == ANSWER_BYTES)
