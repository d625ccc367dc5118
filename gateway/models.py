"""
The nouns of one request, frozen, in the order in which a request meets them.

Rules:
1. Values only: nothing here does I/O, knows a library, or changes after it was made.
2. What holds a secret keeps it out of its repr.
3. Times are POSIX seconds unless the name says otherwise; durations carry their unit in the name.

A `Route` comes from configuration; `RouteMatch`, `Caller`, `Subject`, `Decision`, `TokenKey` and
`ConnectionToken` are what the stages of the data path hand to one another (DESIGN section 2).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import Literal, NamedTuple

SubjectKind = Literal["user", "user_in_tenant", "tenant"]
CallerKind = Literal["jwt", "agent", "management"]


@dataclass(frozen=True, slots=True)
class OutboundProxy:
    """An http proxy on the way out, by name or address; *credential* is "user:password", decoded."""

    host: str
    port: int
    credential: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Egress:
    """
    Where the gateway may dial, and how. Applies to everything it opens a connection to.

    *allow_private* lists the networks that are dialled although they are not public; *allow_http* lets
    plain http URLs through; *ca_file* is a PEM bundle used instead of the system's. *proxy* is what
    everything goes through; None: dialled directly, whatever the environment says.
    """

    allow_private: tuple[IPv4Network | IPv6Network, ...] = ()
    allow_http: bool = False
    ca_file: str | None = None
    proxy: OutboundProxy | None = None


@dataclass(frozen=True, slots=True)
class CredentialPlace:
    """
    Where a route's callers put their credential.

    *kind* "authorization": the Authorization field (Bearer or token scheme); "header": the whole value of
    the field *header*; "basic": the password of HTTP Basic.
    """

    kind: Literal["authorization", "header", "basic"] = "authorization"
    header: str = "Authorization"


@dataclass(frozen=True, slots=True)
class Injection:
    """
    How the connection token enters the upstream request.

    *kind* "header": the field *name* gets *format* with "{token}" filled in; "basic": Authorization gets
    Basic and the base64 of *format* filled in (RFC 7617); "query": the parameter *name* gets *format* filled in,
    percent-encoded.
    """

    kind: Literal["header", "basic", "query"] = "header"
    name: str = "Authorization"
    format: str = "Bearer {token}"


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds until the upstream must have accepted, begun to answer, and gone on answering."""

    connect_seconds: float = 5.0
    response_seconds: float = 60.0
    idle_seconds: float = 300.0


@dataclass(frozen=True, slots=True)
class Limits:
    """
    What one route takes. *replay_bytes* is the size up to which a body is kept for a second send.

    *requests_per_minute* and *concurrent_per_caller* count per caller, *concurrent* per route; None means no limit. By
    default one slow upstream cannot hold all that the process has.
    """

    max_body_bytes: int = 104_857_600
    replay_bytes: int = 1_048_576
    requests_per_minute: int | None = None
    concurrent: int | None = 2_000
    concurrent_per_caller: int | None = None


@dataclass(frozen=True, slots=True)
class TrafficLimits:
    """What the traffic listener takes: connections in all, and from one address (threats G1)."""

    connections: int = 4_096
    connections_per_address: int = 1_024


@dataclass(frozen=True, slots=True)
class Origin:
    """
    Scheme, host and port of an upstream. *host* is ASCII, lower case, an IPv6 literal without brackets.

    *host_field* is the value of the Host field (RFC 9112 section 3.2): the port only where it is not the default.
    """

    scheme: Literal["http", "https"]
    host: str
    port: int
    host_field: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = 443 if self.scheme == "https" else 80
        object.__setattr__(self, "host_field", host if self.port == default else f"{host}:{self.port}")

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host_field}"


@dataclass(frozen=True, slots=True)
class AllowPattern:
    """One entry of a route's `allow`: *method* ("*" for any) and a path glob below the prefix."""

    method: str
    path: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """
    One shape of an API answer that says: this token is not accepted (any more).

    *status* is the answer's status; *pointer* (RFC 6901) names a string in its JSON body, and the answer counts where
    that string is one of *values*. An empty *pointer* means that the status alone says it.
    """

    status: int
    pointer: str = ""
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class UpstreamRules:
    """
    What is known of the API at an upstream's origin. `UpstreamRules()` is an API of which nothing is known.

    *credential_fields* (lower case) and *credential_params* (query parameters, decoded) are the names under which it
    takes a credential, beside Authorization. *rejected* are its answers that reject a token, beside a plain 401.
    *minting_paths* hand out further credentials, *multiplex_paths* carry several calls in one request: globs of the
    path at the origin, base path included, as in `AllowPattern`.
    """

    credential_fields: frozenset[str] = frozenset()
    credential_params: frozenset[str] = frozenset()
    rejected: tuple[Rejected, ...] = ()
    minting_paths: tuple[str, ...] = ()
    multiplex_paths: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """
    One upstream API as agents reach it: what a `routes:` entry of routes.yaml says, checked.

    *prefix* begins with "/" and has no trailing "/" (the root is ""); *base_path* is the upstream URL's path
    in the same form. *host* restricts the route to one Host of the traffic listener. *scopes* is the exact set,
    sorted, or None for the latest token. An empty *allow* allows everything.

    *upgrade* are the protocols that may be switched to. *echo_guard* is what happens to an answer that holds the token:
    nothing, a word in the record, or it is cut. *method_override*: a field that names another method is refused, or
    judged beside the real one. *foreign_credentials*: a credential of the caller's own for the upstream is removed, or
    the request refused. *multiplex*: requests that carry several calls pass. *minting*: calls that hand out further
    credentials are refused, or pass. *jsonp*: so are those that ask for a script. *audit*: a call's line is in the
    kernel before the call leaves, or on the disk.
    """

    name: str
    prefix: str
    origin: Origin
    connection: str
    base_path: str = ""
    host: str | None = None
    subject: SubjectKind = "user"
    account: str | None = None
    scopes: tuple[str, ...] | None = None
    allow: tuple[AllowPattern, ...] = ()
    encoded: frozenset[Literal["slash", "percent"]] = frozenset()
    credential: CredentialPlace = CredentialPlace()
    inject: Injection = Injection()
    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()
    egress: Egress = Egress()
    upgrade: frozenset[Literal["websocket"]] = frozenset()
    echo_guard: Literal["off", "record", "cut"] = "record"
    method_override: Literal["refuse", "judge"] = "refuse"
    foreign_credentials: Literal["remove", "refuse"] = "remove"
    multiplex: bool = False
    minting: Literal["refuse", "pass"] = "refuse"
    jsonp: Literal["refuse", "pass"] = "refuse"
    audit: Literal["default", "required"] = "default"


@dataclass(slots=True)
class RouteMatch:
    """
    The route of a request, its method, and the target to call.

    *path* is the canonical raw path below the prefix, beginning with "/" (what patterns and policies see);
    *target* is the request target sent upstream: base path, path, "?" and query, byte for byte; *upstream_path* and
    *query* are its two parts, so that nobody splits it again.
    Not frozen: one is made per request, and that would cost 0.5 microseconds.
    """

    route: Route
    method: str
    path: str
    target: str
    upstream_path: str
    query: str


@dataclass(frozen=True, slots=True)
class Caller:
    """
    Who is calling, as a verified credential says. Never made from anything a caller merely claims.

    *tenant* is the tenant that the credential names as current; *tenants* are all it may choose from.
    *user* is None for a caller that stands for no user. *key_id* is the public id of an agent or management key.
    """

    kind: CallerKind
    user: str | None
    tenants: frozenset[str] = frozenset()
    tenant: str | None = None
    client: str | None = None
    roles: frozenset[str] = frozenset()
    permissions: frozenset[str] = frozenset()
    scopes: frozenset[str] = frozenset()
    expires_at: float | None = None
    issuer: str | None = None
    key_id: str | None = None


class Subject(NamedTuple):
    """Whose connection token is asked for: a user's, a user's within a tenant, or a tenant's."""

    user: str | None
    tenant: str | None
    account: str | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a call may go out: the id of the *rule* that decided (None: no rule matched) and a sentence."""

    allowed: bool
    rule: str | None
    reason: str


class TokenKey(NamedTuple):
    """
    The identity of a connection token at its token service (contract section 4).

    *user* without *tenant*, both, or *tenant* alone are three levels that never stand in for each other.
    *scopes* is sorted and without duplicates; None asks for the latest token.
    """

    connection: str
    user: str | None
    tenant: str | None
    scopes: tuple[str, ...] | None = None
    account: str | None = None

    @property
    def owner(self) -> str:
        """Connection, user and tenant as one string that no other triple has: what the list of changes names."""
        return token_owner(self.connection, self.user, self.tenant)


def token_owner(connection: str, user: str | None, tenant: str | None) -> str:
    """Return the name under which changes of these tokens are announced: a digest, so its length is bounded."""
    joined = json.dumps([connection, user or "", tenant or ""]).encode()
    return hashlib.sha256(joined).hexdigest()


# What RFC 6749 (appendix A.12) lets a token be, without what could end it or begin another value in a field. Wider than
# the b64token of RFC 6750: Salesforce issues "!", Asana ":", Atlassian "=" inside.
_FIELD_TOKEN = re.compile(r"[!#-+\--:<-\[\]-~]+")
_PRINTABLE_TOKEN = re.compile(r"[ -~]+")
TokenForm = Literal["field", "printable", "unusable"]


@dataclass(frozen=True, slots=True)
class ConnectionToken:
    """
    A provider's access token as the token service handed it out.

    *id* names the grant (the token family): a refresh keeps it. From *refresh_at* on the token service is asked
    again before the token is used; None where the expiry is unknown. *origins* are the only origins it may be
    sent to; None means that the connection does not restrict them. *refreshed* tells that this answer cost an
    exchange with the provider.

    *form* says where the token may be written: "field" (as it is, into a header field: visible ASCII without quotes,
    backslash, comma and semicolon), "printable" (encoded only), or nowhere. Found once, not for each request.
    """

    id: str
    access_token: str = field(repr=False)
    token_type: str = "Bearer"  # noqa: S105  # the name of a scheme (RFC 6750)
    expires_at: float | None = None
    refresh_at: float | None = None
    scopes: tuple[str, ...] = ()
    origins: tuple[str, ...] | None = None
    refreshed: bool = False
    form: TokenForm = field(init=False, compare=False)

    def __post_init__(self) -> None:
        form: TokenForm = "unusable"
        if _FIELD_TOKEN.fullmatch(self.access_token) is not None:
            form = "field"
        elif _PRINTABLE_TOKEN.fullmatch(self.access_token) is not None:
            form = "printable"
        object.__setattr__(self, "form", form)


@dataclass(frozen=True, slots=True)
class PageRequest:
    """A browser's request for a page. *path* and *query* are raw, *headers* by lower-case name, *body* up to 64 KiB."""

    method: str
    path: str
    query: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)
    peer: str = ""


@dataclass(frozen=True, slots=True)
class PageAnswer:
    """The page. *headers* without Content-Length, which is the length of *body*; a HEAD gets no body."""

    status: int
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ConnectOffer:
    """What a caller without a connection can do: show *url* to the user, ask *wait_url* until it says connected."""

    url: str = field(repr=False)
    wait_url: str = field(repr=False)
