"""
The four fetches (contract rows 1 to 4): who is handed a raw connection token.

Rules (DESIGN section 7, Levels and Raw tokens):
1. A management key fetches everything, and bypasses policy.
2. An access token needs the scope outbound.token.fetch and an allow policy. A user's fetches that user's tokens (in the
   user's own tenants), a client's own the tokens of its tenants.
3. Agent keys get none: they go through the gateway.
4. Each token handed out, and each refusal, is recorded before the answer is sent.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.errors import ConnectionRequired
from gateway.models import Subject, TokenKey
from gateway.vault import wire
from gateway.vault.calls import Call
from gateway.vault.grants import is_minted
from gateway.vault.record import whose
from gateway.vault.wire import ApiError
from gateway.vault.wire_tokens import (
    FetchTenant,
    FetchTenantByScopes,
    FetchUser,
    FetchUserByScopes,
    Options,
    token_of,
)

# The contract's. An issuer's required_scope in routes.yaml may ask for more, never for less.
FETCH_SCOPE = "outbound.token.fetch"

MINTED_FOR_TENANTS = "This connection's tokens are made by the gateway, for tenants only: no user has one."
NOT_MINTED = (
    "The gateway makes this connection's tokens, for its own tenant where it names one, without an account, and with "
    "its default scopes or some of them. This is another one, and there is none."
)

Json = Mapping[str, object]


async def fetch_user_token(call: Call) -> Json:
    """Fetch a user's latest token."""
    message = wire.read_message(FetchUser, call.content)
    return await _fetch(call, message, user=message.userId, scopes=None)


async def fetch_user_token_by_scopes(call: Call) -> Json:
    """Fetch a user's token of exactly these scopes."""
    message = wire.read_message(FetchUserByScopes, call.content)
    return await _fetch(call, message, user=message.userId, scopes=message.scopes)


async def fetch_tenant_token(call: Call) -> Json:
    """Fetch a tenant's latest token."""
    message = wire.read_message(FetchTenant, call.content)
    return await _fetch(call, message, user=None, scopes=None)


async def fetch_tenant_token_by_scopes(call: Call) -> Json:
    """Fetch a tenant's token of exactly these scopes."""
    message = wire.read_message(FetchTenantByScopes, call.content)
    return await _fetch(call, message, user=None, scopes=message.scopes)


async def _fetch(call: Call, message: FetchUser | FetchTenant, *, user: str | None, scopes: list[str] | None) -> Json:
    subject = Subject(user=user, tenant=message.tenantId, account=message.externalIdentifier)
    about = {"connection": message.appId} | whose(*subject)
    refusal = _why_not(call, subject, connection=message.appId)
    if refusal is not None:
        call.note("raw_token_refused", reason=refusal, **about)
        raise ApiError(wire.FORBIDDEN, refusal)
    options = message.options or Options()
    key = TokenKey(
        connection=message.appId,
        user=subject.user,
        tenant=subject.tenant,
        scopes=None if scopes is None else tuple(sorted(set(scopes))),
        account=subject.account,
    )
    try:
        token, connection = await call.api.vault.fetch_stored(key, force_refresh=options.forceRefresh is True)
    except ConnectionRequired as exc:
        found = await call.api.vault.connections.load(message.appId)
        if found is None or not is_minted(found):
            raise
        # Nobody can connect it: the text of the refusal would send its reader to look for a page that is not there.
        raise ApiError(wire.TOKEN_NOT_FOUND, NOT_MINTED if user is None else MINTED_FOR_TENANTS) from exc
    with_refresh_token = options.withRefreshToken is True
    call.note("raw_token_fetched", token=token.id, with_refresh_token=with_refresh_token, **about)
    return {"token": token_of(token, kind=connection.kind, with_refresh_token=with_refresh_token)}


def _why_not(call: Call, subject: Subject, *, connection: str) -> str | None:
    """Return why the caller may not have the subject's raw token, or None."""
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
