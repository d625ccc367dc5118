"""
Read the head of an upstream's answer in exactly one way, or not at all (RFC 9112). No I/O.

Rules:
1. Status line: HTTP/1.0 or HTTP/1.1, one space, a status from 100 to 599, and a reason that is not looked at; the space
   before an absent reason may be absent too.
2. Field lines: a token, a colon, a value without control characters. A line ends with CRLF; bare CR or LF, NUL, folds,
   space before the colon are refused, where RFC 9112 section 5.2 would let us repair some of them.
3. Framing: one Content-Length of digits alone, or one Transfer-Encoding that is exactly `chunked`, or neither; never
   both, nor the same twice. RFC 9112 section 6.3 lets a recipient choose: here nothing is chosen.
4. Sizes are bounded: of the head, of a line, and the number of fields (threats G6).

The C parser that this stands for is lenient with answers: it takes any status, HTTP/2.0, bare LF, folds and unknown
codings (threats 5.2).
"""

from __future__ import annotations

import re
from http import HTTPStatus

from gateway.net.body_stream import Body
from gateway.net.whole_body import WholeBody
from gateway.proxy.answer_fields import Judged, place
from gateway.proxy.request_fields import RawFields

MAX_HEAD_BYTES = 65_536  # status line and fields; servers' own limits are between 8 and 64 KiB
MAX_LINE_BYTES = 8_190  # as of a request (threats R32)
MAX_FIELDS = 128
MAX_LENGTH_DIGITS = 18  # what fits into 63 bits, whatever the caller counts with

NAME = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]"  # RFC 9110 5.6.2
TEXT = rb"[\t\x20-\x7e\x80-\xff]"  # RFC 9110 5.5: visible, space, tab and what is not ASCII
# Possessive, so that each is linear in its input.
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: %b*+)?" % TEXT)
_FIELD_LINE = re.compile(rb"(%b++):[ \t]*+(%b*+)" % (NAME, TEXT))
BARE_LF = re.compile(rb"(?<!\r)\n")
_TIMEOUT = re.compile(rb"timeout\s*=\s*([0-9]{1,6})(?![0-9])", re.IGNORECASE)  # RFC 2068 19.7.1.1, as servers send it
_BEGINNING = b"HTTP/1."

# What a field is to the framing. Plain ints: to compare with an enum's member costs four times as much.
_NOTHING, _LENGTH, _CODING, _OPTIONS, _KEEP_ALIVE = range(5)
_CLOSE, _KEEP = 1, 2  # what an options field says, as bits

# Lines that many answers have to the letter, some for a second only, and that hold nobody's secret: what they say is
# remembered, and all of it forgotten when it is too much. What is not listed here is nothing to the framing.
_REPEATED = {
    **dict.fromkeys((b"accept-ranges", b"cache-control", b"content-encoding", b"content-language"), _NOTHING),
    **dict.fromkeys((b"content-type", b"date", b"expires", b"pragma", b"referrer-policy", b"server"), _NOTHING),
    **dict.fromkeys((b"strict-transport-security", b"vary", b"via", b"x-content-type-options"), _NOTHING),
    **dict.fromkeys((b"x-frame-options", b"x-powered-by", b"x-xss-protection"), _NOTHING),
    b"content-length": _LENGTH,
    b"transfer-encoding": _CODING,
    b"connection": _OPTIONS,
    b"keep-alive": _KEEP_ALIVE,
}
_MEMO_LINES = 512
# The line of a field that is sent on as it came, or what is to be judged of it; what it is to the framing, and the
# number that it says there.
_Read = tuple[bytes | None, Judged | None, int, int]
_memo: dict[bytes, _Read] = {}

# What servers usually begin with: status, and whether it is HTTP/1.0. Others are read each time, 3,000 instructions.
_USUAL = {
    f"HTTP/1.{minor} {status.value} {status.phrase}".encode("ascii"): (status.value, not minor)
    for minor in (0, 1)
    for status in HTTPStatus
}


class HeadInvalid(Exception):
    """This is no head of an answer, or one that could be read in two ways."""


class Answer:
    """
    What a head says, and the body behind it, which the connection adds: *whole* is one that came with its head, as long
    as nobody has asked for *body*, what reads it.

    *lines* are those of its fields that are sent on as they came, *judged* those that a route has to look at.
    *length* is Content-Length; without it and *is_chunked* the body ends with the connection. *keeps_alive*: the
    upstream takes another request on this connection; for *keep_alive_seconds*, if it says so.

    Made by `read_head`, which sets all of it: an `__init__` costs 1,200 instructions.
    """

    __slots__ = (
        *("_body", "_came", "is_chunked", "judged", "keep_alive_seconds", "keeps_alive", "length", "lines", "status"),
        "whole",
    )

    status: int
    lines: list[bytes]
    judged: list[Judged]
    length: int | None
    is_chunked: bool
    keeps_alive: bool
    keep_alive_seconds: int | None
    whole: bytes | None
    _body: Body | None
    _came: list[bytes]  # its field lines

    @property
    def raw_fields(self) -> RawFields:
        """Names and values of its fields, as they came."""
        return tuple(map(_split, self._came))

    @property
    def body(self) -> Body:
        """What reads the body."""
        if self._body is None:
            self._body, self.whole = WholeBody(self.whole or b""), None
        return self._body

    @body.setter
    def body(self, body: Body) -> None:
        self._body, self.whole = body, None


def read_head(data: bytes) -> Answer:
    """
    Return what *data* says, a head without the empty line that ends it.

    Raises:
        HeadInvalid: it breaks a rule.
    """
    lines = data.split(b"\r\n")
    size = len(data)
    if size > MAX_LINE_BYTES and (size > MAX_HEAD_BYTES - 4 or max(map(len, lines)) > MAX_LINE_BYTES):
        raise HeadInvalid
    status_line = lines.pop(0)
    status, is_http_1_0 = _USUAL.get(status_line) or _read_status_line(status_line)
    if len(lines) > MAX_FIELDS:
        raise HeadInvalid
    sent_on: list[bytes] = []
    judged: list[Judged] = []
    length: int | None = None
    is_chunked = False
    options = 0
    keep_alive_seconds: int | None = None
    for line in lines:
        sent, field, kind, number = _memo.get(line) or _read_line(line)
        if sent is not None:
            sent_on.append(sent)
        elif field is not None:
            judged.append(field)
        if not kind:
            continue
        if kind == _LENGTH:
            if length is not None:
                raise HeadInvalid
            length = number
        elif kind == _CODING:
            # RFC 9112 6.1: an HTTP/1.0 answer with it has faulty framing.
            if is_chunked or is_http_1_0:
                raise HeadInvalid
            is_chunked = True
        elif kind == _OPTIONS:
            options |= number
        elif number >= 0:
            keep_alive_seconds = number
    if is_chunked and length is not None:
        raise HeadInvalid
    answer = Answer()
    answer.status = status
    answer.lines = sent_on
    answer.judged = judged
    answer._came = lines
    answer.length = length
    answer.is_chunked = is_chunked
    answer.keeps_alive = options == _KEEP if options else not is_http_1_0
    answer.keep_alive_seconds = keep_alive_seconds
    answer.whole = answer._body = None
    return answer


def _read_status_line(line: bytes) -> tuple[int, bool]:
    """Return the status that *line* says, and whether it is HTTP/1.0. Raises HeadInvalid."""
    matched = _STATUS_LINE.fullmatch(line)
    if matched is None:
        raise HeadInvalid
    return int(matched[2]), matched[1] == b"0"


def _read_line(line: bytes) -> _Read:
    """Return what the field line *line* says, and remember it where that may serve again. Raises HeadInvalid."""
    name, value = _split(line)
    sent, field = place(name, value)
    kind = _REPEATED.get(name.lower())
    if kind is None:
        return sent, field, _NOTHING, 0
    read = (sent, field, kind, _number(kind, value))
    if len(_memo) >= _MEMO_LINES:
        _memo.clear()
    _memo[line] = read
    return read


def _split(line: bytes) -> tuple[bytes, bytes]:
    """Return name and value of the field line *line*. Raises HeadInvalid."""
    matched = _FIELD_LINE.fullmatch(line)
    if matched is None:
        raise HeadInvalid
    name, value = matched.groups()
    return name, value.rstrip(b" \t")  # RFC 9112 5: blanks are not part of it


def _number(kind: int, value: bytes) -> int:
    """
    Return what *value* says to the framing: the length, options as bits, the seconds to keep idle or -1; else nothing.

    Raises:
        HeadInvalid: no such value can be.
    """
    if kind == _LENGTH:
        if not value.isdigit() or len(value) > MAX_LENGTH_DIGITS:
            raise HeadInvalid
        return int(value)
    if kind == _CODING and value.lower() != b"chunked":  # codings are case-insensitive
        raise HeadInvalid
    if kind == _OPTIONS:
        said = {option.strip().lower() for option in value.split(b",")}
        return _CLOSE * (b"close" in said) | _KEEP * (b"keep-alive" in said)
    if kind == _KEEP_ALIVE:
        timeout = _TIMEOUT.search(value)
        return -1 if timeout is None else int(timeout[1])
    return 0


def check_beginning(data: bytes, checked: int) -> None:
    """
    Raise HeadInvalid where *data*, a head without its end, cannot become one; *checked* bytes were looked at before.

    So that what is no answer is not waited for until the response time is over.
    """
    beginning = data[: len(_BEGINNING)]
    if not _BEGINNING.startswith(beginning) or len(data) > MAX_HEAD_BYTES or BARE_LF.search(data, checked):
        raise HeadInvalid
