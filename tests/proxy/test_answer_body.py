"""Where the body of an answer ends, whatever the pieces in which it comes."""

from __future__ import annotations

import asyncio

import pytest

from gateway.net.backlog import Backlog
from gateway.net.body_stream import BodyStream
from gateway.proxy.answer_body import AnswerBody
from gateway.proxy.answer_head import read_head
from gateway.proxy.chunks import ChunksInvalid


class Source:
    """A connection that has nothing to pause."""

    def pause_reading(self) -> None:
        return

    def resume_reading(self) -> None:
        return


def body_of(*, length: int | None = None, is_chunked: bool = False) -> AnswerBody:
    stream = BodyStream(Source(), Backlog(asyncio.get_running_loop()))
    framing = (
        b"Transfer-Encoding: chunked" if is_chunked else b"X: y" if length is None else b"Content-Length: %d" % length
    )
    return AnswerBody(read_head(b"HTTP/1.1 200 OK\r\n" + framing), stream)


CHUNKED = b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"
ENDS: dict[str, tuple[int | None, bool, bytes, tuple[bytes, bool, bool]]] = {
    # case: (length, chunked, what comes, (the body, whether it is over, whether more came))
    "a length": (6, False, b"onetwo", (b"onetwo", True, False)),
    "a length, and more": (6, False, b"onetwoHTTP/1.1", (b"onetwo", True, True)),
    "a length that is not reached": (7, False, b"onetwo", (b"onetwo", False, False)),
    "chunks": (None, True, CHUNKED, (b"onetwo", True, False)),
    "chunks, and more": (None, True, CHUNKED + b"x", (b"onetwo", True, True)),
    "chunks without the last one": (None, True, CHUNKED[:-5], (b"onetwo", False, False)),
    "until the end of the connection": (None, False, b"onetwo", (b"onetwo", False, False)),
}


@pytest.mark.parametrize("size", [1, 2, 5, 100])
@pytest.mark.parametrize("case", ENDS)
async def test_body_ends_where_its_framing_says(case: str, size: int) -> None:
    """
    What is the body's goes to its stream, in pieces of any size; behind its end nothing does, and that is told.
    """
    length, is_chunked, data, (whole, is_over, has_extra) = ENDS[case]
    body = body_of(length=length, is_chunked=is_chunked)
    had_extra = False
    for at in range(0, len(data), size):
        if body.is_over:  # whoever feeds knows then that this is more
            had_extra = True
            break
        body.feed(data[at : at + size])

    assert (whole, is_over) == (body.stream.read_nowait(), body.is_over)
    assert has_extra == (had_extra or body.has_extra)
    assert (is_over, length is None and not is_chunked) == (body.stream.is_eof(), body.lasts)


async def test_broken_chunks_are_told() -> None:
    """
    A size that is none ends reading.
    """
    with pytest.raises(ChunksInvalid):
        body_of(is_chunked=True).feed(b"x\r\n")


async def test_what_is_lent_counts() -> None:
    """
    A view that is lent is the body's next, and the one with its last byte is its end.
    """
    body = body_of(length=6)
    needed = [body.lend(memoryview(b"one")), body.lend(memoryview(b"two"))]

    assert [False, False] == needed  # nobody takes views here: they were copied
    assert (b"onetwo", 0, True) == (body.stream.read_nowait(), body.left, body.is_over)
