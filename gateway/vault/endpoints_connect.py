"""
Connecting by way of the API, and what needs no connection (contract rows 20, 21, 23, 24).

Rules (descope-contract.md section 6; DESIGN section 7, Levels):
1. A link to connect is bound to somebody: it takes an access token or a session JWT, with or without its issuer's
   required scope. A management key stands for nobody, an agent key gets its link from a route's refusal.
2. A user connects for themselves, in one of their own tenants (`links.py` says so, and where a browser may be sent in
   the end). No policy is asked: policies decide what is done with the token.
3. Whoever connects a tenant decides whose account everybody in it uses. So that takes an allow policy as a raw fetch of
   the tenant's token does: without routes, methods and paths (`access/policy.py`, rule 5).
4. The link leads to a page of ours, which shows user, connection and scopes, and asks (`connect.py`).
5. The keys are public: those of every configured issuer, each once.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.errors import SubjectNotAllowed
from gateway.models import Subject
from gateway.vault import wire
from gateway.vault.calls import Call
from gateway.vault.links import ConnectInvalid
from gateway.vault.record import whose
from gateway.vault.wire import ApiError
from gateway.vault.wire_connect import Connect, ConnectOptions

RATE_LIMIT_TIER = "tier1"

Json = Mapping[str, object]


async def connect(call: Call) -> Json:
    """Begin to connect the caller's account, and return the page where the user goes on."""
    message = wire.read_message(Connect, call.content)
    if call.api.connecting is None:
        raise ApiError(wire.NOT_FOUND, "This gateway cannot connect accounts.")
    options = message.options or ConnectOptions()
    tenant = message.tenantId or options.tenantId
    is_tenant_level = message.tenantLevel is True or options.tenantLevel is True
    account = message.externalIdentifier or options.externalIdentifier
    about = {"connection": message.appId} | whose(None if is_tenant_level else call.caller.user, tenant, account)
    if not await call.api.vault.connections.known(message.appId):
        raise ApiError(wire.APP_NOT_FOUND, "There is no connection of this appId.")
    if is_tenant_level and tenant is not None:
        decision = call.api.policies.decide_raw(call.caller, Subject(None, tenant, account), connection=message.appId)
        if not decision.allowed:
            call.note("connect_refused", reason=decision.reason, **about)
            raise ApiError(wire.FORBIDDEN, "No policy of this gateway allows you to connect this tenant's account.")
    try:
        link = await call.api.connecting.start(
            message.appId,
            user=call.caller.user,
            tenant=tenant,
            tenant_level=is_tenant_level,
            account=account,
            scopes=options.scopes,
            redirect_url=options.redirectUrl,
            started_by=call.caller,
        )
    except SubjectNotAllowed as exc:
        call.note("connect_refused", reason=exc.detail, **about)
        raise
    except ConnectInvalid as exc:
        raise ApiError(wire.INVALID, str(exc)) from exc
    call.note("connect_started", **about)
    return {"url": link.url}


async def rate_limit_tier(call: Call) -> Json:
    """Tell the SDKs their rate limit tier: they send it back, and it means nothing here."""
    return {"rateLimitTier": RATE_LIMIT_TIER}


async def public_keys(call: Call) -> Json:
    """Publish the keys that access tokens are verified with."""
    if call.params["id"] != call.api.project:
        raise ApiError(wire.UNAUTHORIZED, "There is no such project here.")
    if call.api.issuers is None:
        return {"keys": []}
    # Two issuers may publish one key, and two keys may have one kid: only what is the same is told once.
    keys = {tuple(sorted(key.items())): key for key in await call.api.issuers.public_keys()}
    return {"keys": list(keys.values())}
