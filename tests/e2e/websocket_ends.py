"""The two ends of a WebSocket around a gateway process: of the `websockets` package, or of bare bytes."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
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
WAIT_SECONDS = 10.0
GUARD_SECONDS = 120.0  # a test that waits for what never comes ends here
HANDSHAKE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
SWITCH = f"HTTP/1.1 101 Ok\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {ACCEPT}\r\n"


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
async def switching(handle: Handle) -> AsyncIterator[int]:
    """Run an upstream that switches for whoever asks, and yield its port; *handle* has the bytes after that."""

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(SWITCH.encode() + b"\r\n")
            await handle(reader, writer)
        writer.close()

    async with await asyncio.start_server(serve_one, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def switched(gateway: RunningProcess, key: str) -> AsyncIterator[RawCaller]:
    """Open a connection that the gateway has switched, for frames of any bytes."""
    async with calling(gateway, wait_seconds=WAIT_SECONDS) as caller:
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
