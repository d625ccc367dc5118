"""Who sends as much as it can, in chunks or in nonsense: what everyone else gets of the gateway, and what the log."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

from tests.e2e.gateway_process import MAX_LOOP_LAG_SECONDS, serving, witness
from tests.proxy.wire import calling, request
from tests.world import Upstream, create_connection, settings

CHUNKS = b"1\r\nx\r\n" * 40_000
PACKETS = 40  # 1.6 million chunks, which take two seconds to read
STRANGERS_PACKETS = 200  # 48 MB each, more than the buffers on the way hold
MALFORMED_OF_EACH = 100  # of twenty strangers (threats G13)
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
        async with witness() as machine, serving(settings(api, bad), tmp_path / "data") as gateway:
            await create_connection(gateway, None)
            await gateway.connect("ada", access_token="T1")
            key = await gateway.agent_key("ada")
            async with calling(gateway, wait_seconds=120) as flooded, calling(gateway, wait_seconds=120) as caller:
                await flooded.send(request("GET", "/bad/x", credential=key))
                flow = asyncio.create_task(flooded.answer())
                served = 0
                while not has_ended.is_set():
                    await caller.send(request("GET", "/api/x", credential=key))
                    assert 200 == (await caller.answer()).status
                    served += 1
                got = await flow
            lag = await machine.lag_beyond(gateway)
        flooding.join()
    await upstream.stop()

    assert lag < MAX_LOOP_LAG_SECONDS
    assert b"x" * 40_000 * PACKETS == got.body
    assert CALLS < served


async def test_calls_are_served_while_strangers_flood(tmp_path: Path) -> None:
    """
    Strangers send chunks on twenty connections, again and again; calls finish, and each stranger is cut.
    """
    upstream = await Upstream().start()
    api = {"name": "api", "prefix": "/api", "upstream": upstream.url, "connection": "api"}
    async with witness() as machine, serving(settings(api), tmp_path / "data") as gateway:
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
        lag = await machine.lag_beyond(gateway)
    await upstream.stop()

    assert lag < MAX_LOOP_LAG_SECONDS
    assert 20 == cut


async def test_malformed_requests_leave_one_line_a_second(tmp_path: Path) -> None:
    """
    Strangers send thousands of requests that cannot be read: all are counted, in one line a second at most, which holds
    nothing of them.
    """
    async with witness() as machine, serving(settings(), tmp_path / "data") as gateway:
        began = time.monotonic()

        async def send() -> None:
            for _ in range(MALFORMED_OF_EACH):
                async with calling(gateway, wait_seconds=30) as caller:
                    await caller.send(b"GET /CANARY HTTP/1.1\r\nCANARY : x\r\n\r\n")
                    assert 400 == (await caller.answer()).status

        await asyncio.gather(*(send() for _ in range(20)))
        lag = await machine.lag_beyond(gateway)
    seconds = time.monotonic() - began
    written = gateway.process.stderr
    lines = [json.loads(line) for line in written.splitlines() if line.startswith("{")]
    counts = [line["count"] for line in lines if line["event"] == "requests_refused"]

    assert 20 * MALFORMED_OF_EACH == sum(counts)
    assert len(counts) <= seconds + 1  # the last one is written at the end
    assert len(lines) <= len(counts) + 5
    assert "CANARY" not in written
    assert lag < MAX_LOOP_LAG_SECONDS
