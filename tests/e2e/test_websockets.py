"""WebSockets through the gateway: both directions as they came, with the same identity, policy and record as calls."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import websockets
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.http11 import Request, Response

from tests.e2e.gateway_process import RunningProcess, serving
from tests.proxy.wire import RawCaller, calling, eventually, request
from tests.world import Provider, Upstream, create_connection, settings

MEGABYTE = 1 << 20
WAIT_SECONDS = 10.0
HANDSHAKE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


class Echo:
    """A WebSocket server that sends back what comes, and records who came."""

    def __init__(self) -> None:
        self.authorizations: list[str] = []
        self.live: set[str] | None = None
        self.closed: list[tuple[int, str]] = []
        self.port = 0

    async def handle(self, socket: ServerConnection) -> None:
        try:
            async for message in socket:
                if message == "bye":
                    await socket.close(4001, "as you like")
                    break
                await socket.send(message)
            await socket.wait_closed()
        except ConnectionClosed:
            pass
        self.closed.append((socket.close_code or 0, socket.close_reason or ""))

    def judge(self, socket: ServerConnection, asked: Request) -> Response | None:
        token = asked.headers["Authorization"].removeprefix("Bearer ")
        self.authorizations.append(token)
        if self.live is not None and token not in self.live:
            return socket.respond(401, "no\n")
        return None


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    """A WebSocket server."""
    echo = Echo()
    async with serve(
        echo.handle,
        "127.0.0.1",
        0,
        process_request=echo.judge,
        max_size=4 * MEGABYTE,
        select_subprotocol=lambda _, offered: offered[0] if offered else None,
    ) as server:
        echo.port = next(iter(server.sockets)).getsockname()[1]
        yield echo


@asynccontextmanager
async def gateway_before(
    port: int, tmp_path: Path, *, provider: Provider | None = None, **more: Any
) -> AsyncIterator[RunningProcess]:
    """A gateway process with the route /api to *port*; user "ada" has the token T1."""
    route = {"name": "api", "prefix": "/api", "upstream": f"http://127.0.0.1:{port}", "connection": "api", **more}
    route.setdefault("upgrade", ["websocket"])
    async with asyncio.timeout(60), serving(settings(route, drain_seconds=1), tmp_path / "data") as gateway:
        await create_connection(gateway, provider)
        refresh_token = provider.issue() if provider is not None else None
        await gateway.connect("ada", access_token="T1", refresh_token=refresh_token)
        yield gateway


def opened(gateway: RunningProcess, key: str, **more: Any) -> connect:
    """Open a WebSocket at /api/socket."""
    url = gateway.url.replace("http://", "ws://") + "/api/socket"
    return connect(url, additional_headers={"Authorization": f"Bearer {key}"}, max_size=4 * MEGABYTE, **more)


async def test_messages_pass_both_ways(tmp_path: Path, echo: Echo) -> None:
    """
    Text, binary, a frame of 1 MB, a ping and a subprotocol pass as they came; the token is injected, and all of it is
    one call in the record.
    """
    blob = os.urandom(MEGABYTE)
    async with gateway_before(echo.port, tmp_path) as gateway:
        key = await gateway.agent_key("ada")
        async with opened(gateway, key, subprotocols=[websockets.Subprotocol("chat")]) as socket:
            seen = [await _echoed(socket, message) for message in ("häl\u0000lo", b"\x00\xff", blob, "")]
            await asyncio.wait_for(await socket.ping(), WAIT_SECONDS)
            intents, outcomes = len(gateway.lines("intent")), len(gateway.lines("outcome"))
        outcome = await _outcome(gateway)

    assert ["häl\u0000lo", b"\x00\xff", blob, ""] == seen
    assert "chat" == socket.subprotocol
    assert ["T1"] == echo.authorizations
    assert (1, 0) == (intents, outcomes)
    assert (101, None) == (outcome["status"], outcome["error"])
    assert outcome["bytes_received"] > MEGABYTE and outcome["bytes_sent"] > MEGABYTE


async def test_close_codes_pass_both_ways(tmp_path: Path, echo: Echo) -> None:
    """
    Whoever closes, the other side gets its code and reason.
    """
    async with gateway_before(echo.port, tmp_path) as gateway:
        key = await gateway.agent_key("ada")
        async with opened(gateway, key) as socket:
            await socket.close(4002, "done")
        async with opened(gateway, key) as other:
            await other.send("bye")
            await other.wait_closed()
        await _outcome(gateway, 2)

    assert (4002, "done") == echo.closed[0]
    assert (4001, "as you like") == (other.close_code, other.close_reason)


async def test_rejected_token_is_refreshed_before_the_switch(tmp_path: Path, echo: Echo, provider: Provider) -> None:
    """
    A handshake that is answered 401 leads to one refresh and one more, as any call does.
    """
    echo.live = set()
    provider.on_exchange = echo.live.add
    async with gateway_before(echo.port, tmp_path, provider=provider) as gateway:
        async with opened(gateway, await gateway.agent_key("ada")) as socket:
            seen = await _echoed(socket, "hello")
        outcome = await _outcome(gateway)

    assert "hello" == seen
    assert ["T1", *echo.live] == echo.authorizations
    assert (101, 2, True) == (outcome["status"], outcome["attempts"], outcome["refreshed"])


@pytest.mark.parametrize(
    ("case", "more", "status"),
    [
        ("a route without it", {"upgrade": []}, 426),
        ("a path that is not allowed", {"allow": ["GET /other"]}, 403),
    ],
)
async def test_nothing_switches_where_it_may_not(
    tmp_path: Path, echo: Echo, case: str, more: dict[str, Any], status: int
) -> None:
    """
    Where the route says nothing of WebSockets the upstream sees a plain request; where policy says no, it sees nothing.
    """
    async with gateway_before(echo.port, tmp_path, **more) as gateway:
        with pytest.raises(InvalidStatus) as refused:
            async with opened(gateway, await gateway.agent_key("ada")):
                pass

    assert status == refused.value.response.status_code
    assert [] == echo.closed


BROKEN: dict[str, tuple[str, ...]] = {
    "no key": HANDSHAKE[:3],
    "a key that is none": (*HANDSHAKE[:3], "Sec-WebSocket-Key: short"),
    "two keys": (*HANDSHAKE, HANDSHAKE[3]),
    "another version": (*HANDSHAKE[:2], "Sec-WebSocket-Version: 12", HANDSHAKE[3]),
    "two protocols": (*HANDSHAKE, "Upgrade: h2c"),
    "no Connection": HANDSHAKE[1:],
    "a body": (*HANDSHAKE, "Content-Length: 1"),
    "a nominated key": ("Connection: Upgrade, Sec-WebSocket-Key", *HANDSHAKE[1:]),
    "the last request": ("Connection: Upgrade, close", *HANDSHAKE[1:]),
}


async def test_half_a_handshake_is_refused(tmp_path: Path, echo: Echo) -> None:
    """
    What is not exactly a handshake is 400, and nothing of it is passed on as bytes of another protocol.
    """
    seen: dict[str, tuple[int, str | None]] = {}
    async with gateway_before(echo.port, tmp_path) as gateway:
        key = await gateway.agent_key("ada")
        for case in (*BROKEN, "frames before the answer", "a POST", "HTTP/1.0"):
            method = "POST" if case == "a POST" else "GET"
            version = "1.0" if case == "HTTP/1.0" else "1.1"
            fields = BROKEN.get(case, HANDSHAKE)
            data = request(method, "/api/socket", credential=key, fields=fields, version=version)
            async with calling(gateway) as caller:
                await caller.send(data + (b"\x81\x80\0\0\0\0" if case == "frames before the answer" else b""))
                got = await caller.answer()
                assert await caller.ended()
            seen[case] = (got.status, got.code)

    assert dict.fromkeys(seen, (400, "invalid_request")) == seen
    assert [] == echo.closed


ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
SWITCH = f"HTTP/1.1 101 Ok\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {ACCEPT}\r\n"
ODD = {
    "the answer to another key": SWITCH.replace(ACCEPT, "AAAALMBiTxaQ9kYGzzhZRbK+xOo="),
    "another protocol": SWITCH.replace("websocket", "h2c"),
    "no Upgrade": SWITCH.replace("Upgrade: websocket\r\n", ""),
    "no Connection": SWITCH.replace("Connection: Upgrade\r\n", ""),
    "a subprotocol that was not offered": SWITCH + "Sec-WebSocket-Protocol: chat\r\n",
    "two answers to the key": SWITCH + f"Sec-WebSocket-Accept: {ACCEPT}\r\n",
    "a body": SWITCH + "Content-Length: 5\r\n",
}


async def test_odd_switch_is_never_passed_on(tmp_path: Path, upstream: Upstream) -> None:
    """
    An upstream that switches to something else than what was asked for is answered for with 502.
    """
    odd: list[str] = []

    async def early(head: bytes, writer: asyncio.StreamWriter) -> bool:
        writer.write(odd[-1].encode() + b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        await writer.drain()
        return True

    upstream.early = early
    seen: dict[str, tuple[int, str | None]] = {}
    async with gateway_before(upstream.port, tmp_path) as gateway:
        data = request("GET", "/api/socket", credential=await gateway.agent_key("ada"), fields=HANDSHAKE)
        for case, answered in ODD.items():
            odd.append(answered)
            async with calling(gateway) as caller:
                await caller.send(data)
                got = await caller.answer()
            seen[case] = (got.status, got.code)

    assert dict.fromkeys(ODD, (502, "upstream_protocol_error")) == seen


async def test_what_comes_with_the_switch_arrives(tmp_path: Path, upstream: Upstream) -> None:
    """
    Frames that an upstream sends in the packet of its 101 reach the caller behind it.
    """

    async def early(head: bytes, writer: asyncio.StreamWriter) -> bool:
        writer.write(SWITCH.encode() + b"\r\n\x81\x05hello")
        await writer.drain()
        return True

    upstream.early = early
    async with gateway_before(upstream.port, tmp_path) as gateway, calling(gateway) as caller:
        await caller.send(request("GET", "/api/socket", credential=await gateway.agent_key("ada"), fields=HANDSHAKE))
        head = await caller.head()
        frames = await _rest(caller)

    assert head.startswith(b"HTTP/1.1 101 ")
    assert f"Sec-WebSocket-Accept: {ACCEPT}".encode() in head
    assert b"\x81\x05hello" == frames


async def test_idle_tunnel_is_cut(tmp_path: Path, echo: Echo) -> None:
    """
    Where nothing moves for the route's idle time, both sides are cut, and the record says why.
    """
    async with gateway_before(echo.port, tmp_path, timeouts={"idle_seconds": 1}) as gateway:
        async with opened(gateway, await gateway.agent_key("ada"), ping_interval=None) as socket:
            assert "hello" == await _echoed(socket, "hello")
            await asyncio.wait_for(socket.wait_closed(), WAIT_SECONDS)
        outcome = await _outcome(gateway)

    assert 1006 == socket.close_code
    assert (101, "tunnel_idle") == (outcome["status"], outcome["error"])


async def test_drain_cuts_what_is_open(tmp_path: Path, echo: Echo) -> None:
    """
    A stop cuts an open WebSocket after `drain_seconds`, and the record says so.
    """
    async with gateway_before(echo.port, tmp_path) as gateway:
        async with opened(gateway, await gateway.agent_key("ada")) as socket:
            assert "hello" == await _echoed(socket, "hello")
            await gateway.process.stop()
            await asyncio.wait_for(socket.wait_closed(), WAIT_SECONDS)
        outcome = await _outcome(gateway)

    assert (1006, "drained") == (socket.close_code, outcome["error"])


async def test_slow_side_stops_the_other(tmp_path: Path, echo: Echo) -> None:
    """
    A caller that does not read stops the upstream; when it reads on, nothing is lost.
    """
    count = 40
    async with gateway_before(echo.port, tmp_path) as gateway:
        key = await gateway.agent_key("ada")
        async with opened(gateway, key, max_queue=1) as socket, asyncio.TaskGroup() as group:
            group.create_task(_send(socket, count))
            await asyncio.sleep(1)
            got = [len(await socket.recv()) for _ in range(count)]

    assert [MEGABYTE] * count == got


async def _send(socket: ClientConnection, count: int) -> None:
    for _ in range(count):
        await socket.send(b"\0" * MEGABYTE)


async def _echoed(socket: ClientConnection, message: str | bytes) -> str | bytes:
    await socket.send(message)
    return await asyncio.wait_for(socket.recv(), WAIT_SECONDS)


async def _rest(caller: RawCaller) -> bytes:
    async with asyncio.timeout(WAIT_SECONDS):
        return await caller.reader.read()


async def _outcome(gateway: RunningProcess, count: int = 1) -> dict[str, Any]:
    """Return the last outcome line once there are *count*."""
    assert await eventually(lambda: len(gateway.lines("outcome")) >= count)
    return gateway.lines("outcome")[-1]
