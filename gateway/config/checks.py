"""
What concerns several keys of a file: names that must be unique, names that must exist, keys that need one another.

Rules:
1. Unique: route names, prefixes (per host), connection ids, policy ids, issuers, user prefixes, addresses of listeners.
2. A policy names routes of this file. Its connections may live in the vault alone: `cautions.py` looks at them.
3. One namespace of users: of several issuers each but one has a `user_prefix`, and none begins with another
   (DESIGN section 7).
4. Keys that have no meaning beside another are refused: a client secret of an API key, two ways to inject.

Works on the document, not on models: a mistake elsewhere in the file does not hide these.
`reach.py` checks where URLs lead.
"""

from __future__ import annotations

from collections.abc import Iterable

from gateway.config.document import Document
from gateway.config.problems import Path, did_you_mean
from gateway.config.urls import UrlError, parse_url

OAUTH_KEYS = (
    "client_id",
    "client_secret",
    "authorization_url",
    "token_url",
    "revocation_url",
    "discovery_url",
    "use_dcr",
    "dcr_url",
    "scopes",
    "pkce",
    "token_auth",
    "grant_type",
    "installation_id",
    "issuer",
    "audience",
    "subject",
    "key_id",
    "authorization_params",
    "token_params",
    "access_type",
    "prompt",
    "tenant_id",
)
# What a grant reads that no other does.
_GRANT_KEYS = {"installation_id": "github_app", "audience": "jwt_bearer", "subject": "jwt_bearer"}


def check(document: Document) -> None:
    """Note every problem between the keys of *document*."""
    _unique(document, "a name", (("routes", i, "name") for i in range(len(document.entries("routes")))))
    _unique(document, "an id", (("connections", i, "id") for i in range(len(document.entries("connections")))))
    _unique(document, "an id", (("policies", i, "id") for i in range(len(document.entries("policies")))))
    _unique_prefixes(document)
    _unique_binds(document)
    _issuers(document)
    _references(document)
    connections = range(len(document.entries("connections")))
    for index in connections:
        _connection(document, index)
    if any(_says_dcr(document, i) for i in connections) and document.get("listeners", "traffic", "public_url") is None:
        # The client is registered once, with the callback there: not with an address that happens to be listened on.
        document.refuse(("listeners", "traffic", "public_url"), "required with use_dcr of a connection, and missing")
    for index in range(len(document.entries("routes"))):
        _injection(document, index)
    if document.get("token_service", "kind") == "descope" and document.get("connections"):
        document.refuse(
            ("connections",), "expected no connections beside token_service descope: Descope keeps its own, found some"
        )


def _unique(document: Document, what: str, paths: Iterable[Path]) -> None:
    seen: dict[str, Path] = {}
    for path in paths:
        value = document.text(*path)
        if value is None or path in document.unfilled:
            continue
        if value in seen:
            _refuse_again(document, path, what, seen[value])
        else:
            seen[value] = path


def _refuse_again(document: Document, path: Path, what: str, first: Path) -> None:
    line = document.values[first].line
    document.refuse(path, f"expected {what} of its own, found {document.found(path)} again (first on line {line})")


def _unique_prefixes(document: Document) -> None:
    seen: dict[tuple[str | None, str], Path] = {}
    for index in range(len(document.entries("routes"))):
        path: Path = ("routes", index, "prefix")
        prefix, host = document.text(*path), document.text("routes", index, "host")
        if prefix is None or path in document.unfilled:
            continue
        key = (host.lower() if host else None, prefix)
        if key in seen:
            _refuse_again(document, path, "a prefix" if host is None else "a prefix (with this host)", seen[key])
        else:
            seen[key] = path


def _unique_binds(document: Document) -> None:
    # An absent door stands at its default, and may be met there by another.
    defaults = {"traffic": "127.0.0.1:8080", "token_api": "127.0.0.1:8081", "console": "127.0.0.1:8082"}
    if isinstance(document.get("listeners", "token_api"), str) or document.get("token_service", "kind") == "descope":
        del defaults["token_api"]
    binds = {door: document.text("listeners", door, "bind") or default for door, default in defaults.items()}
    doors = sorted(binds, key=lambda door: document.text("listeners", door, "bind") is not None)  # defaults first
    seen: dict[str, str] = {}
    for door in doors:
        bind = binds[door]
        if not bind.endswith(":0") and bind in seen:
            path: Path = ("listeners", door, "bind")
            document.refuse(path, f"expected an address of its own, found that of {seen[bind]}: {document.found(path)}")
        seen.setdefault(bind, door)


def _issuers(document: Document) -> None:
    count = len(document.entries("callers", "issuers"))
    base: Path = ("callers", "issuers")
    _unique(document, "an issuer", ((*base, i, "issuer") for i in range(count)))
    for index in range(count):
        issuer = document.text(*base, index, "issuer")
        if issuer is not None and document.get(*base, index, "jwks_uri") is None:
            try:
                parse_url(issuer)
            except UrlError as exc:
                path = (*base, index, "issuer")
                document.refuse(path, f"{exc} (or a jwks_uri), found {document.found(path)}")
    _user_prefixes(document, count)


def _user_prefixes(document: Document, count: int) -> None:
    base: Path = ("callers", "issuers")
    without: Path | None = None
    seen: dict[str, Path] = {}
    for index in range(count):
        path = (*base, index, "user_prefix")
        prefix = document.text(*path) or ""
        near = [first for other, first in seen.items() if prefix.startswith(other) or other.startswith(prefix)]
        if path in document.unfilled:
            continue
        if not prefix and without is not None:
            line = document.values[without].line
            document.refuse(path, f"expected a user_prefix on all but one issuer, found none (nor on line {line})")
        elif not prefix:
            without = (*base, index)
        elif near:
            line = document.values[near[0]].line
            found = f"found {document.found(path)} (see line {line})"
            document.refuse(path, f"expected a prefix that neither begins another nor is begun by one, {found}")
        else:
            seen[prefix] = path


def _references(document: Document) -> None:
    routes = range(len(document.entries("routes")))
    names = {name for i in routes if (name := document.text("routes", i, "name"))}
    for index in range(len(document.entries("policies"))):
        _known(document, ("policies", index, "routes"), "the name of a route", names)


def _known(document: Document, base: Path, what: str, known: set[str]) -> None:
    for index in range(len(document.entries(*base))):
        path = (*base, index)
        value = document.text(*path)
        if value is not None and value not in known:
            near = "" if path in document.templates else did_you_mean(value, known)
            document.refuse(path, f"expected {what}, found {document.found(path)}{near}")


def _connection(document: Document, index: int) -> None:
    base: Path = ("connections", index)

    def has(key: str) -> bool:
        return document.get(*base, key) is not None

    if document.get(*base, "type") == "apikey":
        for key in OAUTH_KEYS:
            if has(key):
                document.refuse((*base, key), "expected only with type oauth, found it with type apikey", at_key=True)
        return
    grant = document.get(*base, "grant_type")
    for key, reader in _GRANT_KEYS.items():
        if has(key) and grant != reader:
            document.refuse((*base, key), f"expected only with grant_type {reader}, found it without", at_key=True)
    if grant in ("client_credentials", "jwt_bearer", "github_app"):
        _minted(document, base, str(grant))
        return
    if has("authorization_url") and not has("token_url") and not has("discovery_url"):
        document.refuse((*base, "token_url"), "required with authorization_url, and missing")
    if _says_dcr(document, index):
        _registered(document, base)
        return
    if has("dcr_url"):
        document.refuse((*base, "dcr_url"), "expected only with use_dcr: true, found it without", at_key=True)
    exchanging = "this template" if has("template") else "token_url" if has("token_url") else "discovery_url"
    is_exchanging = has("token_url") or has("discovery_url")
    if is_exchanging and not has("client_id"):
        document.refuse((*base, "client_id"), f"required with {exchanging}, and missing")
    if document.get(*base, "token_auth") == "none":
        if has("client_secret"):
            document.refuse((*base, "client_secret"), "expected none with token_auth none, found one", at_key=True)
    elif not has("client_secret") and (is_exchanging or has("token_auth")):
        needing = f"{exchanging} (or say token_auth: none)" if is_exchanging else "this token_auth"
        document.refuse((*base, "client_secret"), f"required with {needing}, and missing")


def _minted(document: Document, base: Path, grant: str) -> None:
    """Note what a connection lacks whose tokens come of its own secret (a service account's JSON key is complete)."""
    required = {
        "client_credentials": ("client_id", "client_secret"),
        "jwt_bearer": ("client_secret",),
        "github_app": ("client_id", "client_secret", "installation_id"),
    }[grant]
    for key in required:
        if document.get(*base, key) is None:
            document.refuse((*base, key), f"required with grant_type {grant}, and missing")
    is_found = any(document.get(*base, key) is not None for key in ("token_url", "discovery_url"))
    if grant == "client_credentials" and not is_found:
        document.refuse((*base, "token_url"), "required with grant_type client_credentials, and missing")
    if document.get(*base, "use_dcr") in (True, "true"):
        document.refuse((*base, "use_dcr"), f"expected none with grant_type {grant}, found it", at_key=True)
    if document.get(*base, "token_auth") == "none":
        document.refuse((*base, "token_auth"), f"expected another with grant_type {grant}, found this")


def _says_dcr(document: Document, index: int) -> bool:
    base: Path = ("connections", index)
    # A template that was filled in is text here.
    return document.get(*base, "type") != "apikey" and document.get(*base, "use_dcr") in (True, "true")


def _registered(document: Document, base: Path) -> None:
    """Note what is wrong with a connection whose client the provider registers."""
    for key in ("client_id", "client_secret"):
        if document.get(*base, key) is not None:
            document.refuse((*base, key), "expected none with use_dcr, the provider gives it, found one", at_key=True)
    if document.get(*base, "discovery_url") is None and document.get(*base, "dcr_url") is None:
        document.refuse((*base, "discovery_url"), "required with use_dcr (or dcr_url), and missing")
    if document.get(*base, "token_auth") == "private_key_jwt":
        document.refuse((*base, "token_auth"), "expected another with use_dcr: it registers no keys, found this")


def _injection(document: Document, index: int) -> None:
    base: Path = ("routes", index, "inject")
    header, form = document.get(*base, "header"), document.get(*base, "format")
    if document.get(*base, "basic") is not None:
        for key, other in (("header", "header and format"), ("format", "header and format"), ("query", "query")):
            if document.get(*base, key) is not None:
                document.refuse((*base, key), f"expected either basic or {other}, found both", at_key=True)
    elif document.get(*base, "query") is not None:
        if header is not None:
            document.refuse((*base, "header"), "expected either query or header, found both", at_key=True)
    elif isinstance(header, str) and header.lower() != "authorization" and form is None:
        # "Bearer {token}" is right for Authorization; for an API's own field it would be a guess.
        document.refuse(
            (*base, "format"), 'required with a header other than Authorization, like "{token}", and missing'
        )
