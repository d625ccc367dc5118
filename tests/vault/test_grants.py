"""Every grant's exchange: what is sent, and what its answer means."""

from __future__ import annotations

import base64
import json
import os
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gateway.models import TokenKey
from gateway.vault.client_auth import ASSERTION_TYPE, KeyUnusable
from gateway.vault.connection import Connection
from gateway.vault.grants import can_exchange, endpoint_of, exchange_request, is_minted, may_mint, read_exchange_answer
from gateway.vault.oauth import ExchangeFailed, Granted, GrantRefused
from gateway.vault.stored_token import StoredToken
from gateway.vault.templates import from_template

NOW = 1_800_000_000.0
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
ACCOUNT = json.dumps(
    {
        "type": "service_account",
        "client_email": "robot@project.iam.gserviceaccount.com",
        "private_key_id": "kid-1",
        "private_key": PEM,
        "token_uri": "https://oauth2.googleapis.com/token",
    }
)


def token(**changes: Any) -> StoredToken:
    """A tenant's row."""
    fields: dict[str, Any] = dict.fromkeys(
        ("issued_at", "expires_at", "last_refresh_at", "lease_owner", "lease_until", "access_token", "refresh_token")
    )
    fields |= {
        "id": "t", "connection": "c", "user": "", "tenant": "acme", "account": "", "requested_scopes": (),
        "granted_scopes": (), "token_type": "Bearer", "token_sub": "", "granted_by": "", "created_at": NOW,
        "updated_at": NOW, "last_refresh_error": "", "dead": False, "version": 1,
    }  # fmt: skip
    return StoredToken(**(fields | changes))


def connection(grant: str, **changes: Any) -> Connection:
    """A connection with this grant."""
    extra = {"grantType": grant, **changes.pop("extra", {})}
    fields: dict[str, Any] = {
        "id": "c", "name": "c", "client_id": "client", "client_secret": "s3cret", "token_url": "https://p.example/token"
    }  # fmt: skip
    return Connection(**(fields | changes), extra=extra)


def sent(made: Connection, row: StoredToken | None = None) -> tuple[str, dict[str, str], dict[str, str]]:
    """Return URL, header fields and form of the exchange."""
    request = exchange_request(made, row or token(), now=NOW, random_bytes=lambda size: b"\1" * size)
    assert (made.client_secret or "none") not in repr(request)
    return request.url, request.headers, dict(parse_qsl(request.body.decode()))


def claims_of(assertion: str, audience: str) -> dict[str, Any]:
    """Return what an assertion says, its signature checked."""
    decoded: dict[str, Any] = jwt.decode(
        assertion, KEY.public_key(), algorithms=["RS256"], audience=audience,
        options={"verify_exp": False, "verify_iat": False},
    )  # fmt: skip
    return decoded


def test_refresh_names_its_token() -> None:
    """A user's grant is refreshed with its refresh token; scopes are not named unless the provider wants them."""
    _, _, form = sent(connection("authorization_code"), token(refresh_token="RT", granted_scopes=("a",)))

    assert {"grant_type": "refresh_token", "refresh_token": "RT"} == form


def test_client_credentials() -> None:
    """The client asks for itself, with the connection's scopes."""
    url, headers, form = sent(connection("client_credentials", default_scopes=("b", "a")))

    assert "https://p.example/token" == url
    assert {"grant_type": "client_credentials", "scope": "b a"} == form
    assert "client:s3cret" == base64.b64decode(headers["Authorization"][6:]).decode()


def test_google_service_account() -> None:
    """The JSON key says who signs, with which key, and where; nothing else authenticates the client."""
    url, headers, form = sent(
        connection("jwt_bearer", client_secret=ACCOUNT, token_url="", default_scopes=("s",), extra={"subject": "ada"})
    )

    assert "https://oauth2.googleapis.com/token" == url
    assert {"grant_type", "assertion"} == set(form)
    assert "Authorization" not in headers
    claims = claims_of(form["assertion"], url)
    assert ("robot@project.iam.gserviceaccount.com", "s", "ada", NOW + 600) == (
        claims["iss"], claims["scope"], claims["sub"], claims["exp"]
    )  # fmt: skip
    assert "kid-1" == jwt.get_unverified_header(form["assertion"])["kid"]


def test_template_of_a_github_app_mints_at_its_installation() -> None:
    """The template's token URL is for users' codes; one that somebody gave wins over the installation's."""
    made = from_template(
        "github-app", id="c", client_id="12345", client_secret=PEM, variables={},
    )  # fmt: skip
    made = replace(made, extra={"grantType": "github_app", "installationId": "77"})
    assert made.token_url
    for wanted, url in (
        (made, "https://api.github.com/app/installations/77/access_tokens"),
        (replace(made, token_url="https://ghe.example/tokens"), "https://ghe.example/tokens"),
    ):
        assert url == exchange_request(wanted, token(), now=NOW, random_bytes=os.urandom).url


def test_github_app() -> None:
    """The App signs for itself in Authorization; the installation is in the URL."""
    made = connection("github_app", client_id="12345", client_secret=PEM, token_url="", extra={"installationId": "77"})
    url, headers, form = sent(made)

    assert "https://api.github.com/app/installations/77/access_tokens" == url
    assert {} == form
    said = jwt.decode(
        headers["Authorization"].removeprefix("Bearer "), KEY.public_key(), algorithms=["RS256"],
        options={"verify_exp": False, "verify_iat": False},
    )  # fmt: skip
    assert ("12345", NOW - 60, NOW + 480) == (said["iss"], said["iat"], said["exp"])


def test_github_answer() -> None:
    """GitHub answers 201 with `token` and a time in ISO 8601."""
    made = connection("github_app", client_secret=PEM)
    body = b'{"token": "ghs_x", "expires_at": "2027-01-15T09:00:00Z", "permissions": {}}'
    answer = read_exchange_answer(made, 201, body, now=NOW)

    assert isinstance(answer, Granted)
    assert ("ghs_x", 1_800_003_600.0) == (answer.access_token, answer.expires_at)
    assert ExchangeFailed("status_401", is_outcome_unknown=False) == read_exchange_answer(made, 401, b"{}", now=NOW)
    failed = read_exchange_answer(made, 201, b"{}", now=NOW)
    assert ExchangeFailed("malformed_answer", is_outcome_unknown=False) == failed


def test_private_key_jwt() -> None:
    """The client proves itself with an assertion for this endpoint, for a minute, and with nothing else."""
    _, headers, form = sent(
        connection("client_credentials", client_secret=PEM.replace("\n", "\\n"), token_auth="private_key_jwt")
    )

    claims = claims_of(form["client_assertion"], "https://p.example/token")
    assert ("client", "client", NOW + 60, "01" * 16) == (claims["iss"], claims["sub"], claims["exp"], claims["jti"])
    assert (ASSERTION_TYPE, "client") == (form["client_assertion_type"], form["client_id"])
    assert "client_secret" not in form
    assert "Authorization" not in headers


NOT_KEYS = {
    "nothing": "",
    "a password": "CANARY",
    "a JWK of another kind": '{"kty": "oct", "k": "CANARY"}',
    "JSON that is no key": "{CANARY",
    "a service account without a key": '{"type": "service_account", "private_key": "CANARY"}',
}


@pytest.mark.parametrize("secret", NOT_KEYS.values(), ids=NOT_KEYS.keys())
def test_secret_that_is_no_key_is_told(secret: str) -> None:
    """What cannot sign is an error of its own, which holds nothing of the secret."""
    with pytest.raises(KeyUnusable) as caught:
        sent(connection("jwt_bearer", client_secret=secret))
    assert "CANARY" not in str(caught.value)
    assert caught.value.__cause__ is None


OUTCOMES: dict[str, tuple[str, int, bytes, object]] = {
    "a user's grant is dead": ("authorization_code", 400, b'{"error": "invalid_grant"}', GrantRefused()),
    "a minted one is never dead": (
        "jwt_bearer", 400, b'{"error": "invalid_grant"}', ExchangeFailed("invalid_grant", False)
    ),
    "a user's answer may be lost": ("authorization_code", 500, b"", ExchangeFailed("status_500", True)),
    "a minted one loses nothing": ("client_credentials", 500, b"", ExchangeFailed("status_500", False)),
}  # fmt: skip


@pytest.mark.parametrize(("grant", "status", "body", "expected"), OUTCOMES.values(), ids=OUTCOMES.keys())
def test_minted_grants_lose_nothing(grant: str, status: int, body: bytes, expected: object) -> None:
    """A refusal ends a user's grant, not one that begins anew each time."""
    assert expected == read_exchange_answer(connection(grant), status, body, now=NOW)


MAY: dict[str, tuple[str, TokenKey, bool]] = {
    "a tenant's latest": ("client_credentials", TokenKey("c", None, "acme"), True),
    "a tenant's with one of the scopes": ("client_credentials", TokenKey("c", None, "acme", ("a",)), True),
    "a scope beyond the connection's": ("client_credentials", TokenKey("c", None, "acme", ("a", "z")), False),
    "a user's": ("client_credentials", TokenKey("c", "ada", None), False),
    "an account that the caller chose": ("github_app", TokenKey("c", None, "acme", None, "77"), False),
    "a connection that users connect": ("authorization_code", TokenKey("c", None, "acme"), False),
}


@pytest.mark.parametrize(("grant", "key", "expected"), MAY.values(), ids=MAY.keys())
def test_what_may_be_minted(grant: str, key: TokenKey, expected: bool) -> None:
    """Only a tenant's own token is minted, without an account, with no more scopes than the connection has."""
    assert expected == may_mint(connection(grant, default_scopes=("a", "b")), key)


def test_connection_of_one_tenant_mints_for_it_alone() -> None:
    """A connection that belongs to a tenant gives no other tenant a token."""
    made = connection("client_credentials", extra={"tenantId": "acme"})
    assert [True, False] == [may_mint(made, TokenKey("c", None, tenant)) for tenant in ("acme", "other")]


def test_what_can_be_exchanged() -> None:
    """A user's token needs a refresh token and an endpoint; what is minted needs neither."""
    user = connection("authorization_code")
    assert [False, True] == [can_exchange(user, token(refresh_token=value)) for value in (None, "RT")]
    assert can_exchange(connection("github_app", token_url=""), token())
    assert [True, False] == [is_minted(connection("client_credentials")), is_minted(user)]


METADATA = {"discoveryUrl": "https://m.example"}
ENDPOINTS: dict[str, tuple[Connection, str]] = {
    "a refresh": (connection("authorization_code"), "https://p.example/token"),
    "a refresh whose endpoint is known": (connection("authorization_code", extra=METADATA), "https://p.example/token"),
    "a refresh after metadata": (connection("authorization_code", token_url="", extra=METADATA), "https://m.example"),
    "client credentials": (connection("client_credentials"), "https://p.example/token"),
    "client credentials after metadata": (
        connection("client_credentials", token_url="", extra=METADATA),
        "https://m.example",
    ),
    "a service account": (
        connection("jwt_bearer", token_url="", client_secret=ACCOUNT),
        "https://oauth2.googleapis.com/token",
    ),
    "a service account elsewhere": (connection("jwt_bearer", client_secret=ACCOUNT), "https://p.example/token"),
    "a secret that is no account": (connection("jwt_bearer", token_url=""), ""),
    "an App": (connection("github_app", token_url=""), "https://api.github.com"),
    "an App of one's own server": (connection("github_app"), "https://p.example/token"),
    "an API key": (connection("authorization_code", token_url=""), ""),
}


@pytest.mark.parametrize(("made", "url"), ENDPOINTS.values(), ids=ENDPOINTS)
def test_endpoint_that_is_asked_first(made: Connection, url: str) -> None:
    """What is known of an endpoint is known by the URL that the exchange begins at."""
    assert url == endpoint_of(made)
