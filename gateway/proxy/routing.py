"""
Which route a request target belongs to, and the target to call upstream.

Rules:
1. A target is canonical or it is refused; it is never rewritten. What is matched is, byte for byte, what is sent.
2. Canonical path: "/" and segments of unreserved characters, sub-delims without ";", ":" and "@", and percent-encodings
   in upper-case hex of what needs one. No empty or dot segment, no encoded "/", "%", "\\", ";" or control character, no
   encoding of a character that needs none, and the decoded bytes are UTF-8.
3. "slash" and "percent" in a route's `encoded` let %2F and %25 through, inside one segment; never so that decoding once
   more would give a dot segment.
4. The query is sent as it came: printable ASCII, no "#".
5. The longest prefix wins, and ends at a segment. A route with a `host` beats one without.
6. A method counts as it is spelled. Beyond PASSED_METHODS it must stand in the route's `allow` by its name: "*" means
   these. NEVER_PASSED are refused whatever `allow` says.

Stricter than RFC 3986, which calls several of these equivalent (section 6.2.2): what two servers may read differently
is refused (threats C1-C4). Leaves who may call it to `access/policy.py`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from urllib.parse import unquote_to_bytes

from gateway.access.patterns import PathPattern
from gateway.errors import (
    AmbiguousTarget,
    MethodNotAllowed,
    PathNotAllowed,
    Refusal,
    RouteNotFound,
    TargetTooLong,
)
from gateway.models import AllowPattern, Route, RouteMatch

MAX_TARGET_BYTES = 8190  # what the parser reads as one line; longer never reaches us as a target

# One segment is not empty, not "." and not ".."; a trailing "/" is kept. Linear: no two alternatives begin alike.
_PLAIN_PATH = re.compile(r"(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._~!$&'()*+,=:@-]+)*/?")  # half to a third of the time
_CANONICAL_PATH = re.compile(r"(?:/(?!\.{1,2}(?:/|\Z))(?:[A-Za-z0-9._~!$&'()*+,=:@-]|%[0-9A-F]{2})+)*/?")
_QUERY = re.compile(r"[!-\"$-~]*")  # printable ASCII without "#" (RFC 3986 would have fewer; servers accept these)
_PERCENT = re.compile(r"%([0-9A-F]{2})")

_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_NEVER_ENCODED = _UNRESERVED | frozenset(range(0x20)) | frozenset(b"\\;\x7f")
_SLASH, _PERCENT_SIGN = 0x2F, 0x25

PASSED_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# What an override may name: an answer to HEAD is framed in another way than one to the method that was sent.
OVERRIDING_METHODS = PASSED_METHODS - {"HEAD"}
# Methods that no route passes on: TRACE and TRACK echo the injected credential, CONNECT is a tunnel (threats A9, A10).
NEVER_PASSED = frozenset({"TRACE", "TRACK", "CONNECT"})


_Allow = tuple[tuple[str, PathPattern], ...]  # methods and paths


class _Entry:
    """A route with its `allow` list compiled."""

    __slots__ = ("allow", "cut", "route")

    def __init__(self, route: Route, allow: _Allow) -> None:
        self.route = route
        self.cut = len(route.prefix)
        self.allow = allow

    def check(self, method: str, path: str) -> None:
        """Raise where the route does not take *path*, below its prefix; 405 names what it would take."""
        if method in NEVER_PASSED:
            raise MethodNotAllowed
        if not self.allow:
            if method not in PASSED_METHODS:
                raise MethodNotAllowed(allowed_methods=tuple(sorted(PASSED_METHODS)))
            return
        for allowed, pattern in self.allow:
            if (allowed == method or (allowed == "*" and method in PASSED_METHODS)) and pattern.matches(path):
                return
        methods = [allowed for allowed, pattern in self.allow if pattern.matches(path)]
        if not methods:
            raise PathNotAllowed
        taken = {*methods, *(PASSED_METHODS if "*" in methods else ())} - {"*"}
        raise MethodNotAllowed(allowed_methods=tuple(sorted(taken)))


class RouteTable:
    """Every route of the gateway, found by prefix in as many lookups as prefixes have depths."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._by_host: dict[str | None, dict[str, _Entry]] = {}
        compiled: dict[tuple[AllowPattern, ...], _Allow] = {}  # shared by the routes that say the same
        for route in routes:
            if route.allow not in compiled:
                compiled[route.allow] = tuple((each.method, PathPattern.compile(each.path)) for each in route.allow)
            self._by_host.setdefault(route.host, {})[route.prefix] = _Entry(route, compiled[route.allow])
        self._any_host = self._by_host.get(None, {})
        self._has_hosts = len(self._by_host) > (1 if self._any_host else 0)
        depths = {prefix.count("/") for entries in self._by_host.values() for prefix in entries}
        self._depths = tuple(sorted(depths, reverse=True))

    def match(self, method: str, raw_target: str, host: str | None = None) -> RouteMatch:
        """
        Return the route with the longest prefix of *raw_target*, *method*, and the upstream target to call.

        *raw_target* is the request target as received, percent-encoding untouched, query included. *host* is the
        Host field in lower case.

        Raises:
            AmbiguousTarget: the target is not in canonical form, or not in origin form.
            TargetTooLong: it is longer than MAX_TARGET_BYTES.
            RouteNotFound: no prefix fits.
            PathNotAllowed, MethodNotAllowed: a prefix fits, the route's allow list does not.
        """
        if len(raw_target) > MAX_TARGET_BYTES:
            raise TargetTooLong
        raw_path, mark, query = raw_target.partition("?")
        pattern = _CANONICAL_PATH if "%" in raw_path else _PLAIN_PATH
        if pattern.fullmatch(raw_path) is None or not raw_path:
            raise AmbiguousTarget
        if query and _QUERY.fullmatch(query) is None:
            raise AmbiguousTarget("The query holds a character outside of printable ASCII, or a fragment.")
        entry = None
        if self._has_hosts and host is not None:
            entries = self._by_host.get(host if host.endswith("]") else host.rsplit(":", 1)[0])
            entry = self._longest(raw_path, entries) if entries is not None else None
        if entry is None:
            entry = self._longest(raw_path, self._any_host)
            if entry is None:
                raise RouteNotFound
        route = entry.route
        below = raw_path[entry.cut :]
        path = below or "/"
        try:
            if "%" in raw_path:
                _check_encodings(raw_path, route.encoded)
            entry.check(method, path)
        except Refusal as refusal:
            refusal.route = route.name
            raise
        # The prefix alone calls the base path itself, without a "/" that nobody sent.
        upstream_path = (route.base_path + below) or "/"
        return RouteMatch(route, method, path, f"{upstream_path}{mark}{query}", upstream_path, query)

    def _longest(self, path: str, entries: dict[str, _Entry]) -> _Entry | None:
        for depth in self._depths:
            if depth == 1:  # nearly every prefix: one find and one slice, no split
                end = path.find("/", 1)
                prefix = path if end < 0 else path[:end]
            else:
                segments = path.split("/", depth + 1)
                if len(segments) <= depth:
                    continue
                prefix = "/".join(segments[: depth + 1])
            entry = entries.get(prefix)
            if entry is not None:
                return entry
        return None


def _check_encodings(path: str, encoded: frozenset[str]) -> None:
    """Raise AmbiguousTarget for a percent-encoding that rule 2 or 3 refuses."""
    for found in _PERCENT.finditer(path):
        byte = int(found[1], 16)
        if byte in _NEVER_ENCODED:
            raise AmbiguousTarget
        if (byte == _SLASH and "slash" not in encoded) or (byte == _PERCENT_SIGN and "percent" not in encoded):
            raise AmbiguousTarget
    decoded = unquote_to_bytes(path)
    try:
        text = decoded.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise AmbiguousTarget from exc
    # A full-width dot or solidus is a plain one to a server that normalizes (threats C1).
    folded = decoded if text.isascii() else unicodedata.normalize("NFKC", text).encode("utf-8")
    # What a server that decodes before it splits (once, or once more) would take for a dot segment or an empty one.
    for read in (decoded, unquote_to_bytes(decoded), folded):
        if any(segment in (b".", b"..") for segment in re.split(rb"[/\\;]", read)) or b"//" in read:
            raise AmbiguousTarget
