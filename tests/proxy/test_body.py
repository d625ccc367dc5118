"""What is kept of a body, and how long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from aiohttp.base_protocol import BaseProtocol

from gateway.errors import BodyTooLarge
from gateway.net.backlog import Backlog
from gateway.net.body_stream import BodyStream
from gateway.proxy.body import RequestBody


def stream(*chunks: bytes) -> BodyStream:
    """Return a body that has arrived whole in *chunks*."""
    loop = asyncio.get_running_loop()
    reader = BodyStream(BaseProtocol(loop), Backlog(loop))
    for chunk in chunks:
        reader.feed_data(chunk)
    reader.feed_eof()
    return reader


def body(
    *chunks: bytes, length: int | None = None, replay: int = 10, invite: Callable[[], None] | None = None
) -> RequestBody:
    return RequestBody(stream(*chunks), length=length, replay_bytes=replay, max_bytes=20, invite=invite)


async def read(request_body: RequestBody) -> bytes:
    pieces: list[bytes] = []
    await request_body.pass_on(pieces.append)
    return b"".join(pieces)


async def test_body_within_the_limit_is_read_twice() -> None:
    """
    A body that fits the replay limit can be read again, and is counted once.
    """
    small = body(b"12345", b"67890", length=10)

    assert (b"1234567890", b"1234567890") == (await read(small), await read(small))
    assert (True, 10) == (small.can_replay, small.received_bytes)


async def test_body_above_the_limit_is_not_kept() -> None:
    """
    One byte above the replay limit lets go of everything.
    """
    large = body(b"12345678901")

    assert b"12345678901" == await read(large)
    assert not large.can_replay


async def test_body_above_the_maximum_is_refused() -> None:
    """
    More than the maximum is refused by its length, and while it is read.
    """
    with pytest.raises(BodyTooLarge):
        body(length=21)
    with pytest.raises(BodyTooLarge):
        await read(body(b"x" * 21))


async def test_invitation_is_sent_once_and_first() -> None:
    """
    The caller's Expect is answered before the first byte is read, once.
    """
    invited: list[bool] = []
    expected = body(b"12345", length=5, invite=lambda: invited.append(True))

    assert not expected.is_buffered
    await read(expected)
    await read(expected)
    assert [True] == invited


async def test_arrived_body_is_taken_at_once_and_again() -> None:
    """
    A body that has arrived whole is taken in one piece, also for the second send.
    """
    arrived = body(b"123", b"45", length=5)

    assert arrived.is_buffered
    assert (b"12345", b"12345") == (arrived.take_buffered(), arrived.take_buffered())


async def test_let_go_forgets_what_was_read() -> None:
    """
    Once the token is accepted nothing is kept; a body that was not begun can still be sent.
    """
    begun, untouched = body(b"123", length=3), body(b"123", length=3)
    await read(begun)
    begun.let_go()
    untouched.let_go()

    assert (False, True) == (begun.can_replay, untouched.can_replay)
