"""One connection to an upstream: every way in which an answer can fail or go on for too long."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.proxy.wire import call, eventually, gateway_with, request, respond_with
from tests.world import Issuer, Provider, Received, Running, Upstream, answer

EVIL = answer(200, b'"evil"')
EXTRA: dict[str, bytes] = {
    "a second answer": EVIL,
    "the beginning of a second answer": b"HTTP/1.1 200 OK\r\nContent-",
    "half a status line": b"HTTP/1",
    "a head without its body": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx",
    "an informational answer": b"HTTP/1.1 100 Continue\r\n\r\n",
    "garbage": b"garbage\r\n\r\n",
}


@pytest.mark.parametrize("case", EXTRA)
@pytest.mark.parametrize("pause_seconds", [0.0, 0.05])
async def test_extra_bytes_never_shift_the_next_answer(
    gateway: Running, upstream: Upstream, issuer: Issuer, case: str, pause_seconds: float
) -> None:
    """
    What an upstream sends after an answer, with it or later, is never part of another call's answer.
    """

    async def respond(received: Received, writer: asyncio.StreamWriter) -> None:
        data = answer(200, received.request_line.encode())
        if pause_seconds:
            writer.write(data)
            await asyncio.sleep(pause_seconds)
            writer.write(EXTRA[case])
        else:
            writer.write(data + EXTRA[case])

    upstream.respond = respond
    credential = issuer.token("ada")
    for number in range(4):
        got = await call(gateway, request("GET", f"/api/{number}", credential=credential))
        assert got.status in (200, 502)
        if got.status == 200:
            assert f"GET /{number} HTTP/1.1".encode() == got.body
        await asyncio.sleep(2 * pause_seconds)

    if case != "an informational answer":
        assert 4 == upstream.connections


FAULTS: dict[str, tuple[bytes, int, str]] = {
    "garbage": (b"\x00\x01\x02garbage\r\n\r\n", 502, "upstream_protocol_error"),
    "another protocol": (b"SSH-2.0-OpenSSH_9\r\n\r\n", 502, "upstream_protocol_error"),
    "nothing": (b"", 502, "upstream_unreachable"),
    "half a head": (b"HTTP/1.1 200 OK\r\nX-Half", 502, "upstream_unreachable"),
    "an upgrade that nobody asked for": (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nframes",
        502,
        "upstream_protocol_error",
    ),
    "two lengths": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        502,
        "upstream_protocol_error",
    ),
    "a length that is no number": (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", 502, "upstream_protocol_error"),
    "both framings": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        502,
        "upstream_protocol_error",
    ),
    "a status of two digits": (b"HTTP/1.1 20 OK\r\n\r\n", 502, "upstream_protocol_error"),
    "a field with a line feed alone": (b"HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n", 502, "upstream_protocol_error"),
    "a field of 20 KB": (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", 502, "upstream_protocol_error"),
}


@pytest.mark.parametrize("case", FAULTS)
async def test_fault_before_an_answer_is_told(gateway: Running, upstream: Upstream, issuer: Issuer, case: str) -> None:
    """
    What is no answer becomes 502 problem+json with Proxy-Status, without a byte of what the upstream sent.
    """
    data, status, code = FAULTS[case]
    upstream.respond = respond_with(data, close=True)

    got = await call(gateway, request("GET", "/api/x", credential=issuer.token("ada")))

    assert (status, code) == (got.status, got.code)
    assert f'details="{code}"' in got.values("Proxy-Status")[0]
    assert b"garbage" not in got.body + got.head


SLOW = {"silence": b"", "a head that trickles in": b"H", "informational answers": b"HTTP/1.1 103 Early Hints\r\n\r\n"}


@pytest.mark.parametrize("case", SLOW)
async def test_upstream_that_does_not_answer_in_time_is_told(
    tmp_path: Path, upstream: Upstream, provider: Provider, issuer: Issuer, case: str
) -> None:
    """
    Without a whole head within response_seconds the call ends with 504, whatever trickles in meanwhile.
    """

    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        head = b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1000 if case == "a head that trickles in" else SLOW[case] * 1000
        for at in range(60):
            step = len(SLOW[case])
            writer.write(head[at * step : (at + 1) * step])
            await writer.drain()
            await asyncio.sleep(0.1)

    upstream.respond = respond
    async with gateway_with(tmp_path, upstream, issuer, provider, timeouts={"response_seconds": 1}) as gateway:
        got = await call(gateway, request("GET", "/api/x", credential=issuer.token("ada")))

    assert (504, "upstream_timeout") == (got.status, got.code)


async def test_answer_that_stops_midway_is_cut(
    tmp_path: Path, upstream: Upstream, provider: Provider, issuer: Issuer
) -> None:
    """
    An answer that does not go on for idle_seconds is cut for the caller too.
    """

    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        await writer.drain()
        await asyncio.sleep(6)

    upstream.respond = respond
    async with gateway_with(tmp_path, upstream, issuer, provider, timeouts={"idle_seconds": 1}) as gateway:
        got = await call(gateway, request("GET", "/api/x", credential=issuer.token("ada")))
        assert await eventually(lambda: bool(gateway.lines("outcome")))
        outcome = gateway.lines("outcome")[0]

    assert (200, False) == (got.status, got.is_whole)
    assert (200, "upstream_cut") == (outcome["status"], outcome["error"])


async def test_informational_answers_are_not_the_answer(gateway: Running, upstream: Upstream, issuer: Issuer) -> None:
    """
    1xx answers before the answer are passed over; the connection stays usable.
    """
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
    upstream.respond = respond_with(hints + answer(200, b"{}"))
    data = request("GET", "/api/x", credential=issuer.token("ada"))
    statuses = [(await call(gateway, data)).status for _ in range(2)]

    assert ([200, 200], 1) == (statuses, upstream.connections)
