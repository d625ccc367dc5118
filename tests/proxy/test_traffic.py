"""The server of callers' connections: it makes them, and ends them."""

from __future__ import annotations

import asyncio

from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader

from gateway.proxy.listener import CallerConnection
from gateway.proxy.traffic import TrafficServer

DONE = b"HTTP/1.1 204 No Content\r\n\r\n"


async def test_each_connection_is_served_and_ended() -> None:
    """
    Requests of each connection are served, malformed ones are counted instead, and a drain ends what is idle.
    """
    served: list[str] = []
    malformed: list[str] = []

    async def serve(message: RawRequestMessage, _: StreamReader, client: CallerConnection) -> bool:
        served.append(message.path)
        client.send(DONE)
        return True

    loop = asyncio.get_running_loop()
    traffic = TrafficServer(serve, on_refused=lambda refusal: malformed.append(refusal.code), loop=loop)
    listening = await loop.create_server(traffic, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    callers = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
    async with asyncio.timeout(5):
        for number, (reader, writer) in enumerate(callers[:2]):
            writer.write(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number)
            assert DONE == await reader.readexactly(len(DONE))
        callers[2][1].write(b"garbage\r\n\r\n")
        assert (await callers[2][0].read()).startswith(b"HTTP/1.1 400 ")

        listening.close()
        drained = await traffic.drain(1.0)
        rests = [await reader.read() for reader, _ in callers[:2]]

    for _, writer in callers:
        writer.close()
    assert (["/0", "/1"], ["invalid_request"], [b"", b""]) == (served, malformed, rests)
    assert (0, 0) == drained
