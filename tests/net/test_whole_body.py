"""A body that is here as a whole."""

from __future__ import annotations

from gateway.net.whole_body import WholeBody


async def test_body_is_read_once() -> None:
    """
    It is read like a stream that has ended: what was read is gone, and then there is nothing.
    """
    body = WholeBody(b"abcdef")
    seen = [body.at_eof(), body.is_eof(), body.total_bytes, await body.readany(), body.at_eof()]

    assert [False, True, 6, b"abcdef", True] == seen
    assert [b"", b""] == [body.read_nowait(), await body.readany()]


async def test_body_is_passed_on_at_once() -> None:
    """
    Passed on, it is one piece; nothing is none.
    """
    passed: list[bytes] = []
    body = WholeBody(b"abc")
    await body.pass_on(passed.append)
    await body.pass_on(passed.append)

    assert [b"abc"] == passed
