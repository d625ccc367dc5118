"""Bodies of answers over a socket: where they end, and what is passed on without a copy."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.models import Timeouts
from gateway.net.backlog import Backlog
from gateway.proxy.answer_body import Truncated
from gateway.proxy.connection import UpstreamConnection
from gateway.proxy.direct import DIRECT_BYTES
from tests.proxy.wire import answer_of

BODY = os.urandom(4 * DIRECT_BYTES + 7)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY)
WAIT_SECONDS = 5.0


class Taker:
    """Takes pieces as a transport does; one that *keeps* them has not written any of them yet."""

    def __init__(self, *, keeps: bool = False) -> None:
        self.keeps = keeps
        self.pieces: list[bytes | memoryview] = []
        self.were_lent = False

    def take(self, data: bytes | memoryview) -> None:
        self.were_lent = self.were_lent or isinstance(data, memoryview)
        self.pieces.append(data if self.keeps else bytes(data))

    def lends(self) -> bool:
        return self.keeps

    @property
    def data(self) -> bytes:
        return b"".join(self.pieces)


@asynccontextmanager
async def answered(data: bytes, *, ends: bool) -> AsyncIterator[UpstreamConnection]:
    """Yield a connection to an upstream that answers with *data* in two parts, and then *ends* or waits."""
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(data[: len(HEAD) + 1])
        await asyncio.sleep(0.01)
        writer.write(data[len(HEAD) + 1 :])
        if not ends:
            await over.wait()
        writer.close()

    loop = asyncio.get_running_loop()
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server, asyncio.timeout(WAIT_SECONDS):
        port = server.sockets[0].getsockname()[1]
        backlog = Backlog(loop)
        _, connection = await loop.create_connection(lambda: UpstreamConnection(loop, backlog), "127.0.0.1", port)
        connection.begin(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "GET", Timeouts())
        yield connection
        over.set()
        connection.fail(Exception())


@pytest.mark.parametrize("keeps", [False, True], ids=["written at once", "still to be written"])
async def test_large_body_is_passed_on_without_a_copy(keeps: bool) -> None:
    """
    Each byte arrives, also where what was lent is written later; then the connection is its own protocol again.
    """
    taker = Taker(keeps=keeps)
    async with answered(HEAD + BODY, ends=False) as connection:
        body = (await answer_of(connection)).body
        await body.pass_on(taker.take, taker.lends)
        assert connection.transport is not None
        protocol = connection.transport.get_protocol()

        assert BODY == taker.data
        assert (True, True, connection) == (taker.were_lent, connection.rest(), protocol)


async def test_what_comes_behind_a_large_body_ends_the_connection() -> None:
    """
    Bytes behind its end are no part of it, and the connection is not used again.
    """
    taker = Taker()
    async with answered(HEAD + BODY + b"HTTP/1.1 200 OK\r\n", ends=False) as connection:
        body = (await answer_of(connection)).body
        await body.pass_on(taker.take, taker.lends)
        await asyncio.sleep(0.05)

        assert (BODY, True, False) == (taker.data, taker.were_lent, connection.rest())


async def test_large_body_that_is_cut_is_told() -> None:
    """
    An upstream that ends too early is seen, whoever is the transport's protocol meanwhile.
    """
    taker = Taker()
    async with answered(HEAD + BODY[:-1], ends=True) as connection:
        body = (await answer_of(connection)).body
        with pytest.raises(Truncated):
            await body.pass_on(taker.take, taker.lends)

    assert taker.were_lent


async def test_reader_who_leaves_a_large_body_ends_it() -> None:
    """
    A failed exchange ends in the middle of a body, and what still comes is nobody's.
    """
    taker = Taker()
    async with answered(HEAD + BODY[:-1], ends=False) as connection:
        passing = asyncio.ensure_future((await answer_of(connection)).body.pass_on(taker.take, taker.lends))
        await asyncio.sleep(0.1)
        connection.fail(Truncated())
        with pytest.raises(Truncated):
            await passing

        assert not connection.rest()
