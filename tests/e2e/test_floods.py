"""One connection that sends as many chunks as it can, and what everyone else gets of the gateway meanwhile."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path
from urllib.parse import urlsplit

from tests.e2e.gateway_process import serving
from tests.proxy.wire import calling, request
from tests.world import Upstream, create_connection, settings

CHUNKS = b"1\r\nx\r\n" * 40_000
PACKETS = 40  # 1.6 million chunks, which take two seconds to read
STRANGERS_PACKETS = 200  # 48 MB each, more than the buffers on the way hold
CALLS = 40  # finished meanwhile; 3 were where a turn of the loop read all that it could get


def flood(listener: socket.socket, has_ended: threading.Event) -> None:
    """Answer one request with chunks of one byte, as fast as they are taken."""
    connection, _ = listener.accept()
    with connection:
        connection.recv(65_536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(PACKETS):
            connection.sendall(CHUNKS)
        connection.sendall(b"0\r\n\r\n")
        has_ended.set()


async def test_calls_are_served_while_an_upstream_floods(tmp_path: Path) -> None:
    """
    The answer of one route comes in as many chunks as fit through; calls of another one finish all the while.
    """
    upstream = await Upstream().start()
    has_ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        flooding = threading.Thread(target=flood, args=(listener, has_ended))
        flooding.start()
        api = {"name": "api", "prefix": "/api", "upstream": upstream.url, "connection": "api"}
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        bad = {"name": "bad", "prefix": "/bad", "upstream": url, "connection": "api"}
        async with serving(settings(api, bad), tmp_path / "data") as gateway:
            await create_connection(gateway, None)
            await gateway.connect("ada", access_token="T1")
            key = await gateway.agent_key("ada")
            async with calling(gateway, wait_seconds=30) as flooded, calling(gateway, wait_seconds=30) as caller:
                await flooded.send(request("GET", "/bad/x", credential=key))
                flow = asyncio.create_task(flooded.answer())
                served = 0
                while not has_ended.is_set():
                    await caller.send(request("GET", "/api/x", credential=key))
                    assert 200 == (await caller.answer()).status
                    served += 1
                got = await flow
        flooding.join()
    await upstream.stop()

    assert b"x" * 40_000 * PACKETS == got.body
    assert CALLS < served


async def test_calls_are_served_while_strangers_flood(tmp_path: Path) -> None:
    """
    Strangers send chunks on twenty connections, again and again; calls finish, and each stranger is cut.
    """
    upstream = await Upstream().start()
    api = {"name": "api", "prefix": "/api", "upstream": upstream.url, "connection": "api"}
    async with serving(settings(api), tmp_path / "data") as gateway:
        await create_connection(gateway, None)
        await gateway.connect("ada", access_token="T1")
        key = await gateway.agent_key("ada")
        address = (urlsplit(gateway.url).hostname, urlsplit(gateway.url).port)

        def send() -> int:
            sent = 0
            with socket.create_connection(address) as connection:
                connection.sendall(request("POST", "/api/x", fields=("Transfer-Encoding: chunked",)))
                try:
                    for _ in range(STRANGERS_PACKETS):
                        connection.sendall(CHUNKS)
                        sent += 1
                except ConnectionError:
                    pass
            return sent

        async with calling(gateway, wait_seconds=30) as caller:
            flooding = [asyncio.create_task(asyncio.to_thread(send)) for _ in range(20)]
            while any(not task.done() for task in flooding):
                await caller.send(request("GET", "/api/x", credential=key))
                assert 200 == (await caller.answer()).status
            cut = sum(sent < STRANGERS_PACKETS for sent in await asyncio.gather(*flooding))
    await upstream.stop()

    assert 20 == cut
