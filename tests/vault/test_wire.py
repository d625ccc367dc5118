"""The token API's types: what is read, what is refused, what is shown."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gateway.vault import wire
from gateway.vault.connection import Connection
from gateway.vault.tokens import StoredToken

FETCH: dict[str, Any] = {"appId": "contacts", "userId": "alice"}

REFUSED: dict[str, tuple[type[wire.Message], dict[str, Any], str, str]] = {
    "no app": (wire.FetchUser, {"userId": "CANARY"}, "E011003", "The appId field is required"),
    "an app that is null": (wire.FetchUser, FETCH | {"appId": None}, "E011003", "The appId field is required"),
    "an empty app": (wire.FetchUser, FETCH | {"appId": ""}, "E011003", "The appId field is required"),
    "an app with a slash": (wire.FetchUser, FETCH | {"appId": "CANARY/x"}, "E011004", "appId: "),
    "an empty user": (wire.FetchUser, FETCH | {"userId": ""}, "E011003", "The userId field is required"),
    "a user that is a number": (wire.FetchUser, FETCH | {"userId": 7}, "E011004", "userId: "),
    "a user that is a list": (wire.FetchUser, FETCH | {"userId": ["CANARY"]}, "E011004", "userId: "),
    "a user with a NUL": (wire.FetchUser, FETCH | {"userId": "CANARY\x00"}, "E011004", "userId: "),
    "a long user": (wire.FetchUser, FETCH | {"userId": "C" * 513}, "E011004", "userId: "),
    "a tenant that is an object": (wire.FetchUser, FETCH | {"tenantId": {"CANARY": 1}}, "E011004", "tenantId: "),
    "options that are a list": (wire.FetchUser, FETCH | {"options": []}, "E011004", "options: "),
    "an option that is a string": (
        wire.FetchUser,
        FETCH | {"options": {"forceRefresh": "CANARY"}},
        "E011004",
        "options.forceRefresh: ",
    ),
    "no scopes": (wire.FetchUserByScopes, FETCH, "E011003", "The scopes field is required"),
    "scopes in one string": (wire.FetchUserByScopes, FETCH | {"scopes": "CANARY"}, "E011004", "scopes: "),
    "a scope with a space": (wire.FetchUserByScopes, FETCH | {"scopes": ["CANARY x"]}, "E011004", "scopes.0: "),
    "too many scopes": (wire.FetchUserByScopes, FETCH | {"scopes": ["a"] * 201}, "E011004", "scopes: "),
    "a token with a line break": (
        wire.UploadUserToken,
        FETCH | {"accessToken": "CANARY\r\n"},
        "E011004",
        "accessToken: ",
    ),
    "a huge token": (wire.UploadUserToken, FETCH | {"accessToken": "C" * 16385}, "E011004", "accessToken: "),
    "an expiry in milliseconds": (
        wire.UploadUserToken,
        FETCH | {"accessToken": "a", "accessTokenExpiry": 1_800_000_000_000},
        "E011004",
        "accessTokenExpiry: ",
    ),
    "a negative expiry": (
        wire.UploadUserToken,
        FETCH | {"accessToken": "a", "accessTokenExpiry": -1},
        "E011004",
        "accessTokenExpiry: ",
    ),
    "an expiry in words": (
        wire.UploadUserToken,
        FETCH | {"accessToken": "a", "accessTokenExpiry": "CANARY"},
        "E011004",
        "accessTokenExpiry: ",
    ),
    "an app without a name": (wire.CreateApp, {"id": "x"}, "E011003", "The name field is required"),
}


@pytest.mark.parametrize(("kind", "content", "code", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refuses_what_is_malformed(kind: type[wire.Message], content: dict[str, Any], code: str, message: str) -> None:
    """The field is named, its value is not repeated."""
    with pytest.raises(wire.ApiError) as error:
        wire.read_message(kind, content)

    body = error.value.body()
    assert (400, code) == (error.value.kind.status, body["errorCode"])
    assert body["errorMessage"].startswith(message)
    assert "CANARY" not in str(body) + str(error.value)


def test_takes_nulls_and_unknown_keys() -> None:
    """Explicit nulls are absent fields, and what is unknown is ignored."""
    message = wire.read_message(
        wire.FetchUser, FETCH | {"options": None, "tenantId": None, "loginId": "x", "externalIdentifier": ""}
    )
    assert (None, None, None) == (message.options, message.tenantId, message.externalIdentifier)
    options = wire.read_message(
        wire.FetchUser, FETCH | {"options": {"refreshToken": True, "forceRefresh": None}}
    ).options
    assert wire.Options() == options


EXPIRIES: dict[str, tuple[Any, float | None]] = {
    "a number": (1_800_000_000, 1_800_000_000.0),
    "a string": ("1800000000", 1_800_000_000.0),
    "zero": (0, None),
    "the string zero": ("0", None),
    "the empty string": ("", None),
    "null": (None, None),
}


@pytest.mark.parametrize(("value", "expected"), EXPIRIES.values(), ids=EXPIRIES.keys())
def test_reads_expiries(value: Any, expected: float | None) -> None:
    """Seconds as a number or a string; 0 and absence are unknown."""
    message = wire.read_message(wire.UploadUserToken, FETCH | {"accessToken": "a", "accessTokenExpiry": value})
    assert expected == wire.draft_of(message).expires_at


def test_upload_needs_a_token() -> None:
    """One of access token and refresh token must be there."""
    with pytest.raises(wire.ApiError) as error:
        wire.draft_of(wire.read_message(wire.UploadUserToken, FETCH | {"accessToken": ""}))
    assert "E011002" == error.value.kind.code


BODIES = {
    "nothing": b"",
    "half an object": b'{"appId": ',
    "a list": b"[]",
    "a string": b'"x"',
    "null": b"null",
    "not UTF-8": b'{"appId": "\xff"}',
    "a lone surrogate": b'{"appId": "\\ud800"}',
    "NaN": b'{"appId": NaN}',
    "a thousand brackets": b"[" * 2000,
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_body_must_be_an_object(body: bytes) -> None:
    """Anything but a JSON object is malformed."""
    with pytest.raises(wire.ApiError) as error:
        wire.read_object(body)
    assert "E011001" == error.value.kind.code


def test_app_comes_back_without_its_secret() -> None:
    """Both spellings of parameters are read, one is written; fields that nothing reads are kept; no secret is shown."""
    content = {
        "name": "Contacts",
        "clientSecret": "CANARY",
        "tokenUrl": "https://p.example/t",
        "tokenUrlParams": [{"key": "a", "value": "1"}, {"name": "b", "value": "2"}],
        "origins": ["HTTPS://P.example/"],
        "logo": "x",
        "prompt": ["consent"],
    }
    app = wire.app_of(wire.read_connection(wire.read_message(wire.CreateApp, content), new_id="Cnew"))

    assert [{"key": "a", "value": "1"}, {"key": "b", "value": "2"}] == app["tokenUrlParams"]
    assert ("Cnew", ["https://p.example"], "x", ["consent"]) == (app["id"], app["origins"], app["logo"], app["prompt"])
    assert "CANARY" not in str(app)


BAD_APPS: dict[str, dict[str, Any]] = {
    "an unknown type": {"appType": "magic"},
    "an unknown way to authenticate": {"tokenEndpointAuthMethod": "magic"},
    "a parameter without a name": {"tokenUrlParams": [{"value": "1"}]},
    "an origin with a path": {"origins": ["https://p.example/x"]},
}


@pytest.mark.parametrize("changes", BAD_APPS.values(), ids=BAD_APPS.keys())
def test_refuses_bad_apps(changes: dict[str, Any]) -> None:
    """What cannot be a connection is 400."""
    with pytest.raises(wire.ApiError) as error:
        wire.read_connection(wire.read_message(wire.CreateApp, {"name": "x"} | changes), new_id="C")
    assert 400 == error.value.kind.status


STORED = StoredToken(
    id="t1", connection="contacts", user="", tenant="acme", account="", requested_scopes=("a",), granted_scopes=("a",),
    access_token="AT", refresh_token="RT", token_type="Bearer", token_sub="", granted_by="", issued_at=1.0,
    expires_at=1_800_000_000.9, created_at=1.0, updated_at=1.0, last_refresh_at=None, last_refresh_error="", dead=False,
    version=1, lease_owner=None, lease_until=None,
)  # fmt: skip


def test_token_on_the_wire() -> None:
    """Times are strings of epoch seconds; the refresh token is there only when asked for, hasRefreshToken always."""
    token = wire.token_of(STORED, kind="oauth", with_refresh_token=False)

    assert ("1800000000", "0", True, "") == tuple(
        token[name] for name in ("accessTokenExpiry", "lastRefreshTime", "hasRefreshToken", "userId")
    )
    assert "refreshToken" not in token
    assert "RT" == wire.token_of(STORED, kind="oauth", with_refresh_token=True)["refreshToken"]
    key = wire.token_of(replace(STORED, expires_at=None), kind="apikey", with_refresh_token=False)
    assert ("ApiKey", "0") == (key["accessTokenType"], key["accessTokenExpiry"])


def test_pkce_is_on_unless_turned_off() -> None:
    """An absent pkce is on (RFC 9700 2.1.1); false turns it off."""
    for content, expected in (({}, True), ({"pkce": None}, True), ({"pkce": False}, False)):
        app = wire.read_message(wire.CreateApp, {"name": "x"} | content)
        assert isinstance(app, wire.CreateApp)
        connection: Connection = wire.read_connection(app, new_id="C")
        assert expected == connection.pkce
