"""
The shape of routes.yaml: every key, its type, its default (DESIGN section 9).

Rules:
1. Every key is known, or it is an error; so is a value of another type. Absent keys take the neutral default.
2. A model checks one key at a time; what concerns several keys is checked by `checks.py` and `reach.py`.
3. A description here is what editors show and what docs/configuration.md explains.

`schema_routes.py` has connections, policies and routes.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag, WithJsonSchema

from gateway.config import grammar as g
from gateway.config.schema_base import Model
from gateway.config.schema_routes import ConnectionFile, EgressFile, PolicyFile, RouteFile


def _version(value: Any) -> Any:
    """Refuse 1.0 and true, which Python takes for 1."""
    if type(value) is not int or value != 1:
        raise g.refusal("expected 1, the version of this format")
    return value


class TlsFile(Model):
    """TLS of the traffic listener: paths of PEM files, relative ones from the directory of routes.yaml."""

    cert: g.FilePlace = Field(description="PEM file with the certificate and its chain.")
    key: g.FilePlace = Field(description="PEM file with the private key.")


class TrafficLimitsFile(Model):
    """How many connections the traffic listener takes."""

    connections: g.Count = Field(4_096, description="Open at once, in all.")
    connections_per_address: g.Count = Field(
        1_024, description="Open at once from one address; behind a load balancer all callers share one."
    )


class TrafficFile(Model):
    """The listener for agents and for the browser's connect pages."""

    bind: g.Bind = Field("127.0.0.1:8080", description="HOST:PORT to listen on; port 0 takes any free one.")
    public_url: g.WebOrigin | None = Field(None, description="The origin that agents and browsers reach it by.")
    tls: TlsFile | None = Field(
        None, description="Certificate and key; absent: plain HTTP, behind something that ends TLS."
    )
    redirect_urls: list[g.Endpoint] = Field(
        [], max_length=100, description="Where a browser may be sent once an account is connected; compared exactly."
    )
    limits: TrafficLimitsFile = Field(TrafficLimitsFile(), description="How many connections are taken.")
    trusted_proxies: list[g.Network] = Field(
        [], max_length=100, description="Networks of the proxies whose Forwarded and X-Forwarded-For are believed."
    )


class TokenApiFile(Model):
    """The listener of the token API."""

    bind: g.Bind = Field("127.0.0.1:8081", description="HOST:PORT to listen on.")


class ConsoleFile(Model):
    """The listener of the console, metrics and health."""

    bind: g.Bind = Field("127.0.0.1:8082", description="HOST:PORT to listen on.")


def _token_api_kind(value: Any) -> str:
    return "<off>" if isinstance(value, str) else "<bind>"


class ListenersFile(Model):
    """The three doors; flags win over these."""

    traffic: TrafficFile = Field(TrafficFile(), description="Agents, and the browser's connect pages.")
    token_api: Annotated[
        Annotated[Literal["off"], Tag("<off>")] | Annotated[TokenApiFile, Tag("<bind>")], Discriminator(_token_api_kind)
    ] = Field(TokenApiFile(), description="Services that hold keys; or off.")
    console: ConsoleFile = Field(ConsoleFile(), description="Console, metrics and health.")


class ClaimsFile(Model):
    """Which claim of a token says what."""

    user: g.Claim = Field("sub", description="The user's id.")
    client: g.Claim = Field("azp", description="The client (the agent).")
    roles: g.Claim = Field("roles", description="The roles.")
    permissions: g.Claim = Field("permissions", description="The permissions.")
    scopes: g.Claim = Field("scope", description="The scopes, a list or separated by spaces.")
    tenant: g.Claim = Field("dct", description="The current tenant.")
    tenants: g.Claim = Field("tenants", description="All tenants of the caller, a list or a mapping by id.")


def _audience_kind(value: Any) -> str:
    return "<list>" if isinstance(value, list) else "<text>"


Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
]  # RFC 7518 3.1 and RFC 8037, without the symmetric ones (threats B1)


class IssuerFile(Model):
    """An issuer whose tokens identify callers."""

    issuer: g.Identifier = Field(description="The exact `iss` of its tokens; a URL, unless jwks_uri is given.")
    jwks_uri: g.Endpoint | None = Field(None, description="Where its keys are; absent: by discovery.")
    audience: Annotated[
        Annotated[g.Identifier, Tag("<text>")] | Annotated[list[g.Identifier], Field(min_length=1), Tag("<list>")],
        Discriminator(_audience_kind),
    ] = Field(description="What `aud` must name; one of them where there are several.")
    algorithms: Annotated[list[Annotated[Algorithm, g.Asymmetric]], Field(min_length=1)] = Field(
        ["RS256", "ES256", "EdDSA"], description="Signature algorithms that are accepted; asymmetric only."
    )
    claims: ClaimsFile = Field(ClaimsFile(), description="Which claim says what.")
    required_scope: g.Scope | None = Field(
        "outbound.token.fetch", description="The scope that a token must have; null turns it off."
    )
    user_prefix: g.UserPrefix = Field(
        "", description="Put before its user ids; needed on all but one of several issuers."
    )


class CallersFile(Model):
    """Who may call."""

    issuers: list[IssuerFile] = Field([], description="Issuers whose tokens identify callers.")
    management_keys: g.Truth = Field(False, description="Accept management keys on the traffic listener.")


class RecordFile(Model):
    """The record of what left, and the disk that it is on."""

    min_free_bytes: g.Bytes | None = Field(
        None,
        description="Free space below which the gateway says that it is not ready; absent: 256 MiB, or 5 % of a "
        "smaller disk; 0: never.",
    )


class VaultFile(Model):
    """The vault built in here."""

    kind: Literal["vault"] = Field(description="The vault built in here.")


class DescopeFile(Model):
    """Descope's own vault."""

    kind: Literal["descope"] = Field(description="Descope's own vault.")
    project: g.Name = Field(description="The id of the project at Descope.")
    base_url: g.Upstream = Field("https://api.descope.com", description="Where its API is.")
    credential: g.Secret = Field(description="caller: the caller's own token; else a management key.")


class _OtherFile(Model):
    """Stands for a token service without a kind, or of an unknown one."""

    model_config = ConfigDict(extra="ignore")

    kind: Literal["vault", "descope"]


def _token_service_kind(value: Any) -> str:
    kind = value.get("kind") if isinstance(value, dict) else value
    return {"vault": "<vault>", "descope": "<descope>"}.get(kind if isinstance(kind, str) else "", "<other>")


class ConfigurationFile(Model):
    """Configuration of the Connection Gateway."""

    version: Annotated[int, BeforeValidator(_version), WithJsonSchema({"const": 1})] = Field(
        description="1, the version of this format."
    )
    project: Annotated[str, g.Text("an id of letters, digits, _ and -", r"[A-Za-z0-9][A-Za-z0-9_-]*", 64)] = Field(
        description='The id in "Bearer <project>:<credential>".'
    )
    listeners: ListenersFile = Field(ListenersFile(), description="The three doors; flags win over these.")
    drain_delay_seconds: g.DrainDelay = Field(
        0.0, description="How long a stop tells that the gateway is not ready, and serves on, before it drains."
    )
    drain_seconds: g.DrainSeconds = Field(
        30.0, description="How long calls under way may go on after a stop was asked for."
    )
    callers: CallersFile = Field(CallersFile(), description="Who may call.")
    egress: EgressFile = Field(EgressFile(), description="Where the gateway may dial: for everything it dials.")
    record: RecordFile = Field(RecordFile(), description="The record of what left, and the disk that it is on.")
    token_service: Annotated[
        Annotated[VaultFile, Tag("<vault>")]
        | Annotated[DescopeFile, Tag("<descope>")]
        | Annotated[_OtherFile, Tag("<other>")],
        Discriminator(_token_service_kind),
    ] = Field(VaultFile(kind="vault"), description="Where connection tokens come from.")
    connections: list[ConnectionFile] = Field([], description="Connections of the vault that this file owns.")
    policies: Annotated[list[PolicyFile] | None, g.Given] = Field(
        None, description="Absent: every identified caller may use every route. Present: default deny, deny wins."
    )
    routes: list[RouteFile] = Field([], description="The upstream APIs.")
