"""A body that is here as a whole."""

from __future__ import annotations

from gateway.proxy.whole_body import WholeBody


async def test_body_is_read_once_in_pieces_or_at_once() -> None:
    """
    It is read like a stream that has ended: what was read is gone, and then there is nothing.
    """
    body = WholeBody(b"abcdef")
    seen = [body.at_eof(), body.read_nowait(2), await body.read(2), body.is_eof(), await body.readany(), body.at_eof()]

    assert [False, b"ab", b"cd", True, b"ef", True] == seen
    assert [b"", b"", b""] == [body.read_nowait(), await body.read(5), await body.readany()]
    assert b"abc" == WholeBody(b"abc").read_nowait(9)
