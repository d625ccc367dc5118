"""Whose connections are valid."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gateway.vault.service import Vault
from gateway.vault.stored_token import TokenDraft
from tests.vault.conftest import House

VALID: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "nothing but an expired token": ({}, {"access_token": "x", "expires_at": 10}, False),
    "a token that lasts": ({}, {"access_token": "x", "expires_at": 3600}, True),
    "a token of unknown expiry": ({}, {"access_token": "x"}, True),
    "an expired token with a refresh token": (
        {}, {"access_token": "x", "refresh_token": "r", "expires_at": 10}, True,
    ),
    "a refresh token alone": ({}, {"refresh_token": "r"}, True),
    "an expired token whose refresh token nobody takes": (
        {"token_url": ""}, {"access_token": "x", "refresh_token": "r", "expires_at": 10}, False,
    ),
    "a refresh token alone that nobody takes": ({"token_url": ""}, {"refresh_token": "r"}, False),
    "a token that lasts, without a token endpoint": (
        {"token_url": ""}, {"access_token": "x", "refresh_token": "r", "expires_at": 3600}, True,
    ),
    "an expired token with an endpoint that is discovered": (
        {"token_url": "", "extra": {"discoveryUrl": "https://p.example"}},
        {"access_token": "x", "refresh_token": "r", "expires_at": 10}, True,
    ),
    "an expired token that the gateway mints": (
        {"extra": {"grantType": "client_credentials"}}, {"access_token": "x", "expires_at": 10}, True,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("connection", "token", "is_valid"), VALID.values(), ids=VALID.keys())
async def test_lists_what_a_fetch_can_serve(
    house: House, vault: Vault, connection: dict[str, Any], token: dict[str, Any], is_valid: bool
) -> None:
    """What is not expired, or can be renewed, counts; what nobody can renew does not."""
    await vault.connections.update("contacts", lambda it: replace(it, **connection))
    if "expires_at" in token:
        token = token | {"expires_at": house.clock.now + token["expires_at"]}
    await vault.tokens.put(TokenDraft("contacts", "alice", **token))
    house.clock.now += 60

    assert (("contacts",) if is_valid else ()) == await vault.holdings.connections_of("alice", tenant=None)
