"""
The shape of what routes.yaml lists: connections, policies, routes, and the egress that a route may
have as well.

A connection's tokens come of users who connect accounts in a browser (`authorization_code`), or need none: with
`client_credentials`, `jwt_bearer` and `github_app` they are minted for tenants, whose first call makes the token; keys
of `type: apikey` are uploaded, or typed into the connect page.

Rules are those of `schema.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from gateway.config import grammar as g
from gateway.config.schema_base import Model
from gateway.providers.quirks import AccessType, Prompt, TokenAuth


class EgressFile(Model):
    """Where the gateway may dial."""

    allow_private: list[g.Network] = Field([], description="Networks that are dialled although they are not public.")
    allow_http: g.Truth = Field(False, description="Let plain http through; otherwise https only.")
    ca_file: g.FilePlace | None = Field(None, description="PEM bundle of authorities, instead of the system's.")
    proxy: g.Proxy | None = Field(
        None, description="http://[USER:PASSWORD@]HOST:PORT of a proxy that everything goes through (CONNECT)."
    )


class ConnectionFile(Model):
    """A provider that users connect, or that gives tenants tokens by itself; read-only in the API."""

    id: g.ConnectionId = Field(description="The id that routes, policies and the token API name it by.")
    name: g.Title | None = Field(None, description="What people see; absent: the id.")
    description: g.Description = Field("", description="What it is for.")
    template: g.Name | None = Field(
        None, description="A provider of the catalogue (gateway connections templates): it fills in what is left out."
    )
    variables: dict[str, g.Label] = Field({}, description="What the template asks for, such as a shop's name.")
    type: Literal["oauth", "apikey"] = Field("oauth", description="OAuth, or a key that is uploaded.")
    client_id: g.Secret | None = Field(None, description="The gateway's client id at the provider.")
    client_secret: g.ClientSecret | None = Field(
        None, description="Its secret, or its private key; from the environment or a file."
    )
    authorization_url: g.Endpoint | None = Field(
        None, description="The provider's authorization endpoint (for browsers)."
    )
    token_url: g.Endpoint | None = Field(None, description="Its token endpoint; absent: tokens are never refreshed.")
    revocation_url: g.Endpoint | None = Field(None, description="Its revocation endpoint (RFC 7009).")
    discovery_url: g.Endpoint | None = Field(
        None, description="The issuer, or its metadata's URL (RFC 8414): fills in the URLs that are left out."
    )
    use_dcr: g.Truth = Field(
        False, description="Let the provider register the client when the gateway starts, once (RFC 7591)."
    )
    dcr_url: g.Endpoint | None = Field(None, description="Its registration endpoint; absent: as its metadata says.")
    scopes: Annotated[list[g.Scope], Field(max_length=200)] = Field(
        [], description="Scopes asked for where a connect request names none."
    )
    origins: Annotated[list[g.WebOrigin], Field(min_length=1)] | None = Field(
        None, description="The origins its tokens may be sent to; absent: any route's."
    )
    pkce: g.Truth = Field(True, description="Use PKCE (S256) in the authorization request.")
    token_auth: TokenAuth | None = Field(
        None,
        description="How the client proves itself at the token endpoint; absent: as the template's provider wants it, "
        "else client_secret_basic; without a secret: none.",
    )
    grant_type: Literal["authorization_code", "client_credentials", "jwt_bearer", "github_app"] | None = Field(
        None,
        description="What its tokens come of; absent: authorization_code. Others need no browser.",
    )
    installation_id: g.Installation | None = Field(None, description="The installation's number (github_app).")
    issuer: g.Endpoint | None = Field(None, description="Its issuer, where no metadata says it.")
    audience: g.Identifier | None = Field(None, description="The assertion's aud (jwt_bearer); absent: the token URL.")
    subject: g.Label | None = Field(None, description="The user that the assertion is for (jwt_bearer).")
    key_id: g.Identifier | None = Field(None, description="The kid of the private key that signs.")
    authorization_params: dict[str, g.Param] = Field({}, description="Further parameters of authorization requests.")
    token_params: dict[str, g.Param] = Field({}, description="Further parameters of token requests.")
    access_type: AccessType | None = Field(None, description="access_type of authorization requests, like Google's.")
    prompt: Annotated[list[Prompt], Field(max_length=5)] = Field(
        [], description="prompt of authorization requests (OpenID Connect)."
    )
    default_redirect_url: g.Endpoint | None = Field(
        None, description="Where a browser goes once an account is connected; absent: our own page."
    )
    callback_domain: g.Domain | None = Field(
        None, description="HOST[:PORT] or origin of the callback; absent: listeners.traffic.public_url."
    )
    tenant_id: g.Label | None = Field(None, description="The only tenant that tokens are minted for.")


# An empty list or a null would read as "nobody" and work as "anybody": refused.
_Labels = Annotated[Annotated[list[g.Label], Field(min_length=1)] | None, g.Given]
_ConnectionIds = Annotated[Annotated[list[g.ConnectionId], Field(min_length=1)] | None, g.Given]
_Names = Annotated[Annotated[list[g.Name], Field(min_length=1)] | None, g.Given]
_Scopes = Annotated[Annotated[list[g.Scope], Field(min_length=1)] | None, g.Given]
_Methods = Annotated[Annotated[list[g.Method], Field(min_length=1)] | None, g.Given]
_PathGlobs = Annotated[Annotated[list[g.PathGlob], Field(min_length=1)] | None, g.Given]
_Allows = Annotated[Annotated[list[g.Allow], Field(min_length=1)] | None, g.Given]


class PolicyFile(Model):
    """One rule. Keys are ANDed, the values of one key ORed."""

    id: g.Name = Field(description="The id that decisions and records name it by.")
    effect: Literal["allow", "deny"] = Field(description="What it does to a call that fits.")
    roles: _Labels = Field(None, description="The caller has one.")
    permissions: _Labels = Field(None, description="The caller has one.")
    scopes: _Scopes = Field(None, description="The caller has one.")
    clients: _Labels = Field(None, description="The caller is one.")
    users: _Labels = Field(None, description="The user is one.")
    tenants: _Labels = Field(None, description="The tenant is one.")
    connections: _ConnectionIds = Field(None, description="The route's connection is one.")
    routes: _Names = Field(None, description="The route is one.")
    methods: _Methods = Field(None, description="The method is one; absent: any.")
    paths: _PathGlobs = Field(None, description="The path below the prefix fits one: * within a segment, ** across.")
    when: Annotated[str | None, g.Later(None)] = Field(None, description="Not supported yet: a CEL condition.")


class CredentialFile(Model):
    """A field of its own for the caller's credential."""

    header: g.FieldName = Field(description="The field whose whole value is the caller's credential.")


def _credential_kind(value: Any) -> str:
    return "<header>" if isinstance(value, dict) else "<word>"


class InjectFile(Model):
    """How the connection token enters the upstream request: header and format, query and format, or basic."""

    header: g.FieldName | None = Field(None, description="The field; absent: Authorization.")
    format: g.TokenFormat | None = Field(
        None, description='Its value with "{token}" in it; absent: "Bearer {token}", in a query "{token}".'
    )
    basic: g.BasicFormat | None = Field(None, description='HTTP Basic: "user:{token}".')
    query: g.ParamName | None = Field(None, description="The query parameter, for an API that takes no field.")


class TimeoutsFile(Model):
    """Seconds until the upstream must have accepted, begun to answer, and gone on answering."""

    connect_seconds: g.Seconds = Field(5.0, description="Until a connection stands, TLS included.")
    response_seconds: g.Seconds = Field(60.0, description="From the end of the request to the answer's head.")
    idle_seconds: g.Seconds = Field(300.0, description="Between two pieces of a body.")


class LimitsFile(Model):
    """What the route takes."""

    max_body_bytes: g.Bytes = Field(104_857_600, description="The largest request body.")
    replay_bytes: g.ReplayBytes = Field(
        1_048_576, description="Bodies up to this size are kept in memory for a second send."
    )
    requests_per_minute: g.Count | None = Field(None, description="Per caller; absent: no limit.")
    concurrent: g.Count | None = Field(2_000, description="Calls under way on this route; null: no limit.")
    concurrent_per_caller: g.Count | None = Field(None, description="Calls of one caller under way; absent: no limit.")


class RouteFile(Model):
    """One upstream API."""

    name: g.Name = Field(description="What policies and records call it.")
    prefix: g.Prefix = Field(
        description="Where it stands on the traffic listener; ends at a segment, the longest wins."
    )
    host: g.Host | None = Field(None, description="Only requests with this Host, port left aside; absent: any.")
    upstream: g.Upstream = Field(description="The API's URL: origin and perhaps a base path.")
    connection: g.ConnectionId = Field(description="The connection whose token is used.")
    subject: Literal["user", "user_in_tenant", "tenant"] = Field("user", description="Whose token.")
    account: g.Account | None = Field(None, description="Which of several accounts of one user at the provider.")
    scopes: Annotated[list[g.Scope], Field(min_length=1)] | None = Field(
        None, description="The exact scopes of the token; absent: the latest token."
    )
    allow: _Allows = Field(
        None, description='"METHOD /path" below the prefix; * within a segment, ** across; absent: everything.'
    )
    encoded: list[Literal["slash", "percent"]] = Field(
        [], description="What may be percent-encoded inside one segment."
    )
    credential: Annotated[
        Annotated[Literal["authorization", "basic"], Tag("<word>")] | Annotated[CredentialFile, Tag("<header>")],
        Discriminator(_credential_kind),
    ] = Field(
        "authorization", description="Where callers put theirs: Authorization, the password of Basic, or a field."
    )
    inject: InjectFile = Field(InjectFile(), description="How the connection token enters the upstream request.")
    timeouts: TimeoutsFile = Field(TimeoutsFile(), description="How long the upstream may take.")
    limits: LimitsFile = Field(LimitsFile(), description="What the route takes.")
    egress: Annotated[EgressFile | None, g.Given] = Field(
        None, description="Replaces the global egress for this route."
    )
    upgrade: list[Literal["websocket"]] = Field([], max_length=1, description="Protocols that callers may switch to.")
    echo_guard: Literal["off", "record", "cut"] = Field(
        "record", description="What to do when an answer's body holds the token: nothing, say so in the record, cut it."
    )
    method_override: Literal["refuse", "judge"] = Field(
        "refuse",
        description="X-HTTP-Method-Override and its like: refused, or both methods must be allowed.",
    )
    foreign_credentials: Literal["remove", "refuse"] = Field(
        "remove", description="Fields in which callers put a credential of their own for the API."
    )
    multiplex: g.Truth = Field(
        False, description="Let paths through that take several calls in one request, past allow and policies."
    )
    minting: Literal["refuse", "pass"] = Field(
        "refuse", description="Paths at which the API hands out further credentials."
    )
    jsonp: Literal["refuse", "pass"] = Field(
        "refuse", description="GETs with callback, $callback or jsonp in the query, which makes an answer a script."
    )
    audit: Literal["default", "required"] = Field(
        "default",
        description="What must have the record's line before a call leaves: the kernel, or (required) the disk.",
    )
