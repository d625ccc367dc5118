"""
Where the URLs of a file lead, and whether the gateway would go there.

Rules:
1. Plain http needs `allow_http`; an address that is not public needs to be in `allow_private`. A route's own `egress`
   replaces the global one, for its upstream only.
2. Names are judged when they are dialled, by every address they then have (threats F1, F2); only literals are here.
3. The origin of a route is among the origins of its connection, where that has any (threats F9).
4. An authorization endpoint is opened by browsers, never dialled: only its scheme counts.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from gateway.config.document import Document
from gateway.config.problems import Path
from gateway.config.urls import UrlError, parse_origin, parse_url
from gateway.models import Egress, Origin
from gateway.net.addresses import is_allowed


def check_reach(document: Document) -> None:
    """Note every URL of *document* that its egress rules do not let through."""
    egress = egress_of(document, "egress")
    for path, is_dialled in _urls(document):
        _check(document, path, egress, is_dialled=is_dialled)
    for index in range(len(document.entries("routes"))):
        own = isinstance(document.get("routes", index, "egress"), dict)
        _check(
            document, ("routes", index, "upstream"), egress_of(document, "routes", index, "egress") if own else egress
        )
        _check_origin(document, index)


def egress_of(document: Document, *path: str | int) -> Egress:
    """Return the egress rules at *path* as far as they can be read; what cannot is told elsewhere."""
    networks: list[IPv4Network | IPv6Network] = []
    for index in range(len(document.entries(*path, "allow_private"))):
        try:
            networks.append(ip_network(document.text(*path, "allow_private", index) or ""))
        except ValueError:
            continue
    # A template that was filled in is text here.
    allow_http = document.get(*path, "allow_http") in (True, "true")
    return Egress(allow_private=tuple(networks), allow_http=allow_http)


def _urls(document: Document) -> list[tuple[Path, bool]]:
    """Return the place of each URL that the global egress rules hold for, and whether the gateway dials it."""
    places: list[tuple[Path, bool]] = []
    for index in range(len(document.entries("callers", "issuers"))):
        base: Path = ("callers", "issuers", index)
        has_keys = document.get(*base, "jwks_uri") is not None
        places.append(((*base, "jwks_uri" if has_keys else "issuer"), True))
    if document.get("token_service", "kind") == "descope":
        places.append((("token_service", "base_url"), True))
    for index in range(len(document.entries("connections"))):
        base = ("connections", index)
        places.append(((*base, "authorization_url"), False))
        places += [((*base, key), True) for key in ("token_url", "revocation_url", "discovery_url", "dcr_url")]
        places += [((*base, "default_redirect_url"), False)]
    return places


def _check(document: Document, path: Path, egress: Egress, *, is_dialled: bool = True) -> None:
    origin = _origin(document, path)
    if origin is None:
        return
    if origin.scheme == "http" and not egress.allow_http:
        document.refuse(path, f"expected https (egress.allow_http is false), found {document.found(path)}")
    try:
        address = ip_address(origin.host)
    except ValueError:
        return
    if is_dialled and not is_allowed(address, egress.allow_private):
        expected = "expected a public address (egress.allow_private does not list this one)"
        document.refuse(path, f"{expected}, found {document.found(path)}")


def _origin(document: Document, path: Path) -> Origin | None:
    text = document.text(*path)
    if text is None:
        return None
    try:
        return parse_url(text, query=True).origin
    except UrlError:
        return None  # told where the shape is checked


def _check_origin(document: Document, route: int) -> None:
    path: Path = ("routes", route, "upstream")
    origin, name = _origin(document, path), document.text("routes", route, "connection")
    if origin is None or name is None:
        return
    for index in range(len(document.entries("connections"))):
        allowed = document.entries("connections", index, "origins")
        if document.text("connections", index, "id") != name or not allowed:
            continue
        if origin not in _origins(document, index, len(allowed)):
            line = document.keys["connections", index, "origins"].line
            document.refuse(
                path, f"expected one of the origins of its connection (line {line}), found {document.found(path)}"
            )
        return


def _origins(document: Document, connection: int, count: int) -> set[Origin]:
    found = set()
    for index in range(count):
        text = document.text("connections", connection, "origins", index)
        try:
            found.add(parse_origin(text or ""))
        except UrlError:
            continue
    return found
