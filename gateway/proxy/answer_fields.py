"""
Which header fields of an upstream's answer cross the gateway (RFC 9110 section 7.6).

Rules:
1. Framing and hop-by-hop fields end here, and so does Set-Cookie: a provider's session is not the caller's.
2. Location, Content-Location and Link that lead to the route's own origin come back through the gateway; bodies are
   never rewritten.

Names are classified once, as in `request_fields.py`, which has the other direction.
"""

from __future__ import annotations

import re
from enum import IntEnum

from gateway.models import Route
from gateway.proxy.request_fields import HOP_BY_HOP, MEMO_NAMES, RawFields, without

_LINK_TARGET = re.compile(rb"<([^<>]*)>")  # RFC 8288 section 3: the target stands between angle brackets


class _Do(IntEnum):
    """What is done with a field of an upstream's answer."""

    FORWARD = 0
    DROP = 1
    CONNECTION = 2
    LOCATION = 3
    LINK = 4
    CHALLENGE = 5


_FORWARD = int(_Do.FORWARD)  # an int compare in the loop: an enum member's costs twice as much

_ANSWER_FIELDS: dict[bytes, _Do] = {
    **dict.fromkeys(HOP_BY_HOP, _Do.DROP),
    b"set-cookie": _Do.DROP,
    b"set-cookie2": _Do.DROP,
    # What a provider says of its own origin is not true of ours.
    **dict.fromkeys((b"alt-svc", b"strict-transport-security", b"clear-site-data"), _Do.DROP),
    b"traceparent": _Do.DROP,  # ours is set anew
    b"proxy-status": _Do.DROP,  # ours is set anew; what is said of an earlier hop would read as ours
    b"connection": _Do.CONNECTION,
    **dict.fromkeys(
        (b"content-length", b"transfer-encoding"), _Do.DROP
    ),  # read by `answer_head.py`, written by `relay.py`
    b"location": _Do.LOCATION,
    b"content-location": _Do.LOCATION,
    b"link": _Do.LINK,
    b"www-authenticate": _Do.CHALLENGE,
}


class AnswerFields:
    """
    The header fields of one upstream answer. *lines* are what is sent on, each ending in CRLF; *challenges* are the
    values of WWW-Authenticate, which are not among the lines.
    """

    __slots__ = ("challenges", "lines", "nominated")

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.challenges: list[bytes] = []
        self.nominated: frozenset[bytes] = frozenset()


class AnswerRules:
    """The rules for answers of one route's upstream."""

    def __init__(self, route: Route) -> None:
        self._memo: dict[bytes, int] = {}
        self._prefix = route.prefix.encode("ascii")
        self._base_path = route.base_path.encode("ascii")
        self._origins = tuple(spelled.encode("ascii") for spelled in _spellings(route))

    def read(self, raw_fields: RawFields, *, public_url: bytes) -> AnswerFields:
        """
        Sort *raw_fields* of an answer; *public_url* is where callers reach the gateway, without a trailing slash.
        """
        fields = AnswerFields()
        lines = fields.lines
        memo = self._memo
        for name, value in raw_fields:
            do = memo.get(name)
            if do is None:
                do = self._classify(name)
            if do == _FORWARD:
                lines.append(b"%b: %b\r\n" % (name, value))
            elif do == _Do.CHALLENGE:
                fields.challenges.append(value)
            elif do == _Do.LOCATION:
                lines.append(b"%b: %b\r\n" % (name, self._through_gateway(value, public_url)))
            elif do == _Do.LINK:
                lines.append(b"%b: %b\r\n" % (name, self._rewrite_links(value, public_url)))
            elif do == _Do.CONNECTION:
                fields.nominated |= frozenset(option.strip().lower() for option in value.split(b","))
        if fields.nominated:
            fields.lines = without(lines, fields.nominated)
        return fields

    def _classify(self, name: bytes) -> int:
        do = int(_ANSWER_FIELDS.get(name.lower(), _Do.FORWARD))
        if len(self._memo) < MEMO_NAMES:
            self._memo[name] = do
        return do

    def _rewrite_links(self, value: bytes, public_url: bytes) -> bytes:
        return _LINK_TARGET.sub(lambda found: b"<" + self._through_gateway(found[1], public_url) + b">", value)

    def _through_gateway(self, reference: bytes, public_url: bytes) -> bytes:
        """Return *reference* as a URL of this route, or as it is where it leads elsewhere."""
        path = reference
        if not reference.startswith(b"/") or reference.startswith(b"//"):
            for origin in self._origins:
                path = reference[len(origin) :]
                # "https://api.example.com.evil.test" and "https://api.example.com:443" begin alike.
                if reference[: len(origin)].lower() == origin and path[:1] in (b"", b"/", b"?", b"#"):
                    break
            else:
                return reference
        base = self._base_path
        if base and not (path.startswith(base) and path[len(base) : len(base) + 1] in (b"", b"/", b"?", b"#")):
            return reference  # the upstream's, but not below this route: nothing of ours leads there
        return public_url + self._prefix + path[len(base) :]


def _spellings(route: Route) -> set[str]:
    """Return the ways in which an upstream may write its own origin: with and without the default port, and by "//"."""
    origin = route.origin
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    authorities = {origin.host_field, f"{host}:{origin.port}"}
    return {f"{scheme}//{authority}" for scheme in (f"{origin.scheme}:", "") for authority in authorities}
