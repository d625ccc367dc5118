"""
The head of a request: request line and header fields (RFC 9112 sections 3 and 5, RFC 9110 section 5).

Rules:
1. A line ends in CRLF. Nowhere is a bare CR, a bare LF, a NUL or another control character; a field is not folded.
2. Request line: method, one space, target, one space, `HTTP/1.1` or `HTTP/1.0`. Another version is 505.
3. A target is in origin form and printable ASCII without "#". `routing.py` says which of those are canonical.
4. A field name is a token, and the colon follows it at once.
5. Exactly one Host (HTTP/1.0: at most one): a name or an address, and a port that exists.
6. Framing is Content-Length, once, in digits, or Transfer-Encoding, once, `chunked` and nothing else, and not in
   HTTP/1.0. Not both.
7. Expect is `100-continue`, once. Connection is a list of tokens that names neither framing nor Host.
8. Content-Type and six others that say one thing are there once (RFC 9110 section 5.3): of two, one recipient takes the
   first and another the last. aiohttp's parser refuses the same ones.
9. What is refused depends on the bytes alone, never on how they were cut into packets: of several faults, the first in
   the order of the bytes counts; what concerns several fields is judged when the head is whole.

Stricter than the RFCs, which let a recipient repair some of these: what two recipients may repair in different ways is
how requests are smuggled (threats A1, A2, A5, A12, A13).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, NamedTuple

from gateway.errors import (
    AmbiguousTarget,
    FieldsTooLarge,
    HttpVersionNotSupported,
    InvalidRequest,
    MethodNotAllowed,
    Misdirected,
    Refusal,
    TargetTooLong,
)

MAX_TARGET_BYTES = 8190  # what Apache and nginx read as one line, too
MAX_LINE_BYTES = MAX_TARGET_BYTES + 32  # the target, a method and a version
MAX_FIELD_BYTES = 16_384  # one header field: a credential of 8 KB and what stands around it
MAX_FIELDS_BYTES = 32_768  # all of them (threats section 5.3)
MAX_FIELDS = 100
MAX_LENGTH = 2**63 - 1

# Methods that no route passes on: TRACE and TRACK echo the injected credential, CONNECT is a tunnel (threats A9, A10).
NEVER_TAKEN = frozenset({b"TRACE", b"TRACK", b"CONNECT"})

TAKEN = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")  # what Allow then says (RFC 9110 15.5.6)

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
LINE = re.compile(rb"(%b+) (/[!-\"$-~]*+) HTTP/1\.([01])\r\n" % _TOKEN)
# No backtracking: a quarter faster, 1.1 microseconds for 750 bytes. By an atomic group, not a possessive one: of those
# CPython before 3.11.5, which Debian 12 has, takes half an iteration for a match (gh-106052).
FIELDS = re.compile(rb"(?>(?:\r\n%b+:[\t -~\x80-\xff]*+)*)" % _TOKEN)

_FIRST = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]")
_ANY_TARGET = re.compile(rb"(%b) ([!-~\x80-\xff]+) HTTP/1\.[01]" % _TOKEN)
_OTHER_VERSION = re.compile(rb"%b [!-~\x80-\xff]+ HTTP/[0-9](?:\.[0-9])?" % _TOKEN)
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)[!-~]*", re.I)
_FIELD = re.compile(rb"%b:[\t -~\x80-\xff]*" % _TOKEN)
# A name, an IPv4 address or a bracketed IPv6 one, and a port. Stricter than RFC 3986: nothing that would have to be
# escaped where the value becomes part of a URL of ours.
_HOST = re.compile(rb"(?:[A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::([0-9]{1,5}))?")
_LENGTH = re.compile(rb"[0-9]{1,19}")
_OPTION = re.compile(_TOKEN)
# Framing and Host are not a hop's to remove: a Connection field that names them is an attack or a mistake.
_NOT_FOR_A_HOP = frozenset({b"content-length", b"host", b"transfer-encoding"})

END = b"\r\n\r\n"  # of a head

RawFields = tuple[tuple[bytes, bytes], ...]


class Framing(NamedTuple):
    """What follows a head: *length* bytes, a chunked body, or nothing."""

    length: int
    is_chunked: bool


NO_BODY = Framing(0, is_chunked=False)


class HeaderSection:
    """
    The header fields of a request, and what they say together.

    *raw_fields* are names and values as they came, without the blanks around a value. *host* is in small letters, ""
    where HTTP/1.0 has none. *is_last*: the caller takes no other answer on this connection, or the gateway gives none.
    *is_kept*: it is small enough to be remembered. *reading* is what the door that served it made of it, put there once
    its caller was known: whoever brings the very same fields gets this object.
    """

    __slots__ = ("expects_continue", "framing", "host", "is_kept", "is_last", "raw_fields", "reading")

    def __init__(
        self, raw_fields: RawFields, *, host: str, framing: Framing, is_last: bool, expects_continue: bool
    ) -> None:
        self.raw_fields = raw_fields
        self.host = host
        self.framing = framing
        self.is_last = is_last
        self.expects_continue = expects_continue
        self.is_kept = False
        self.reading: Any = None

    def first(self, name: str) -> str | None:
        """Return the value of the first field *name*, in any letter case; None where there is none."""
        wanted = name.lower().encode("ascii")
        for found, value in self.raw_fields:
            if found.lower() == wanted:
                return value.decode("utf-8", "surrogateescape")
        return None

    def as_dict(self) -> dict[str, str]:
        """Return the fields by their names in small letters; of one that came more than once, the last."""
        return {
            name.decode("ascii").lower(): value.decode("utf-8", "surrogateescape") for name, value in self.raw_fields
        }


class RequestHead:
    """A request without its body. *section* may be that of other heads with the very same fields."""

    __slots__ = ("is_http_1_0", "method", "section", "target")

    def __init__(self, method: str, target: str, section: HeaderSection, *, is_http_1_0: bool = False) -> None:
        self.method = method
        self.target = target
        self.section = section
        self.is_http_1_0 = is_http_1_0


def first_fault(head: bytes) -> Refusal | None:
    """
    Return why *head*, from its request line up to where it has arrived, cannot become a request; None while it can.

    A head that is longer than this one and begins like it has the same fault. What several fields say together is left
    to `read_section`.
    """
    if head and _FIRST.match(head) is None:
        return InvalidRequest()
    end = head.find(b"\n")
    if (len(head) if end < 0 else end) > MAX_LINE_BYTES + 1:  # with its CR
        return TargetTooLong()
    if end < 0:
        return None
    return _fault_of_line(head[:end]) or _fault_of_fields(head, end + 1)


def end_of_fields(data: bytes, at: int, stop: int) -> int:
    """
    Return where the head at *at* ends, whose line ends, and fields begin, at the CRLF at *stop*; 0 if it is not whole.

    Raises:
        Refusal: a field is none, or too large.
    """
    found = FIELDS.match(data, stop)
    end = found.end() if found is not None else stop
    if not data.startswith(END, end):
        if data.find(END, stop) >= 0:
            raise first_fault(data[at:]) or InvalidRequest()
        return 0
    if end - stop > MAX_FIELD_BYTES:
        fault = first_fault(data[at : end + 4])
        if fault is not None:
            raise fault
    return end + 4


def room_in_line(head: bytes) -> int:
    """Return how many bytes may follow *head*, which has no fault yet, before `first_fault` has more to say; LF has."""
    if head[:1] == b"\r":
        return 0
    start = head.find(b"\n") + 1
    if not start:
        return MAX_LINE_BYTES + 1 - len(head)
    in_line = len(head) - 1 - (head.rfind(b"\n") + 1)
    return min(MAX_FIELD_BYTES - in_line, MAX_FIELDS_BYTES - (len(head) - 1 - start))


def _fault_of_line(line: bytes) -> Refusal | None:
    """Judge the request line up to its LF."""
    if not line.endswith(b"\r"):
        return InvalidRequest()
    is_plain = LINE.fullmatch(line + b"\n") is not None
    line = line[:-1]
    found = _ANY_TARGET.fullmatch(line)
    if found is None:
        return HttpVersionNotSupported() if _OTHER_VERSION.fullmatch(line) else InvalidRequest()
    method, target = found.group(1, 2)
    if method in NEVER_TAKEN:
        return MethodNotAllowed(allowed_methods=TAKEN)
    if len(target) > MAX_TARGET_BYTES:
        return TargetTooLong()
    if is_plain or _ABSOLUTE.fullmatch(target) is not None:
        return None  # which host an absolute one names is judged beside the Host field
    return AmbiguousTarget(
        "The target holds a fragment or a character outside of printable ASCII, or is no path. Send the path, and"
        " percent-encode what needs it."
    )


def _fault_of_fields(head: bytes, start: int) -> Refusal | None:
    """Judge the lines from *start* on, one after another."""
    at, count = start, 0
    while at < len(head):
        end = head.find(b"\n", at)
        stop = (len(head) if end < 0 else end) - 1  # without its CR
        if stop - at > MAX_FIELD_BYTES or stop - start > MAX_FIELDS_BYTES:
            return FieldsTooLarge()
        if end < 0:
            return None
        line = head[at:end]
        if line == b"\r":
            return None
        count += 1
        if count > MAX_FIELDS:
            return FieldsTooLarge()
        if not line.endswith(b"\r") or _FIELD.fullmatch(line[:-1]) is None:
            return InvalidRequest()
        at = end + 1
    return None


def split_fields(fields: bytes) -> RawFields:
    """
    Return names and values of *fields*, which FIELDS has matched, and behind which stands an empty line.

    Raises:
        InvalidRequest: a transfer coding with a tab behind it, which some servers take for another coding (threats A2).
    """
    if len(fields) == 4:
        return ()
    found = []
    has_tab = b"\t" in fields
    # FIELDS lets no CR or LF stand but between lines, and no colon in a name. 3.0 microseconds for 700 bytes, 4.3 by
    # a regular expression.
    for line in fields[2:-4].split(b"\r\n"):
        name, _, value = line.partition(b":")
        if has_tab and b"\t" in value.lstrip(b" \t") and name.lower() == b"transfer-encoding":
            raise InvalidRequest
        found.append((name, value.strip(b" \t")))  # RFC 9112 5: blanks around a value are not part of it
    return tuple(found)


def read_section(fields: RawFields, *, target: bytes = b"/", is_http_1_0: bool = False) -> HeaderSection:
    """
    Return what *fields* say together: names and values without the blanks around them.

    Raises:
        InvalidRequest: they break one of the rules 5 to 8.
        Misdirected, AmbiguousTarget: *target* is in absolute form, for another host or for this one.
    """
    found: dict[int, bytes] = {}
    options: frozenset[bytes] = frozenset()
    once = 0
    for name, value in fields:
        kind = _KINDS.get(name)
        if kind is None:
            kind = _classify(name)
        if kind == _OTHER:
            continue
        if kind >= _ONCE:  # 0.1 microseconds for the two that most requests have, of 2.5; none for a repeated head
            if once & kind:
                raise InvalidRequest
            once |= kind
        elif kind == _CONNECTION:
            options |= _options(value)
        elif kind == _DRAFT or (kind in found and kind != _UPGRADE):
            raise InvalidRequest
        else:
            found[kind] = value
    named = found.get(_HOST_FIELD)
    host = read_host(named) if named is not None else ""
    if host is None or (named is None and not is_http_1_0):
        raise InvalidRequest
    if not target.startswith(b"/"):
        _refuse_absolute(target, named)
    # RFC 9112 9.3; and what follows an upgrade is perhaps in another protocol (threats A9).
    is_last = b"keep-alive" not in options if is_http_1_0 else b"close" in options
    framing, expects_continue = NO_BODY, False
    if len(found) > 1 or named is None:
        expects_continue = _EXPECT in found
        if expects_continue and found[_EXPECT].lower() != b"100-continue":
            raise InvalidRequest
        framing = _framing(found.get(_LENGTH_FIELD), found.get(_CODING), is_http_1_0=is_http_1_0)
        is_last = is_last or (_UPGRADE in found and b"upgrade" in options)
    return HeaderSection(
        fields,
        host=host,
        framing=framing,
        is_last=is_last,
        expects_continue=expects_continue,
    )


# What a name is judged as; names are looked up as they were spelled, and those that come often are remembered.
_OTHER, _HOST_FIELD, _LENGTH_FIELD, _CODING, _EXPECT, _CONNECTION, _UPGRADE, _DRAFT = range(8)
_ONCE = 8  # and every power of two above
_JUDGED = {
    b"host": _HOST_FIELD,
    b"content-length": _LENGTH_FIELD,
    b"transfer-encoding": _CODING,
    b"expect": _EXPECT,
    b"connection": _CONNECTION,
    b"upgrade": _UPGRADE,
    b"sec-websocket-key1": _DRAFT,  # hixie-76: eight bytes follow the head, and no field says so
    b"content-type": _ONCE,
    b"user-agent": _ONCE << 1,
    b"content-range": _ONCE << 2,
    b"content-location": _ONCE << 3,
    b"max-forwards": _ONCE << 4,
    b"etag": _ONCE << 5,
    b"server": _ONCE << 6,
}
_KINDS: dict[bytes, int] = {}
_MEMO_NAMES = 512  # spellings remembered; real traffic has a few dozen, an attacker cannot grow it


def _classify(name: bytes) -> int:
    kind = _JUDGED.get(name.lower(), _OTHER)
    if len(_KINDS) < _MEMO_NAMES:
        _KINDS[name] = kind
    return kind


# 0.1 against 0.5 microseconds; and nearly all sections hold one and the same text. It is not interned, as Python 3.12
# before 3.12.7 never lets go of such texts, and this one is a stranger's (gh-113993).
@lru_cache(maxsize=1024)
def read_host(value: bytes) -> str | None:
    """Return *value* in small letters if it is a host with or without a port, as rule 5 wants it; else None."""
    found = _HOST.fullmatch(value)
    return value.decode("ascii").lower() if found is not None and int(found[1] or 0) <= 65_535 else None


def _framing(length: bytes | None, coding: bytes | None, *, is_http_1_0: bool) -> Framing:
    if coding is not None:
        # RFC 9112 6.1: a server may refuse a length beside a coding, and should a coding in HTTP/1.0; 7: case is free.
        if length is not None or is_http_1_0 or coding.lower() != b"chunked":
            raise InvalidRequest
        return Framing(0, is_chunked=True)
    if length is None:
        return NO_BODY
    if _LENGTH.fullmatch(length) is None or int(length) > MAX_LENGTH:
        raise InvalidRequest
    return Framing(int(length), is_chunked=False)


@lru_cache(maxsize=256)  # 0.1 against 1.1 microseconds
def _options(value: bytes) -> frozenset[bytes]:
    """
    Return the options of a Connection field, in small letters (RFC 9110 section 7.6.1).

    Raises:
        InvalidRequest: it is no list of options, or names what is no hop's.
    """
    options = frozenset(option.strip(b"\t ").lower() for option in value.split(b",")) - {b""}
    if options & _NOT_FOR_A_HOP or not all(map(_OPTION.fullmatch, options)):
        raise InvalidRequest
    return options


def _refuse_absolute(target: bytes, host: bytes | None) -> None:
    """Raise for a target in absolute form: it names a host of its own, and no route is found by it."""
    found = _ABSOLUTE.fullmatch(target)
    authority = found[1] if found is not None else b""
    if read_host(authority) is None:
        raise InvalidRequest
    if host is None or authority.lower() != host.lower():
        raise Misdirected
    raise AmbiguousTarget("The target is in absolute form. Send the path alone, and the host in the field Host.")
