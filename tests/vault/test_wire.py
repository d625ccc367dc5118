"""How a request becomes a value: what is read, and what is refused without being repeated."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.vault import wire, wire_apps, wire_tokens

FETCH: dict[str, Any] = {"appId": "contacts", "userId": "alice"}

REFUSED: dict[str, tuple[type[wire.Message], dict[str, Any], str, str]] = {
    "no app": (wire_tokens.FetchUser, {"userId": "CANARY"}, "E011003", "The appId field is required"),
    "an app that is null": (wire_tokens.FetchUser, FETCH | {"appId": None}, "E011003", "The appId field is required"),
    "an empty app": (wire_tokens.FetchUser, FETCH | {"appId": ""}, "E011003", "The appId field is required"),
    "an app with a slash": (wire_tokens.FetchUser, FETCH | {"appId": "CANARY/x"}, "E011004", "appId: "),
    "an empty user": (wire_tokens.FetchUser, FETCH | {"userId": ""}, "E011003", "The userId field is required"),
    "a user that is a number": (wire_tokens.FetchUser, FETCH | {"userId": 7}, "E011004", "userId: "),
    "a user that is a list": (wire_tokens.FetchUser, FETCH | {"userId": ["CANARY"]}, "E011004", "userId: "),
    "a user with a NUL": (wire_tokens.FetchUser, FETCH | {"userId": "CANARY\x00"}, "E011004", "userId: "),
    "a long user": (wire_tokens.FetchUser, FETCH | {"userId": "C" * 513}, "E011004", "userId: "),
    "a tenant that is an object": (wire_tokens.FetchUser, FETCH | {"tenantId": {"CANARY": 1}}, "E011004", "tenantId: "),
    "options that are a list": (wire_tokens.FetchUser, FETCH | {"options": []}, "E011004", "options: "),
    "an option that is a string": (
        wire_tokens.FetchUser,
        FETCH | {"options": {"forceRefresh": "CANARY"}},
        "E011004",
        "options.forceRefresh: ",
    ),
    "no scopes": (wire_tokens.FetchUserByScopes, FETCH, "E011003", "The scopes field is required"),
    "scopes in one string": (wire_tokens.FetchUserByScopes, FETCH | {"scopes": "CANARY"}, "E011004", "scopes: "),
    "a scope with a space": (wire_tokens.FetchUserByScopes, FETCH | {"scopes": ["CANARY x"]}, "E011004", "scopes.0: "),
    "too many scopes": (wire_tokens.FetchUserByScopes, FETCH | {"scopes": ["a"] * 201}, "E011004", "scopes: "),
    "a token with a line break": (
        wire_tokens.UploadUserToken,
        FETCH | {"accessToken": "CANARY\r\n"},
        "E011004",
        "accessToken: ",
    ),
    "a huge token": (wire_tokens.UploadUserToken, FETCH | {"accessToken": "C" * 16385}, "E011004", "accessToken: "),
    "an expiry in milliseconds": (
        wire_tokens.UploadUserToken,
        FETCH | {"accessToken": "a", "accessTokenExpiry": 1_800_000_000_000},
        "E011004",
        "accessTokenExpiry: ",
    ),
    "a negative expiry": (
        wire_tokens.UploadUserToken,
        FETCH | {"accessToken": "a", "accessTokenExpiry": -1},
        "E011004",
        "accessTokenExpiry: ",
    ),
    "an expiry in words": (
        wire_tokens.UploadUserToken,
        FETCH | {"accessToken": "a", "accessTokenExpiry": "CANARY"},
        "E011004",
        "accessTokenExpiry: ",
    ),
    "an app without a name": (wire_apps.CreateApp, {"id": "x"}, "E011003", "The name field is required"),
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
        wire_tokens.FetchUser, FETCH | {"options": None, "tenantId": None, "loginId": "x", "externalIdentifier": ""}
    )
    assert (None, None, None) == (message.options, message.tenantId, message.externalIdentifier)
    options = wire.read_message(
        wire_tokens.FetchUser, FETCH | {"options": {"refreshToken": True, "forceRefresh": None}}
    ).options
    assert wire_tokens.Options() == options


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
    "a key twice": b'{"appId": "a", "appId": "b"}',
    "an unknown key twice": b'{"x": 1, "appId": "a", "x": 1}',
    "a key twice, once escaped": b'{"appId": "a", "app\\u0049d": "b"}',
    "a key twice further down": b'{"tokens": [{"options": {"forceRefresh": true, "forceRefresh": false}}]}',
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_body_must_be_an_object(body: bytes) -> None:
    """Anything but a JSON object is malformed."""
    with pytest.raises(wire.ApiError) as error:
        wire.read_object(body)
    assert "E011001" == error.value.kind.code


QUERIES: dict[str, tuple[str, dict[str, str] | None]] = {
    "nothing": ("", {}),
    "an empty value": ("userId=", {}),
    "no value": ("userId", {}),
    "Node's undefined": ("appId=undefined&userId=alice", {"userId": "alice"}),
    "a space and a plus": ("userId=a+b%20c%2Bd", {"userId": "a b c+d"}),
    "UTF-8": ("userId=%C3%A4", {"userId": "ä"}),
    "UTF-8 that was not encoded": ("userId=ä", {"userId": "ä"}),
    "one twice": ("userId=alice&userId=bob", None),
    "one twice, once empty": ("userId=alice&userId=", None),
    "one twice, once encoded": ("userId=alice&user%49d=bob", None),
    "not UTF-8": ("userId=%ff", None),
    "a name that is not UTF-8": ("userId=alice&%ff=1", None),
    "half a character": ("userId=%C3", None),
    "not UTF-8, not encoded": ("userId=\udcff", None),
    "a surrogate in UTF-8's way": ("userId=%ED%A0%80", None),
}


@pytest.mark.parametrize(("text", "expected"), QUERIES.values(), ids=QUERIES.keys())
def test_reads_queries(text: str, expected: dict[str, str] | None) -> None:
    """Empty and `undefined` are absent; a parameter that is there twice is refused, and what is not UTF-8."""
    if expected is not None:
        assert expected == wire.read_query(text)
        return
    with pytest.raises(wire.ApiError) as error:
        wire.read_query(text)
    assert (400, "E011004") == (error.value.kind.status, error.value.kind.code)
