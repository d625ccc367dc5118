"""A chunked body is read in one way, or not at all."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.proxy.chunks import (
    CHUNKS_AT_ONCE,
    MAX_OVERHEAD_BYTES,
    MAX_SIZE_LINE_BYTES,
    MAX_TRAILER_BYTES,
    Chunks,
    ChunksInvalid,
)

READ: dict[str, tuple[bytes, bytes, bool]] = {
    # case: (coded, body, whether bytes came after it)
    "nothing": (b"0\r\n\r\n", b"", False),
    "one chunk": (b"5\r\nhello\r\n0\r\n\r\n", b"hello", False),
    "two chunks": (b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n", b"ab", False),
    "hexadecimal, either case, with zeros": (
        b"00a\r\n0123456789\r\nA\r\n0123456789\r\n000\r\n\r\n",
        b"0123456789" * 2,
        False,
    ),
    "an extension": (b'1;x=y;z="a b"\r\na\r\n0;last\r\n\r\n', b"a", False),
    "spaces before an extension": (b"1 ;x\r\na\r\n0\r\n\r\n", b"a", False),
    "spaces after a size": (b"1  \r\na\r\n0\t\r\n\r\n", b"a", False),
    "trailers": (b"1\r\na\r\n0\r\nX-Sum: 1\r\nY:\r\n\r\n", b"a", False),
    "line breaks in a body": (b"4\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n", False),
    "extra": (b"1\r\na\r\n0\r\n\r\nHTTP/1.1", b"a", True),
    "more chunks than one read takes": (b"1\r\na\r\n" * 40_000 + b"0\r\n\r\n", b"a" * 40_000, False),
    "as many as one read takes": (b"1\r\na\r\n" * CHUNKS_AT_ONCE + b"0\r\n\r\n", b"a" * CHUNKS_AT_ONCE, False),
    "the longest extension": (b"1;" + b"x" * (MAX_SIZE_LINE_BYTES - 4) + b"\r\na\r\n0\r\n\r\n", b"a", False),
}


def read(*packets: bytes) -> tuple[bytes, Chunks]:
    """Return the body in *packets*, and what read it."""
    chunks, parts = Chunks(), []
    for packet in packets:
        parts.append(chunks.read(packet))
        while chunks.is_behind:
            parts.append(chunks.read(b""))
    return b"".join(parts), chunks


@pytest.mark.parametrize("case", READ)
def test_body_is_what_stands_in_the_chunks(case: str) -> None:
    """
    A body in order is read whole, in one packet and byte by byte.
    """
    coded, body, extra = READ[case]
    at_once, chunks = read(coded)
    assert (body, True, extra) == (at_once, chunks.is_over, chunks.extra)

    one_by_one = Chunks()
    parts = []
    for byte in coded:
        if one_by_one.is_over:
            break
        parts.append(one_by_one.read(bytes([byte])))
    assert (body, True) == (b"".join(parts), one_by_one.is_over)


BROKEN: dict[str, bytes] = {
    "no size": b"\r\na\r\n0\r\n\r\n",
    "no number": b"zz\r\na\r\n",
    "0x": b"0x1\r\na\r\n",
    "a sign": b"+1\r\na\r\n",
    "a negative size": b"-1\r\na\r\n",
    "an underscore": b"1_0\r\n",
    "a space before": b" 1\r\na\r\n",
    "a size of 16 digits": b"1000000000000000\r\n",
    "a bare LF after the size": b"1\na\r\n0\r\n\r\n",
    "a bare CR after the size": b"1\ra\r\n0\r\n\r\n",
    "a bare LF in an extension": b"1;a\nb\r\na\r\n",
    "a bare CR in an extension": b"1;a\rb\r\na\r\n0\r\n\r\n",
    "NUL in an extension": b"1;a\0b\r\na\r\n",
    "a longer chunk than its size": b"1\r\nab\r\n0\r\n\r\n",
    "a shorter chunk than its size": b"3\r\nab\r\n0\r\n\r\n",
    "a bare LF after a chunk": b"1\r\na\n0\r\n\r\n",
    "no line break after a chunk": b"1\r\na0\r\n\r\n",
    "an extension too long": b"1;" + b"x" * 65_536 + b"\r\na\r\n0\r\n\r\n",
    "extensions without end": (b"1;" + b"x" * 1_000 + b"\r\na\r\n") * (MAX_OVERHEAD_BYTES // 900),
    "zeros and blanks without end": (b"000000000000001" + b" " * 100 + b"\r\na\r\n") * (MAX_OVERHEAD_BYTES // 90),
    "an extension without an end": b"1;" + b"x" * 65_536,
    "a trailer that is none": b"0\r\nx\r\n\r\n",
    "a folded trailer": b"0\r\nX: a\r\n b\r\n\r\n",
    "a bare LF in a trailer": b"0\r\nX: a\n\r\n",
    "trailers too long": b"0\r\n" + b"X: yyyy\r\n" * (MAX_TRAILER_BYTES // 8) + b"\r\n",
    "trailers without an end": b"0\r\n" + b"X: yyyy\r\n" * (MAX_TRAILER_BYTES // 8),
}


@pytest.mark.parametrize("case", BROKEN)
def test_body_that_could_be_read_in_two_ways_is_refused(case: str) -> None:
    """
    What breaks a rule is refused, in one packet and byte by byte.
    """
    with pytest.raises(ChunksInvalid):
        read(BROKEN[case])
    with pytest.raises(ChunksInvalid):
        read(*(bytes([byte]) for byte in BROKEN[case]))


def test_one_read_takes_so_many_chunks() -> None:
    """
    What is too much for one read is kept for the next one, which may bring more.
    """
    chunks = Chunks()

    assert (b"a" * CHUNKS_AT_ONCE, True) == (chunks.read(b"1\r\na\r\n" * 2 * CHUNKS_AT_ONCE), chunks.is_behind)
    assert (b"a" * CHUNKS_AT_ONCE, True) == (chunks.read(b"1\r\nb\r\n0\r\n\r\n"), chunks.is_behind)
    assert (b"b", False, True) == (chunks.read(b""), chunks.is_behind, chunks.is_over)


@settings(deadline=None)
@given(st.data())
def test_packets_do_not_matter(data: st.DataObject) -> None:
    """
    However the same bytes are cut into packets, the body and its end are the same.
    """
    chunks = data.draw(st.lists(st.binary(min_size=1, max_size=40), max_size=8))
    coded = b"".join(b"%x;e\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\nT: 1\r\n\r\n"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(coded)), max_size=10)))
    packets = [coded[a:b] for a, b in zip([0, *cuts], [*cuts, len(coded)], strict=True) if b > a]
    body, reader = read(*packets)

    assert (b"".join(chunks), True, False) == (body, reader.is_over, reader.extra)
