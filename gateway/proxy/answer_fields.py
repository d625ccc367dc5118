"""
Which header fields of an upstream's answer cross the gateway (RFC 9110 section 7.6), and which it adds.

Rules:
1. Framing and hop-by-hop fields end here, and so does Set-Cookie: a provider's session is not the caller's.
2. Location, Content-Location and Link lead through the gateway as `reference.py` says; bodies are never rewritten.
3. An answer is one user's: no cache between here and the caller may keep it, whatever its upstream says to caches
   (threats D10).
4. What a provider says of its own origin is not true of ours, and what it shows is not the gateway's: browsers get a
   sandbox (threats C9, I8).
5. Fields that a server before the gateway would obey, and those that are the gateway's own, end here.

What is done with a field of that name is the same on every route, and found with the field (`place`); what a route has
to look at is left to its `AnswerRules`. Names are classified once, as in `request_fields.py`, which has the other
direction.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from gateway.models import Route
from gateway.proxy.reference import References
from gateway.proxy.request_fields import HOP_BY_HOP, MEMO_NAMES, without

_LINK_TARGET = re.compile(rb"(?:\A|,)[ \t]*<([^<>]*)>")  # RFC 8288 section 3: each link begins with its target


# What is done with a field. Plain ints: to compare with an enum's member costs four times as much.
_FORWARD, _DROP, _CONNECTION, _LOCATION, _LINK, _CHALLENGE, _CACHE_CONTROL, _CODING = range(8)

# Said to caches: RFC 9111, RFC 9213, and what content delivery networks take beside them.
_FOR_CACHES = (
    b"age",
    b"expires",
    b"pragma",
    b"surrogate-control",
    b"surrogate-key",
    b"cache-tag",
    b"cache-tags",
    b"edge-cache-tag",
    b"edge-control",
    b"x-cache-tags",
)
# Said of an origin, to browsers. Their CSP is replaced by ours.
_OF_AN_ORIGIN = (
    b"alt-svc",
    b"clear-site-data",
    b"content-security-policy",
    b"content-security-policy-report-only",
    b"expect-ct",
    b"nel",
    b"origin-trial",
    b"public-key-pins",
    b"refresh",  # a redirect, and not one that could lead back
    b"report-to",
    b"reporting-endpoints",
    b"service-worker-allowed",
    b"strict-transport-security",
    b"timing-allow-origin",
    b"x-content-type-options",
)
# nginx, Apache and lighttpd before the gateway would answer with a file or another place of theirs.
_FOR_SERVERS = (
    b"x-accel-charset",
    b"x-accel-expires",
    b"x-accel-limit-rate",
    b"x-accel-redirect",
    b"x-lighttpd-send-file",
    b"x-lighttpd-send-tempfile",
    b"x-reproxy-url",
    b"x-sendfile",
    b"x-sendfile2",
)

_ANSWER_FIELDS: dict[bytes, int] = {
    **dict.fromkeys((*HOP_BY_HOP, *_FOR_CACHES, *_OF_AN_ORIGIN, *_FOR_SERVERS), _DROP),
    # Read by `answer_head.py`, written by `relay.py`.
    **dict.fromkeys((b"content-length", b"transfer-encoding"), _DROP),
    **dict.fromkeys((b"set-cookie", b"set-cookie2"), _DROP),
    # Ours are set anew; what is said of an earlier hop would read as ours.
    **dict.fromkeys((b"proxy-status", b"server-timing", b"traceparent", b"tracestate"), _DROP),
    b"cache-control": _CACHE_CONTROL,
    b"connection": _CONNECTION,
    b"content-encoding": _CODING,
    b"location": _LOCATION,
    b"content-location": _LOCATION,
    b"link": _LINK,
    b"www-authenticate": _CHALLENGE,
}
_DROPPED_BEGINNINGS = (b"access-control-", b"gateway-")
_DROPPED_ENDS = (b"cdn-cache-control",)  # RFC 9213: CDN-Cache-Control, and Cloudflare- or Vercel- before it

_NO_NAMES = frozenset({b"close", b"keep-alive"})  # options of Connection that name no field

_OWN_LINES = (
    b"Vary: %b\r\nX-Content-Type-Options: nosniff\r\nContent-Security-Policy: sandbox\r\n"
    b"Cache-Control: private, no-store%b\r\n"
)


_NOTHING: frozenset[bytes] = frozenset()
_memo: dict[bytes, int] = {}  # what is done with names that came lately; beyond MEMO_NAMES it begins anew

Judged = tuple[int, bytes, bytes, bytes]  # what is done with a field; its name and value, and the line that says so
# What is sent on: lines, each ending in CRLF; the values of WWW-Authenticate, which are not among them; and
# Content-Encoding in small letters (None: the body is as it is). A plain tuple: an object costs 2,500 instructions.
Sorted = tuple[list[bytes], tuple[bytes, ...], bytes | None]


def place(name: bytes, value: bytes) -> tuple[bytes | None, Judged | None]:
    """Return the line of a field that is sent on as it came, or what a route has to judge of it; or neither."""
    do = _memo.get(name)
    if do is None:
        do = _classify(name)
    if do == _DROP or (do == _CONNECTION and value.lower() in _NO_NAMES):
        return None, None
    line = b"".join((name, b": ", value, b"\r\n"))
    return (line, None) if do == _FORWARD else (None, (do, name, value, line))


def _classify(name: bytes) -> int:
    lower = name.lower()
    do = _ANSWER_FIELDS.get(lower, _FORWARD)
    if lower.startswith(_DROPPED_BEGINNINGS) or lower.endswith(_DROPPED_ENDS):
        do = _DROP
    if len(_memo) >= MEMO_NAMES:
        _memo.clear()
    _memo[name] = do
    return do


@lru_cache
def _own_lines(names: tuple[str, ...]) -> tuple[bytes, bytes]:
    """Return the lines that every answer gets where *names* tell whose it is; and those of one not to be repacked."""
    # Of routes with the same names, the same objects: they are in the caches then, whichever route is called.
    vary = ", ".join(names).encode("ascii")
    # RFC 9111 5.2.2.6: a server before the gateway must not repack what comes as a stream.
    return _OWN_LINES % (vary, b""), _OWN_LINES % (vary, b", no-transform")


class AnswerRules:
    """The rules for answers of one route's upstream."""

    __slots__ = ("_own_lines_no_transform", "_references", "own_lines")

    def __init__(self, route: Route) -> None:
        self._references = References(route)
        # The fields that tell whose answer it is; a cache that ignores no-store would have to look at them.
        names = tuple(dict.fromkeys(("Authorization", "Gateway-Authorization", route.credential.header)))
        self.own_lines, self._own_lines_no_transform = _own_lines(names)

    def read(self, lines: list[bytes], judged: Iterable[Judged], public_url: str, target: str = "/") -> Sorted:
        """
        Judge the fields of the answer to a request for *target*, the upstream's; add what every answer gets to *lines*,
        which are sent on as they came. Where nothing is *judged*, that is all: `own_lines`.

        *public_url* is where callers reach the gateway, without a trailing slash.
        """
        challenges: tuple[bytes, ...] = ()
        coding: bytes | None = None
        nominated = _NOTHING
        own_lines = self.own_lines
        for do, name, value, line in judged:
            if do == _CONNECTION:
                nominated |= frozenset(option.strip().lower() for option in value.split(b","))
            elif do == _CACHE_CONTROL:
                if b"no-transform" in value.lower():
                    own_lines = self._own_lines_no_transform
            elif do == _CODING:
                lines.append(line)
                coding = value.lower() if coding is None else b"%b, %b" % (coding, value.lower())
                coding = None if coding == b"identity" else coding
            elif do == _CHALLENGE:
                challenges += (value,)
            else:
                base = public_url.encode("latin-1")
                if do == _LINK:
                    led = self._lead_links(value, base, target)
                else:
                    led = self._references.lead(value, public_url=base, target=target)
                if led is not None:
                    lines.append(b"%b: %b\r\n" % (name, led))
        if nominated:
            lines = without(lines, nominated)
        lines.append(own_lines)
        return lines, challenges, coding

    def _lead_links(self, value: bytes, public_url: bytes, target: str) -> bytes | None:
        parts: list[bytes] = []
        end = 0
        for link in _LINK_TARGET.finditer(value):
            led = self._references.lead(link[1], public_url=public_url, target=target)
            if led is None:
                return None
            parts += (value[end : link.start(1)], led)
            end = link.end(1)
        return b"".join((*parts, value[end:]))
