"""Very many small chunks, from strangers, callers and upstreams: what passes, what is cut, who is served meanwhile."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from gateway.models import Timeouts
from gateway.net.backlog import Backlog
from gateway.net.body_stream import Body
from gateway.proxy.chunks import CHUNKS_AT_ONCE
from gateway.proxy.connection import UpstreamConnection
from gateway.proxy.listener import CLOSING_BYTES
from tests.net.certificates import Authority
from tests.proxy.wire import answer_of, call, calling, eventually, request
from tests.world import Issuer, Received, Running, Upstream

CHUNKED = ("Transfer-Encoding: chunked",)
FLOOD = b"1\r\nx\r\n" * 40_000
MOST_BYTES = 64 << 20  # more than any buffer on the way holds


async def test_stranger_who_floods_is_answered_and_cut(gateway: Running, upstream: Upstream) -> None:
    """
    A flood of chunks without a credential is refused like any call, and its connection ends soon.
    """
    async with calling(gateway) as caller:
        caller.writer.write(request("POST", "/api/x", fields=CHUNKED) + FLOOD)
        got = await caller.answer()
        assert await caller.ended()

    assert (401, "caller_unauthenticated") == (got.status, got.code)
    assert [] == upstream.received


async def test_refused_body_is_not_read_for_ever(gateway: Running) -> None:
    """
    Who goes on sending a body that was refused is cut after so many bytes.
    """
    async with calling(gateway) as caller:
        head = request("POST", "/api/x", fields=("Content-Length: 1000000000000",))
        caller.writer.write(head)
        sent = 0
        with pytest.raises(ConnectionError):
            while sent < CLOSING_BYTES + MOST_BYTES:
                await caller.send(b"x" * 1_000_000)
                sent += 1_000_000

    assert CLOSING_BYTES < sent


async def test_caller_who_floods_is_refused(gateway: Running, upstream: Upstream, issuer: Issuer) -> None:
    """
    A body that is framing more than data breaks, and the upstream never sees its end.
    """
    got = await call(gateway, request("POST", "/api/x", credential=issuer.token("ada"), fields=CHUNKED) + FLOOD)

    assert (400, "invalid_request") == (got.status, got.code)
    assert [] == upstream.received


@pytest.mark.parametrize(("size", "number"), [(5, 50_000), (40, 20_000), (1, 10_000)])
async def test_small_chunks_of_a_request_arrive(
    gateway: Running, upstream: Upstream, issuer: Issuer, size: int, number: int
) -> None:
    """
    Many small chunks arrive byte for byte, and the connection serves the next request.
    """
    data = bytes(range(256)) * (size * number // 256 + 1)
    pieces = [data[at : at + size] for at in range(0, size * number, size)]
    body = b"".join(b"%x\r\n%b\r\n" % (size, piece) for piece in pieces) + b"0\r\n\r\n"
    post = request("POST", "/api/x", credential=issuer.token("ada"), fields=CHUNKED) + body
    async with calling(gateway) as caller:
        await caller.send(post + request("GET", "/api/next", credential=issuer.token("ada")))
        statuses = [(await caller.answer()).status, (await caller.answer()).status]

    assert [200, 200] == statuses
    assert [b"".join(pieces), b""] == [received.body for received in upstream.received]


async def test_small_chunks_of_an_answer_arrive(gateway: Running, upstream: Upstream, issuer: Issuer) -> None:
    """
    An answer in chunks of one byte is never refused, and arrives byte for byte, also where its connection ends at once.
    """
    body = bytes(range(256)) * 400

    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        chunks = b"".join([b"1\r\n%c\r\n" % byte for byte in body])
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
        writer.close()

    upstream.respond = respond
    got = await call(gateway, request("GET", "/api/x", credential=issuer.token("ada")))

    assert (200, True) == (got.status, got.is_whole)
    assert body == got.body


async def test_answer_in_small_chunks_over_tls_is_whole_where_its_connection_ends_with_it(tmp_path: Path) -> None:
    """
    The end of the connection comes with the last chunks, and waits for those that were not read yet.
    """
    authority = Authority(tmp_path)
    number = 50 * CHUNKS_AT_ONCE

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + FLOOD[: 6 * number] + b"0\r\n\r\n")
        writer.close()

    loop = asyncio.get_running_loop()
    tls = ssl.create_default_context(cafile=authority.ca_file)
    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=authority.server_context()) as server:
        port = server.sockets[0].getsockname()[1]
        backlog = Backlog(loop)
        _, connection = await loop.create_connection(
            lambda: UpstreamConnection(loop, backlog), "127.0.0.1", port, ssl=tls, server_hostname="127.0.0.1"
        )
        connection.begin(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "GET", Timeouts())
        async with asyncio.timeout(10):
            body = (await answer_of(connection)).body
            assert b"x" * number == await read(body)
        connection.fail(Exception())


async def read(body: Body) -> bytes:
    """Return all of *body*."""
    pieces: list[bytes] = []
    while piece := await body.readany():
        pieces.append(piece)
    return b"".join(pieces)


class Nowhere(asyncio.Transport):
    """Takes what is written."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Do nothing."""


async def test_one_slice_of_an_answer_is_read_in_a_turn() -> None:
    """
    Whatever came at once, others of the loop have their turn after each slice; a lost connection changes nothing.
    """
    loop = asyncio.get_running_loop()
    connection = UpstreamConnection(loop, Backlog(loop))
    connection.connection_made(Nowhere())
    connection.begin(b"", "GET", Timeouts())
    connection.data_received(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + FLOOD)
    connection.connection_lost(None)
    body = (await answer_of(connection)).body

    sizes: list[int] = []
    for _ in range(10):
        sizes.append(len(body.read_nowait()))
        await asyncio.sleep(0)

    assert [CHUNKS_AT_ONCE] * 10 == sizes
    connection.fail(Exception())


async def test_caller_who_goes_away_behind_its_flood_leaves_nothing(
    gateway: Running, upstream: Upstream, issuer: Issuer
) -> None:
    """
    A connection that ends while its bytes wait for their turn is forgotten, and the next call is served.
    """
    tasks = len(asyncio.all_tasks())
    head = request("POST", "/api/x", credential=issuer.token("ada"), fields=CHUNKED)
    for _ in range(10):
        async with calling(gateway) as caller:
            await caller.send(head + b"5\r\nhello\r\n" * CHUNKS_AT_ONCE * 8)
            caller.reset()

    assert 200 == (await call(gateway, request("GET", "/api/x", credential=issuer.token("ada")))).status
    assert await eventually(lambda: len(asyncio.all_tasks()) <= tasks + len(upstream._writers) + 1)
