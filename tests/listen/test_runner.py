"""An application behind the strict reading: what reaches it, and how the rest is answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.listen.door import Door, open_door

GET = b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    """A door on a free port."""
    async with open_door() as door:
        yield door


async def test_requests_are_served_in_order(door: Door) -> None:
    """Pipelined requests with bodies reach the application one after another."""
    post = b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"

    got = await door.call(GET % 1 + post + GET % 2 + LAST + GET % 3)

    assert ["/1", "/p", "/2", "/last"] == door.asked
    assert 4 == got.count(b"HTTP/1.1 200 OK")
    assert b"hello" in got


async def test_unreadable_request_is_answered_behind_those_before_it(door: Door) -> None:
    """A good request is answered, the bad one behind it refused in the door's own form, and the connection ended."""
    got = await door.call(GET % 1 + b"GET  /2 HTTP/1.1\r\nHost: x\r\n\r\n" + GET % 3)

    first, second = got.split(b"HTTP/1.1 ")[1:]
    assert (b"200", b"400") == (first[:3], second[:3])
    assert b"Connection: close" in second
    assert second.endswith(b"invalid_request")
    assert ["/1"] == door.asked
    assert ["invalid_request"] == door.refused


async def test_refusal_arrives_although_the_caller_sends_on(door: Door) -> None:
    """What a caller still sends behind a refused request is thrown away, so that the refusal is not reset."""
    got = await door.call(b"GET / HTTP/2.0\r\n\r\n", *[b"x" * 10_000] * 5)

    assert got.startswith(b"HTTP/1.1 505 ")


async def test_failure_is_said_without_its_text(door: Door, capfd: pytest.CaptureFixture[str]) -> None:
    """What breaks in an application is a 500 in the door's form, and closes; its text is nowhere."""
    got = await door.call(b"GET /break HTTP/1.1\r\nHost: x\r\n\r\n")

    out, err = capfd.readouterr()
    assert got.startswith(b"HTTP/1.1 500 ")
    assert got.endswith(b"internal_error")
    assert "CANARY" not in got.decode() + out + err
    assert b"aiohttp" not in got


async def test_broken_body_is_no_hanging_one(door: Door) -> None:
    """An application that reads a broken body fails at once; one that does not read it ends its connection."""
    broken = b"POST /%b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"

    read, unread = await asyncio.gather(door.call(broken % b"p"), door.call(broken % b"unread"))

    assert read.startswith(b"HTTP/1.1 500 ")
    assert unread.startswith(b"HTTP/1.1 200 ")


async def test_body_stays_compressed(door: Door) -> None:
    """A body with a content coding reaches the application as it came."""
    head = b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\nConnection: close\r\n\r\n"

    assert (await door.call(head + b"abc")).endswith(b"abc")
