"""The two ends of a WebSocket around a gateway process: of the `websockets` package, or of bare bytes."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import struct
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from tests.e2e.gateway_process import RunningProcess, serving
from tests.proxy.wire import RawCaller, calling, eventually, request
from tests.world import Provider, create_connection, settings

MEGABYTE = 1 << 20
BLOCK = os.urandom(MEGABYTE)
WAIT_SECONDS = 20.0
GUARD_SECONDS = 120.0  # a test that waits for what never comes ends here
HANDSHAKE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
SWITCH = f"HTTP/1.1 101 Ok\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {ACCEPT}\r\n"
# Who ends a WebSocket, and the error of its outcome line.
ENDS = {
    "the caller is reset": "client_aborted",
    "the caller ends without a word": None,
    "the upstream is reset": "upstream_cut",
    "the upstream ends without a word": None,
}


class Echo:
    """A WebSocket server that sends back what comes, and records who came."""

    def __init__(self) -> None:
        self.authorizations: list[str] = []
        self.live: set[str] | None = None
        self.closed: list[tuple[int, str]] = []
        self.port = 0

    async def handle(self, client: ServerConnection) -> None:
        try:
            async for message in client:
                if message == "bye":
                    await client.close(4001, "as you like")
                    break
                await client.send(message)
            await client.wait_closed()
        except ConnectionClosed:
            pass
        self.closed.append((client.close_code or 0, client.close_reason or ""))

    def judge(self, client: ServerConnection, asked: Request) -> Response | None:
        token = asked.headers["Authorization"].removeprefix("Bearer ")
        self.authorizations.append(token)
        if self.live is not None and token not in self.live:
            return client.respond(401, "no\n")
        return None


@asynccontextmanager
async def gateway_before(
    port: int, tmp_path: Path, *, provider: Provider | None = None, drain_seconds: int = 1, **more: Any
) -> AsyncIterator[RunningProcess]:
    """A gateway process with the route /api to *port*; user "ada" has the token T1."""
    route = {"name": "api", "prefix": "/api", "upstream": f"http://127.0.0.1:{port}", "connection": "api", **more}
    route.setdefault("upgrade", ["websocket"])
    configuration = settings(route, drain_seconds=drain_seconds)
    async with asyncio.timeout(GUARD_SECONDS), serving(configuration, tmp_path / "data") as gateway:
        await create_connection(gateway, provider)
        refresh_token = provider.issue() if provider is not None else None
        await gateway.connect("ada", access_token="T1", refresh_token=refresh_token)
        yield gateway


def opened(gateway: RunningProcess, key: str, **more: Any) -> connect:
    """Open a WebSocket at /api/socket."""
    url = gateway.url.replace("http://", "ws://") + "/api/socket"
    return connect(url, additional_headers={"Authorization": f"Bearer {key}"}, max_size=4 * MEGABYTE, **more)


Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def switching(handle: Handle, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Run an upstream that switches for whoever asks, and yield its port; *handle* has the bytes after that."""

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(SWITCH.encode() + b"\r\n")
            await handle(reader, writer)
        writer.close()

    async with await asyncio.start_server(serve_one, "127.0.0.1", 0, ssl=tls) as server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def switched(gateway: RunningProcess, key: str, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[RawCaller]:
    """Open a connection that the gateway has switched, for frames of any bytes."""
    async with calling(gateway, wait_seconds=WAIT_SECONDS, tls=tls) as caller:
        await caller.send(request("GET", "/api/socket", credential=key, fields=HANDSHAKE))
        assert (await caller.head()).startswith(b"HTTP/1.1 101 ")
        yield caller


def reset(writer: asyncio.StreamWriter) -> None:
    """End *writer*'s connection with a reset, as a process that is killed or a broken network does."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def echoed(client: ClientConnection, message: str | bytes) -> str | bytes:
    """Send *message* and return what comes back."""
    await client.send(message)
    return await asyncio.wait_for(client.recv(), WAIT_SECONDS)


async def outcome_of(gateway: RunningProcess, count: int = 1) -> dict[str, Any]:
    """Return the last outcome line once there are *count*."""
    assert await eventually(lambda: len(gateway.lines("outcome")) >= count)
    return gateway.lines("outcome")[-1]


@dataclass(slots=True)
class Meter:
    """Counts and sums what passes one end."""

    count: int = 0
    crc: int = 0

    def add(self, data: bytes) -> None:
        self.count += len(data)
        self.crc = zlib.crc32(data, self.crc)


async def pour(writer: asyncio.StreamWriter, blocks: int) -> Meter:
    """Write one binary frame of *blocks* megabytes, while the other end does not read, and on."""
    poured = Meter()
    header = b"\x82\x7f" + (blocks * MEGABYTE).to_bytes(8)
    for piece in (header, *[BLOCK] * blocks):
        writer.write(piece)
        await writer.drain()
        poured.add(piece)
    return poured


async def swallow(reader: asyncio.StreamReader, blocks: int) -> Meter:
    """Read a frame of *blocks* megabytes."""
    read = Meter()
    while read.count < 10 + blocks * MEGABYTE and (data := await reader.read(1 << 18)):
        read.add(data)
    return read


async def at_a_stalled_end(pouring: Awaitable[Meter], swallowing: Awaitable[Meter]) -> tuple[Meter, Meter]:
    """Return what both ends count, of which one begins to read when the other has waited for it a while."""
    task = asyncio.ensure_future(pouring)
    done, _ = await asyncio.wait((task,), timeout=1)
    assert not done, "as much as that is held nowhere on the way"
    poured, swallowed = await asyncio.gather(task, swallowing)
    return poured, swallowed


async def ended_by(reader: asyncio.StreamReader) -> None:
    """Return once *reader*'s connection has ended, in whichever way."""
    with suppress(ConnectionError):
        assert b"" == await asyncio.wait_for(reader.read(), WAIT_SECONDS)


def tunnels(gateway: RunningProcess) -> list[str | None]:
    """Return the error of each WebSocket that has ended, in order."""
    return [line["error"] for line in gateway.lines("outcome") if line["status"] == 101]
