"""A caller of whom nothing is read at the moment goes away: that is noticed, and nothing more leaves for it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.proxy.wire import request
from tests.world import Issuer, Running, Upstream, answer, create_connection, running, settings

WAIT_SECONDS = 15.0
STALL_SECONDS = 1.0
RESET = struct.pack("ii", 1, 0)  # socket(7): SO_LINGER on, 0 seconds
HANDSHAKE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    f"Sec-WebSocket-Key: {base64.b64encode(b'k' * 16).decode()}",
)

Send = Callable[[asyncio.StreamReader, asyncio.StreamWriter, str], Awaitable[None]]


async def many_requests(_: asyncio.StreamReader, writer: asyncio.StreamWriter, credential: str) -> None:
    writer.write(request("GET", "/api/x", credential=credential) * 40)


async def an_upload(_: asyncio.StreamReader, writer: asyncio.StreamWriter, credential: str) -> None:
    writer.write(request("POST", "/api/x", credential=credential, fields=("Content-Length: 50000000",)))
    await _stall(writer)


async def a_websocket(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, credential: str) -> None:
    writer.write(request("GET", "/api/x", credential=credential, fields=HANDSHAKE))
    await reader.readuntil(b"\r\n\r\n")
    await _stall(writer)


async def _stall(writer: asyncio.StreamWriter) -> None:
    """Send until nobody reads any more."""
    for _ in range(1000):
        writer.write(b"x" * 65_536)
        try:
            async with asyncio.timeout(STALL_SECONDS):
                await writer.drain()
        except TimeoutError:
            return
    raise AssertionError("everything was read")


UNREAD: dict[str, tuple[Send, int]] = {
    "more requests than are read ahead": (many_requests, 0),
    "an upload that the upstream does not read": (an_upload, 0),
    "a WebSocket that the upstream does not read": (a_websocket, 101),
}


@pytest.mark.parametrize("case", UNREAD)
async def test_caller_that_resets_unread_is_noticed(tmp_path: Path, issuer: Issuer, case: str) -> None:
    """
    Within seconds the outcome line says who left; nothing else leaves.
    """
    send, status = UNREAD[case]
    heads: list[bytes] = []
    begun, over = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        if b"websocket" in heads[-1]:
            writer.write(_switch(heads[-1]))
        begun.set()
        await over.wait()  # and reads nothing meanwhile
        writer.transport.abort()

    upstream = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{upstream.sockets[0].getsockname()[1]}"
    route = {"name": "api", "prefix": "/api", "upstream": url, "connection": "api", "upgrade": ["websocket"]}
    async with upstream, running(settings(route, issuers=(issuer,)), tmp_path / "data") as gateway:
        await create_connection(gateway, None)
        await gateway.connect("ada", access_token="T0")
        parts = urlsplit(gateway.url)
        async with asyncio.timeout(WAIT_SECONDS):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            await send(reader, writer, issuer.token("ada"))
            await begun.wait()
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()
            outcomes = await _outcomes(gateway)
        over.set()

    assert 1 == len(heads)
    assert [(status, "client_aborted")] == [(line["status"], line["error"]) for line in outcomes]


def _switch(head: bytes) -> bytes:
    key = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key"))
    accepted = hashlib.sha1(key.partition(b": ")[2] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()  # noqa: S324
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Accept: %b\r\n\r\n" % base64.b64encode(accepted)
    )


async def _outcomes(gateway: Running) -> list[dict[str, Any]]:
    """Return the outcome lines, once there is one."""
    for _ in range(int(WAIT_SECONDS * 20)):
        if lines := gateway.lines("outcome"):
            return lines
        await asyncio.sleep(0.05)
    return []


async def test_answered_request_is_the_last_of_a_caller_that_left(
    tmp_path: Path, upstream: Upstream, issuer: Issuer
) -> None:
    """
    Requests that wait behind the one under way do not leave for a caller that has reset its connection.
    """
    held, reached = asyncio.Event(), asyncio.Event()

    async def respond(_: object, writer: asyncio.StreamWriter) -> None:
        reached.set()
        await held.wait()
        writer.write(answer(200, json.dumps({}).encode()))

    upstream.respond = respond
    route = {"name": "api", "prefix": "/api", "upstream": upstream.url, "connection": "api"}
    async with running(settings(route, issuers=(issuer,)), tmp_path / "data") as gateway:
        await create_connection(gateway, None)
        await gateway.connect("ada", access_token="T0")
        parts = urlsplit(gateway.url)
        async with asyncio.timeout(WAIT_SECONDS):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port)
            writer.write(request("POST", "/api/x", credential=issuer.token("ada"), body=b"{}") * 40)
            await reached.wait()
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()
            await _outcomes(gateway)
            held.set()
            await asyncio.sleep(0.5)
        outcomes = gateway.lines("outcome")

    assert 1 == len(upstream.received)
    assert ["client_aborted"] == [line["error"] for line in outcomes]
