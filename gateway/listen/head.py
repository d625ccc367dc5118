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
8. What is refused depends on the bytes alone, never on how they were cut into packets: of several faults, the first in
   the order of the bytes counts; what concerns several fields is judged when the head is whole.

Stricter than the RFCs, which let a recipient repair some of these: what two recipients may repair in different ways is
how requests are smuggled (threats A1, A2, A5, A12, A13).
"""

from __future__ import annotations

import re
from typing import NamedTuple

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

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
LINE = re.compile(rb"(%b) (/[!-\"$-~]*) HTTP/1\.([01])" % _TOKEN)
FIELDS = re.compile(rb"(?:\r\n%b:[\t -~\x80-\xff]*)*" % _TOKEN)  # 1.4 microseconds for 800 bytes

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

RawFields = tuple[tuple[bytes, bytes], ...]


class Framing(NamedTuple):
    """What follows a head: *length* bytes, a chunked body, or nothing."""

    length: int
    is_chunked: bool


NO_BODY = Framing(0, is_chunked=False)


def first_fault(head: bytes) -> Refusal | None:
    """
    Return why *head*, from its request line up to where it has arrived, cannot become a request; None while it can.

    A head that is longer than this one and begins like it has the same fault. What several fields say together is left
    to `read_framing`.
    """
    if head and _FIRST.match(head) is None:
        return InvalidRequest()
    end = head.find(b"\n")
    if (len(head) if end < 0 else end) > MAX_LINE_BYTES + 1:  # with its CR
        return TargetTooLong()
    if end < 0:
        return None
    return _fault_of_line(head[:end]) or _fault_of_fields(head, end + 1)


def _fault_of_line(line: bytes) -> Refusal | None:
    """Judge the request line up to its LF."""
    if not line.endswith(b"\r"):
        return InvalidRequest()
    line = line[:-1]
    found = _ANY_TARGET.fullmatch(line)
    if found is None:
        return HttpVersionNotSupported() if _OTHER_VERSION.fullmatch(line) else InvalidRequest()
    method, target = found.group(1, 2)
    if method in NEVER_TAKEN:
        return MethodNotAllowed()
    if len(target) > MAX_TARGET_BYTES:
        return TargetTooLong()
    if LINE.fullmatch(line) is not None or _ABSOLUTE.fullmatch(target) is not None:
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


def read_framing(fields: RawFields, *, target: bytes, is_http_1_0: bool) -> Framing:
    """
    Return what follows a head with *fields*, as the C parser split them: names and values without surrounding blanks.

    Raises:
        InvalidRequest: they break one of the rules 5 to 7.
        Misdirected, AmbiguousTarget: *target* is in absolute form, for another host or for this one.
    """
    found: dict[bytes, bytes] = {}
    for name, value in fields:
        lowered = name.lower()
        if lowered not in _JUDGED:
            continue
        if lowered == b"connection":
            _check_connection(value)
        elif lowered in found:
            raise InvalidRequest
        else:
            found[lowered] = value
    host = found.get(b"host")
    if host is None:
        if not is_http_1_0:
            raise InvalidRequest
    elif not is_host(host):
        raise InvalidRequest
    if not target.startswith(b"/"):
        _refuse_absolute(target, host)
    if b"expect" in found and found[b"expect"].lower() != b"100-continue":
        raise InvalidRequest
    return _framing(found.get(b"content-length"), found.get(b"transfer-encoding"), is_http_1_0=is_http_1_0)


_JUDGED = frozenset({b"host", b"content-length", b"transfer-encoding", b"expect", b"connection"})


def is_host(value: bytes) -> bool:
    """Whether *value* is a host with or without a port, as rule 5 wants it."""
    found = _HOST.fullmatch(value)
    return found is not None and int(found[1] or 0) <= 65_535


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


def _check_connection(value: bytes) -> None:
    """Raise InvalidRequest unless *value* is a list of options that may stand there (RFC 9110 section 7.6.1)."""
    if value.lower() in (b"keep-alive", b"close"):
        return
    for option in value.split(b","):
        named = option.strip(b"\t ").lower()
        if named in _NOT_FOR_A_HOP or (named and _OPTION.fullmatch(named) is None):
            raise InvalidRequest


def _refuse_absolute(target: bytes, host: bytes | None) -> None:
    """Raise for a target in absolute form: it names a host of its own, and no route is found by it."""
    found = _ABSOLUTE.fullmatch(target)
    authority = found[1] if found is not None else b""
    if not is_host(authority):
        raise InvalidRequest
    if host is None or authority.lower() != host.lower():
        raise Misdirected
    raise AmbiguousTarget("The target is in absolute form. Send the path alone, and the host in the field Host.")
