"""
How the demo gets its connection: both users log in at the provider, and their tokens go into the vault.

Rules:
1. Every step is the real one, over HTTP: authorization code with PKCE and state, then the token API's own messages
   (descope-contract.md rows 14 and 8). Nothing reaches into provider or vault.
2. Any answer that is not the expected one ends the demo with the name of the step; no answer's text is repeated.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, quote_plus, urlencode, urlsplit

import orjson

from gateway.demo.grants import challenge_of
from gateway.demo.provider import CONTACTS_SCOPE, USERS, ClientCredentials
from gateway.net.client import Answer, OutboundClient, OutboundError

CONNECTION = "google-contacts"
FORM = "application/x-www-form-urlencoded"


class SeedFailed(Exception):
    """A step of the demo's preparation did not go as it must. The text names the step."""


@dataclass(frozen=True, slots=True)
class TokenAnswer:
    """What the provider's token endpoint answered; *expires_in* in seconds, as the provider says."""

    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    expires_in: int
    scopes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TokenApi:
    """Where the token API listens, and who may use it."""

    url: str
    project: str
    management_key: str = field(repr=False)


async def connect_user(
    client: OutboundClient,
    *,
    provider_url: str,
    credentials: ClientCredentials,
    redirect_uri: str,
    user: str,
    random_token: Callable[[], str],
) -> TokenAnswer:
    """
    Log *user* in at the provider and return the first tokens: the browser's and the client's half of RFC 6749 4.1.

    *random_token* gives an unguessable URL-safe text of at least 43 characters (RFC 7636 section 4.1).

    Raises:
        SeedFailed: an answer is not as it must be.
    """
    metadata = await _get_metadata(client, provider_url)
    verifier, state = random_token(), random_token()
    query = {
        "response_type": "code",
        "client_id": credentials.client_id,
        "redirect_uri": redirect_uri,
        "scope": CONTACTS_SCOPE,
        "state": state,
        "code_challenge": challenge_of(verifier),
        "code_challenge_method": "S256",
        "login_hint": user,
    }
    answer = await _call(
        client, "GET", f"{metadata['authorization_endpoint']}?{urlencode(query)}", step="login", expected=302
    )
    code = _code_of(answer, redirect_uri=redirect_uri, state=state, issuer=metadata["issuer"])
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": redirect_uri,
        "code_verifier": verifier,
    }
    answer = await _call(
        client,
        "POST",
        metadata["token_endpoint"],
        headers={"Authorization": _basic(credentials), "Content-Type": FORM},
        body=urlencode(form).encode(),
        step="code exchange",
    )
    return _read_tokens(_object(answer, "code exchange"))


async def seed(
    client: OutboundClient,
    *,
    token_api: TokenApi,
    provider_url: str,
    api_origin: str,
    credentials: ClientCredentials,
    redirect_uri: str,
    clock: Callable[[], float],
    random_token: Callable[[], str],
    connection: str = CONNECTION,
    users: tuple[str, ...] = USERS,
) -> None:
    """
    Create *connection* by the token API, connect each of *users* at the provider, and upload their tokens.

    *api_origin* is the only origin that the tokens may be sent to.

    Raises:
        SeedFailed: an answer is not as it must be.
    """
    await _post(
        client,
        token_api,
        "/v1/mgmt/outbound/app/create",
        {
            "id": connection,
            "name": "Google Contacts (demo)",
            "clientId": credentials.client_id,
            "clientSecret": credentials.client_secret,
            "authorizationUrl": f"{provider_url}/authorize",
            "tokenUrl": f"{provider_url}/token",
            "revocationUrl": f"{provider_url}/revoke",
            "defaultScopes": [CONTACTS_SCOPE],
            "pkce": True,
            "origins": [api_origin],
        },
    )
    for user in users:
        tokens = await connect_user(
            client,
            provider_url=provider_url,
            credentials=credentials,
            redirect_uri=redirect_uri,
            user=user,
            random_token=random_token,
        )
        await _post(
            client,
            token_api,
            "/v1/mgmt/outbound/app/user/oauthtoken/upload",
            {
                "appId": connection,
                "userId": user,
                "accessToken": tokens.access_token,
                "accessTokenType": "Bearer",
                "accessTokenExpiry": int(clock()) + tokens.expires_in,
                "refreshToken": tokens.refresh_token,
                "scopes": list(tokens.scopes),
                "grantedBy": user,
            },
        )


async def _get_metadata(client: OutboundClient, provider_url: str) -> dict[str, str]:
    url = f"{provider_url}/.well-known/oauth-authorization-server"
    found = _object(await _call(client, "GET", url, step="metadata"), "metadata")
    wanted = ("issuer", "authorization_endpoint", "token_endpoint")
    if found.get("issuer") != provider_url or not all(isinstance(found.get(name), str) for name in wanted):
        raise SeedFailed("metadata: not this provider's")  # RFC 8414 section 3.3
    return {name: found[name] for name in wanted}


def _code_of(answer: Answer, *, redirect_uri: str, state: str, issuer: str) -> str:
    """Return the code from the redirect, if it is the answer to our question (RFC 6749 10.12, RFC 9207)."""
    location = answer.headers.get("Location", "")
    came = parse_qs(urlsplit(location).query)
    is_ours = location.startswith(f"{redirect_uri}?") and came.get("state") == [state] and came.get("iss") == [issuer]
    if not is_ours or len(came.get("code", ())) != 1:
        raise SeedFailed("login: no code came back")
    return came["code"][0]


def _read_tokens(answer: dict[str, Any]) -> TokenAnswer:
    access_token, refresh_token = answer.get("access_token"), answer.get("refresh_token")
    expires_in, scope = answer.get("expires_in"), answer.get("scope")
    if not (isinstance(access_token, str) and isinstance(refresh_token, str)):
        raise SeedFailed("code exchange: a token is missing")
    if not (isinstance(expires_in, int) and isinstance(scope, str)):
        raise SeedFailed("code exchange: expiry or scope is missing")
    return TokenAnswer(access_token, refresh_token, expires_in, tuple(scope.split()))


async def _post(client: OutboundClient, token_api: TokenApi, path: str, message: dict[str, Any]) -> None:
    await _call(
        client,
        "POST",
        f"{token_api.url}{path}",
        headers={
            "Authorization": f"Bearer {token_api.project}:{token_api.management_key}",
            "Content-Type": "application/json",
        },
        body=orjson.dumps(message),
        step=path,
    )


async def _call(
    client: OutboundClient,
    method: str,
    url: str,
    *,
    step: str,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    expected: int = 200,
) -> Answer:
    try:
        answer = await client.request(method, url, headers=headers, body=body)
    except OutboundError as exc:
        raise SeedFailed(f"{step}: {exc}") from exc
    if answer.status != expected:
        raise SeedFailed(f"{step}: answered {answer.status}")
    return answer


def _object(answer: Answer, step: str) -> dict[str, Any]:
    try:
        found = answer.json()
    except OutboundError as exc:
        raise SeedFailed(f"{step}: {exc}") from exc
    if not isinstance(found, dict):
        raise SeedFailed(f"{step}: not an object")
    return found


def _basic(credentials: ClientCredentials) -> str:
    """HTTP Basic of a client: both halves form-encoded before (RFC 6749 section 2.3.1)."""
    pair = f"{quote_plus(credentials.client_id)}:{quote_plus(credentials.client_secret)}"
    return f"Basic {base64.b64encode(pair.encode()).decode()}"
