"""The head of an answer is read in one way, or not at all."""

from __future__ import annotations

import pytest

from gateway.proxy.answer_head import MAX_FIELDS, MAX_HEAD_BYTES, HeadInvalid, check_beginning, read_head

OK = b"HTTP/1.1 200 OK\r\n"
Said = tuple[int, int | None, bool, bool]  # status, length, is_chunked, keeps_alive

READ: dict[str, tuple[bytes, Said]] = {
    "nothing but a status": (OK, (200, None, False, True)),
    "no reason": (b"HTTP/1.1 200 \r\n", (200, None, False, True)),
    "no space before no reason": (b"HTTP/1.1 200\r\n", (200, None, False, True)),
    "a reason in another alphabet": (b"HTTP/1.1 404 \xd0\x9d\xd0\xb5\xd1\x82\r\n", (404, None, False, True)),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\n", (200, None, False, False)),
    "HTTP/1.0, kept alive": (b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\n", (200, None, False, True)),
    "a length": (OK + b"Content-Length: 12\r\n", (200, 12, False, True)),
    "a length without a space": (OK + b"content-length:12\r\n", (200, 12, False, True)),
    "a length with spaces around": (OK + b"Content-Length: \t 12 \t\r\n", (200, 12, False, True)),
    "a length with zeros": (OK + b"Content-Length: 0012\r\n", (200, 12, False, True)),
    "the largest length": (OK + b"Content-Length: " + b"9" * 18 + b"\r\n", (200, 10**18 - 1, False, True)),
    "chunked": (OK + b"Transfer-Encoding: chunked\r\n", (200, None, True, True)),
    "chunked in capitals": (OK + b"TRANSFER-ENCODING: Chunked\r\n", (200, None, True, True)),
    "close": (OK + b"Connection: close\r\n", (200, None, False, False)),
    "close among others": (OK + b"Connection: x, Close\r\nConnection: keep-alive\r\n", (200, None, False, False)),
    "other options": (OK + b"Connection: x\r\n", (200, None, False, True)),
    "the last status": (b"HTTP/1.1 599 Odd\r\n", (599, None, False, True)),
    "an informational one": (b"HTTP/1.1 100 Continue\r\n", (100, None, False, True)),
    "an empty value": (OK + b"X:\r\n", (200, None, False, True)),
    "many fields": (OK + b"X: y\r\n" * MAX_FIELDS, (200, None, False, True)),
}


@pytest.mark.parametrize("case", READ)
def test_head_says_status_and_framing(case: str) -> None:
    """
    A head in order gives its status, its framing, and whether the connection can go on.
    """
    data, said = READ[case]
    data += b"\r\n"
    head = read_head(data.removesuffix(b"\r\n\r\n"))

    assert said == (head.status, head.length, head.is_chunked, head.keeps_alive)


REFUSED: dict[str, bytes] = {
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\n",
    "HTTP/1.2": b"HTTP/1.2 200 OK\r\n",
    "HTTP/0.9": b"HTTP/0.9 200 OK\r\n",
    "a version in small letters": b"http/1.1 200 OK\r\n",
    "another protocol": b"ICY 200 OK\r\n",
    "a status of two digits": b"HTTP/1.1 20 OK\r\n",
    "a status of four digits": b"HTTP/1.1 2000 OK\r\n",
    "status 000": b"HTTP/1.1 000 OK\r\n",
    "status 099": b"HTTP/1.1 099 OK\r\n",
    "status 600": b"HTTP/1.1 600 OK\r\n",
    "status 999": b"HTTP/1.1 999 OK\r\n",
    "a status with a sign": b"HTTP/1.1 +20 OK\r\n",
    "no status": b"HTTP/1.1\r\n",
    "two spaces before the status": b"HTTP/1.1  200 OK\r\n",
    "a tab before the status": b"HTTP/1.1\t200 OK\r\n",
    "a reason right behind the status": b"HTTP/1.1 200OK\r\n",
    "NUL in the reason": b"HTTP/1.1 200 O\0K\r\n",
    "a bare CR in the reason": b"HTTP/1.1 200 O\rK\r\n",
    "a bare LF after the status line": b"HTTP/1.1 200 OK\nX: y\r\n",
    "an empty line before": b"\r\nHTTP/1.1 200 OK\r\n",
    "a space before": b" HTTP/1.1 200 OK\r\n",
    "a bare CR in a value": OK + b"X: a\rb\r\n",
    "a bare LF in a value": OK + b"X: a\nY: b\r\n",
    "NUL in a value": OK + b"X: a\0b\r\n",
    "another control character in a value": OK + b"X: a\x1bb\r\n",
    "DEL in a value": OK + b"X: a\x7fb\r\n",
    "a fold": OK + b"X: a\r\n b\r\n",
    "a fold with a tab": OK + b"X: a\r\n\tb\r\n",
    "a fold in the first line": OK + b" X: a\r\n",
    "a space before the colon": OK + b"X : a\r\n",
    "a space in the name": OK + b"X Y: a\r\n",
    "no colon": OK + b"XY\r\n",
    "no name": OK + b": a\r\n",
    "a name that is no token": OK + b"X(1): a\r\n",
    "a name in another alphabet": OK + b"X\xc3\xa9: a\r\n",
    "two lengths": OK + b"Content-Length: 1\r\nContent-Length: 2\r\n",
    "one length twice": OK + b"Content-Length: 1\r\ncontent-length: 1\r\n",
    "a list of lengths": OK + b"Content-Length: 1, 1\r\n",
    "a length with a sign": OK + b"Content-Length: +1\r\n",
    "a negative length": OK + b"Content-Length: -1\r\n",
    "a hexadecimal length": OK + b"Content-Length: 0x1\r\n",
    "a length with an underscore": OK + b"Content-Length: 1_0\r\n",
    "a length in other digits": OK + "Content-Length: ٣\r\n".encode(),
    "no length": OK + b"Content-Length:\r\n",
    "a length of 19 digits": OK + b"Content-Length: " + b"9" * 19 + b"\r\n",
    "both framings": OK + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
    "both framings, the other way around": OK + b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
    "gzip": OK + b"Transfer-Encoding: gzip\r\n",
    "gzip, chunked": OK + b"Transfer-Encoding: gzip, chunked\r\n",
    "gzip and chunked in two fields": OK + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
    "identity": OK + b"Transfer-Encoding: identity\r\n",
    "chunked twice": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    "chunked, chunked": OK + b"Transfer-Encoding: chunked, chunked\r\n",
    "a comma before chunked": OK + b"Transfer-Encoding: ,chunked\r\n",
    "xchunked": OK + b"Transfer-Encoding: xchunked\r\n",
    "chunked in quotes": OK + b'Transfer-Encoding: "chunked"\r\n',
    "chunked with a parameter": OK + b"Transfer-Encoding: chunked;q=1\r\n",
    "chunked with a no-break space": OK + b"Transfer-Encoding: \xa0chunked\r\n",
    "no coding": OK + b"Transfer-Encoding:\r\n",
    "chunked from HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n",
    "one field too many": OK + b"X: y\r\n" * (MAX_FIELDS + 1),
    "a line too long": OK + b"X: " + b"a" * 8_190 + b"\r\n",
    "a head too long": OK + (b"X: " + b"a" * 8_000 + b"\r\n") * 9,
}


@pytest.mark.parametrize("case", REFUSED)
def test_head_that_could_be_read_in_two_ways_is_refused(case: str) -> None:
    """
    What breaks a rule is refused as a whole.
    """
    data = REFUSED[case] + b"\r\n"

    with pytest.raises(HeadInvalid):
        read_head(data.removesuffix(b"\r\n\r\n"))


def test_fields_are_as_they_came() -> None:
    """
    Names keep their case and order; a value loses the white space around it, and nothing else.
    """
    data = OK + b'ETag:  "a b" \t\r\nx-y: \xff\r\nETag:\r\n\r\n'

    head = read_head(data.removesuffix(b"\r\n\r\n"))

    assert ((b"ETag", b'"a b"'), (b"x-y", b"\xff"), (b"ETag", b"")) == head.raw_fields
    assert [b'ETag: "a b"\r\n', b"x-y: \xff\r\n", b"ETag: \r\n"] == head.lines


def test_lines_that_are_remembered_say_the_same_again() -> None:
    """
    What was read of a line is what is read of it in a later head, its framing too.
    """
    data = OK + b"Server:  x \r\nContent-Length: 012\r\nConnection: Close\r\nKeep-Alive: timeout=7"
    first, again = read_head(data), read_head(data)

    assert (first.lines, first.judged, first.raw_fields) == (again.lines, again.judged, again.raw_fields)
    assert (12, False, 7) == (again.length, again.keeps_alive, again.keep_alive_seconds)
    with pytest.raises(HeadInvalid):
        read_head(data + b"\r\nContent-Length: 012")


async def test_whole_body_is_read_once() -> None:
    """
    A body that came with its head is there as bytes until somebody asks for what reads it.
    """
    head = read_head(b"HTTP/1.1 200 OK")
    head.whole = b"abc"

    assert (b"abc", b"", True) == (await head.body.readany(), head.body.read_nowait(), head.body.at_eof())
    assert head.whole is None


BEGINNINGS: dict[str, tuple[bytes, bool]] = {
    "one byte": (b"H", True),
    "half a status line": (b"HTTP/1.1 2", True),
    "half a line break": (b"HTTP/1.1 200 OK\r", True),
    "another protocol": (b"SSH-2.0-x\r\n", False),
    "HTTP/2": (b"HTTP/2", False),
    "a bare LF": (b"HTTP/1.1 200 OK\nX: y", False),
    "too much": (OK + b"X" * MAX_HEAD_BYTES, False),
}


@pytest.mark.parametrize("case", BEGINNINGS)
def test_what_cannot_become_a_head_is_told_early(case: str) -> None:
    """
    The beginning of a head is waited on only while it can still become one.
    """
    data, can_become = BEGINNINGS[case]
    if can_become:
        check_beginning(data, 0)
    else:
        with pytest.raises(HeadInvalid):
            check_beginning(data, 0)


KEEP_ALIVE: dict[str, tuple[bytes, int | None]] = {
    "nothing": (b"", None),
    "a time": (b"Keep-Alive: timeout=5\r\n", 5),
    "a time among others": (b"keep-alive: max=100, Timeout = 72\r\n", 72),
    "no time": (b"Keep-Alive: max=100\r\n", None),
    "no number": (b"Keep-Alive: timeout=soon\r\n", None),
    "a number too long": (b"Keep-Alive: timeout=1234567\r\n", None),
}


@pytest.mark.parametrize("case", KEEP_ALIVE)
def test_head_says_for_how_long_its_connection_is_kept(case: str) -> None:
    """
    Servers that say when they end an idle connection are believed; others say nothing.
    """
    data, seconds = KEEP_ALIVE[case]
    data = OK + data + b"\r\n"

    assert seconds == read_head(data.removesuffix(b"\r\n\r\n")).keep_alive_seconds
