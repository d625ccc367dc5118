"""
What upstreams send, byte for byte, and what becomes of it: the table of `test_raw_answers.py`.

1. A row is a request's method, what the upstream sends in answer, what the caller got, and whether the upstream's
   connection was used again.
2. The second and further packets are sent once the caller has got a head, or a moment later where there is none.
3. What the caller got is without the fields that the gateway adds to every answer; or it is the code of a refusal.
"""

from __future__ import annotations

import gzip
from typing import NamedTuple

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
BROKEN = "upstream_protocol_error"
GONE = "upstream_unreachable"
EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"


class Row(NamedTuple):
    """
    One answer. *ends*: the upstream ends the connection after it. *is_cut*: the caller's connection was reset.
    """

    packets: tuple[bytes, ...]
    got: bytes | str
    is_reused: bool
    method: str = "GET"
    ends: bool = False
    is_cut: bool = False


def sized(body: bytes, fields: bytes = b"", *, status: bytes = b"200 OK") -> bytes:
    """Return an answer with *body* and its length."""
    return b"HTTP/1.1 %b\r\n%bContent-Length: %d\r\n\r\n%b" % (status, fields, len(body), body)


def refused(*packets: bytes, ends: bool = False) -> Row:
    """Return a row of what cannot be read."""
    return Row(packets, BROKEN, False, ends=ends)


HELLO = sized(b"hello")
ZIPPED = gzip.compress(b"hello")

WHOLE: dict[str, Row] = {
    "a length": Row((HELLO,), HELLO, True),
    "a length, in packets": Row((HELLO[:9], HELLO[9:30], HELLO[30:]), HELLO, True),
    "no body": Row((sized(b""),), sized(b""), True),
    "a body of 100,000 bytes": Row((sized(b"x" * 100_000),), sized(b"x" * 100_000), True),
    "fields that cross": Row((sized(b"x", b'ETag:  "a" \r\nX:\r\n'),), sized(b"x", b'ETag: "a"\r\nX: \r\n'), True),
    "fields that end here": Row((sized(b"x", b"Set-Cookie: a\r\nKeep-Alive: max=9\r\nAge: 1\r\n"),), sized(b"x"), True),
    "fields that Connection names": Row((sized(b"x", b"X-Hop: 1\r\nConnection: x-hop\r\n"),), sized(b"x"), True),
    "chunked, in one packet": Row((CHUNKED + b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n",), sized(b"onetwo"), True),
    "chunked, in two": Row(
        (CHUNKED + b"3\r\none\r\n", b"3\r\ntwo\r\n0\r\n\r\n"), CHUNKED + b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n", True
    ),
    "extensions and trailers": Row((CHUNKED + b"3;a=b\r\none\r\n0;c\r\nX-Sum: 1\r\n\r\n",), sized(b"one"), True),
    "chunked, empty": Row((CHUNKED + b"0\r\n\r\n",), sized(b""), True),
    "until the end": Row(
        (OK + b"\r\nall", b" of it"), CHUNKED + b"3\r\nall\r\n6\r\n of it\r\n0\r\n\r\n", False, ends=True
    ),
    "HTTP/1.0": Row((HELLO.replace(b"1.1", b"1.0"),), HELLO, False),
    "HTTP/1.0, kept alive": Row(
        (sized(b"x", b"Connection: keep-alive\r\n").replace(b"1.1", b"1.0"),), sized(b"x"), True
    ),
    "Connection: close": Row((sized(b"x", b"Connection: close\r\n"),), sized(b"x"), False),
    "204": Row((b"HTTP/1.1 204 No Content\r\n\r\n",), b"HTTP/1.1 204 No Content\r\n\r\n", True, "DELETE"),
    "204 with the length 0": Row(
        (sized(b"", status=b"204 No Content"),), b"HTTP/1.1 204 No Content\r\n\r\n", True, "DELETE"
    ),
    "205": Row((sized(b"", status=b"205 Reset Content"),), sized(b"", status=b"205 Reset Content"), True),
    "304": Row(
        (b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n",), b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n", True
    ),
    "HEAD": Row((OK + b"\r\n",), OK + b"\r\n", True, "HEAD"),
    "HEAD of something": Row(
        (OK + b"Content-Length: 500\r\n\r\n",), OK + b"Content-Length: 500\r\n\r\n", False, "HEAD"
    ),
    "HEAD of something chunked": Row((CHUNKED,), OK + b"\r\n", False, "HEAD"),
    "100 before": Row((b"HTTP/1.1 100 Continue\r\n\r\n" + HELLO,), HELLO, True),
    "103 before": Row((b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", HELLO), HELLO, True),
    "sixty-four before": Row((b"HTTP/1.1 102 Processing\r\n\r\n" * 64 + HELLO,), HELLO, True),
    "gzip": Row((sized(ZIPPED, b"Content-Encoding: gzip\r\n"),), sized(ZIPPED, b"Content-Encoding: gzip\r\n"), True),
    "gzip that is none": Row(
        (sized(b"x", b"Content-Encoding: gzip\r\n"),), sized(b"x", b"Content-Encoding: gzip\r\n"), True
    ),
    "an answer in the body": Row((sized(EVIL),), sized(EVIL), True),
    "a status of its own": Row((sized(b"x", status=b"299 Odd"),), sized(b"x", status=b"299 "), True),
    "the last status": Row((sized(b"x", status=b"599 Odd"),), sized(b"x", status=b"599 "), True),
    "no reason": Row((sized(b"x", status=b"404"),), sized(b"x", status=b"404 Not Found"), True),
    "a redirect": Row(
        (sized(b"", b"Location: /y\r\n", status=b"302 Found"),),
        sized(b"", b"Location: http://gateway.test/api/y\r\n", status=b"302 Found"),
        True,
    ),
    "a redirect to the gateway": Row(
        (sized(b"", b"Location: http://gateway.test/other\r\n", status=b"302 Found"),),
        sized(b"", status=b"302 Found"),
        True,
    ),
}

EXTRA: dict[str, Row] = {
    "a second answer": Row((HELLO + EVIL,), HELLO, False),
    "a second answer, later": Row((HELLO, EVIL), HELLO, False),
    "a second answer after chunks": Row((CHUNKED + b"1\r\nx\r\n0\r\n\r\n" + EVIL,), sized(b"x"), False),
    "garbage": Row((HELLO + b"\0garbage",), HELLO, False),
    "garbage, later": Row((HELLO, b"\0garbage"), HELLO, False),
    "one byte, later": Row((HELLO, b"x"), HELLO, False),
    "an empty line": Row((HELLO + b"\r\n",), HELLO, False),
    "half a head, later": Row((HELLO, b"HTTP/1.1 200 OK\r\nX"), HELLO, False),
    "an informational answer, later": Row((HELLO, b"HTTP/1.1 100 Continue\r\n\r\n"), HELLO, False),
    "the end, later": Row((HELLO, b""), HELLO, False, ends=True),
    "a body for 204": Row(
        (sized(b"evil", status=b"204 No Content"),), b"HTTP/1.1 204 No Content\r\n\r\n", False, "DELETE"
    ),
    "a body for 204, later": Row(
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 42\r\n\r\n", EVIL), b"HTTP/1.1 204 No Content\r\n\r\n", False
    ),
    "a body for 204 without a length, later": Row(
        (b"HTTP/1.1 204 No Content\r\n\r\n", EVIL), b"HTTP/1.1 204 No Content\r\n\r\n", False
    ),
    "chunks for 204": Row(
        (b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",),
        b"HTTP/1.1 204 No Content\r\n\r\n",
        False,
    ),
    "a body for 205": Row(
        (sized(b"evil", status=b"205 Reset Content"),), sized(b"", status=b"205 Reset Content"), False
    ),
    "a body for 304": Row(
        (sized(b"evil", status=b"304 Not Modified"),),
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n",
        False,
    ),
    "a body for HEAD": Row((sized(b"evil"),), OK + b"Content-Length: 4\r\n\r\n", False, "HEAD"),
    "a body for HEAD, later": Row((sized(EVIL)[: -len(EVIL)], EVIL), OK + b"Content-Length: 42\r\n\r\n", False, "HEAD"),
    "an answer as the body for HEAD": Row((OK + b"\r\n" + EVIL,), OK + b"\r\n", False, "HEAD"),
    "chunks for HEAD": Row((CHUNKED + b"1\r\nx\r\n0\r\n\r\n",), OK + b"\r\n", False, "HEAD"),
    "more than the length": Row((sized(b"ab").replace(b": 2", b": 1"),), sized(b"a"), False),
}

UNREADABLE_HEADS: dict[str, Row] = {
    "status 000": refused(b"HTTP/1.1 000 Zero\r\n\r\n"),
    "status 099": refused(b"HTTP/1.1 099 Low\r\n\r\n"),
    "status 600": refused(sized(b"x", status=b"600 High")),
    "status 999": refused(sized(b"x", status=b"999 High")),
    "status 2000": refused(b"HTTP/1.1 2000 OK\r\n\r\n"),
    "status 20": refused(b"HTTP/1.1 20 OK\r\n\r\n"),
    "HTTP/2.0": refused(HELLO.replace(b"1.1", b"2.0")),
    "HTTP/1.2": refused(HELLO.replace(b"1.1", b"1.2")),
    "HTTP/0.9": refused(b"<html>hello</html>"),
    "ICY": refused(b"ICY 200 OK\r\n\r\n"),
    "SSH": refused(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "TLS": refused(b"\x15\x03\x01\x00\x02\x02\x46"),
    "two spaces": refused(b"HTTP/1.1  200 OK\r\n\r\n"),
    "an empty line before": refused(b"\r\n" + HELLO),
    "bare LF everywhere": refused(b"HTTP/1.1 200 OK\nContent-Length: 1\n\nx"),
    "bare LF in a field": refused(OK + b"X: a\nY: b\r\n\r\n"),
    "bare CR in a field": refused(OK + b"X: a\rb\r\n\r\n"),
    "NUL in a field": refused(OK + b"X: a\0b\r\n\r\n"),
    "ESC in a field": refused(OK + b"X: a\x1b[31mb\r\n\r\n"),
    "a fold": refused(OK + b"X: a\r\n b\r\nContent-Length: 1\r\n\r\nx"),
    "a space before the colon": refused(OK + b"Content-Length : 1\r\n\r\nx"),
    "no colon": refused(OK + b"what\r\n\r\n"),
    "no name": refused(OK + b": x\r\n\r\n"),
    "a name that is no token": refused(OK + b"X{}: x\r\n\r\n"),
    "one length twice": refused(sized(b"x", b"Content-Length: 1\r\n")),
    "two lengths": refused(sized(b"x", b"Content-Length: 2\r\n")),
    "a list of lengths": refused(OK + b"Content-Length: 1, 1\r\n\r\nx"),
    "+1": refused(OK + b"Content-Length: +1\r\n\r\nx"),
    "-1": refused(OK + b"Content-Length: -1\r\n\r\nx"),
    "2 to the 64th": refused(OK + b"Content-Length: 18446744073709551616\r\n\r\nx"),
    "gzip": refused(OK + b"Transfer-Encoding: gzip\r\n\r\n" + ZIPPED, ends=True),
    "gzip, chunked": refused(OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"),
    "identity": refused(OK + b"Transfer-Encoding: identity\r\n\r\nx"),
    "an unknown coding": refused(OK + b"Transfer-Encoding: x\r\n\r\nx"),
    "chunked twice": refused(OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "both framings": refused(sized(b"0\r\n\r\n", b"Transfer-Encoding: chunked\r\n")),
    "chunked in HTTP/1.0": refused(b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "101": refused(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nframes"),
    "1xx with a body": refused(b"HTTP/1.1 103 Early Hints\r\nContent-Length: 42\r\n\r\n" + EVIL + HELLO),
    "1xx with chunks": refused(b"HTTP/1.1 100 Continue\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HELLO),
    "sixty-five 1xx": refused(b"HTTP/1.1 102 Processing\r\n\r\n" * 65 + HELLO),
    "407": refused(sized(b"x", b'Proxy-Authenticate: Basic realm="x"\r\n', status=b"407 Proxy")),
    "a line of 9,000 bytes": refused(sized(b"x", b"X: " + b"x" * 9_000 + b"\r\n")),
    "a head of 70,000 bytes": refused(sized(b"x", (b"X: " + b"x" * 7_000 + b"\r\n") * 10)),
    "a head without an end": refused(OK + (b"X: " + b"x" * 7_000 + b"\r\n") * 10),
    "129 fields": refused(sized(b"x", b"X: y\r\n" * 129)),
    "nothing": Row((b"",), GONE, False, "DELETE", ends=True),
    "half a head": Row((OK + b"X: y",), GONE, False, ends=True),
}

_CUT = CHUNKED + b"3\r\none\r\n"
_HALF = OK + b"Content-Length: 10\r\n\r\nhalf"

UNREADABLE_BODIES: dict[str, Row] = {
    "no size": refused(CHUNKED + b"zz\r\nx\r\n"),
    "0x1": refused(CHUNKED + b"0x1\r\nx\r\n0\r\n\r\n"),
    "a negative size": refused(CHUNKED + b"-1\r\nx\r\n"),
    "a size of 16 digits": refused(CHUNKED + b"fffffffffffffff1\r\nx\r\n"),
    "bare LF": refused(CHUNKED + b"1\nx\n0\n\n"),
    "too long a chunk": refused(CHUNKED + b"1\r\nxy\r\n0\r\n\r\n"),
    "64 KiB of extension": refused(CHUNKED + b"1;" + b"x" * 65_536 + b"\r\nx\r\n0\r\n\r\n"),
    "64 KiB of trailers": refused(CHUNKED + b"0\r\n" + b"X: yyyy\r\n" * 8_192 + b"\r\n"),
    "an answer in the trailers": refused(CHUNKED + b"0\r\n" + EVIL),
    "no size, later": Row((_CUT, b"zz\r\n"), _CUT, False, is_cut=True),
    "an extension, later": Row((_CUT, b"1;" + b"x" * 65_536 + b"\r\nx\r\n"), _CUT, False, is_cut=True),
    "a trailer that is none, later": Row((_CUT, b"0\r\nwhat\r\n\r\n"), _CUT, False, is_cut=True),
    "cut before its length": Row((_HALF, b""), _HALF, False, ends=True, is_cut=True),
    "cut between chunks": Row((_CUT, b""), _CUT, False, ends=True, is_cut=True),
    "cut within a chunk": Row((_CUT[:-4], b""), CHUNKED + b"1\r\no\r\n", False, ends=True, is_cut=True),
    "cut within the last chunk": Row((_CUT, b"0\r\n"), _CUT, False, ends=True, is_cut=True),
}

TABLES: dict[str, dict[str, Row]] = {
    "whole": WHOLE,
    "extra": EXTRA,
    "unreadable heads": UNREADABLE_HEADS,
    "unreadable bodies": UNREADABLE_BODIES,
}
