"""
The endpoints of the token API: the contract's table, and what each row does.

Rules (descope-contract.md):
1. `ENDPOINTS` is the contract's table; it routes requests, and a document can be made of it. A row without a handler
   answers 404 "not supported yet".
2. A management key may do everything, and bypasses policy. An access token may use the four fetches only, with the
   scope outbound.token.fetch and an allow policy: a user's for that user's tokens (in the user's own tenants), a
   client's own for the tokens of its tenants. Agent keys are refused: they go through the gateway (DESIGN section 7).
3. Whoever is handed a raw token, and whoever changes something, is recorded before the answer is sent, without secrets.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from gateway.access.keys import KeyRing
from gateway.access.policy import PolicySet
from gateway.models import Caller, Subject, TokenKey
from gateway.vault import wire
from gateway.vault.connections import ConnectionExists, ConnectionInvalid
from gateway.vault.refresh import RefreshFailed
from gateway.vault.service import Vault
from gateway.vault.wire import ApiError

# The contract's. An issuer's required_scope in routes.yaml may ask for more, never for less.
FETCH_SCOPE = "outbound.token.fetch"
RATE_LIMIT_TIER = "tier1"
OUTBOUND = "/v1/mgmt/outbound"

Record = Callable[..., None]  # record(event, **fields): one line about who did what
Json = dict[str, object]


class Identifies(Protocol):
    """Tells who holds an access token (`access/identity.py`)."""

    async def identify(self, credential: str) -> Caller:
        """Return the caller, or raise CallerUnauthenticated, KeysUnavailable or CallerScopeMissing."""


@dataclass(frozen=True, slots=True)
class TokenApi:
    """What the endpoints work with."""

    vault: Vault
    identity: Identifies
    keyring: KeyRing
    policies: PolicySet
    project: str
    clock: Callable[[], float]
    record: Record

    def note(self, event: str, **fields: object) -> None:
        """Record *event*, with its time."""
        self.record(event, at=self.clock(), **fields)


@dataclass(frozen=True, slots=True)
class Call:
    """One authenticated request. *content* is its body, *params* hold the path's placeholders."""

    api: TokenApi
    caller: Caller
    credential: str = field(repr=False)
    content: dict[str, Any] = field(repr=False)
    params: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A row of the contract's table. "either" also takes access tokens; without *handle*: not supported yet."""

    row: int
    method: Literal["GET", "POST", "DELETE"]
    path: str
    credential: Literal["management", "either"]
    request: type[wire.Message] | None
    handle: Callable[[Call], Awaitable[Json]] | None

    @property
    def is_fetch(self) -> bool:
        """Whether it is a fetch: there a wrong method and malformed JSON are 500 (contract section 11)."""
        return self.row <= 4

    @property
    def pattern(self) -> re.Pattern[str]:
        """What the whole path must match."""
        return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(self.path)))


# --- the four fetches ------------------------------------------------------------------------------------------------


async def fetch_user_token(call: Call) -> Json:
    """Row 1: the user's latest token."""
    message = wire.read_message(wire.FetchUser, call.content)
    return await _fetch(call, message, user=message.userId, scopes=None)


async def fetch_user_token_by_scopes(call: Call) -> Json:
    """Row 2: the user's token of exactly these scopes."""
    message = wire.read_message(wire.FetchUserByScopes, call.content)
    return await _fetch(call, message, user=message.userId, scopes=message.scopes)


async def fetch_tenant_token(call: Call) -> Json:
    """Row 3: the tenant's latest token."""
    message = wire.read_message(wire.FetchTenant, call.content)
    return await _fetch(call, message, user=None, scopes=None)


async def fetch_tenant_token_by_scopes(call: Call) -> Json:
    """Row 4: the tenant's token of exactly these scopes."""
    message = wire.read_message(wire.FetchTenantByScopes, call.content)
    return await _fetch(call, message, user=None, scopes=message.scopes)


async def _fetch(
    call: Call, message: wire.FetchUser | wire.FetchTenant, *, user: str | None, scopes: list[str] | None
) -> Json:
    subject = Subject(user=user, tenant=message.tenantId, account=message.externalIdentifier)
    who = _who(call.caller, subject) | {"connection": message.appId}
    refusal = _why_not(call, subject, connection=message.appId)
    if refusal is not None:
        call.api.note("raw_token_refused", reason=refusal, **who)
        raise ApiError(wire.FORBIDDEN, refusal)
    options = message.options or wire.Options()
    key = TokenKey(
        connection=message.appId,
        user=subject.user,
        tenant=subject.tenant,
        scopes=None if scopes is None else tuple(sorted(set(scopes))),
        account=subject.account,
    )
    token, connection = await call.api.vault.fetch_stored(key, force_refresh=options.forceRefresh is True)
    with_refresh_token = options.withRefreshToken is True
    call.api.note("raw_token_fetched", token=token.id, with_refresh_token=with_refresh_token, **who)
    return {"token": wire.token_of(token, kind=connection.kind, with_refresh_token=with_refresh_token)}


def _why_not(call: Call, subject: Subject, *, connection: str) -> str | None:
    """Return why the caller may not have the subject's raw token, or None (rule 3)."""
    caller = call.caller
    if caller.kind == "management":
        return None
    if caller.kind == "agent":
        return "Agent keys get no raw connection tokens. Call the API through the gateway, or use an access token."
    if FETCH_SCOPE not in caller.scopes:
        return f"The access token lacks the scope {FETCH_SCOPE}."
    # Client credentials leave `user` None, also where the issuer repeats the client in `sub` (access/claims.py).
    if subject.user is None and caller.user is not None:
        return "A tenant's token is for the access tokens of clients, not of users."
    if subject.user != caller.user:
        return "The access token may fetch its own user's tokens only."
    if subject.tenant is not None and subject.tenant not in caller.tenants:
        return "The access token is not of this tenant."
    decision = call.api.policies.decide_raw(caller, subject, connection=connection)
    return None if decision.allowed else "No policy of this gateway allows to fetch this token."


# --- management ------------------------------------------------------------------------------------------------------


async def upload_user_token(call: Call) -> Json:
    """Row 8: store a user's token that was obtained elsewhere."""
    return await _upload(call, wire.read_message(wire.UploadUserToken, call.content))


async def upload_tenant_token(call: Call) -> Json:
    """Row 9: store a tenant's token that was obtained elsewhere."""
    return await _upload(call, wire.read_message(wire.UploadTenantToken, call.content))


async def _upload(call: Call, message: wire.UploadUserToken | wire.UploadTenantToken) -> Json:
    draft = wire.draft_of(message)
    connection = await call.api.vault.connections.load(draft.connection)
    if connection is None:
        raise ApiError(wire.APP_NOT_FOUND, "There is no connection of this appId.")
    if connection.kind != "oauth":
        raise ApiError(wire.INVALID, "appId: this connection holds API keys, not OAuth tokens")
    verify = message.verifyRefresh is True
    if verify and (draft.refresh_token is None or not connection.token_url):
        raise ApiError(wire.INVALID, "verifyRefresh: expected a refreshToken, and a connection with a tokenUrl")
    try:
        stored = await call.api.vault.upload(draft, verify_refresh=verify)
    except RefreshFailed as exc:
        raise ApiError(wire.INVALID, "The provider did not accept the refresh token; nothing was stored.") from exc
    subject = Subject(draft.user or None, draft.tenant or None, draft.account or None)
    call.api.note("token_uploaded", connection=draft.connection, token=stored.id, **_who(call.caller, subject))
    return {}


async def create_app_entry(call: Call) -> Json:
    """Row 14: create a connection."""
    connections = call.api.vault.connections
    wanted = wire.read_connection(wire.read_message(wire.CreateApp, call.content), new_id=connections.new_id())
    try:
        created = await connections.create(wanted)
    except ConnectionInvalid as exc:
        raise ApiError(wire.INVALID, str(exc)) from exc
    except ConnectionExists as exc:
        raise ApiError(wire.APP_EXISTS, "Another connection has this id or this name.") from exc
    call.api.note("connection_created", connection=created.id, key=call.caller.key_id)
    return {"app": wire.app_of(created)}


async def load_app(call: Call) -> Json:
    """Row 18: load a connection."""
    connection = await call.api.vault.connections.load(call.params["id"])
    if connection is None:
        raise ApiError(wire.APP_NOT_FOUND, "There is no connection of this id.")
    return {"app": wire.app_of(connection)}


async def rate_limit_tier(call: Call) -> Json:
    """Row 23: the handshake of the SDKs, which send the tier back and do nothing with it here."""
    return {"rateLimitTier": RATE_LIMIT_TIER}


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(1, "POST", f"{OUTBOUND}/app/user/token/latest", "either", wire.FetchUser, fetch_user_token),
    Endpoint(2, "POST", f"{OUTBOUND}/app/user/token", "either", wire.FetchUserByScopes, fetch_user_token_by_scopes),
    Endpoint(3, "POST", f"{OUTBOUND}/app/tenant/token/latest", "either", wire.FetchTenant, fetch_tenant_token),
    Endpoint(
        4, "POST", f"{OUTBOUND}/app/tenant/token", "either", wire.FetchTenantByScopes, fetch_tenant_token_by_scopes
    ),
    Endpoint(5, "DELETE", f"{OUTBOUND}/user/tokens", "management", None, None),
    Endpoint(6, "DELETE", f"{OUTBOUND}/token", "management", None, None),
    Endpoint(7, "GET", f"{OUTBOUND}/apps-with-user-token", "management", None, None),
    Endpoint(
        8, "POST", f"{OUTBOUND}/app/user/oauthtoken/upload", "management", wire.UploadUserToken, upload_user_token
    ),
    Endpoint(
        9, "POST", f"{OUTBOUND}/app/tenant/oauthtoken/upload", "management", wire.UploadTenantToken, upload_tenant_token
    ),
    Endpoint(10, "POST", f"{OUTBOUND}/app/user/oauthtoken/batch/upload", "management", None, None),
    Endpoint(11, "POST", f"{OUTBOUND}/app/tenant/oauthtoken/batch/upload", "management", None, None),
    Endpoint(12, "POST", f"{OUTBOUND}/app/user/apikey/upload", "management", None, None),
    Endpoint(13, "POST", f"{OUTBOUND}/app/tenant/apikey/upload", "management", None, None),
    Endpoint(14, "POST", f"{OUTBOUND}/app/create", "management", wire.CreateApp, create_app_entry),
    Endpoint(15, "POST", f"{OUTBOUND}/app/create/bytemplate", "management", None, None),
    Endpoint(16, "POST", f"{OUTBOUND}/app/update", "management", None, None),
    Endpoint(17, "POST", f"{OUTBOUND}/app/delete", "management", None, None),
    Endpoint(18, "GET", f"{OUTBOUND}/app/{{id}}", "management", None, load_app),
    Endpoint(19, "GET", f"{OUTBOUND}/apps", "management", None, None),
    Endpoint(20, "POST", f"{OUTBOUND}/app/connect", "either", None, None),
    Endpoint(21, "POST", "/v1/outbound/oauth/connect", "either", None, None),
    Endpoint(23, "GET", "/v1/mgmt/license", "management", None, rate_limit_tier),
    Endpoint(24, "GET", "/v2/keys/{id}", "either", None, None),
)  # row 22 is the traffic listener's
PATTERNS = tuple((endpoint, endpoint.pattern) for endpoint in ENDPOINTS)


def _who(caller: Caller, subject: Subject) -> dict[str, object]:
    """The fields of a record line that tell who asked, and for whom."""
    return {
        "caller_kind": caller.kind,
        "caller_user": caller.user,
        "caller_client": caller.client,
        "key": caller.key_id,
        "user": subject.user,
        "tenant": subject.tenant,
        "account": subject.account,
    }
