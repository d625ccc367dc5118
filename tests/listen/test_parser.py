"""The bytes of a connection become requests in order, in one way."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_parser import RawRequestMessage
from aiohttp.web_protocol import RequestPayloadError, _ErrInfo
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import Refusal, RequestTimeout
from gateway.listen.head import MAX_TARGET_BYTES, RequestHead
from gateway.listen.parser import MAX_QUEUED, Message, Payload, StrictParser
from gateway.listen.sections import MAX_KNOWN_BYTES, SharedSections
from gateway.net.backlog import Backlog
from gateway.net.body_stream import HIGH_BYTES
from gateway.net.whole_body import EMPTY_BODY
from tests.listen.test_head import HEAD, WOUNDS, wounded

GET = b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3;a\r\nabc\r\n2\r\nde\r\n0\r\nT: t\r\n\r\n"

STREAMS = {
    "one": (GET % 1, ["/1"]),
    "an empty line before it": (b"\r\n" + GET % 1, ["/1"]),
    "an empty line between": (GET % 1 + b"\r\n" + GET % 2, ["/1", "/2"]),
    "two empty lines": (b"\r\n\r\n" + GET % 1, ["invalid_request"]),
    "an LF before it": (b"\n" + GET % 1, ["invalid_request"]),
    "bodies between": (POST + GET % 1 + CHUNKED + GET % 2, ["/p hello", "/1", "/c abcde", "/2"]),
    "a good one before a bad one": (GET % 1 + b"\x00\r\n\r\n" + GET % 2, ["/1", "invalid_request"]),
    "a body before a bad one": (POST + b"x\r\n\r\n", ["/p hello", "invalid_request"]),
    "another version": (GET % 1 + b"GET / HTTP/2.0\r\n", ["/1", "http_version_not_supported"]),
    "nothing after close": (b"GET /l HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" + GET % 1, ["/l"]),
    "nothing after a last body": (
        b"POST /l HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\nab" + GET % 1,
        ["/l ab"],
    ),
    "nothing after HTTP/1.0": (b"GET /l HTTP/1.0\r\n\r\n" + GET % 1, ["/l"]),
    "HTTP/1.0 that stays": (b"GET /l HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + GET % 1, ["/l", "/1"]),
    "nothing after an upgrade": (
        b"GET /u HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + GET % 1,
        ["/u"],
    ),
    "a broken body": (CHUNKED[:-20] + b"zz\r\n" + GET % 1, ["/c broken"]),
    "the same fields, a strange method": (GET % 1 + b"FOO / HTTP/1.1\r\nHost: x\r\n\r\n", ["/1", "invalid_request"]),
    "a strange method, and too many fields": (
        b"FOO / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 100 + b"\r\n",
        ["fields_too_large"],
    ),
    "the same fields, HTTP/1.0": (GET % 1 + b"GET /2 HTTP/1.0\r\nHost: x\r\n\r\n" + GET % 3, ["/1", "/2"]),
    "the same fields, a bad target": (GET % 1 + b"GET /# HTTP/1.1\r\nHost: x\r\n\r\n", ["/1", "ambiguous_target"]),
    "the same fields twice, with a body": (POST + POST, ["/p hello", "/p hello"]),
    "the same fields behind others of HTTP/1.0, which have a body": (
        GET % 1
        + b"POST /o HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 31\r\n\r\n"
        + GET % 2
        + b"---"
        + GET % 3,
        ["/1", "/o " + (GET % 2).decode() + "---", "/3"],
    ),
    "the same fields with a body behind others of HTTP/1.0 without": (
        POST + b"GET /o HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + POST + GET % 1,
        ["/p hello", "/o", "/p hello", "/1"],
    ),
    "a request behind a body that fills its buffer": (
        b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n" + b"b" * 200_000 + GET % 1,
        ["/b " + "b" * 200_000, "/1"],
    ),
    "a request behind a chunk that fills its buffer": (
        CHUNKED.replace(b"3;a\r\nabc", b"30d40\r\n" + b"b" * 200_000) + GET % 1,
        ["/c " + "b" * 200_000 + "de", "/1"],
    ),
    "a tab behind the coding": (
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\t\r\n\r\n0\r\n\r\n",
        ["invalid_request"],
    ),
    "two types of a body": (
        GET % 1 + b"GET / HTTP/1.1\r\nHost: x\r\nContent-Type: a/b\r\nContent-Type: a/c\r\n\r\n",
        ["/1", "invalid_request"],
    ),
    "absolute form": (b"GET http://y/ HTTP/1.1\r\nHost: x\r\n\r\n", ["misdirected"]),
}


class Reader:
    """A connection without a socket: what a parser makes of the bytes that it is fed."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sections: SharedSections | None = None) -> None:
        self.protocol = BaseProtocol(loop)
        self.protocol.transport = asyncio.Transport()
        sections = SharedSections() if sections is None else sections
        self.parser = StrictParser(self.protocol, loop, Backlog(loop), sections, for_application=False)
        self.protocol._parser = self.parser  # type: ignore[assignment]  # as a connection does
        self.read: list[tuple[Message | _ErrInfo, Payload]] = []

    def feed(self, data: bytes) -> None:
        messages, upgraded, tail = self.parser.feed_data(data)
        assert (False, b"") == (upgraded, tail)
        self.read += messages
        for _ in messages:
            self.parser.message_consumed()
        if self.parser.is_behind:
            self.feed(b"")

    def told(self) -> list[str]:
        """Return each message as its target and body, or as the code of its refusal."""
        return [_told(message, payload) for message, payload in self.read]


def _told(message: Message | _ErrInfo, payload: Payload) -> str:
    if isinstance(message, _ErrInfo):
        assert isinstance(message.exc, Refusal)
        return message.exc.code
    assert isinstance(message, RequestHead)
    if payload is EMPTY_BODY:
        return message.target
    if payload.exception() is not None:
        return f"{message.target} broken"
    return f"{message.target} {payload.read_nowait().decode()}" if payload.is_eof() else f"{message.target} open"


@pytest.mark.parametrize("case", STREAMS)
async def test_bytes_become_requests_in_order(case: str) -> None:
    """Requests are read one after another up to the last one, or the first that cannot be read."""
    data, expected = STREAMS[case]
    reader = Reader(asyncio.get_running_loop())

    reader.feed(data)

    assert expected == reader.told()


@given(case=st.sampled_from(sorted(STREAMS)), cuts=st.lists(st.integers(0, 250), max_size=40))
def test_packets_change_nothing(case: str, cuts: list[int]) -> None:
    """However the bytes are cut, the requests are the same."""
    data, expected = STREAMS[case]

    async def read() -> list[str]:
        reader = Reader(asyncio.get_running_loop())
        at = 0
        for cut in sorted(cuts):
            if at < cut < len(data):
                reader.feed(data[at:cut])
                at = cut
        reader.feed(data[at:])
        return reader.told()

    assert expected == asyncio.run(read())


REQUESTS = st.tuples(
    st.sampled_from(["1.0", "1.1"]),
    st.sampled_from(["", "A: b\r\n", "C: d\r\n"]),  # few, so that fields repeat and change
    st.sampled_from(["none", "length", "chunks"]),
    st.sampled_from([b"", b"x", b"GET /inner HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n", b"0\r\n\r\n"]),
)


def written(number: int, version: str, fields: str, framing: str, body: bytes) -> tuple[bytes, str]:
    """Return a request as bytes, and as `Reader.told` says it. HTTP/1.0 has no chunks."""
    head = f"POST /{number} HTTP/{version}\r\nHost: x\r\nConnection: keep-alive\r\n{fields}"
    if framing == "none" or (framing == "length" and not body):
        return f"{head}\r\n".encode(), f"/{number}"
    if framing == "length" or version == "1.0":
        if not body:
            return f"{head}\r\n".encode(), f"/{number}"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body, f"/{number} {body.decode()}"
    chunks = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
    return f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + chunks + b"0\r\n\r\n", f"/{number} {body.decode()}"


@given(requests=st.lists(REQUESTS, max_size=12), cuts=st.lists(st.floats(0, 1), max_size=30))
def test_any_requests_in_any_packets_are_those_requests(
    requests: list[tuple[str, str, str, bytes]], cuts: list[float]
) -> None:
    """Whatever requests follow one another in whatever packets: each is read with its own body and nobody else's."""
    pairs = [written(number, *request) for number, request in enumerate(requests)]
    data = b"".join(one for one, _ in pairs)

    async def read() -> list[str]:
        reader = Reader(asyncio.get_running_loop())
        for start, stop in pairwise([0, *sorted(int(cut * len(data)) for cut in cuts), len(data)]):
            reader.feed(data[start:stop])
        return reader.told()

    assert [said for _, said in pairs] == asyncio.run(read())


@given(heads=st.lists(HEAD, min_size=1, max_size=3), wounds=WOUNDS, cuts=st.lists(st.floats(0, 1), max_size=12))
def test_any_heads_in_any_packets_are_those_heads(
    heads: list[bytes], wounds: list[tuple[int, int, str]], cuts: list[float]
) -> None:
    """Whatever the heads say, well or badly: what becomes of them does not depend on how they come."""
    data = wounded(b"".join(heads), wounds)

    async def read(ends: list[int]) -> list[str]:
        reader = Reader(asyncio.get_running_loop())
        for start, stop in pairwise(ends):
            reader.feed(data[start:stop])
        return reader.told()

    async def both() -> tuple[list[str], list[str]]:
        ends = [0, *sorted(int(cut * len(data)) for cut in cuts), len(data)]
        return await read([0, len(data)]), await read(ends)

    whole, in_packets = asyncio.run(both())
    assert whole == in_packets


async def test_same_fields_are_read_once() -> None:
    """A head with the fields of the one before it, to the letter, shares what was read of them."""
    reader = Reader(asyncio.get_running_loop())
    reader.feed(GET % 1 + GET % 2 + b"GET /3 HTTP/1.1\r\nHost: y\r\n\r\n")

    first, second, third = (message.section for message, _ in reader.read if isinstance(message, RequestHead))

    assert first is second
    assert ("x", "y") == (first.host, third.host)


async def test_large_head_is_not_remembered() -> None:
    """What a stranger sends once is not kept for as long as it stays; a smaller head is still known behind it."""
    reader = Reader(asyncio.get_running_loop())
    large = b"GET /l HTTP/1.1\r\nHost: x\r\nA: " + b"a" * MAX_KNOWN_BYTES + b"\r\n\r\n"
    reader.feed(GET % 1 + large + large + GET % 2)

    small, *larger, again = (message.section for message, _ in reader.read if isinstance(message, RequestHead))

    assert small is again
    assert larger[0] is not larger[1]
    assert [True, False, False] == [section.is_kept for section in (small, *larger)]


def heads(reader: Reader) -> list[RequestHead]:
    """Return what was read, where all of it became requests."""
    found = [message for message, _ in reader.read if isinstance(message, RequestHead)]
    assert len(found) == len(reader.read)
    return found


OTHER = b"GET /o HTTP/1.1\r\nHost: other\r\n\r\n"
PUT = b"PUT /p HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"


async def test_fields_that_another_connection_brought_are_read_once() -> None:
    """
    What two connections have brought, a third shares, whatever its method and target; with a body, its own.

    For that the door has to say that it knows the caller: what a stranger sends is read anew.
    """
    loop, sections = asyncio.get_running_loop(), SharedSections()
    for is_known in (False, False, True, True):
        reader = Reader(loop, sections)
        reader.feed(PUT + b"first")
        heads(reader)[0].section.reading = "something" if is_known else None
        reader.feed(OTHER)
        assert len(sections) == 0 or is_known
    third, fourth = Reader(loop, sections), Reader(loop, sections)
    third.feed(PUT.replace(b"PUT /p", b"POST /q"))
    third.feed(b"third" + PUT + b"again")
    fourth.feed(OTHER)
    fourth.feed(PUT + b"other")

    assert ["/q third", "/p again"] == third.told()
    assert ["/o", "/p other"] == fourth.told()
    assert 1 == len(sections)
    assert 1 == len({heads(third)[0].section, heads(third)[1].section, heads(fourth)[1].section})
    assert "something" == heads(third)[0].section.reading


@pytest.mark.parametrize("head", [b"PROPFIND /x HTTP/1.1", b"GET /x HTTP/1.0", b"GET http://x/x HTTP/1.1"])
async def test_unusual_heads_share_nothing(head: bytes) -> None:
    """The same fields mean something else in HTTP/1.0 or beside a target in absolute form: those are judged anew."""
    loop, sections = asyncio.get_running_loop(), SharedSections()
    for _ in range(2):
        reader = Reader(loop, sections)
        reader.feed(GET % 1)
        heads(reader)[0].section.reading = "something"
        reader.feed(OTHER)
    shared, own = Reader(loop, sections), Reader(loop, SharedSections())
    for each in (shared, own):
        each.feed((GET % 1).replace(b"GET /1 HTTP/1.1", head) + GET % 2)

    assert 1 == len(sections)
    assert own.told() == shared.told()
    assert all(message.section.reading is None for message, _ in shared.read[:1] if isinstance(message, RequestHead))


@pytest.mark.parametrize("method", [b"GET", b"PROPFIND"])
async def test_other_hops_words_do_not_end_a_connection(method: bytes) -> None:
    """What is said to another hop, in whatever spelling, ends no connection here, whoever reads the head."""
    reader = Reader(asyncio.get_running_loop())
    reader.feed(method + b" /p HTTP/1.1\r\nHost: x\r\nProxy-Connection: close\r\n\r\n" + GET % 1)

    assert ["/p", "/1"] == reader.told()


LONG = {
    "a target": (b"GET /", "target_too_long"),
    "a field": (b"GET / HTTP/1.1\r\nHost: x\r\nA: ", "fields_too_large"),
    "a field behind others": (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: %b\r\n" % (b"a" * 9000) * 2, "fields_too_large"),
}


@pytest.mark.parametrize("case", LONG)
async def test_what_drips_is_refused_at_the_very_byte(case: str) -> None:
    """A head that comes byte by byte is refused where one that comes at once is: not earlier, and not later."""
    beginning, code = LONG[case]
    at_once = len(beginning)
    while not told_of(beginning + b"b" * (at_once - len(beginning))):
        at_once += 1
    reader = Reader(asyncio.get_running_loop())
    reader.feed(beginning)
    for _ in range(at_once - len(beginning)):
        assert [] == reader.told()
        reader.feed(b"b")

    assert [code] == reader.told()


def told_of(data: bytes) -> list[str]:
    reader = Reader(asyncio.get_running_loop())
    reader.feed(data)
    return reader.told()


async def test_url_is_there_for_who_needs_it() -> None:
    """Where somebody looks at it, each message has the URL that aiohttp makes, also where fields repeat."""
    loop = asyncio.get_running_loop()
    parser = StrictParser(BaseProtocol(loop), loop, Backlog(loop), SharedSections(), for_application=True)

    messages, _, _ = parser.feed_data(GET % 1 + b"GET //a?b=c HTTP/1.1\r\nHost: x\r\n\r\n")

    assert ["/1", "//a"] == [m.url.raw_path for m, _ in messages if isinstance(m, RawRequestMessage)]


async def test_request_that_comes_alone_need_not_be_fed() -> None:
    """One that is whole and has no body is read at once; its fields only where they differ from those before."""
    reader = Reader(asyncio.get_running_loop())
    reader.feed(GET % 1)

    head = reader.parser.read_alone(GET.replace(b"GET", b"PUT") % 2)

    assert head is not None
    assert ("PUT", "/2") == (head.method, head.target)
    first = reader.read[0][0]
    assert isinstance(first, RequestHead)
    assert head.section is first.section
    other = reader.parser.read_alone(GET.replace(b"x", b"y") % 3)
    assert other is not None
    assert ("GET", "/3", "y") == (other.method, other.target, other.section.host)


@pytest.mark.parametrize(
    "data",
    [
        GET % 1 + GET % 2,
        b"\r\n" + GET % 1,
        (GET % 1)[:-1],
        GET % 1 + b"G",
        GET.replace(b"GET", b"TRACE") % 1,
        GET.replace(b"GET", b"BREW") % 1,
        GET.replace(b"1.1", b"1.0") % 1,
        GET.replace(b" HTTP", b"  HTTP") % 1,
        GET.replace(b"/%d", b"/%d#") % 1,
        GET.replace(b"/%d", b"/%d" + b"x" * MAX_TARGET_BYTES) % 1,
        GET.replace(b"\r\n", b"\r\nA: b\r\n", 1) % 1 + GET % 2,
        GET.replace(b"\r\n", b"\r\nA\r\n", 1) % 1,
        GET.replace(b"\r\n", b"\r\nA: b\r\n" * 101, 1) % 1,
        GET.replace(b"\r\n", b"\r\nHost: y\r\n", 1) % 1,
        GET.replace(b"\r\n", b"\r\nA: %s\r\n" % (b"b" * MAX_KNOWN_BYTES), 1).replace(b"%d", b"1"),
        GET.replace(b"\r\n", b"\r\nContent-Length: 1\r\n", 1) % 1,
        GET.replace(b"\r\n", b"\r\nTransfer-Encoding: chunked\r\n", 1) % 1,
        GET.replace(b"\r\n", b"\r\nConnection: close\r\n", 1) % 1,
    ],
)
@pytest.mark.parametrize("comes_first", [True, False])
async def test_all_else_is_to_be_fed(data: bytes, comes_first: bool) -> None:
    """More or less than one request, an unusual line, what is refused, has a body or is the last: as if not asked."""
    asked, fed = Reader(asyncio.get_running_loop()), Reader(asyncio.get_running_loop())
    for reader in (asked, fed):
        if not comes_first:
            reader.feed(GET % 1)

    assert asked.parser.read_alone(data) is None
    for reader in (asked, fed):
        reader.feed(data)
    assert fed.told() == asked.told()


@pytest.mark.parametrize(
    "before",
    [
        GET % 1 + b"GET /",
        GET % 1 + b"\r\n",
        GET.replace(b"Host", b"Connection: close\r\nHost") % 1,
        GET % 1 + b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n",
    ],
)
async def test_repeated_request_behind_what_has_begun_is_to_be_fed(before: bytes) -> None:
    """It belongs to a head, an empty line or a body that has begun, or stands behind the last request."""
    reader = Reader(asyncio.get_running_loop())
    reader.feed(before)

    assert reader.parser.read_alone(GET % 2) is None
    assert reader.parser.read_alone(before) is None
    reader = Reader(asyncio.get_running_loop())
    reader.parser.feed_data(GET % 1)  # it waits in the queue
    assert reader.parser.read_alone(GET % 2) is None


async def test_queue_is_bounded() -> None:
    """Of many requests at once so many are read, and the rest as they are taken."""
    parser = Reader(asyncio.get_running_loop()).parser
    messages, _, _ = parser.feed_data(b"".join(GET % number for number in range(100)))
    seen = [len(messages)]
    while messages:
        for _ in messages:
            parser.message_consumed()
        messages, _, _ = parser.feed_data(b"")
        seen.append(len(messages))

    assert [MAX_QUEUED, MAX_QUEUED, MAX_QUEUED, 4, 0] == seen


async def test_reading_pauses_where_a_body_is_not_read() -> None:
    """A body that is not read stops the connection until its reader asks."""
    reader = Reader(asyncio.get_running_loop())
    big = b"b" * (HIGH_BYTES + 1)
    reader.feed(b"POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(big), big))
    payload = reader.read[0][1]
    is_paused = reader.protocol._reading_paused
    got = await payload.readany()
    is_resumed = not reader.protocol._reading_paused
    reader.feed(b"0\r\n\r\n" + GET % 1)

    assert (True, big, True) == (is_paused, got, is_resumed)
    assert ["/p ", "/1"] == reader.told()


async def test_who_waits_for_a_broken_body_is_told() -> None:
    """A reader that waits, also one that a piece has just woken, gets the error."""
    reader = Reader(asyncio.get_running_loop())
    reader.feed(b"POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    payload = reader.read[0][1]

    async def read_all() -> bytes:
        data = b""
        while piece := await payload.readany():
            data += piece
        return data

    waiting = asyncio.create_task(read_all())
    await asyncio.sleep(0)
    reader.feed(b"1\r\nx\r\n")
    reader.feed(b"zz\r\n")

    async with asyncio.timeout(5):
        with pytest.raises(RequestPayloadError):
            await waiting


async def test_half_a_head_is_known() -> None:
    """A head that has begun and is not whole is seen; an empty line, a body and nothing are not."""
    reader = Reader(asyncio.get_running_loop())
    seen = []
    for data in (b"", b"\r\n", b"GE", b"T / HTTP/1.1\r\nHost: x\r\n", b"Content-Length: 2\r\n\r\n", b"a", b"b", b"G"):
        reader.feed(data)
        seen.append(reader.parser.has_begun)

    assert [False, False, True, True, False, False, False, True] == seen


async def test_nothing_is_read_behind_a_refusal() -> None:
    """A connection that was refused from outside, for its time, reads nothing more."""
    reader = Reader(asyncio.get_running_loop())
    reader.feed(b"GET / HT")
    reader.read.append(reader.parser.refuse(RequestTimeout()))
    reader.feed(b"TP/1.1\r\nHost: x\r\n\r\n")

    assert ["request_timeout"] == reader.told()
