"""The load generator: what it counts, what it takes for a failure, and from when on a request waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bench.load import Load, request, run_load, write_requests
from tests.tools import require_tool

Answer = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@pytest.fixture(autouse=True)
def compiler() -> None:
    """Skip by name where the load cannot be compiled."""
    require_tool("gcc")


@asynccontextmanager
async def answering(answer: Answer) -> AsyncIterator[int]:
    """Run a server that gives each head to *answer*; yield its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await answer(await reader.readuntil(b"\r\n\r\n"), writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def load(
    port: int, directory: Path, *paths: str, rate: float = 0.0, connections: int = 2, first: int = 0
) -> Load:
    """Send requests for *paths* in turn for 0.3 seconds."""
    requests = (request("GET", path, credential="c") for path in paths or ("/x",))
    file = write_requests(directory / "requests", requests)
    return await asyncio.to_thread(run_load, port, file, connections=connections, seconds=0.3, rate=rate, first=first)


BODIES = {
    "a length": OK,
    "no body": b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\nA\r\n 23456789}\r\n0\r\n\r\n",
    "chunks and a trailer": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX-Sum: 1\r\n\r\n",
    "more than one read": b"HTTP/1.1 200 OK\r\nContent-Length: 600000\r\n\r\n" + bytes(600_000),
}


@pytest.mark.parametrize("case", BODIES)
async def test_whole_answers_are_counted(tmp_path: Path, case: str) -> None:
    """
    Each whole answer counts once, whatever frames its body, and the server saw as many requests.
    """
    seen = 0

    async def answer(_: bytes, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        seen += 1
        writer.write(BODIES[case])

    async with answering(answer) as port:
        done = await load(port, tmp_path)

    assert 0 == done.failures
    assert 0 < done.requests == seen


async def test_requests_are_sent_in_turn(tmp_path: Path) -> None:
    """
    The requests of the file are sent one after the other, whole.
    """
    heads = []

    async def answer(head: bytes, writer: asyncio.StreamWriter) -> None:
        heads.append(head)
        writer.write(OK)

    async with answering(answer) as port:
        await load(port, tmp_path, "/a", "/b", "/c", connections=1)

    assert [request("GET", path, credential="c") for path in ("/a", "/b", "/c", "/a")] == heads[:4]


FAILURES = {
    "a refusal": b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n",
    "a cut body": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}",
    "nothing": b"",
}


@pytest.mark.parametrize("case", FAILURES)
async def test_failures_are_counted(tmp_path: Path, case: str) -> None:
    """
    An answer that is no 2xx, or that ends early, is a failure.
    """
    left = [True]

    async def answer(_: bytes, writer: asyncio.StreamWriter) -> None:
        if not left:
            writer.write(OK)
            return
        left.pop()
        writer.write(FAILURES[case])
        if case != "a refusal":
            writer.close()

    async with answering(answer) as port:
        done = await load(port, tmp_path)

    assert 1 == done.failures
    assert done.requests > 1


async def test_connection_that_the_server_ends_in_order_is_no_failure(tmp_path: Path) -> None:
    """
    After an answer with `Connection: close` the next request goes out on a new connection.
    """

    async def answer(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        writer.close()

    async with answering(answer) as port:
        done = await load(port, tmp_path)

    assert 0 == done.failures
    assert done.requests > 2


async def test_open_loop_sends_at_its_rate(tmp_path: Path) -> None:
    """
    An open loop sends as many requests as are due, whatever the answers take.
    """

    async def answer(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)

    async with answering(answer) as port:
        done = await load(port, tmp_path, rate=100.0)

    assert (30, 0) == (done.requests, done.failures)


async def test_open_loop_counts_the_wait_for_a_connection(tmp_path: Path) -> None:
    """
    One answer that hangs delays the requests behind it, and each of their latencies says so.
    """
    hangs = [True]

    async def answer(_: bytes, writer: asyncio.StreamWriter) -> None:
        if hangs:
            hangs.pop()
            await asyncio.sleep(0.2)
        writer.write(OK)

    async with answering(answer) as port:
        done = await load(port, tmp_path, rate=100.0, connections=1)

    assert 30 == done.requests
    assert done.p50_us > 20_000  # 20 of 30 requests were due while one answer hung
    assert done.max_us >= 200_000


async def test_begins_where_it_is_told(tmp_path: Path) -> None:
    """
    A long file is gone on with from run to run: what follows its last request is its first.
    """
    heads: list[bytes] = []

    async def answer(head: bytes, writer: asyncio.StreamWriter) -> None:
        heads.append(head)
        writer.write(OK)

    async with answering(answer) as port:
        await load(port, tmp_path, "/0", "/1", "/2", connections=1, first=5)

    assert [b"/2", b"/0", b"/1", b"/2"] == [head.split(b" ")[1] for head in heads[:4]]
