"""
Where a reference in an answer leads a caller: through the gateway, to somewhere else, or nowhere (RFC 3986). No I/O.

Rules:
1. What is the route's own, at its origin and below its base path, comes back through the gateway below the route's
   prefix; relative references are resolved first, dot segments (also as %2e) removed: none climbs out of the prefix.
2. What is at the origin and beside the base path is written as a URL of the origin: as a path alone it would lead to
   another route of the gateway.
3. Other origins are left as they are. The gateway's own is no place that an upstream may send a caller to, whose
   client would take its credential along: such a reference is dropped, and so is what clients read in two ways
   (backslashes, a web scheme or slashes without a host).
4. Where the route injects a query parameter, references lose that parameter, wherever they lead: an upstream that
   redirects repeats the query it got, and with it the token.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import unquote_to_bytes

from gateway.models import Route
from gateway.proxy.query import without_param

# An authority ends at a backslash, too: browsers read one as a slash (WHATWG URL).
_WITH_AUTHORITY = re.compile(rb"(?:([A-Za-z][A-Za-z0-9+.-]*):)?//([^/?#\\]*)(.*)", re.DOTALL)
_SCHEME = re.compile(rb"([A-Za-z][A-Za-z0-9+.-]*):")
_PATH = re.compile(rb"[^?#]*")
_HOST = re.compile(rb"(?:([a-z0-9._-]*[a-z0-9_-])\.?|\[([0-9a-f:.]+)\])(?::([0-9]*))?")
_NUMBER = re.compile(rb"[0-9]+|0x[0-9a-f]*")  # the last label of what clients read as an IPv4 address (WHATWG URL)
_WEB_PORTS = (0, 80, 443)


# urllib takes an empty parameter away (RFC 1808), and what is left is a dot segment.
_DOTS_AND_PARAMS = re.compile(rb"/(?:\.|%2[Ee]){1,2};")


class References:
    """The references in answers of one route's upstream."""

    def __init__(self, route: Route) -> None:
        self._prefix = route.prefix.encode("ascii")
        self._base_path = route.base_path.encode("ascii")
        self._origin = str(route.origin).encode("ascii")
        self._injected_param = route.inject.name if route.inject.kind == "query" else None
        self._origins = frozenset(spelled.encode("ascii") for spelled in _spellings(route))

    def lead(self, reference: bytes, *, public_url: bytes, target: str) -> bytes | None:
        """
        Return what to pass on for *reference* in the answer to a request for *target*; None: nothing.

        *public_url* is where callers reach the gateway, without a trailing slash; *target* is what the upstream was
        asked for, query included.
        """
        reference = reference.replace(b"\t", b"")  # clients take them out
        if self._injected_param is not None:
            reference = without_param(reference, self._injected_param)
        found = _WITH_AUTHORITY.fullmatch(reference)
        if found is not None:
            scheme, authority, rest = found[1] or b"", found[2], found[3]
            if b"%b//%b" % (scheme and scheme.lower() + b":", authority.lower()) not in self._origins:
                is_own = _place(authority) in (None, b"", _place(public_url.partition(b"//")[2]))
                return None if is_own else reference
            if rest[:1] == b"\\":
                return reference  # another host in the words of RFC 3986, and the upstream's own for browsers
        elif (named := _SCHEME.match(reference)) is not None:
            return None if named[1].lower() in (b"http", b"https") else reference
        elif reference[:1] in (b"", b"?", b"#"):
            return reference  # the same path
        elif reference[:1] == b"/":
            rest = reference
        else:
            rest = target.partition("?")[0].rpartition("/")[0].encode("ascii") + b"/" + reference
        return self._below_prefix(rest, public_url)

    def _below_prefix(self, rest: bytes, public_url: bytes) -> bytes | None:
        """Return the URL for *rest*, path and what follows it at the upstream's origin."""
        found = _PATH.match(rest)
        path = found[0] if found is not None else b""
        if b"\\" in path or _DOTS_AND_PARAMS.search(path):
            return None  # clients read it in two ways
        suffix = rest[len(path) :]
        path = _without_dot_segments(path)
        base = self._base_path
        if base and path != base and not path.startswith(base + b"/"):
            return self._origin + path + suffix
        return public_url + self._prefix + path[len(base) :] + suffix


def _place(authority: bytes) -> bytes | None:
    """
    Return host and port of *authority* in one spelling, the ports of http and https left out.

    None where clients may read it in several ways: a name beyond ASCII, a number that is no plain IPv4 address.
    """
    host = unquote_to_bytes(authority).rpartition(b"@")[2].lower()
    found = _HOST.fullmatch(host)
    if found is None:
        return None if host else b""
    name, literal, port = found[1] or b"", found[2], int(found[3] or 0)
    try:
        if literal is not None:
            name = IPv6Address(literal.decode("ascii")).compressed.encode("ascii")
        elif _NUMBER.fullmatch(name.rpartition(b".")[2]):
            name = str(IPv4Address(name.decode("ascii"))).encode("ascii")
    except ValueError:
        return None
    return name if port in _WEB_PORTS else b"%b:%d" % (name, port)


def _without_dot_segments(path: bytes) -> bytes:
    """Return *path*, "" or absolute, without dot segments (RFC 3986 section 5.2.4)."""
    if b"." not in path and b"%2" not in path:
        return path
    kept: list[bytes] = []
    segments = path.split(b"/")[1:]
    for segment in segments:
        plain = segment.lower().replace(b"%2e", b".")
        if plain == b"..":
            del kept[-1:]
        elif plain != b".":
            kept.append(segment)
    if segments and segments[-1].lower().replace(b"%2e", b".") in (b".", b".."):
        kept.append(b"")
    return b"".join(b"/" + segment for segment in kept) or path[:1]


def _spellings(route: Route) -> set[str]:
    """Return the ways in which an upstream may write its own origin: with and without the default port, and by "//"."""
    origin = route.origin
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    authorities = {origin.host_field, f"{host}:{origin.port}"}
    return {f"{scheme}//{authority}" for scheme in (f"{origin.scheme}:", "") for authority in authorities}
