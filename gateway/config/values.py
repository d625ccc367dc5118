"""
A checked configuration: what `load` returns and `server.py` hands to the parts as plain values.

Rules:
1. Fields are named as the keys of routes.yaml; absent keys have taken their defaults.
2. What holds a secret keeps it out of its repr.
3. File names are absolute, or relative to where the process stands: they no longer depend on the file's place.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import Literal

from gateway.config.problems import Problem
from gateway.models import Egress, Route, TrafficLimits
from gateway.providers.quirks import Grant, TokenAuth


@dataclass(frozen=True, slots=True)
class Bind:
    """Where a listener listens. *host* is a name or an address, IPv6 without brackets; port 0 takes any free port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Tls:
    """Paths of PEM files: the certificate with its chain, and its private key."""

    cert: str
    key: str


@dataclass(frozen=True, slots=True)
class TrafficListener:
    """
    The listener for agents. *public_url* is an origin without trailing "/"; *tls* is None for plain HTTP;
    *redirect_urls* are where a browser may end after connecting; *trusted_proxies* are whose word on a caller's address
    is believed.
    """

    host: str
    port: int
    public_url: str | None = None
    tls: Tls | None = None
    redirect_urls: tuple[str, ...] = ()
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    limits: TrafficLimits = field(default_factory=TrafficLimits)


@dataclass(frozen=True, slots=True)
class Listeners:
    """The three doors. *token_api* is None where it is off, by `off` or because Descope is the token service."""

    traffic: TrafficListener
    token_api: Bind | None
    console: Bind


@dataclass(frozen=True, slots=True)
class Claims:
    """The name of the claim that says each of these."""

    user: str = "sub"
    client: str = "azp"
    roles: str = "roles"
    permissions: str = "permissions"
    scopes: str = "scope"
    tenant: str = "dct"
    tenants: str = "tenants"


@dataclass(frozen=True, slots=True)
class IssuerSettings:
    """
    An issuer whose tokens identify callers. *jwks_uri* None: keys by discovery, and *issuer* is a URL.

    Of several issuers at most one has an empty *user_prefix*, and no prefix begins with another.
    """

    issuer: str
    audience: tuple[str, ...]
    jwks_uri: str | None = None
    algorithms: tuple[str, ...] = ("RS256", "ES256", "EdDSA")
    claims: Claims = Claims()
    required_scope: str | None = "outbound.token.fetch"
    user_prefix: str = ""


@dataclass(frozen=True, slots=True)
class RecordSettings:
    """The record. *min_free_bytes* None: as much as suits the disk; 0: readiness does not look at the disk."""

    min_free_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class VaultSettings:
    """The vault built in here is the token service."""


@dataclass(frozen=True, slots=True)
class DescopeSettings:
    """
    Descope is the token service. *base_url* has no trailing "/".

    *credential* is the word "caller" (the caller's own JWT is sent), or a management key.
    """

    project: str
    base_url: str
    credential: str = field(repr=False)

    @property
    def sends_caller(self) -> bool:
        """Whether the caller's own credential is sent."""
        return self.credential == "caller"


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """
    A connection that the file owns. *origins* are as `str(Origin)` writes them; None: not restricted.

    *token_url* None: tokens are uploaded, and never refreshed. *template* is a provider of the catalogue, which has
    filled in the other fields; *variables*, by name, are what it was filled in with. *token_auth* None: the template's,
    or the one that is registered. *use_dcr*: the provider registers the client, at *dcr_url* or as its metadata says.
    *grant_type* and what follows are the API's fields of these names (wire_apps.py).
    """

    id: str
    name: str
    description: str = ""
    type: Literal["oauth", "apikey"] = "oauth"
    client_id: str | None = None
    client_secret: str | None = field(default=None, repr=False)
    authorization_url: str | None = None
    token_url: str | None = None
    revocation_url: str | None = None
    discovery_url: str | None = None
    use_dcr: bool = False
    dcr_url: str | None = None
    scopes: tuple[str, ...] = ()
    origins: tuple[str, ...] | None = None
    pkce: bool = True
    token_auth: TokenAuth | None = "client_secret_basic"  # noqa: S105 a method
    template: str | None = None
    variables: tuple[tuple[str, str], ...] = ()
    grant_type: Grant | None = None
    installation_id: str | None = None
    issuer: str | None = None
    audience: str | None = None
    subject: str | None = None
    key_id: str | None = None
    authorization_params: tuple[tuple[str, str], ...] = ()
    token_params: tuple[tuple[str, str], ...] = ()
    access_type: str | None = None
    prompt: tuple[str, ...] = ()
    default_redirect_url: str | None = None
    callback_domain: str | None = None
    tenant_id: str | None = None


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """One rule: keys are ANDed, the values of one key ORed. An empty key was absent and fits everything."""

    id: str
    effect: Literal["allow", "deny"]
    roles: tuple[str, ...] = ()
    permissions: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    clients: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    tenants: tuple[str, ...] = ()
    connections: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Configuration:
    """
    Everything that routes.yaml says. *policies* None: there are none, and every identified caller may use every route.

    *warnings* are what is allowed but unwise, by place.
    """

    project: str
    listeners: Listeners
    drain_delay_seconds: float = 0.0
    drain_seconds: float = 30.0
    issuers: tuple[IssuerSettings, ...] = ()
    management_keys: bool = False
    egress: Egress = field(default_factory=Egress)
    record: RecordSettings = RecordSettings()
    token_service: VaultSettings | DescopeSettings = VaultSettings()
    connections: tuple[ConnectionSettings, ...] = ()
    policies: tuple[PolicySettings, ...] | None = None
    routes: tuple[Route, ...] = ()
    warnings: tuple[Problem, ...] = ()
