"""
What the claims of a verified token must be, and whom they name (RFC 7519, RFC 9068).

Rules:
1. `exp`, `iss`, `aud` and `sub` are required. Times are finite numbers; `exp` lies ahead, at most MAX_LIFETIME_SECONDS;
   `iat` and `nbf` may lie ahead by LEEWAY_SECONDS, `exp` has no leeway: a cached caller ends with it.
2. `aud` is, or holds, one of the issuer's audiences, compared as a whole (threats B4).
3. What is no plain access token is refused: bound to a key (`cnf`), an ID token, a refresh token, a logout or security
   event token, a DPoP proof (RFC 8725 section 3.11, threats B6, B7).
4. A claim that is there has its type, or the token is refused; nothing is converted. Names are opaque (`names.py`).
5. A token without a user, or whose user is its client, stands for no user (client credentials).
6. The issuer's `user_prefix` goes before its users. Nobody gets into another issuer's part of the namespace by a name.

Only the tenant claim names the current tenant; roles inside of a tenants object are not read: which tenant they hold
for would be lost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from gateway.access.names import MAX_NAME_CHARS, is_name
from gateway.access.tokens import TokenRefused, UnverifiedToken
from gateway.errors import CallerScopeMissing
from gateway.models import Caller

LEEWAY_SECONDS = 60.0  # clocks apart, threats B8
MAX_LIFETIME_SECONDS = (
    31 * 86_400.0
)  # issuers' longest access tokens last 30 days; beyond is a mistake, as exp in ms is


@dataclass(frozen=True, slots=True)
class ClaimNames:
    """The names of the claims that hold what a `Caller` has. Top-level members of the token."""

    user: str = "sub"
    client: str = "azp"
    roles: str = "roles"
    permissions: str = "permissions"
    scopes: str = "scope"
    tenant: str = "dct"
    tenants: str = "tenants"


@dataclass(frozen=True, slots=True)
class Issuer:
    """
    One entry of `callers.issuers`, checked.

    *audience* are the names of this gateway of which a token must hold one; *jwks_uri* None means discovery;
    *required_scope* None means that no scope is asked for; *user_prefix* goes before every user of this issuer.
    """

    issuer: str
    audience: tuple[str, ...]
    jwks_uri: str | None = None
    algorithms: tuple[str, ...] = ("RS256", "ES256", "EdDSA")
    claims: ClaimNames = field(default_factory=ClaimNames)
    required_scope: str | None = "outbound.token.fetch"
    user_prefix: str = ""


def check_claims(token: UnverifiedToken, issuer: Issuer, *, now: float) -> None:
    """
    Raise unless *token*'s times, audience and kind are right. Needs no key, so it is done before one is looked for.

    Raises:
        TokenRefused: a claim is missing, wrong, or tells of another kind of token.
    """
    claims = token.claims
    expires_at = _time(claims, "exp")
    if expires_at is None:
        raise TokenRefused("no exp")
    if expires_at <= now:
        raise TokenRefused("expired")
    if expires_at > now + MAX_LIFETIME_SECONDS:
        raise TokenRefused("exp too far ahead")
    for name in ("iat", "nbf"):
        time = _time(claims, name)
        if time is not None and time > now + LEEWAY_SECONDS:
            raise TokenRefused(f"{name} ahead")
    if not is_name(claims.get("sub")):
        raise TokenRefused("no sub")
    audience = claims.get("aud")
    audiences = [audience] if isinstance(audience, str) else audience
    if not isinstance(audiences, list) or not all(isinstance(member, str) for member in audiences):
        raise TokenRefused("no aud")
    if not any(member in issuer.audience for member in audiences):
        raise TokenRefused("another audience")
    _check_kind(token)


def read_caller(
    token: UnverifiedToken, issuer: Issuer, *, foreign_prefixes: tuple[str, ...], requires_scope: bool = True
) -> Caller:
    """
    Return whom the verified *token* of *issuer* names. *foreign_prefixes* are the other issuers' user prefixes.

    Raises:
        TokenRefused: a claim has the wrong type, or the user would be another issuer's.
        CallerScopeMissing: its scopes cannot be read, or (where *requires_scope*) lack the issuer's `required_scope`.
    """
    claims, names = token.claims, issuer.claims
    scopes = _scopes(claims.get(names.scopes))
    required = issuer.required_scope if requires_scope else None
    if scopes is None or (required is not None and required not in scopes):
        raise CallerScopeMissing
    client = _optional_name(claims, names.client)
    user = _optional_name(claims, names.user)
    if user is not None and user == client:
        user = None
    tenant = _optional_name(claims, names.tenant)
    tenants = _tenants(claims.get(names.tenants))
    return Caller(
        kind="jwt",
        user=None if user is None else _prefixed(user, issuer.user_prefix, foreign_prefixes),
        tenants=tenants if tenant is None else tenants | {tenant},
        tenant=tenant,
        client=client,
        roles=_name_set(claims.get(names.roles)),
        permissions=_name_set(claims.get(names.permissions)),
        scopes=scopes,
        expires_at=float(claims["exp"]),
        issuer=issuer.issuer,
    )


def _check_kind(token: UnverifiedToken) -> None:
    claims = token.claims
    if "cnf" in claims:
        raise TokenRefused("bound to a key")  # RFC 9449, RFC 8705: no proof is checked here
    if "events" in claims or "htm" in claims or "htu" in claims:
        raise TokenRefused("an event or a proof")  # RFC 8417, OIDC back-channel logout; RFC 9449
    if claims.get("drn") == "DSR":
        raise TokenRefused("a refresh token")  # Descope
    if claims.get("token_use", "access") != "access":
        raise TokenRefused("not for access")  # Cognito: "id"
    if claims.get("typ", "Bearer") in ("ID", "Refresh", "Offline", "Logout"):
        raise TokenRefused("not for access")  # Keycloak
    # OpenID Connect Core 2, 3.1.3.6, 3.3.2.11. A token that says it is an access token may carry a nonce.
    if not token.is_access_token and any(name in claims for name in ("nonce", "at_hash", "c_hash", "s_hash")):
        raise TokenRefused("an ID token")


def _time(claims: dict[str, Any], name: str) -> float | None:
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TokenRefused(f"{name} is no number")
    try:
        time = float(value)
    except OverflowError as exc:
        raise TokenRefused(f"{name} is too large") from exc
    if not math.isfinite(time) or time < 0:
        raise TokenRefused(f"{name} is no time")
    return time


def _optional_name(claims: dict[str, Any], name: str) -> str | None:
    value = claims.get(name)
    if value is None or value == "":
        return None
    if not is_name(value):
        raise TokenRefused("a name is no name")
    return str(value)


def _name_set(value: object) -> frozenset[str]:
    """Return the members of a list of names, or one name alone."""
    if value is None or value == "":
        return frozenset()
    members = [value] if isinstance(value, str) else value
    if not isinstance(members, list) or not all(is_name(member) for member in members):
        raise TokenRefused("a list of names is none")
    return frozenset(members)


def _tenants(value: object) -> frozenset[str]:
    """Return the tenants of a list, or the member names of Descope's object {"<tenant>": {…}}."""
    return _name_set(list(value) if isinstance(value, dict) else value)


def _scopes(value: object) -> frozenset[str] | None:
    """Return the scopes of a space-separated string (RFC 9068) or a list; None where they cannot be read."""
    if value is None:
        return frozenset()
    members = [part for part in value.split(" ") if part] if isinstance(value, str) else value
    if not isinstance(members, list) or not all(is_name(member) for member in members):
        return None
    return frozenset(members)


def _prefixed(user: str, prefix: str, foreign_prefixes: tuple[str, ...]) -> str:
    name = prefix + user
    if len(name) > MAX_NAME_CHARS or name.startswith(foreign_prefixes):
        raise TokenRefused("a user of another issuer")
    return name
