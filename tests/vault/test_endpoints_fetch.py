"""Who is handed a raw connection token."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from gateway.vault.service import Vault
from gateway.vault.stored_token import TokenDraft
from tests.vault.api_server import Api, serve
from tests.vault.conftest import House

LATEST = "/v1/mgmt/outbound/app/user/token/latest"
BY_SCOPES = "/v1/mgmt/outbound/app/user/token"
TENANT_LATEST = "/v1/mgmt/outbound/app/tenant/token/latest"
ALICE = {"appId": "contacts", "userId": "alice"}
ACME = {"appId": "contacts", "tenantId": "acme"}
BATCH = {"sub": "batch", "azp": "batch"}


@pytest.fixture
async def api(house: House, vault: Vault) -> AsyncIterator[Api]:
    """A running token API; alice, alice in acme, bob and acme are connected."""
    await house.grant(vault)
    for user, tenant in (("alice", "acme"), ("bob", ""), ("", "acme"), ("", "other"), ("alice", "other")):
        await vault.tokens.put(TokenDraft("contacts", user, tenant, access_token=f"AT-{user}-{tenant}"))
    await vault.tokens.put(TokenDraft("contacts", "alice", account="work", access_token="AT-work"))
    async with serve(house, vault) as api:
        yield api


MAY: dict[str, tuple[dict[str, Any], str, dict[str, Any], int]] = {
    "a user's own token": ({}, LATEST, ALICE, 200),
    "a user's own token by scopes": ({}, BY_SCOPES, ALICE | {"scopes": ["read"]}, 200),
    "a user's own token in an own tenant": ({}, LATEST, ALICE | ACME, 200),
    "a user's own token of another account": ({}, LATEST, ALICE | {"externalIdentifier": "work"}, 200),
    "another user's": ({}, LATEST, ALICE | {"userId": "bob"}, 403),
    "an own token in another tenant": ({}, LATEST, ALICE | {"tenantId": "other"}, 403),
    "a tenant's token, by a user": ({}, TENANT_LATEST, ACME, 403),
    "without the scope": ({"scope": "openid"}, LATEST, ALICE, 403),
    "without a role that a policy names": ({"roles": ["guest"]}, LATEST, ALICE, 403),
    "a connection that no policy names": ({}, LATEST, ALICE | {"appId": "mail"}, 403),
    "a tenant's token, by a client": (BATCH, TENANT_LATEST, ACME, 200),
    "another tenant's token, by a client": (BATCH, TENANT_LATEST, ACME | {"tenantId": "other"}, 403),
    "a user's token, by a client": (BATCH, LATEST, ALICE, 403),
    "a user named like the client, by a client": (BATCH, LATEST, ALICE | {"userId": "batch"}, 403),
    "a token that has expired": ({"exp": 1_700_000_000}, LATEST, ALICE, 401),
    "a token for somebody else": ({"aud": "other"}, LATEST, ALICE, 401),
}


@pytest.mark.parametrize("engine", ["sqlite"])
@pytest.mark.parametrize(("claims", "path", "body", "expected"), MAY.values(), ids=MAY.keys())
async def test_access_tokens_may(
    api: Api, claims: dict[str, Any], path: str, body: dict[str, Any], expected: int
) -> None:
    """An access token fetches its own user's tokens, a client's its tenants', where a policy allows; nothing else."""
    status, answer, _ = await api.call("POST", path, body, credential=api.access_token(**claims))

    assert expected == status, answer
    events = [event for event, _ in api.recorded]
    assert {200: ["raw_token_fetched"], 403: ["raw_token_refused"], 401: []}[expected] == events


MINTED: dict[str, Any] = {"extra": {"grantType": "client_credentials", "tenantId": "acme"}}
MISSING: dict[str, tuple[str, dict[str, Any], str]] = {
    "a connection that is not there": (LATEST, ALICE | {"appId": "nothing"}, "There is no connection of this appId."),
    "the same by scopes": (BY_SCOPES, ALICE | {"appId": "nothing", "scopes": []}, "no connection of this appId"),
    "the same of a tenant": (TENANT_LATEST, ACME | {"appId": "nothing"}, "no connection of this appId"),
    "somebody who is not connected": (LATEST, ALICE | {"userId": "nobody"}, "must be connected"),
    "a user of what is minted": (LATEST, ALICE | {"appId": "minted"}, "for tenants only"),
    "a user in a tenant of what is minted": (LATEST, ALICE | {"appId": "minted", "tenantId": "acme"}, "tenants only"),
    "an account of what is minted": (
        TENANT_LATEST,
        ACME | {"appId": "minted", "externalIdentifier": "a"},
        "without an",
    ),
    "another tenant of what is minted": (TENANT_LATEST, {"appId": "minted", "tenantId": "other"}, "its own tenant"),
}


@pytest.mark.parametrize(("path", "body", "text"), MISSING.values(), ids=MISSING.keys())
async def test_says_what_is_missing(api: Api, vault: Vault, path: str, body: dict[str, Any], text: str) -> None:
    """Each is a token that was not found, and the text says what its reader can do about it, without routes."""
    await vault.connections.create(replace(api.house.connection(), id="minted", name="Minted", **MINTED))
    status, answer, _ = await api.call("POST", path, body)

    assert (404, "E111504") == (status, answer["errorCode"])
    assert text in answer["errorMessage"]
    assert "route" not in answer["errorMessage"]


async def test_accounts_never_stand_in_for_each_other(api: Api) -> None:
    """externalIdentifier chooses among a user's accounts; without it, the unnamed one answers."""
    for account, expected in (("work", "AT-work"), ("", "AT-alice-0"), (None, "AT-alice-0")):
        _, answer, _ = await api.call("POST", LATEST, ALICE | {"externalIdentifier": account})
        assert (expected, account or "") == (
            answer["token"]["accessToken"], answer["token"]["externalIdentifier"],
        )  # fmt: skip
    status, answer, _ = await api.call("POST", LATEST, ALICE | {"externalIdentifier": "home"})
    assert (404, "E111504") == (status, answer["errorCode"])
