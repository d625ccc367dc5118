"""OAuth messages: what is sent, and what an answer means."""

from __future__ import annotations

import base64
import json
import os
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, parse_qsl

import pytest

from gateway.providers.quirks import Quirks
from gateway.vault.connection import Connection
from gateway.vault.oauth import (
    ExchangeFailed,
    Granted,
    GrantRefused,
    code_request,
    read_token_answer,
    refresh_request,
)

NOW = 1_800_000_000.0


def connection(**settings: Any) -> Connection:
    """A connection with an awkward id and secret."""
    return Connection(
        **(
            {"id": "c", "name": "c", "client_id": "my id", "client_secret": "a:b/+é", "token_url": "https://p/t"}
            | settings
        )
    )


def test_basic_credentials_are_form_encoded_first() -> None:
    """client_secret_basic encodes both parts before base64 (RFC 6749 2.3.1) and leaves the body without them."""
    request = refresh_request(connection(), "RT")

    assert "my+id:a%3Ab%2F%2B%C3%A9" == base64.b64decode(request.headers["Authorization"][6:]).decode()
    assert {"grant_type": ["refresh_token"], "refresh_token": ["RT"]} == parse_qs(request.body.decode())


def test_post_credentials_are_in_the_body_alone() -> None:
    """client_secret_post sends id and secret in the form and no Authorization."""
    request = refresh_request(connection(token_auth="client_secret_post"), "RT")
    form = parse_qs(request.body.decode())

    assert "Authorization" not in request.headers
    assert (["my id"], ["a:b/+é"]) == (form["client_id"], form["client_secret"])


def test_public_client_sends_its_id_only() -> None:
    """A client without a secret names itself, and extra parameters of the connection are added."""
    request = refresh_request(connection(client_secret=None, token_params=(("audience", "x"),)), "RT")
    form = parse_qs(request.body.decode())

    assert "Authorization" not in request.headers
    assert (["my id"], ["x"]) == (form["client_id"], form["audience"])
    assert "client_secret" not in form


def test_request_hides_its_secrets() -> None:
    """The repr of a request and of its answer holds no secret."""
    granted = read_token_answer(200, b'{"access_token": "CANARY", "refresh_token": "CANARY"}', now=NOW)

    assert "CANARY" not in repr(refresh_request(connection(client_secret="CANARY"), "CANARY")) + repr(granted)


GRANTED: dict[str, tuple[dict[str, object], float | None]] = {
    "a whole number": ({"expires_in": 3600}, 3600),
    "a fraction": ({"expires_in": 59.5}, 59.5),
    "a string": ({"expires_in": "3600"}, 3600),
    "absent": ({}, None),
    "null": ({"expires_in": None}, None),
    "zero": ({"expires_in": 0}, None),
    "negative": ({"expires_in": -1}, None),
    "a boolean": ({"expires_in": True}, None),
    "words": ({"expires_in": "soon"}, None),
    "a list": ({"expires_in": [3600]}, None),
    "beyond reason": ({"expires_in": 1e300}, 10 * 365 * 86400),
    "type in lower case": ({"token_type": "bearer", "expires_in": 1}, 1),
}


@pytest.mark.parametrize(("more", "lifetime"), GRANTED.values(), ids=GRANTED.keys())
def test_lifetime_is_read_in_every_form(more: dict[str, object], lifetime: float | None) -> None:
    """Whatever expires_in is, the token is taken; what is no lifetime is an unknown one."""
    answer = read_token_answer(200, json.dumps({"access_token": "AT"} | more).encode(), now=NOW)

    assert isinstance(answer, Granted)
    assert (None if lifetime is None else NOW + lifetime) == answer.expires_at
    assert ("AT", None, "Bearer") == (answer.access_token, answer.refresh_token, answer.token_type)


def test_scopes_are_a_set() -> None:
    """`scope` is split at spaces and commas, sorted, without duplicates; absent is unchanged."""
    answer = read_token_answer(200, b'{"access_token": "AT", "scope": "b a,c a"}', now=NOW)
    silent = read_token_answer(200, b'{"access_token": "AT"}', now=NOW)

    assert isinstance(answer, Granted)
    assert ("a", "b", "c") == answer.scopes
    assert isinstance(silent, Granted)
    assert silent.scopes is None


def test_parameters_of_a_provider_go_where_they_belong() -> None:
    """What a code's exchange takes is not sent with a refresh; the connection's own wins; we say who asks."""
    shop = connection(template="shopify", variables=(("shop", "acme"),), token_url="https://acme.myshopify.com/t")
    own = replace(shop, token_params=(("expiring", "0"),))

    def exchanged(connection: Connection) -> list[tuple[str, str]]:
        request = code_request(
            connection, "CODE", redirect_uri="https://gw/cb", verifier=None, now=NOW, random_bytes=os.urandom
        )
        assert "connection-gateway" == request.headers["User-Agent"]
        return [pair for pair in parse_qsl(request.body.decode()) if pair[0] == "expiring"]

    assert ([("expiring", "1")], [("expiring", "0")]) == (exchanged(shop), exchanged(own))
    assert "expiring" not in dict(parse_qsl(refresh_request(shop, "RT").body.decode()))


UNREADABLE = {
    "no JSON": b"<html>",
    "nothing": b"",
    "not UTF-8": b'{"access_token": "\xff"}',
    "a list": b"[]",
    "no token": b"{}",
    "a token that is a number": b'{"access_token": 1}',
    "an empty token": b'{"access_token": ""}',
    "a line break in the token": b'{"access_token": "a\\r\\nX: y"}',
    "a space in the token": b'{"access_token": "a b"}',
    "a letter beyond ASCII": '{"access_token": "é"}'.encode(),
    "a token of 17 KiB": json.dumps({"access_token": "a" * 17 * 1024}).encode(),
    "a refresh token that is an object": b'{"access_token": "AT", "refresh_token": {}}',
    "a line break in the refresh token": b'{"access_token": "AT", "refresh_token": "a\\nb"}',
    "another token type": b'{"access_token": "AT", "token_type": "mac"}',
    "a token type that is a number": b'{"access_token": "AT", "token_type": 1}',
}


@pytest.mark.parametrize("body", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_success_that_cannot_be_read_leaves_doubt(body: bytes) -> None:
    """A 200 without a usable token may have rotated: it fails, and the outcome counts as unknown."""
    assert ExchangeFailed("malformed_answer", is_outcome_unknown=True) == read_token_answer(200, body, now=NOW)


ERRORS: dict[str, tuple[int, bytes, object]] = {
    "the grant is refused": (400, b'{"error": "invalid_grant"}', GrantRefused()),
    "refused with 401": (401, b'{"error": "invalid_grant"}', GrantRefused()),
    "refused with 200": (200, b'{"error": "invalid_grant"}', GrantRefused()),
    "the client is refused": (401, b'{"error": "invalid_client"}', ExchangeFailed("invalid_client", False)),
    "an error nobody knows": (400, b'{"error": "CANARY"}', ExchangeFailed("status_400", False)),
    "an error that is a list": (400, b'{"error": []}', ExchangeFailed("status_400", False)),
    "no JSON": (404, b"<html>", ExchangeFailed("status_404", False)),
    "a redirect": (302, b"", ExchangeFailed("status_302", False)),
    "a server error": (503, b'{"error": "invalid_grant"}', ExchangeFailed("status_503", True)),
    "a server error without JSON": (502, b"bad gateway", ExchangeFailed("status_502", True)),
}


@pytest.mark.parametrize(("status", "body", "expected"), ERRORS.values(), ids=ERRORS.keys())
def test_errors_are_told_apart(status: int, body: bytes, expected: object) -> None:
    """Only invalid_grant of an answering server is a dead grant; a server error leaves doubt; nothing is repeated."""
    assert expected == read_token_answer(status, body, now=NOW)


def test_retry_after_is_read_in_seconds() -> None:
    """Retry-After in seconds is kept, anything else is not."""
    for text, expected in {"7": 7, "Wed, 21 Oct 2026 07:28:00 GMT": None, "-1": None, "9" * 30: None}.items():
        answer = read_token_answer(429, b"{}", now=NOW, retry_after=text)
        assert isinstance(answer, ExchangeFailed)
        assert expected == answer.retry_after


QUIRKY: dict[str, tuple[Quirks, dict[str, object], object]] = {
    "the token lies deeper": (
        Quirks(token_path="/authed_user"), {"authed_user": {"access_token": "AT", "scope": "a,b"}}, ("a", "b")
    ),
    "nothing lies deeper": (Quirks(token_path="/authed_user"), {"access_token": "AT", "scope": "a"}, ("a",)),
    "other separators": (Quirks(scope_separator="+"), {"access_token": "AT", "scope": "a+b"}, ("a", "b")),
    "an error with status 200": (
        Quirks(token_errors_with_status_200=True), {"ok": False, "error": "invalid_client", "access_token": "AT"},
        ExchangeFailed("invalid_client", is_outcome_unknown=False),
    ),
    "a dead grant in other words": (
        Quirks(dead_grant_errors=("bad_refresh_token",)), {"error": "bad_refresh_token"}, GrantRefused()
    ),
}  # fmt: skip


ACCOUNTS: dict[str, tuple[str, dict[str, object], str]] = {
    "nowhere": ("", {"id": "me"}, ""),
    "at the top": ("/account_id", {"account_id": "dbid:1"}, "dbid:1"),
    "deeper": ("/authed_user/id", {"authed_user": {"id": "U1"}}, "U1"),
    "by a number": ("/hub_id", {"hub_id": 62515}, "62515"),
    "where nothing lies": ("/authed_user/id", {"authed_user": "U1"}, ""),
    "by a truth": ("/id", {"id": True}, ""),
    "by an object": ("/owner", {"owner": {"id": "U1"}}, ""),
    "with odd bytes": ("/id", {"id": "a\u0000b"}, ""),
    "at great length": ("/id", {"id": "a" * 441}, ""),
}


@pytest.mark.parametrize(("pointer", "body", "account"), ACCOUNTS.values(), ids=ACCOUNTS.keys())
def test_token_answer_may_name_the_account(pointer: str, body: dict[str, object], account: str) -> None:
    """Whose account it is, a provider may say beside the tokens: as text, or as a whole number."""
    content = json.dumps({"access_token": "AT", **body}).encode()
    answer = read_token_answer(200, content, now=NOW, quirks=Quirks(account_path=pointer))

    assert isinstance(answer, Granted)
    assert account == answer.account
    assert "U1" not in repr(answer)


@pytest.mark.parametrize(("quirks", "body", "expected"), QUIRKY.values(), ids=QUIRKY.keys())
def test_quirks_say_where_things_stand(quirks: Quirks, body: dict[str, object], expected: object) -> None:
    """A provider that answers in its own way is read in that way."""
    answer = read_token_answer(200, json.dumps(body).encode(), now=NOW, quirks=quirks)

    assert expected == (answer.scopes if isinstance(answer, Granted) else answer)


def test_lifetime_that_nobody_says() -> None:
    """A provider whose tokens are known to expire without saying so gets that lifetime."""
    answer = read_token_answer(200, b'{"access_token": "AT"}', now=NOW, quirks=Quirks(default_expires_seconds=60))

    assert isinstance(answer, Granted)
    assert NOW + 60 == answer.expires_at


def test_json_body() -> None:
    """Notion takes JSON; the parameters are the same."""
    request = refresh_request(connection(template="notion"), "RT")

    assert "application/json" == request.headers["Content-Type"]
    assert "RT" == json.loads(request.body)["refresh_token"]
