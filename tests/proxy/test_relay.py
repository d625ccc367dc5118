"""The answer's way to the caller: framing, the end of it, and what is added."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest

from gateway.proxy.passage import SMALL_BYTES
from tests.proxy.wire import call, calling, eventually, request, respond_with
from tests.world import Issuer, Received, Running, Upstream, answer

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

WHOLE: dict[str, tuple[str, bytes, int, bytes]] = {
    # case: (method, the upstream's answer, status, the body that arrives)
    "a length": ("GET", answer(200, b"hello"), 200, b"hello"),
    "no body": ("GET", answer(200), 200, b""),
    "chunked": ("GET", CHUNKED + b"3;x=y\r\none\r\n3\r\ntwo\r\n0\r\nX-Trailer: 1\r\n\r\n", 200, b"onetwo"),
    "chunked and large": ("GET", CHUNKED + b"186a0\r\n" + b"x" * 100_000 + b"\r\n0\r\n\r\n", 200, b"x" * 100_000),
    "until the end of the connection": ("GET", b"HTTP/1.1 200 OK\r\n\r\nall of it", 200, b"all of it"),
    "HTTP/1.0": ("GET", b"HTTP/1.0 200 OK\r\n\r\nold", 200, b"old"),
    "204": ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
    "204 with a length": ("DELETE", b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", 204, b""),
    "304": ("GET", b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\nContent-Length: 500\r\n\r\n', 304, b""),
    "HEAD": ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n", 200, b""),
    "HEAD, chunked": ("HEAD", CHUNKED, 200, b""),
    "a status of its own": ("GET", answer(499, b"x"), 499, b"x"),
    "an error": ("GET", answer(503, b"x"), 503, b"x"),
    "a redirect": ("GET", answer(302, b"", "Location: /elsewhere\r\n"), 302, b""),
}


@pytest.mark.parametrize("case", WHOLE)
async def test_whole_answer_arrives_whole(gateway: Running, upstream: Upstream, issuer: Issuer, case: str) -> None:
    """
    Whatever its framing, an answer arrives with its status and body, framed once, and so does the next one.
    """
    method, data, status, body = WHOLE[case]
    closes = b"Content-Length" not in data and b"chunked" not in data and status == 200
    upstream.respond = respond_with(data, close=closes)

    async with calling(gateway) as caller:
        for _ in range(2):
            await caller.send(request(method, "/api/x", credential=issuer.token("ada")))
            got = await caller.answer(method)
            assert (status, body, True) == (got.status, got.body, got.is_whole)

    assert [f"connection-gateway; received-status={status}"] == got.values("Proxy-Status")
    assert [] == got.values("Connection") + got.values("X-Trailer")
    if case in ("HEAD", "304"):
        assert ["500"] == got.values("Content-Length")


@pytest.mark.parametrize("framing", ["a length", "chunked", "the end of the connection"])
@pytest.mark.parametrize("size", [SMALL_BYTES - 1, SMALL_BYTES, SMALL_BYTES + 1, 100_000])
async def test_answer_that_came_at_once_arrives_whole(
    gateway: Running, upstream: Upstream, issuer: Issuer, framing: str, size: int
) -> None:
    """
    An answer that came in one packet and is larger than one write arrives with its last byte.
    """
    body = b"x" * (size - 1) + b"."
    data = {
        "a length": answer(200, body),
        "chunked": CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (size, body),
        "the end of the connection": b"HTTP/1.1 200 OK\r\n\r\n" + body,
    }[framing]
    upstream.respond = respond_with(data, close=framing == "the end of the connection")

    got = await call(gateway, request("GET", "/api/x", credential=issuer.token("ada")))

    assert (200, True) == (got.status, got.is_whole)
    assert body == got.body


CUT: dict[str, bytes] = {
    "before its length": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
    "between chunks": CHUNKED + b"4\r\nhalf\r\n",
    "within a chunk": CHUNKED + b"64\r\nhalf",
    "within the last chunk": CHUNKED + b"4\r\nhalf\r\n0\r\n",
    "with a chunk that is none": CHUNKED + b"4\r\nhalf\r\nzz\r\n",
}


@pytest.mark.parametrize("case", CUT)
@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("way", ["at once", "later", "reset"])
async def test_cut_answer_never_looks_complete(
    gateway: Running, upstream: Upstream, issuer: Issuer, case: str, way: str, version: str
) -> None:
    """
    An answer that the upstream cuts is 502 where nothing was sent yet; after that the caller's connection is reset.
    """
    data = CUT[case]
    head, _, rest = data.partition(b"\r\n\r\n")

    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        if way == "at once":
            writer.write(data)
        else:
            writer.write(head + b"\r\n\r\n" + rest[:7])
            await writer.drain()
            await asyncio.sleep(0.05)
            writer.write(rest[7:])
        await writer.drain()
        if way == "reset":
            await asyncio.sleep(0.02)
            writer.transport.abort()
        else:
            writer.close()

    upstream.respond = respond
    async with calling(gateway) as caller:
        await caller.send(request("GET", "/api/x", credential=issuer.token("ada"), version=version))
        got_whole = None
        try:
            got = await caller.answer()
            got_whole = got.is_whole
        except (asyncio.IncompleteReadError, ConnectionError):
            got = None

    assert await eventually(lambda: bool(gateway.lines("outcome")))
    outcome = gateway.lines("outcome")[0]
    if got is not None and got.status == 502:
        assert ("upstream_protocol_error", "upstream_protocol_error") == (got.code, outcome["error"])
    else:
        assert got_whole in (None, False)
        assert "upstream_cut" == outcome["error"]


async def test_reset_close_delimited_answer_is_cut(gateway: Running, upstream: Upstream, issuer: Issuer) -> None:
    """
    An answer that ends with its connection is whole only if that ends in order: after a reset it is cut.
    """

    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        await writer.drain()
        await asyncio.sleep(0.05)
        linger = struct.pack("ii", 1, 0)  # socket(7): a close with SO_LINGER of 0 seconds is a reset
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()

    upstream.respond = respond
    got = await call(gateway, request("GET", "/api/x", credential=issuer.token("ada")))

    assert not got.is_whole or got.status == 502


async def test_first_event_arrives_when_it_is_sent(gateway: Running, upstream: Upstream, issuer: Issuer) -> None:
    """
    Each event of a stream arrives before the next one is sent.
    """
    go_on = asyncio.Semaphore(0)

    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(3):
            event = b"data: %d\n\n" % number
            writer.write(b"%x\r\n%b\r\n" % (len(event), event))
            await writer.drain()
            await go_on.acquire()
        writer.write(b"0\r\n\r\n")

    upstream.respond = respond
    async with calling(gateway) as caller:
        await caller.send(request("GET", "/api/events", credential=issuer.token("ada")))
        assert b"text/event-stream" in await caller.head()
        for number in range(3):
            assert b"data: %d\n" % number in await asyncio.wait_for(caller.reader.readuntil(b"\n\n"), 5)
            go_on.release()
        assert b"\r\n0\r\n\r\n" == await caller.reader.readexactly(7)


async def test_cookies_and_challenges_stay_here(gateway: Running, upstream: Upstream, issuer: Issuer) -> None:
    """
    A provider's cookie does not reach the caller; its challenge does, except with a 401, where ours stands instead.
    """
    fields = 'Set-Cookie: s=1\r\nWWW-Authenticate: Basic realm="provider"\r\n'
    seen = []
    for status in (200, 403, 401):
        upstream.respond = respond_with(answer(status, b"{}", fields))
        got = await call(gateway, request("GET", "/api/x", credential=issuer.token("ada")))
        seen.append((got.status, got.values("WWW-Authenticate"), got.values("Set-Cookie")))

    provider = ['Basic realm="provider"']
    assert [(200, provider, []), (403, provider, []), (401, ['Upstream realm="api"'], [])] == seen


async def test_redirect_is_not_followed_and_leads_back(gateway: Running, upstream: Upstream, issuer: Issuer) -> None:
    """
    A redirect reaches the caller, rewritten to the gateway; the gateway follows none.
    """
    upstream.respond = respond_with(answer(302, b"", f"Location: {upstream.url}/next?page=2\r\n"))
    got = await call(gateway, request("GET", "/api/x", credential=issuer.token("ada")))

    assert ["http://gateway.test/api/next?page=2"] == got.values("Location")
    assert 1 == len(upstream.received)
