"""The chunked coding, taken off."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import InvalidRequest
from gateway.listen.body import (
    CHUNKS_AT_ONCE,
    MAX_EXTENSION_BYTES,
    MAX_OVERHEAD_BYTES,
    MAX_SIZE_LINE_BYTES,
    MAX_TRAILER_BYTES,
    ChunkedBody,
)

GOOD = {
    "no bytes": (b"0\r\n\r\n", b""),
    "one chunk": (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
    "two chunks": (b"5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n", b"hello!"),
    "a size in capitals": (b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
    "zeros before a size": (b"0005\r\nhello\r\n000\r\n\r\n", b"hello"),
    "an extension": (b"5;a\r\nhello\r\n0;b=c\r\n\r\n", b"hello"),
    "extensions with blanks and quotes": (b'5 ; a = "b;\\"c" ;d\r\nhello\r\n0\r\n\r\n', b"hello"),
    "trailers": (b"0\r\nA: b\r\nC:\r\n\r\n", b""),
    "as many small chunks as there may be": (
        b"1\r\nx\r\n" * (MAX_OVERHEAD_BYTES // 4 - 2) + b"0\r\n\r\n",
        b"x" * (MAX_OVERHEAD_BYTES // 4 - 2),
    ),
    "chunks of 5 bytes without end": (b"5\r\nhello\r\n" * 40_000 + b"0\r\n\r\n", b"hello" * 40_000),
    "CRLF in the data": (b"7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n", b"\r\n0\r\n\r\n"),
}

BROKEN = {
    "a prefix": b"0x5\r\nhello\r\n0\r\n\r\n",
    "a plus": b"+5\r\nhello\r\n0\r\n\r\n",
    "a minus": b"-5\r\nhello\r\n0\r\n\r\n",
    "an underscore": b"1_0\r\n",
    "a blank before": b" 5\r\nhello\r\n0\r\n\r\n",
    "a blank behind": b"5 \r\nhello\r\n0\r\n\r\n",
    "no size": b"\r\nhello\r\n0\r\n\r\n",
    "17 digits": b"00000000000000005\r\nhello\r\n0\r\n\r\n",
    "more than a file can have": b"ffffffffffffffff\r\nhello",
    "a bare LF": b"5\nhello\r\n0\r\n\r\n",
    "a bare CR": b"5\rhello\r\n0\r\n\r\n",
    "LF behind the data": b"5\r\nhello\n0\r\n\r\n",
    "nothing behind the data": b"5\r\nhello0\r\n\r\n",
    "more data than said": b"5\r\nhello!\r\n0\r\n\r\n",
    "less data than said": b"6\r\nhello\r\n0\r\n\r\n",
    "LF in an extension": b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    "CR in an extension": b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    "NUL in an extension": b"5;a=\x00\r\nhello\r\n0\r\n\r\n",
    "an extension without a name": b"5;\r\nhello\r\n0\r\n\r\n",
    "an open quote": b'5;a="b\r\nhello\r\n0\r\n\r\n',
    "a size line that does not end": b"5;" + b"a" * MAX_SIZE_LINE_BYTES,
    "a size line that is too long": b"5;" + b"a" * MAX_SIZE_LINE_BYTES + b"\r\nhello\r\n0\r\n\r\n",
    "a flood of extensions": b"1;%b\r\nx\r\n" % (b"a" * 200) * (MAX_EXTENSION_BYTES // 200 + 1),
    "a folded trailer": b"0\r\nA: b\r\n c\r\n\r\n",
    "a trailer without a colon": b"0\r\nA\r\n\r\n",
    "a request in the trailers": b"0\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a trailer with a bare LF": b"0\r\nA: b\n\r\n",
    "trailers that do not end": b"0\r\n" + b"A: b\r\n" * (MAX_TRAILER_BYTES // 6 + 1),
    "one trailer that does not end": b"0\r\nA: " + b"b" * MAX_TRAILER_BYTES,
    "CR alone in the trailers": b"0\r\n\rA\r\n",
    "a flood of chunks": b"1\r\nx\r\n" * (MAX_OVERHEAD_BYTES // 4 + 1),
    "a flood of zeros before sizes": b"000000000000001\r\nx\r\n" * (MAX_OVERHEAD_BYTES // 18 + 1),
}


def decode(data: bytes, *, cuts: list[int] | None = None) -> tuple[bytes, bytes, bool]:
    """Feed *data*, cut at *cuts*; return the body, what was left over, and whether the body ended."""
    body, tail, decoded = ChunkedBody(), b"", b""
    bounds = [0, *sorted(cuts or ()), len(data)]
    for start, stop in pairwise(bounds):
        piece = tail + data[start:stop]
        if body.is_done:
            tail = piece
            continue
        more, at = body.feed(piece, 0)
        decoded += more
        while body.is_behind:
            more, at = body.feed(piece, at)
            decoded += more
        tail = piece[at:]
    return decoded, tail, body.is_done


@pytest.mark.parametrize("case", GOOD)
@pytest.mark.parametrize("step", [1, 2, 1000])
def test_body_is_what_the_chunks_hold(case: str, step: int) -> None:
    """Sizes, extensions and trailers are taken off, whatever the packets; what follows is left alone."""
    data, expected = GOOD[case]

    assert (expected, b"GET", True) == decode(data + b"GET", cuts=list(range(0, len(data), step)))


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_broken_coding_is_refused(case: str, step: int) -> None:
    """What is not the coding that the RFC writes is refused, at once and whatever the packets."""
    data = BROKEN[case]
    with pytest.raises(InvalidRequest):
        decode(data, cuts=list(range(0, len(data), step)))


def test_one_feeding_takes_so_many_chunks() -> None:
    """What is too much for one feeding is read in several, and nobody else's bytes with it."""
    body = ChunkedBody()
    data = b"1\r\nx\r\n" * 2 * CHUNKS_AT_ONCE + b"0\r\n\r\nGET"

    first, at = body.feed(data, 0)
    assert (b"x" * (CHUNKS_AT_ONCE), 6 * CHUNKS_AT_ONCE, True) == (first, at, body.is_behind)
    second, at = body.feed(data, at)
    assert (b"x" * (CHUNKS_AT_ONCE), 12 * CHUNKS_AT_ONCE, True) == (second, at, body.is_behind)
    assert (b"", len(data) - 3) == body.feed(data, at)
    assert (True, False) == (body.is_done, body.is_behind)


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6), st.lists(st.integers(0, 300), max_size=12))
def test_any_cut_gives_the_same_body(chunks: list[bytes], cuts: list[int]) -> None:
    """Any chunks in any packets make the same body."""
    data = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"

    assert (b"".join(chunks), b"", True) == decode(data, cuts=[min(cut, len(data)) for cut in cuts])
