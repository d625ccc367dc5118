"""Which connections are valid, and the one spelling of an origin."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.vault.connection import Connection, ConnectionInvalid, canonical_origin, check

VALID: dict[str, Any] = {
    "id": "c",
    "name": "Contacts",
    "client_id": "x",
    "client_secret": "CANARY",
    "token_url": "https://p.example/t",
}

INVALID: dict[str, tuple[dict[str, Any], str]] = {
    "an id with a slash": ({"id": "a/b"}, "id"),
    "an empty id": ({"id": ""}, "id"),
    "an id of dots": ({"id": ".."}, "id"),
    "an id with a line break at its end": ({"id": "a\n"}, "id"),
    "a long id": ({"id": "a" * 201}, "id"),
    "no name": ({"name": " "}, "name"),
    "a name with a control character": ({"name": "a\x00"}, "name"),
    "an unknown type": ({"kind": "magic"}, "type"),
    "an unknown way to authenticate": ({"token_auth": "tls"}, "token auth"),
    "a secret that is missing": ({"client_secret": None, "token_auth": "client_secret_post"}, "client secret"),
    "a secret with a line break": ({"client_secret": "CANARY\n"}, "client secret"),
    "a private key with another control character": ({"client_secret": "-----BEGIN CANARY\r\n"}, "client secret"),
    "a secret of a megabyte": ({"client_secret": "CANARY" * 200_000}, "client secret"),
    "a URL of another scheme": ({"token_url": "file:///etc/passwd"}, "token URL"),
    "a URL with credentials": ({"token_url": "https://a:b@p.example/"}, "token URL"),
    "a URL with a fragment": ({"authorization_url": "https://p.example/#x"}, "authorization URL"),
    "a URL without a host": ({"revocation_url": "https:///x"}, "revocation URL"),
    "a URL with a space": ({"token_url": "https://p.example/a b"}, "token URL"),
    "a URL with an impossible port": ({"token_url": "https://p.example:99999/"}, "token URL"),
    "a scope with a space": ({"default_scopes": ("a b",)}, "scopes"),
    "a parameter that is ours": ({"token_params": (("Grant_Type", "x"),)}, "token URL parameters"),
    "a parameter without a name": ({"authorization_params": (("", "x"),)}, "authorization URL parameters"),
    "a description that PostgreSQL cannot hold": ({"description": "CANARY\0"}, "description"),
    "a description that is no text": ({"description": "CANARY\ud800"}, "description"),
    "another field that PostgreSQL cannot hold": ({"extra": {"logo": "CANARY\0"}}, "logo"),
    "a callback domain that its column may not hold": (
        {"extra": {"callbackDomain": "CANARY." * 143}},
        "callbackDomain",
    ),
    "such a value in a list": ({"extra": {"prompt": ["login", "CANARY\0"]}}, "prompt"),
    "a discovery URL that is none": ({"extra": {"discoveryUrl": "p.example"}}, "discoveryUrl"),
    "a registration URL with a fragment": ({"extra": {"dcrUrl": "https://p.example/#CANARY"}}, "dcrUrl"),
    "a redirect URL that is a script": ({"extra": {"defaultRedirectUrl": "javascript:CANARY"}}, "defaultRedirectUrl"),
    "a redirect URL that is a number": ({"extra": {"defaultRedirectUrl": 7}}, "defaultRedirectUrl"),
    "a callback domain with a path": ({"extra": {"callbackDomain": "p.example/CANARY"}}, "callbackDomain"),
    "a callback domain with credentials": ({"extra": {"callbackDomain": "CANARY@p.example"}}, "callbackDomain"),
    "a callback domain with a space": ({"extra": {"callbackDomain": " p.example"}}, "callbackDomain"),
    "a callback domain of another scheme": ({"extra": {"callbackDomain": "ftp://p.example"}}, "callbackDomain"),
    "a callback domain that is a list": ({"extra": {"callbackDomain": ["p.example"]}}, "callbackDomain"),
    "an unknown access type": ({"extra": {"accessType": "CANARY"}}, "accessType"),
    "an access type that is a list": ({"extra": {"accessType": ["offline"]}}, "accessType"),
    "an unknown grant": ({"extra": {"grantType": "password"}}, "grantType"),
    "the grant of another type": ({"extra": {"grantType": "api_key"}}, "grantType"),
    "an unknown prompt": ({"extra": {"prompt": ["login", "CANARY"]}}, "prompt"),
    "a prompt that is a text": ({"extra": {"prompt": "login"}}, "prompt"),
    "a prompt of lists": ({"extra": {"prompt": [["login"]]}}, "prompt"),
    "an origin in another spelling": ({"origins": ("https://P.example:443",)}, "origins"),
}


def test_takes_a_valid_connection() -> None:
    """A whole connection passes."""
    check(Connection(**VALID, origins=("https://people.example", "http://127.0.0.1:8080")))


EXTRA: dict[str, dict[str, Any]] = {
    "everything": {
        "discoveryUrl": "https://p.example/.well-known/openid-configuration",
        "dcrUrl": "http://127.0.0.1:80/register",
        "defaultRedirectUrl": "https://app.example/done?a=b",
        "callbackDomain": "Connect.Example.com",
        "accessType": "offline",
        "grantType": "authorization_code",
        "prompt": ["consent", "select_account"],
    },
    "a callback domain with a port": {"callbackDomain": "connect.example.com:8443"},
    "a callback domain as an origin": {"callbackDomain": "http://127.0.0.1:8080/"},
    "empty texts": dict.fromkeys(("discoveryUrl", "defaultRedirectUrl", "callbackDomain", "accessType"), ""),
    "nothing": {"prompt": [], "grantType": None},
    "what nobody here acts on": {"logo": "x", "audience": "any text"},
}


@pytest.mark.parametrize("extra", EXTRA.values(), ids=EXTRA.keys())
def test_takes_valid_further_fields(extra: dict[str, Any]) -> None:
    """What the gateway acts on is valid, or was not said."""
    check(Connection(**VALID, extra=extra))


def test_private_key_keeps_its_lines() -> None:
    """A client secret may be a private key as PEM, for a client that signs."""
    pem = "-----BEGIN PRIVATE KEY-----\n" + "CANARY/+\n" * 400 + "-----END PRIVATE KEY-----\n"
    connection = Connection(**(VALID | {"client_secret": pem, "token_auth": "private_key_jwt"}))

    check(connection)

    assert "CANARY" not in repr(connection)


@pytest.mark.parametrize(("changes", "field"), INVALID.values(), ids=INVALID.keys())
def test_refuses_what_is_not_valid(changes: dict[str, Any], field: str) -> None:
    """The first invalid field is named, its value is not."""
    with pytest.raises(ConnectionInvalid) as error:
        check(Connection(**(VALID | changes)))

    assert str(error.value).startswith(f"{field}: ")
    assert "CANARY" not in str(error.value)


ORIGINS: dict[str, str | None] = {
    "https://people.googleapis.com": "https://people.googleapis.com",
    "HTTPS://People.Example/": "https://people.example",
    "https://p.example:443": "https://p.example",
    "http://p.example:443": "http://p.example:443",
    "http://[::1]:8080": "http://[::1]:8080",
    "p.example": None,
    "ftp://p.example": None,
    "https://p.example/path": None,
    "https://p.example?": None,
    "https://a@p.example": None,
    "https://p.example:x": None,
    "https://": None,
    "https://p example": None,
}


@pytest.mark.parametrize(("text", "expected"), ORIGINS.items(), ids=ORIGINS.keys())
def test_origins_have_one_spelling(text: str, expected: str | None) -> None:
    """An origin is lower case, without path and default port; anything else is no origin."""
    if expected is None:
        with pytest.raises(ConnectionInvalid):
            canonical_origin(text)
    else:
        assert expected == canonical_origin(text)


def test_secret_is_not_shown() -> None:
    """A connection's repr has no client secret."""
    assert "CANARY" not in repr(Connection(**VALID))
