"""A provider is told that a token is not needed any more, as far as it listens."""

from __future__ import annotations

import os
from typing import Any

import pytest

from gateway.vault.connection import Connection
from gateway.vault.revocation import revocation_request
from tests.vault.authority import authority
from tests.vault.connecting import town


async def test_refresh_token_is_named_first(database_url: str) -> None:
    """The refresh token ends the whole grant; without one, the access token goes."""
    async with town(database_url) as place, authority() as provider:
        connection = Connection("c", "c", client_id="id", client_secret="s", extra={"discoveryUrl": provider.url})
        outcomes = [
            await place.revocation.revoke(connection, access_token="AT", refresh_token=refresh)
            for refresh in ("RT", None)
        ]

    assert ["revoked", "revoked"] == outcomes
    assert [
        {"token": "RT", "token_type_hint": "refresh_token"}, {"token": "AT", "token_type_hint": "access_token"}
    ] == provider.revoked  # fmt: skip


WHY: dict[str, tuple[dict[str, Any], str]] = {
    "no place to tell": ({}, "not_supported"),
    "nobody there": ({"revocation_url": "http://127.0.0.1:1/revoke"}, "unreachable"),
    "an address that is not dialled": ({"revocation_url": "http://10.0.0.1/revoke"}, "blocked"),
    "a secret that is no key": ({"revocation_url": "http://127.0.0.1:1/", "token_auth": "private_key_jwt"}, "key_unus"),
}


@pytest.mark.parametrize(("fields", "outcome"), WHY.values(), ids=WHY.keys())
async def test_failure_is_told_not_raised(database_url: str, fields: dict[str, Any], outcome: str) -> None:
    """Whatever a provider does, deleting goes on: what came of it is a word."""
    async with town(database_url) as place:
        connection = Connection("c", "c", client_id="id", client_secret="s", **fields)
        said = await place.revocation.revoke(connection, access_token="AT", refresh_token="RT")

    assert said.startswith(outcome)


def test_request_hides_its_token() -> None:
    """Neither token nor secret is in the request's repr."""
    connection = Connection("c", "c", client_id="id", client_secret="CANARY", revocation_url="https://p/r")
    request = revocation_request(connection, "CANARY", hint="access_token", now=0.0, random_bytes=os.urandom)
    assert "CANARY" not in repr(request)
