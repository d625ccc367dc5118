"""
Which grant a connection's tokens come of, and the exchange that brings the next one. No I/O.

Rules:
1. A connection has one grant: its field `grantType`, else `api_key` for API-key connections, else the authorization
   code. `exchange_request` and `read_exchange_answer` cover all of them; when to exchange, `refresh.py` decides.
2. Client credentials, JWT bearer and GitHub App installations are *minted*: each exchange begins anew from the
   connection's own secret. Nothing rotates, so a lost answer costs nothing and no refusal is the end of a grant.
3. What is minted belongs to the tenant level, without an account: a caller chooses neither the installation nor the
   service account. Its scopes are the connection's own or some of them, never more.
4. A Google service account is its JSON key as the client secret; a GitHub App is its private key, with the App's id as
   the client id and the installation in the field `installationId` (or the whole token URL).

Sources: RFC 6749 section 4.4; RFC 7523 section 2.1; Google "OAuth 2.0 for server to server applications"; GitHub
"Generating an installation access token for a GitHub App".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import get_args

import orjson

from gateway.models import TokenKey
from gateway.providers.quirks import Grant
from gateway.vault.client_auth import KeyUnusable, SigningKey, read_key, sign, text_of
from gateway.vault.connection import Connection
from gateway.vault.oauth import (
    BEARER,
    USER_AGENT,
    ExchangeFailed,
    Granted,
    GrantRefused,
    Outcome,
    TokenRequest,
    is_token,
    read_token_answer,
    refresh_request,
    token_request,
)
from gateway.vault.stored_token import StoredToken

MINTED: frozenset[Grant] = frozenset({"client_credentials", "jwt_bearer", "github_app"})
GRANTS: tuple[Grant, ...] = get_args(Grant)
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
ASSERTION_SECONDS = 600  # Google takes up to an hour
GITHUB_BACKDATED_SECONDS = 60  # GitHub's advice against clocks that differ
GITHUB_SECONDS = 540  # GitHub takes at most ten minutes, counted from the backdated start
GITHUB_API = "https://api.github.com"


def grant_of(connection: Connection) -> Grant:
    """Return the grant of the connection (rule 1)."""
    said = getattr(connection, "grant", None) or text_of(connection, "grantType")
    for grant in GRANTS:
        if grant == said:
            return grant
    return "api_key" if connection.kind == "apikey" else "authorization_code"


def is_minted(connection: Connection) -> bool:
    """Tell whether tokens of the connection come of its own secret alone, without a user and a refresh token."""
    return grant_of(connection) in MINTED


def can_exchange(connection: Connection, token: StoredToken) -> bool:
    """Tell whether there is something to get another token with."""
    return can_renew(connection, has_refresh_token=token.refresh_token is not None)


def can_renew(connection: Connection, *, has_refresh_token: bool) -> bool:
    """Tell the same as `can_exchange`, of a token that was not opened."""
    if is_minted(connection):
        return True
    has_endpoint = connection.token_url or connection.quirks.refresh_url or text_of(connection, "discoveryUrl")
    return has_refresh_token and bool(has_endpoint)


def endpoint_of(connection: Connection) -> str:
    """
    Return the URL that the next exchange of the connection's tokens asks first, "" where nothing says one.

    That is the token endpoint, or the provider's metadata where only they know it.
    """
    own, metadata = connection.token_url, text_of(connection, "discoveryUrl")
    match grant_of(connection):
        case "github_app":
            return own if own and not connection.has_templates_token_url else GITHUB_API
        case "jwt_bearer":
            return own or metadata or str(_account_of(connection).get("token_uri") or "")
        case "client_credentials":
            return own or metadata
        case _:
            refresh = connection.quirks.refresh_url
            return (refresh or own) if own or not metadata else metadata


def may_mint(connection: Connection, key: TokenKey) -> bool:
    """Tell whether the first token of *key* can be minted (rule 3)."""
    if not is_minted(connection) or key.user is not None or not key.tenant or key.account is not None:
        return False
    own_tenant = text_of(connection, "tenantId")
    if own_tenant and own_tenant != key.tenant:
        return False
    return key.scopes is None or set(key.scopes) <= set(connection.default_scopes)


def exchange_request(
    connection: Connection, token: StoredToken, *, now: float, random_bytes: Callable[[int], bytes]
) -> TokenRequest:
    """
    Return the request that brings the next access token of *token*, whatever the connection's grant.

    Raises:
        KeyUnusable: the client secret is not the private key (or JSON key) that the grant signs with.
    """
    scopes = token.requested_scopes or connection.default_scopes
    match grant_of(connection):
        case "client_credentials":
            form = [("grant_type", "client_credentials"), *_scope(connection, scopes)]
            return token_request(connection, form, url=connection.token_url, now=now, random_bytes=random_bytes)
        case "jwt_bearer":
            return _jwt_bearer_request(connection, scopes, now=now, random_bytes=random_bytes)
        case "github_app":
            return _github_request(connection, now=now)
        case _:
            granted = token.granted_scopes or scopes
            return refresh_request(
                connection, token.refresh_token or "", scopes=granted, now=now, random_bytes=random_bytes
            )


def read_exchange_answer(
    connection: Connection, status: int, body: bytes, *, now: float, retry_after: str | None = None
) -> Outcome:
    """Return what the answer to `exchange_request` means."""
    quirks = connection.quirks
    if grant_of(connection) == "github_app":
        outcome = _read_github(status, body, now=now, retry_after=retry_after)
    else:
        outcome = read_token_answer(status, body, now=now, retry_after=retry_after, quirks=quirks)
    return settle(connection, outcome)


def settle(connection: Connection, outcome: Outcome) -> Outcome:
    """Return *outcome* as it counts for the connection's grant: what is minted loses nothing (rule 2)."""
    if not is_minted(connection):
        return outcome
    if isinstance(outcome, GrantRefused):
        return ExchangeFailed("invalid_grant", is_outcome_unknown=False)
    if isinstance(outcome, ExchangeFailed):
        return replace(outcome, is_outcome_unknown=False)
    return replace(outcome, refresh_token=None)


def _scope(connection: Connection, scopes: tuple[str, ...]) -> list[tuple[str, str]]:
    quirks = connection.quirks
    return [(quirks.scopes_param, quirks.scope_separator.join(scopes))] if scopes else []


def _jwt_bearer_request(
    connection: Connection, scopes: tuple[str, ...], *, now: float, random_bytes: Callable[[int], bytes]
) -> TokenRequest:
    key, issuer, own_url = _service_account(connection)
    url = connection.token_url or own_url
    claims: dict[str, object] = {"iss": issuer, "aud": text_of(connection, "audience") or url}
    if subject := text_of(connection, "subject"):
        claims["sub"] = subject
    elif not own_url:
        claims["sub"] = issuer  # RFC 7523 section 3 requires one; Google takes it as a wish to act for that user
    if scopes:
        claims["scope"] = " ".join(scopes)
    claims["jti"] = random_bytes(16).hex()
    assertion = sign(key, claims, now=now, lives_seconds=ASSERTION_SECONDS)
    form = [("grant_type", JWT_BEARER), ("assertion", assertion)]
    public = replace(connection, client_secret=None, token_auth="none")  # noqa: S106  # a method's name
    if own_url:
        public = replace(public, client_id="")  # the assertion says who the client is
    else:
        form += _scope(connection, scopes)
    return token_request(public, form, url=url, now=now, random_bytes=random_bytes)


def _service_account(connection: Connection) -> tuple[SigningKey, str, str]:
    """Return the key to sign with, who signs, and the token URL of a service account's JSON key ("" for other keys)."""
    account = _account_of(connection)
    if not account:
        key = read_key(connection.client_secret or "", key_id=text_of(connection, "keyId"))
        return key, connection.client_id, ""
    said = [account.get(name) for name in ("private_key", "private_key_id", "client_email", "token_uri")]
    if not all(isinstance(value, str) for value in said):
        raise KeyUnusable("the client secret is no complete service account key")
    private_key, key_id, email, token_uri = map(str, said)
    return read_key(private_key, key_id=key_id), email, token_uri


def _account_of(connection: Connection) -> dict[str, object]:
    """Return the service account's JSON key that the client secret is; empty for other secrets."""
    try:
        account = orjson.loads(connection.client_secret or "")
    except orjson.JSONDecodeError:
        return {}
    return account if isinstance(account, dict) and account.get("type") == "service_account" else {}


def _github_request(connection: Connection, *, now: float) -> TokenRequest:
    key = read_key(connection.client_secret or "")
    start = now - GITHUB_BACKDATED_SECONDS
    assertion = sign(
        replace(key, key_id=""), {"iss": connection.client_id}, now=start, lives_seconds=GITHUB_SECONDS
    )  # fmt: skip
    installation = text_of(connection, "installationId")
    # A template's token URL is the one where users' codes are exchanged, and no installation's.
    own_url = "" if connection.has_templates_token_url else connection.token_url
    if not own_url and not installation.isdecimal():
        raise KeyUnusable("installationId: expected the installation's number")
    url = own_url or f"{GITHUB_API}/app/installations/{installation}/access_tokens"
    headers = {
        "Accept": "application/vnd.github+json",
        "Authorization": f"Bearer {assertion}",
        "User-Agent": USER_AGENT,
    }
    return TokenRequest(url, headers, b"")


def _read_github(status: int, body: bytes, *, now: float, retry_after: str | None) -> Outcome:
    """Return what GitHub's answer means: 201 with `token` and `expires_at` in ISO 8601."""
    plain = read_token_answer(status, body, now=now, retry_after=retry_after)
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        answer = None
    if status != 201 or not isinstance(answer, dict) or not is_token(answer.get("token")):
        return plain if not isinstance(plain, Granted) else ExchangeFailed("malformed_answer", is_outcome_unknown=False)
    try:
        expires_at: float | None = datetime.fromisoformat(str(answer.get("expires_at"))).timestamp()
    except ValueError:
        expires_at = None
    return Granted(str(answer["token"]), None, BEARER, expires_at, None)
