"""
What a file may say, and perhaps should not: `gateway check` and `gateway serve` print these.

Rules:
1. A caution never stops anything; what must stop is an error.
2. It says what follows from the choice, in one sentence.
"""

from __future__ import annotations

from gateway.access.patterns import DenySet
from gateway.config.document import Document
from gateway.config.problems import Path, Problem, did_you_mean
from gateway.config.urls import parse_url
from gateway.providers.upstreams import upstream_rules


def cautions(document: Document) -> list[Problem]:
    """Return what is unwise in *document*, a document without errors."""
    return [
        *_callers(document),
        *_egress(document),
        *_token_service(document),
        *_policies(document),
        *_connections(document),
        *_routes(document),
        *_proxies(document),
    ]


def _callers(document: Document) -> list[Problem]:
    found = []
    sends_caller = document.get("token_service", "credential") == "caller"
    if not document.entries("callers", "issuers"):
        path: Path = ("callers", "issuers") if document.get("callers", "issuers") is not None else ("callers",)
        who = (
            "nobody can call: Descope is asked with the caller's own token"
            if sends_caller
            else "only keys identify callers"
        )
        found.append(document.problem(path, f"no issuers: {who}"))
    if document.get("callers", "management_keys") in (True, "true"):
        text = "management keys choose their user and bypass policies on the traffic listener"
        found.append(document.problem(("callers", "management_keys"), text))
    return found


def _egress(document: Document) -> list[Problem]:
    own: list[Path] = [("routes", index, "egress", "proxy") for index in range(len(document.entries("routes")))]
    found = []
    for path in [("egress", "proxy"), *own]:
        if "@" in (document.text(*path) or ""):
            found += _literal_secret(document, path)
    return found


def _token_service(document: Document) -> list[Problem]:
    if document.get("token_service", "kind") != "descope":
        return []
    found = []
    path: Path = ("token_service", "credential")
    if document.get(*path) != "caller":
        text = "a management key bypasses Descope's policies: only the policies of this file hold"
        found.append(document.problem(path, text))
        found += _literal_secret(document, path)
    if isinstance(document.get("listeners", "token_api"), dict):
        text = "the token API is off: Descope is the token service"
        found.append(document.problem(("listeners", "token_api"), text))
    return found


def _policies(document: Document) -> list[Problem]:
    if document.get("policies") is None:
        text = "no policies: every identified caller may use every route, and none may fetch a raw token"
        return [document.problem(("policies",), text)]
    if not document.entries("policies"):
        return [document.problem(("policies",), "an empty list: no caller may use any route")]
    return _policy_connections(document)


def _policy_connections(document: Document) -> list[Problem]:
    known = {
        name
        for list_name, key in (("routes", "connection"), ("connections", "id"))
        for index in range(len(document.entries(list_name)))
        if (name := document.text(list_name, index, key))
    }
    found = []
    for index in range(len(document.entries("policies"))):
        for entry in range(len(document.entries("policies", index, "connections"))):
            path: Path = ("policies", index, "connections", entry)
            name = document.text(*path)
            if name is not None and name not in known:
                near = "" if path in document.templates else did_you_mean(name, known)
                text = f"{document.found(path)} is neither in connections nor a route's: the vault must know it{near}"
                found.append(document.problem(path, text))
    return found


def _connections(document: Document) -> list[Problem]:
    found = []
    for index in range(len(document.entries("connections"))):
        base: Path = ("connections", index)
        if document.get(*base, "origins") is None:
            text = "no origins: any route may send this connection's tokens to its upstream"
            found.append(document.problem((*base, "origins"), text))
        is_found = document.get(*base, "token_url") is not None or document.get(*base, "discovery_url") is not None
        is_found = is_found or document.get(*base, "grant_type") in ("jwt_bearer", "github_app")  # which know theirs
        if document.get(*base, "type") != "apikey" and not is_found:
            found.append(document.problem((*base, "token_url"), "no token_url: tokens are never refreshed"))
        if document.get(*base, "client_secret") is not None:
            found += _literal_secret(document, (*base, "client_secret"))
    return found


def _literal_secret(document: Document, path: Path) -> list[Problem]:
    if path in document.templates:
        return []
    return [document.problem(path, "a secret in the file: take it from ${NAME} or ${file:PATH}")]


# What a route gives up with a key's value, by key.
_OPENED = {
    "echo_guard": ("off", "an API that answers with the token shows it to callers, and no record says so"),
    "minting": ("pass", "callers can have the API hand out credentials that outlive this gateway's control"),
    "jsonp": ("pass", "an answer can be a script that any page runs, where the calls of browsers get through"),
    "multiplex": (True, "what a request to a batch path carries is neither judged by allow and policies nor recorded"),
    "method_override": ("judge", "the API must take the same override as the gateway does; both methods are judged"),
}


def _opened(document: Document) -> list[Problem]:
    """Return what routes give up, and that a token in a URL is written down by whoever logs it."""
    found = []
    for index in range(len(document.entries("routes"))):
        base: Path = ("routes", index)
        for key, (value, text) in _OPENED.items():
            given = document.get(*base, key)
            if given == value or (value is True and given == "true"):
                found.append(document.problem((*base, key), text))
        if document.get(*base, "inject", "query") is not None:
            text = "a token in a URL is written into the logs of the API, and of proxies before it"
            found.append(document.problem((*base, "inject", "query"), text))
        if document.get(*base, "echo_guard") == "cut" and document.entries(*base, "upgrade"):
            text = "echo_guard: cut does not look into the messages of a WebSocket"
            found.append(document.problem((*base, "upgrade"), text))
    return found


def _refused_paths(document: Document) -> list[Problem]:
    """Return the entries of `allow` that name what the route refuses nevertheless, by what the catalogue knows."""
    found = []
    for index in range(len(document.entries("routes"))):
        upstream = parse_url(document.text("routes", index, "upstream") or "")
        known = upstream_rules(str(upstream.origin), _template(document, document.text("routes", index, "connection")))
        minting = DenySet.compile(known.minting_paths)
        multiplex = DenySet.compile(known.multiplex_paths)
        for entry in range(len(document.entries("routes", index, "allow"))):
            path: Path = ("routes", index, "allow", entry)
            glob = (document.text(*path) or "").partition(" ")[2]
            example = upstream.path + glob.replace("**", "x").replace("*", "x")  # what it names, not all it covers
            if document.get("routes", index, "minting") != "pass" and minting.matches(example):
                text = "the API hands out credentials there: refused, unless the route says minting: pass"
                found.append(document.problem(path, text))
            if document.get("routes", index, "multiplex") not in (True, "true") and multiplex.matches(example):
                text = "a request there carries several calls: refused, unless the route says multiplex: true"
                found.append(document.problem(path, text))
    return found


def _template(document: Document, connection: str | None) -> str | None:
    for index in range(len(document.entries("connections"))):
        if document.text("connections", index, "id") == connection:
            return document.text("connections", index, "template")
    return None


def _proxies(document: Document) -> list[Problem]:
    found = []
    base: Path = ("listeners", "traffic", "trusted_proxies")
    for index in range(len(document.entries(*base))):
        if (document.text(*base, index) or "").endswith("/0"):
            text = "every peer is believed: any caller can claim any address"
            found.append(document.problem((*base, index), text))
    return found


def _routes(document: Document) -> list[Problem]:
    entries = document.entries("routes")
    if not entries:
        return [document.problem(("routes",), "no routes: agents can call nothing")]
    return [*_opened(document), *_refused_paths(document), *_route_connections(document)]


def _route_connections(document: Document) -> list[Problem]:
    entries = document.entries("routes")
    known = {document.text("connections", i, "id") or "" for i in range(len(document.entries("connections")))}
    if not known or document.get("token_service", "kind") == "descope":
        return []  # all of them live at the token service, which is not asked here
    found = []
    for index in range(len(entries)):
        path: Path = ("routes", index, "connection")
        name = document.text(*path) or ""
        if name not in known:
            near = "" if path in document.templates else did_you_mean(name, known)
            text = f"{document.found(path)} is not in connections: the vault must know it when it is called{near}"
            found.append(document.problem(path, text))
    return found
