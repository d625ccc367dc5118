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
from functools import lru_cache

from gateway.net.body_stream import Body

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

_FRAMING = {b"content-length": 0, b"transfer-encoding": 1, b"connection": 2, b"keep-alive": 3}

# Lines that many answers have to the letter, some for a second only, and that hold nobody's secret: what they say is
# remembered, and all of it forgotten when it is too much.
_REPEATED = frozenset(
    {
        *_FRAMING,
        *(b"accept-ranges", b"cache-control", b"content-encoding", b"content-language", b"content-type", b"date"),
        *(b"expires", b"pragma", b"referrer-policy", b"server", b"strict-transport-security", b"vary", b"via"),
        *(b"x-content-type-options", b"x-frame-options", b"x-powered-by", b"x-xss-protection"),
    }
)
_MEMO_LINES = 512
_Read = tuple[tuple[bytes, bytes], int | None]  # name and value, and what it is to the framing
_memo: dict[bytes, _Read] = {}


class HeadInvalid(Exception):
    """This is no head of an answer, or one that could be read in two ways."""


class Answer:
    """
    What a head says, and the *body* behind it, which the connection adds.

    *length* is Content-Length; without it and *is_chunked* the body ends with the connection. *keeps_alive*: the
    upstream takes another request on this connection; for *keep_alive_seconds*, if it says so.
    """

    __slots__ = ("body", "is_chunked", "keep_alive_seconds", "keeps_alive", "length", "raw_fields", "status")

    body: Body

    def __init__(
        self,
        status: int,
        raw_fields: tuple[tuple[bytes, bytes], ...],
        length: int | None,
        is_chunked: bool = False,
        keeps_alive: bool = True,
        keep_alive_seconds: int | None = None,
    ) -> None:
        self.status = status
        self.raw_fields = raw_fields
        self.length = length
        self.is_chunked = is_chunked
        self.keeps_alive = keeps_alive
        self.keep_alive_seconds = keep_alive_seconds


def read_head(data: bytes, end: int) -> Answer:
    """
    Return the head that *data* begins with and that ends, with its empty line, before *end*.

    Raises:
        HeadInvalid: it breaks a rule.
    """
    lines = data[: end - 4].split(b"\r\n")
    if end > MAX_LINE_BYTES and (end > MAX_HEAD_BYTES or max(map(len, lines)) > MAX_LINE_BYTES):
        raise HeadInvalid
    matched = _STATUS_LINE.fullmatch(lines.pop(0))
    if matched is None or len(lines) > MAX_FIELDS:
        raise HeadInvalid
    fields: list[tuple[bytes, bytes]] = []
    length: int | None = None
    is_chunked = False
    is_http_1_0 = matched[1] == b"0"
    options: bytes = b""
    keep_alive_seconds: int | None = None
    for line in lines:
        field, kind = _memo.get(line) or _read_line(line)
        fields.append(field)
        if kind is None:
            continue
        value = field[1]
        if kind == 0:
            if length is not None or not value.isdigit() or len(value) > MAX_LENGTH_DIGITS:
                raise HeadInvalid
            length = int(value)
        elif kind == 1:
            # RFC 9112 6.1: an HTTP/1.0 answer with it has faulty framing. Codings are case-insensitive.
            if is_chunked or is_http_1_0 or value.lower() != b"chunked":
                raise HeadInvalid
            is_chunked = True
        elif kind == 2:
            options += b"," + value
        elif (timeout := _TIMEOUT.search(value)) is not None:
            keep_alive_seconds = int(timeout[1])
    if is_chunked and length is not None:
        raise HeadInvalid
    keeps_alive = not is_http_1_0 if not options else _keeps_alive(options, is_http_1_0=is_http_1_0)
    return Answer(int(matched[2]), tuple(fields), length, is_chunked, keeps_alive, keep_alive_seconds)


def _read_line(line: bytes) -> _Read:
    """Return what the field line *line* says, and remember it where that may serve again. Raises HeadInvalid."""
    matched = _FIELD_LINE.fullmatch(line)
    if matched is None:
        raise HeadInvalid
    name, value = matched.groups()
    lowered = name.lower()
    read = ((name, value.rstrip(b" \t")), _FRAMING.get(lowered))  # RFC 9112 5: blanks are not part of the value
    if lowered in _REPEATED:
        if len(_memo) >= _MEMO_LINES:
            _memo.clear()
        _memo[line] = read
    return read


def check_beginning(data: bytes, checked: int) -> None:
    """
    Raise HeadInvalid where *data*, a head without its end, cannot become one; *checked* bytes were looked at before.

    So that what is no answer is not waited for until the response time is over.
    """
    beginning = data[: len(_BEGINNING)]
    if not _BEGINNING.startswith(beginning) or len(data) > MAX_HEAD_BYTES or BARE_LF.search(data, checked):
        raise HeadInvalid


@lru_cache(maxsize=64)  # 0.1 against 0.6 microseconds
def _keeps_alive(options: bytes, *, is_http_1_0: bool) -> bool:
    said = {option.strip().lower() for option in options.split(b",")}
    return b"close" not in said and (not is_http_1_0 or b"keep-alive" in said)
