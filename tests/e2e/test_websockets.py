"""WebSockets through the gateway: both directions as they came, with the same identity, policy and record as calls."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import websockets
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import InvalidStatus

from tests.e2e.gateway_process import RunningProcess
from tests.e2e.websocket_ends import (
    ACCEPT,
    HANDSHAKE,
    MEGABYTE,
    SWITCH,
    WAIT_SECONDS,
    Echo,
    echoed,
    gateway_before,
    opened,
    outcome_of,
)
from tests.proxy.wire import RawCaller, calling, request
from tests.world import Provider, Upstream


async def test_messages_pass_both_ways(tmp_path: Path, echo: Echo) -> None:
    """
    Text, binary, a frame of 1 MB, a ping and a subprotocol pass as they came; the token is injected, and all of it is
    one call in the record.
    """
    blob = os.urandom(MEGABYTE)
    async with gateway_before(echo.port, tmp_path) as gateway:
        key = await gateway.agent_key("ada")
        async with opened(gateway, key, subprotocols=[websockets.Subprotocol("chat")]) as socket:
            seen = [await echoed(socket, message) for message in ("häl\u0000lo", b"\x00\xff", blob, "")]
            await asyncio.wait_for(await socket.ping(), WAIT_SECONDS)
            intents, outcomes = len(gateway.lines("intent")), len(gateway.lines("outcome"))
        outcome = await outcome_of(gateway)

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
        await outcome_of(gateway, 2)

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
            seen = await echoed(socket, "hello")
        outcome = await outcome_of(gateway)

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
    async with gateway_before(echo.port, tmp_path, timeouts={"idle_seconds": 2.5}) as gateway:
        async with opened(gateway, await gateway.agent_key("ada"), ping_interval=None) as socket:
            assert "hello" == await echoed(socket, "hello")
            await asyncio.wait_for(socket.wait_closed(), WAIT_SECONDS)
        outcome = await outcome_of(gateway)

    assert 1006 == socket.close_code
    assert (101, "tunnel_idle") == (outcome["status"], outcome["error"])


async def test_drain_cuts_what_is_open(tmp_path: Path, echo: Echo) -> None:
    """
    A stop cuts an open WebSocket after `drain_seconds`, and the record says so.
    """
    async with gateway_before(echo.port, tmp_path) as gateway:
        async with opened(gateway, await gateway.agent_key("ada")) as socket:
            assert "hello" == await echoed(socket, "hello")
            await gateway.process.stop()
            await asyncio.wait_for(socket.wait_closed(), WAIT_SECONDS)
        outcome = await outcome_of(gateway)

    assert (1006, "drained") == (socket.close_code, outcome["error"])


async def test_drain_lets_what_ends_in_time_end(tmp_path: Path, echo: Echo) -> None:
    """
    Within `drain_seconds` an open WebSocket goes on, and its end is one like any other; no new one is opened.
    """
    async with gateway_before(echo.port, tmp_path, drain_seconds=60) as gateway:
        key = await gateway.agent_key("ada")
        async with opened(gateway, key) as client:
            assert "hello" == await echoed(client, "hello")
            os.kill(gateway.process.pid, signal.SIGTERM)
            await _refusing(gateway)
            seen = await echoed(client, "still here")
            await client.close(4002, "done")
        async with asyncio.timeout(WAIT_SECONDS):
            await gateway.process.ended()
        outcome = await outcome_of(gateway)

    assert ("still here", [(4002, "done")]) == (seen, echo.closed)
    assert (None, 0) == (outcome["error"], gateway.process.exit_code)


async def test_new_token_changes_nothing_of_an_open_one(tmp_path: Path, echo: Echo) -> None:
    """
    An open WebSocket outlives the token that opened it; the next one is opened with its successor.
    """
    async with gateway_before(echo.port, tmp_path) as gateway:
        key = await gateway.agent_key("ada")
        async with opened(gateway, key) as first:
            await gateway.connect("ada", access_token="T2")
            echo.live = {"T2"}
            async with opened(gateway, key) as second:
                seen = [await echoed(client, "hello") for client in (first, second)]

    assert (["hello"] * 2, ["T1", "T1", "T2"]) == (seen, echo.authorizations)


async def _refusing(gateway: RunningProcess) -> None:
    """Return once the gateway takes no more connections."""
    parts = urlsplit(gateway.url)
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            try:
                _, writer = await asyncio.open_connection(parts.hostname, parts.port)
            except ConnectionError:
                return
            writer.close()
            await asyncio.sleep(0.05)


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


async def _rest(caller: RawCaller) -> bytes:
    async with asyncio.timeout(WAIT_SECONDS):
        return await caller.reader.read()
