"""What a request line and header fields may look like, and what they say of the body."""

from __future__ import annotations

import asyncio
import sys

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_parser import HttpRequestParser, RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.errors import Refusal
from gateway.listen.head import (
    FIELDS,
    LINE,
    MAX_FIELD_BYTES,
    MAX_FIELDS,
    MAX_FIELDS_BYTES,
    MAX_LENGTH,
    MAX_TARGET_BYTES,
    NO_BODY,
    TAKEN,
    Framing,
    HeaderSection,
    first_fault,
    read_host,
    read_section,
    split_fields,
)
from gateway.proxy import routing

LINES = {
    "the plain line": (b"GET /x HTTP/1.1", None),
    "HTTP/1.0": (b"GET /x HTTP/1.0", None),
    "a target of the longest length": (b"GET /" + b"a" * (MAX_TARGET_BYTES - 1) + b" HTTP/1.1", None),
    "one byte more": (b"GET /" + b"a" * MAX_TARGET_BYTES + b" HTTP/1.1", "target_too_long"),
    "far more": (b"GET /" + b"a" * 20_000 + b" HTTP/1.1", "target_too_long"),
    "absolute form, which the Host decides on": (b"GET http://x/y HTTP/1.1", None),
    "two spaces": (b"GET  /x HTTP/1.1", "invalid_request"),
    "two spaces before the version": (b"GET /x  HTTP/1.1", "invalid_request"),
    "a tab": (b"GET\t/x HTTP/1.1", "invalid_request"),
    "a space behind": (b"GET /x HTTP/1.1 ", "invalid_request"),
    "no version": (b"GET /x", "invalid_request"),
    "no target": (b"GET HTTP/1.1", "invalid_request"),
    "a version in small letters": (b"GET /x http/1.1", "invalid_request"),
    "a version of two digits": (b"GET /x HTTP/1.10", "invalid_request"),
    "HTTP/2.0": (b"GET /x HTTP/2.0", "http_version_not_supported"),
    "HTTP/2": (b"GET /x HTTP/2", "http_version_not_supported"),
    "HTTP/0.9": (b"GET /x HTTP/0.9", "http_version_not_supported"),
    "HTTP/1.2": (b"GET /x HTTP/1.2", "http_version_not_supported"),
    "asterisk form": (b"OPTIONS * HTTP/1.1", "ambiguous_target"),
    "authority form": (b"GET x:443 HTTP/1.1", "ambiguous_target"),
    "a fragment": (b"GET /x#y HTTP/1.1", "ambiguous_target"),
    "a byte above ASCII": (b"GET /\xc3\xa9 HTTP/1.1", "ambiguous_target"),
    "NUL in the target": (b"GET /\x00 HTTP/1.1", "invalid_request"),
    "DEL in the target": (b"GET /\x7f HTTP/1.1", "invalid_request"),
    "TRACE": (b"TRACE /x HTTP/1.1", "method_not_allowed"),
    "TRACK": (b"TRACK /x HTTP/1.1", "method_not_allowed"),
    "CONNECT": (b"CONNECT x:443 HTTP/1.1", "method_not_allowed"),
    "a method that is no token": (b"G(T /x HTTP/1.1", "invalid_request"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00", "invalid_request"),
}

FIELD_LINES = {
    "none": (b"", None),
    "one": (b"Host: x\r\n", None),
    "an empty value": (b"X:\r\n", None),
    "bytes above ASCII": (b"X: \xc3\xa9\r\n", None),
    "as many as may be": (b"X: y\r\n" * MAX_FIELDS, None),
    "one more": (b"X: y\r\n" * (MAX_FIELDS + 1), "fields_too_large"),
    "one as long as may be": (b"X: " + b"y" * (MAX_FIELD_BYTES - 3) + b"\r\n", None),
    "one byte longer": (b"X: " + b"y" * (MAX_FIELD_BYTES - 2) + b"\r\n", "fields_too_large"),
    "too much in all": (b"X: " + b"y" * 12_000 + b"\r\nX: " + b"y" * 12_000 + b"\r\n", None),
    "more than that": ((b"X: " + b"y" * 12_000 + b"\r\n") * 3, "fields_too_large"),
    "a space before the colon": (b"X : y\r\n", "invalid_request"),
    "a folded line": (b"X: y\r\n z\r\n", "invalid_request"),
    "a first line that begins with a blank": (b" X: y\r\n", "invalid_request"),
    "no colon": (b"X\r\n", "invalid_request"),
    "no name": (b": y\r\n", "invalid_request"),
    "a name that is no token": (b"X@: y\r\n", "invalid_request"),
    "a bare LF": (b"X: y\nZ: y\r\n", "invalid_request"),
    "a bare CR": (b"X: y\rZ: y\r\n", "invalid_request"),
    "NUL": (b"X: \x00\r\n", "invalid_request"),
    "VT": (b"X: \x0b\r\n", "invalid_request"),
    "DEL": (b"X: \x7f\r\n", "invalid_request"),
}


def code(refusal: Refusal | None) -> str | None:
    return refusal.code if refusal is not None else None


@pytest.mark.parametrize("case", LINES)
def test_request_line_is_judged(case: str) -> None:
    """A request line is the one that RFC 9112 writes, or it is refused with the code that fits best."""
    line, expected = LINES[case]

    assert expected == code(first_fault(line + b"\r\nHost: x\r\n\r\n"))


@pytest.mark.parametrize("case", FIELD_LINES)
def test_field_lines_are_judged(case: str) -> None:
    """Field lines are tokens, colons and values without control characters; there may be so many of so much."""
    lines, expected = FIELD_LINES[case]

    assert expected == code(first_fault(b"GET / HTTP/1.1\r\n" + lines + b"\r\n"))


@pytest.mark.parametrize("case", [*LINES, *FIELD_LINES])
def test_fault_never_changes_with_more_bytes(case: str) -> None:
    """However much of a head has arrived: no fault yet, or the one that it has as a whole."""
    head = LINES[case][0] + b"\r\nHost: x\r\n\r\n" if case in LINES else b"GET / HTTP/1.1\r\n" + FIELD_LINES[case][0]
    whole = code(first_fault(head))
    step = max(1, len(head) // 2000)

    seen = [code(first_fault(head[:end])) for end in range(0, len(head), step)]

    assert {None, whole} >= set(seen)
    assert sorted(seen, key=lambda found: found is not None) == seen


@pytest.mark.parametrize("case", [*LINES, *FIELD_LINES])
def test_quick_patterns_agree_with_the_slow_judgement(case: str) -> None:
    """What the two patterns of the quick way accept has no fault but its size or its method."""
    if case in LINES:
        line, expected = LINES[case]
        assert LINE.fullmatch(line + b"\r\n") is None or expected in (None, "target_too_long", "method_not_allowed")
        return
    lines, expected = FIELD_LINES[case]
    is_accepted = FIELDS.fullmatch(b"\r\n" + lines[:-2] if lines else b"") is not None
    assert is_accepted == (expected in (None, "fields_too_large"))


def test_sizes_agree() -> None:
    """All fields have room for two of the largest; the target is as long as routing takes it."""
    assert MAX_FIELDS_BYTES >= 2 * MAX_FIELD_BYTES
    assert MAX_TARGET_BYTES == routing.MAX_TARGET_BYTES


HOSTS = {
    b"gateway.test": True,
    b"Gateway.Test:8080": True,
    b"127.0.0.1:80": True,
    b"[::1]": True,
    b"[2001:DB8::1]:443": True,
    b"x:65535": True,
    b"x:65536": False,
    b"x:99999": False,
    b"x:123456": False,
    b"x:": False,
    b"x:y": False,
    b":80": False,
    b"": False,
    b'x"y': False,
    b"x/y": False,
    b"user@x": False,
    b"x y": False,
    b"[::1": False,
    b"::1": False,
    b"<x>": False,
    b"x\\y": False,
    b"x,y": False,
    b"\xc3\xa9": False,
    b"x%41": False,
    b"a" * 255: True,
    b"a" * 256: False,
}


@pytest.mark.parametrize("host", HOSTS)
def test_host_is_a_name_or_an_address(host: bytes) -> None:
    """A host could stand in a URL of ours as it is, and its port exists; it is kept in small letters."""
    assert (host.decode().lower() if HOSTS[host] else None) == read_host(host)


def test_sections_share_a_host_that_can_be_forgotten() -> None:
    """Those of one host hold one text of it. It is not interned: some versions of Python never let go of such a one."""
    first, second = (read_section(((b"Host", b"API.seldom.example"), (b"Name", value))) for value in (b"a", b"b"))

    assert first.host is second.host
    assert sys.intern("".join(("api.seldom", ".example"))) is not first.host


Given = tuple[tuple[tuple[bytes, bytes], ...], Framing | str]
HOST = (b"Host", b"x")
LENGTH = b"Content-Length"
CODING = b"Transfer-Encoding"
FRAMINGS: dict[str, Given] = {
    "no body": ((HOST,), NO_BODY),
    "a length": ((HOST, (LENGTH, b"5")), Framing(5, is_chunked=False)),
    "a length of nothing": ((HOST, (LENGTH, b"0")), NO_BODY),
    "the longest": ((HOST, (LENGTH, b"%d" % MAX_LENGTH)), Framing(MAX_LENGTH, is_chunked=False)),
    "one more": ((HOST, (LENGTH, b"%d" % (MAX_LENGTH + 1))), "invalid_request"),
    "twice the same length": ((HOST, (LENGTH, b"5"), (b"content-length", b"5")), "invalid_request"),
    "a list of lengths": ((HOST, (LENGTH, b"5, 5")), "invalid_request"),
    "a sign": ((HOST, (LENGTH, b"+5")), "invalid_request"),
    "an empty length": ((HOST, (LENGTH, b"")), "invalid_request"),
    "digits of another script": ((HOST, (LENGTH, b"\xd9\xa5")), "invalid_request"),
    "chunked": ((HOST, (CODING, b"chunked")), Framing(0, is_chunked=True)),
    "chunked in capitals": ((HOST, (CODING, b"Chunked")), Framing(0, is_chunked=True)),
    "chunked twice": ((HOST, (CODING, b"chunked"), (CODING, b"chunked")), "invalid_request"),
    "gzip, chunked": ((HOST, (CODING, b"gzip, chunked")), "invalid_request"),
    "no coding": ((HOST, (CODING, b"")), "invalid_request"),
    "a Kelvin sign": ((HOST, (CODING, "chun\u212aed".encode())), "invalid_request"),
    "both": ((HOST, (LENGTH, b"5"), (CODING, b"chunked")), "invalid_request"),
    "no Host": ((), "invalid_request"),
    "two Hosts": ((HOST, HOST), "invalid_request"),
    "a port that is none": (((b"Host", b"x:99999"),), "invalid_request"),
    "100-continue": ((HOST, (b"Expect", b"100-Continue")), NO_BODY),
    "it twice": ((HOST, (b"Expect", b"100-continue"), (b"Expect", b"100-continue")), "invalid_request"),
    "another expectation": ((HOST, (b"Expect", b"200-ok")), "invalid_request"),
    "two types of a body": ((HOST, (b"Content-Type", b"a/b"), (b"content-type", b"a/b")), "invalid_request"),
    "two user agents": ((HOST, (b"User-Agent", b"x"), (b"User-Agent", b"")), "invalid_request"),
    "two of a list": ((HOST, (b"Accept", b"a/b"), (b"Accept", b"a/c")), NO_BODY),
    "one each of what is there once": (
        (HOST, (b"Content-Type", b"a/b"), (b"User-Agent", b"x"), (b"ETag", b"x"), (b"Max-Forwards", b"1")),
        NO_BODY,
    ),
    "Connection with names": ((HOST, (b"Connection", b"keep-alive, X-One, , X-Two")), NO_BODY),
    "Connection with no token": ((HOST, (b"Connection", b"close; x")), "invalid_request"),
    "Connection with framing": ((HOST, (b"Connection", b"close, Content-Length")), "invalid_request"),
    "Connection with Host": ((HOST, (b"Connection", b"host")), "invalid_request"),
    "two Connection fields": ((HOST, (b"Connection", b"close"), (b"Connection", b"x")), NO_BODY),
}


@pytest.mark.parametrize("case", FRAMINGS)
def test_fields_say_what_follows(case: str) -> None:
    """Host, framing, Expect and Connection are each there as often as they may be, and say one thing."""
    fields, expected = FRAMINGS[case]

    assert expected == framing(fields)


OLD: dict[str, Given] = {
    "no Host": ((), NO_BODY),
    "a Host": ((HOST,), NO_BODY),
    "a wrong Host": (((b"Host", b"x/y"),), "invalid_request"),
    "a length": (((LENGTH, b"5"),), Framing(5, is_chunked=False)),
    "chunked": (((CODING, b"chunked"),), "invalid_request"),
}


@pytest.mark.parametrize("case", OLD)
def test_http_1_0_has_no_coding_and_may_have_no_host(case: str) -> None:
    """HTTP/1.0 knows no transfer coding; a Host may be left out."""
    fields, expected = OLD[case]

    assert expected == framing(fields, is_http_1_0=True)


ABSOLUTE = {
    b"http://x/y": "ambiguous_target",
    b"HTTP://X?q": "ambiguous_target",
    b"https://other/y": "misdirected",
    b"http://user@x/y": "invalid_request",
    b"http:///y": "invalid_request",
}


@pytest.mark.parametrize("target", ABSOLUTE)
def test_absolute_form_is_refused(target: bytes) -> None:
    """A target that names another host is misdirected; one that names ours should be a path."""
    assert ABSOLUTE[target] == framing((HOST,), target=target)


def framing(
    fields: tuple[tuple[bytes, bytes], ...], *, target: bytes = b"/", is_http_1_0: bool = False
) -> Framing | str:
    try:
        return read_section(fields, target=target, is_http_1_0=is_http_1_0).framing
    except Refusal as refusal:
        return refusal.code


BLANKS = ["", "", "", " ", "\t", " \t ", "\t "]
NAMES = [
    *("Host", "Content-Length", "content-length", "Transfer-Encoding", "TRANSFER-ENCODING", "Connection", "connection"),
    *("Upgrade", "Expect", "TE", "Trailer", "Content-Type", "User-Agent", "X", "!#$%&'*+.^_`|~", "Sec-WebSocket-Key1"),
    *("Cookie", "Content-Encoding", "Keep-Alive", "Transfer-Encodin", "Content-Lengthy", "Proxy-Connection"),
]
VALUES = [
    *(
        "",
        "x",
        "a b",
        "a\t b",
        "\xff\xe9",
        "5",
        "0",
        "007",
        "+5",
        "5, 5",
        "9223372036854775807",
        "18446744073709551616",
    ),
    *(
        "chunked",
        "Chunked",
        "chunked, chunked",
        "gzip, chunked",
        "identity",
        "chunked,",
        "close",
        "CLOSE",
        "keep-alive",
    ),
    *(
        "keep-alive, close",
        ",,close,",
        "close; x",
        "upgrade",
        "UPGRADE, close",
        "websocket",
        "h2c",
        "100-continue",
        "x:80",
    ),
]
FIELD = st.tuples(st.sampled_from(NAMES), st.sampled_from(BLANKS), st.sampled_from(VALUES), st.sampled_from(BLANKS))
HEAD = st.builds(
    lambda method, target, fields: (
        f"{method} /{target} HTTP/1.1\r\nHost: x\r\n"
        + "".join(f"{name}:{before}{value}{behind}\r\n" for name, before, value, behind in fields)
        + "\r\n"
    ).encode("latin-1"),
    st.sampled_from(TAKEN),
    st.text("ab/?%=&;:@!$'()*,~\"<>[]^`{|}\\ #\x7f\xe9", max_size=6),
    st.lists(FIELD, max_size=5),
)
WOUNDS = st.lists(
    st.tuples(st.integers(0, 200), st.integers(0, 2), st.sampled_from(" \t\r\n:,\0\x0b\x7f\xa0;xX5")), max_size=2
)


def wounded(data: bytes, wounds: list[tuple[int, int, str]]) -> bytes:
    """Return *data*, each of *wounds* having replaced some bytes at a place by one."""
    for at, removed, put in wounds:
        data = data[:at] + put.encode("latin-1") + data[at + removed :]
    return data


def read_quickly(head: bytes) -> HeaderSection:
    """Return what the parser's quick way makes of *head*. Raises Refusal; AssertionError where it is not taken."""
    line = LINE.match(head)
    assert line is not None and line[3] == b"1" and line[1].decode() in TAKEN
    stop = line.end() - 2
    found = FIELDS.match(head, stop)
    assert found is not None and head[found.end() :] == b"\r\n\r\n"
    return read_section(split_fields(head[stop:]))


def read_by_aiohttp(head: bytes) -> tuple[RawRequestMessage, bool]:
    """Return what aiohttp's C parser, set up as ours sets it up, makes of *head*, and whether it wants a body."""
    loop = asyncio.new_event_loop()
    try:
        parser = HttpRequestParser(BaseProtocol(loop), loop, 65_536, max_line_size=9000, max_field_size=MAX_FIELD_BYTES)
        messages, _, _ = parser.feed_data(head)
    finally:
        loop.close()
    ((message, payload),) = messages
    assert isinstance(message, RawRequestMessage)
    return message, payload is not EMPTY_PAYLOAD


@given(head=HEAD, wounds=WOUNDS)
def test_what_is_taken_aiohttp_takes_alike(head: bytes, wounds: list[tuple[int, int, str]]) -> None:
    """
    Whatever is read by our rules alone, aiohttp's C parser reads with the same fields, framing and end.

    But that it obeys Proxy-Connection, which is no field of HTTP's (RFC 9112 appendix C.2.2) and ends here; and that
    nothing is read behind an upgrade here, whatever its protocol.
    """
    head = wounded(head, wounds)
    try:
        section = read_quickly(head)
    except (AssertionError, Refusal):
        assume(False)
    message, has_body = read_by_aiohttp(head)
    lines = [(name.lower(), value.lower()) for name, value in section.raw_fields]
    wants_upgrade = any(name == b"upgrade" for name, _ in lines) and any(
        name == b"connection" and b"upgrade" in value for name, value in lines
    )

    assert message.raw_headers == section.raw_fields
    assert f"{message.method} {message.path}".encode() == head.split(b" HTTP/1.1\r\n")[0]
    assert message.chunked == section.framing.is_chunked
    assert has_body == (section.framing.is_chunked or section.framing.length > 0)
    assert section.is_last or not message.should_close or any(name == b"proxy-connection" for name, _ in lines)
    assert message.should_close or wants_upgrade or not section.is_last
