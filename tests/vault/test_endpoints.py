"""The rows of the token API, and who may use them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.vault.endpoints import ENDPOINTS
from gateway.vault.service import Vault
from gateway.vault.tokens import TokenDraft
from tests.vault.api_server import Api, serve
from tests.vault.conftest import House

LATEST = "/v1/mgmt/outbound/app/user/token/latest"
BY_SCOPES = "/v1/mgmt/outbound/app/user/token"
TENANT_LATEST = "/v1/mgmt/outbound/app/tenant/token/latest"
UPLOAD = "/v1/mgmt/outbound/app/user/oauthtoken/upload"
CREATE = "/v1/mgmt/outbound/app/create"
ALICE = {"appId": "contacts", "userId": "alice"}
ACME = {"appId": "contacts", "tenantId": "acme"}


@pytest.fixture
async def api(house: House, vault: Vault) -> AsyncIterator[Api]:
    """A running token API; alice, alice in acme, bob and acme are connected."""
    await house.grant(vault)
    for user, tenant in (("alice", "acme"), ("bob", ""), ("", "acme"), ("", "other"), ("alice", "other")):
        await vault.tokens.put(TokenDraft("contacts", user, tenant, access_token=f"AT-{user}-{tenant}"))
    async with serve(house, vault) as api:
        yield api


def is_flat(status: int, body: dict[str, Any]) -> bool:
    """Whether an answer is what the SDKs can read: success, or a flat error with a code."""
    return status == 200 or {"errorCode", "errorDescription", "errorMessage"} == set(body)


MAY: dict[str, tuple[dict[str, Any], str, dict[str, Any], int]] = {
    "a user's own token": ({}, LATEST, ALICE, 200),
    "a user's own token by scopes": ({}, BY_SCOPES, ALICE | {"scopes": ["read"]}, 200),
    "a user's own token in an own tenant": ({}, LATEST, ALICE | ACME, 200),
    "another user's": ({}, LATEST, ALICE | {"userId": "bob"}, 403),
    "an own token in another tenant": ({}, LATEST, ALICE | {"tenantId": "other"}, 403),
    "a tenant's token, by a user": ({}, TENANT_LATEST, ACME, 403),
    "without the scope": ({"scope": "openid"}, LATEST, ALICE, 403),
    "without a role that a policy names": ({"roles": ["guest"]}, LATEST, ALICE, 403),
    "a connection that no policy names": ({}, LATEST, ALICE | {"appId": "mail"}, 403),
    "a tenant's token, by a client": ({"sub": "batch", "azp": "batch"}, TENANT_LATEST, ACME, 200),
    "another tenant's token, by a client": (
        {"sub": "batch", "azp": "batch"},
        TENANT_LATEST,
        ACME | {"tenantId": "other"},
        403,
    ),
    "a user's token, by a client": ({"sub": "batch", "azp": "batch"}, LATEST, ALICE, 403),
    "a user named like the client, by a client": (
        {"sub": "batch", "azp": "batch"},
        LATEST,
        ALICE | {"userId": "batch"},
        403,
    ),
    "a token that has expired": ({"exp": 1_700_000_000}, LATEST, ALICE, 401),
    "a token for somebody else": ({"aud": "other"}, LATEST, ALICE, 401),
    "creating a connection": ({}, CREATE, {"name": "x"}, 403),
    "uploading a token": ({}, UPLOAD, ALICE | {"accessToken": "x"}, 403),
}


@pytest.mark.parametrize(("claims", "path", "body", "expected"), MAY.values(), ids=MAY.keys())
async def test_access_tokens_may(
    api: Api, claims: dict[str, Any], path: str, body: dict[str, Any], expected: int
) -> None:
    """An access token fetches its own user's tokens, a client's its tenants', where a policy allows; nothing else."""
    status, answer, _ = await api.call("POST", path, body, credential=api.access_token(**claims))

    assert expected == status, answer
    assert is_flat(status, answer)


async def test_agent_keys_are_refused(api: Api) -> None:
    """An agent key gets no raw token and manages nothing, though it is valid."""
    for path, body in ((LATEST, ALICE), (CREATE, {"name": "x"})):
        status, answer, _ = await api.call("POST", path, body, credential=api.agent_key)
        assert 403 == status
        assert is_flat(status, answer)


def test_rows_are_the_contract_s() -> None:
    """Each row is there once, and the rows of this release have handlers."""
    rows = [endpoint.row for endpoint in ENDPOINTS]
    assert sorted(set(rows)) == rows == [*range(1, 22), 23, 24]
    assert {1, 2, 3, 4, 8, 9, 14, 18, 23} == {endpoint.row for endpoint in ENDPOINTS if endpoint.handle is not None}
