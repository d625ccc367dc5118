"""
What a provider says about itself: authorization server metadata (RFC 8414, OpenID Connect Discovery 1.0).

Rules:
1. A connection's own URLs win; metadata fills in those that it leaves empty. Without `discoveryUrl` nothing is asked,
   nor where a refresh or a revocation finds its URLs in the connection: neither may fail for want of metadata.
2. `discoveryUrl` is the metadata's URL, or the issuer: then the two well-known places are tried, RFC 8414's first.
3. The document's `issuer` is exactly the one that was asked (RFC 8414 section 3.3), else nothing of it is used; or it
   is the one that the connection (field `issuer`) or its provider's entry declares, where each tenant may have its own:
   `{tenantid}` in a declared issuer stands for one segment, and an id token must name the one of its own `tid`.
   An entry's counts for endpoints of its own origin only.
4. Its endpoints are https URLs without credentials and fragment; plain http only where the gateway may dial it.
5. A document is kept for an hour, and in use for a day where the provider does not answer meanwhile.

Leaves dialling, and which addresses may be dialled, to `net/client.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import structlog
from cachetools import LRUCache

from gateway.net.client import OutboundClient, OutboundError
from gateway.providers.quirks import TENANT
from gateway.vault.client_auth import text_of
from gateway.vault.connection import MAX_URL_LENGTH, Connection

OAUTH_WELL_KNOWN = "/.well-known/oauth-authorization-server"
OIDC_WELL_KNOWN = "/.well-known/openid-configuration"
FRESH_SECONDS = 3600.0
STALE_SECONDS = 86_400.0
ANSWER_SECONDS = 10.0
MAX_DOCUMENT_BYTES = 262_144
MAX_DOCUMENTS = 1000
TENANT_ID = "[A-Za-z0-9-]{1,64}"  # a GUID, in practice

log = structlog.get_logger()


class DiscoveryFailed(Exception):
    """The provider's metadata cannot be used. *reason* is a word for the operator; holds nothing of the document."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Metadata:
    """What is used of a provider's metadata. An absent URL is ""; absent *pkce_methods* are None: not said."""

    issuer: str
    authorization_url: str = ""
    token_url: str = ""
    revocation_url: str = ""
    registration_url: str = ""
    userinfo_url: str = ""
    sends_issuer: bool = False
    pkce_methods: tuple[str, ...] | None = None
    token_auths: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Provider:
    """A connection with every URL filled in, and the metadata that it came from, if any."""

    connection: Connection
    metadata: Metadata | None = None

    @property
    def issuer(self) -> str:
        """The issuer that answers must come from, as `is_issuer` reads it; "" where none is known (RFC 9207 2.4)."""
        return self.metadata.issuer if self.metadata is not None else declared_issuer(self.connection)


class Discovery:
    """Fetches and remembers metadata. One object per process."""

    def __init__(self, client: OutboundClient, *, allow_http: bool, monotonic: Callable[[], float]) -> None:
        self._client = client
        self._allow_http = allow_http
        self._monotonic = monotonic
        self._known: LRUCache[tuple[str, str], tuple[float, Metadata]] = LRUCache(maxsize=MAX_DOCUMENTS)

    async def resolve(self, connection: Connection) -> Provider:
        """
        Return *connection* with its empty URLs filled in from its provider's metadata.

        Raises:
            DiscoveryFailed: it has a `discoveryUrl`, and there is no usable document.
        """
        url = text_of(connection, "discoveryUrl")
        if not url:
            return Provider(connection)
        metadata = await self.metadata(url, declared=declared_issuer(connection))
        filled = replace(
            connection,
            authorization_url=connection.authorization_url or metadata.authorization_url,
            token_url=connection.token_url or metadata.token_url,
            revocation_url=connection.revocation_url or metadata.revocation_url,
        )
        return Provider(filled, metadata)

    async def with_urls(self, connection: Connection, *needed: str) -> Connection:
        """
        Return *connection* with the URLs *needed*, fields of its own: from metadata where one of them is empty.

        Raises:
            DiscoveryFailed: as `resolve`.
        """
        if all(getattr(connection, name) for name in needed):
            return connection
        return (await self.resolve(connection)).connection

    async def metadata(self, discovery_url: str, *, declared: str = "") -> Metadata:
        """
        Return the metadata that *discovery_url* leads to, from memory where it is fresh.

        *declared* is the issuer that it may name instead of the one that is asked (rule 3).

        Raises:
            DiscoveryFailed: as `resolve`.
        """
        now = self._monotonic()
        known = self._known.get((discovery_url, declared))
        if known is not None and now - known[0] < FRESH_SECONDS:
            return known[1]
        try:
            metadata = await self._fetch(discovery_url, declared)
        except DiscoveryFailed as exc:
            if known is not None and now - known[0] < STALE_SECONDS:
                log.warning("discovery_failed", reason=exc.reason, in_use="the last good document")
                return known[1]
            raise
        self._known[discovery_url, declared] = (now, metadata)
        return metadata

    async def _fetch(self, discovery_url: str, declared: str) -> Metadata:
        failed = DiscoveryFailed("invalid_discovery_url")
        for url, issuer in candidates(discovery_url):
            try:
                answer = await self._client.request(
                    "GET",
                    url,
                    headers={"Accept": "application/json"},
                    timeout_seconds=ANSWER_SECONDS,
                    max_bytes=MAX_DOCUMENT_BYTES,
                )
                document = answer.json() if answer.status == 200 else None
            except OutboundError as exc:
                failed = DiscoveryFailed(exc.reason)
                continue
            if isinstance(document, dict):
                return read_metadata(document, issuer=issuer, declared=declared, allow_http=self._allow_http)
            failed = DiscoveryFailed("no_document" if answer.status == 200 else f"status_{answer.status}")
        raise failed


def candidates(discovery_url: str) -> list[tuple[str, str]]:
    """Return where the metadata of *discovery_url* may lie, each with the issuer that it must name (rule 2)."""
    parts = urlsplit(discovery_url)
    origin = f"{parts.scheme}://{parts.netloc}"
    path = parts.path
    if path.endswith(OIDC_WELL_KNOWN):
        return [(discovery_url, origin + path.removesuffix(OIDC_WELL_KNOWN))]
    for well_known in (OAUTH_WELL_KNOWN, OIDC_WELL_KNOWN):
        if path == well_known or path.startswith(f"{well_known}/"):
            return [(discovery_url, origin + path.removeprefix(well_known))]
    issuer = discovery_url
    inserted = f"{origin}{OAUTH_WELL_KNOWN}{path.rstrip('/')}"  # RFC 8414 section 3.1
    appended = f"{issuer.rstrip('/')}{OIDC_WELL_KNOWN}"
    return [(inserted, issuer), (appended, issuer)]


def read_metadata(document: dict[str, object], *, issuer: str, allow_http: bool, declared: str = "") -> Metadata:
    """
    Return what is used of *document*, which must be *issuer*'s, or that of *declared* (rule 3).

    An issuer that was cut out of a well-known URL may end in "/": that one slash cannot be seen there.

    Raises:
        DiscoveryFailed: another issuer, or an endpoint that is no https URL.
    """
    said = document.get("issuer")
    is_declared = bool(declared) and (said == declared or is_issuer(declared, said))
    if not isinstance(said, str) or not (said in (issuer, f"{issuer}/") or is_declared):
        raise DiscoveryFailed("issuer_mismatch")

    def url(name: str) -> str:
        value = document.get(name)
        if value is None:
            return ""
        if not isinstance(value, str) or not is_endpoint(value, allow_http=allow_http):
            raise DiscoveryFailed(f"invalid_{name}")
        return value

    return Metadata(
        issuer=said,
        authorization_url=url("authorization_endpoint"),
        token_url=url("token_endpoint"),
        revocation_url=url("revocation_endpoint"),
        registration_url=url("registration_endpoint"),
        userinfo_url=url("userinfo_endpoint"),
        sends_issuer=document.get("authorization_response_iss_parameter_supported") is True,
        pkce_methods=_texts(document.get("code_challenge_methods_supported")),
        token_auths=_texts(document.get("token_endpoint_auth_methods_supported")),
    )


def declared_issuer(connection: Connection) -> str:
    """Return the issuer that the connection declares, else its provider's entry for these endpoints; "" for neither."""
    own, entry = text_of(connection, "issuer"), connection.quirks.issuer
    if own or not entry:
        return own
    endpoints = filter(None, (connection.token_url, text_of(connection, "discoveryUrl")))
    return entry if {_origin(url) for url in endpoints} == {_origin(entry)} else ""


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.lower()


def is_issuer(known: str, said: object) -> bool:
    """Tell whether *said* is the issuer *known*; where that holds `{tenantid}`, whether it is some tenant's."""
    before, place, after = known.partition(TENANT)
    if not isinstance(said, str) or not place:
        return said == known
    return re.fullmatch(re.escape(before) + TENANT_ID + re.escape(after), said) is not None


def is_endpoint(url: str, *, allow_http: bool) -> bool:
    """Tell whether *url* can be an endpoint: https (or http where allowed), no credentials, fragment or odd bytes."""
    if len(url) > MAX_URL_LENGTH or not all("!" <= character <= "~" for character in url) or "\\" in url:
        return False
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    is_scheme = parts.scheme == "https" or (parts.scheme == "http" and allow_http)
    return is_scheme and bool(parts.hostname) and "@" not in parts.netloc and "#" not in url


def _texts(value: object) -> tuple[str, ...] | None:
    return tuple(entry for entry in value if isinstance(entry, str)) if isinstance(value, list) else None
