"""The rows of the token API, and who may use them: every row with every kind of credential."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.vault.calls import Endpoint
from gateway.vault.endpoints import ENDPOINTS
from gateway.vault.service import Vault
from gateway.vault.stored_token import TokenDraft
from tests.vault.api_server import PROJECT, Api, serve
from tests.vault.conftest import House


@pytest.fixture
async def api(house: House, vault: Vault) -> AsyncIterator[Api]:
    """A running token API; alice and acme are connected."""
    await house.grant(vault)
    await vault.tokens.put(TokenDraft("contacts", "", "acme", access_token="AT-acme"))
    async with serve(house, vault) as api:
        yield api


def test_rows_are_the_contract_s() -> None:
    """Each row is there once; 22 is the traffic listener's."""
    rows = [endpoint.row for endpoint in ENDPOINTS]
    assert sorted(set(rows)) == rows == [*range(1, 22), 23, 24]


# The answer to each kind of row by kind of caller: whether the credential is refused (403, 401) or gets further.
REFUSES: dict[str, dict[str, int]] = {
    "either": {"nobody": 401, "agent": 403, "guest": 403},
    "management": {"nobody": 401, "agent": 403, "guest": 403, "user": 403, "client": 403},
    "caller": {"nobody": 401, "agent": 403, "management": 403},
    "public": {},
}
CALLERS = ("nobody", "management", "agent", "user", "client", "guest")
BODIES: dict[int, dict[str, Any]] = {
    1: {"appId": "contacts", "userId": "alice"},
    2: {"appId": "contacts", "userId": "alice", "scopes": ["read"]},
    3: {"appId": "contacts", "tenantId": "acme"},
    4: {"appId": "contacts", "tenantId": "acme", "scopes": []},
}
NOT_THEIRS = {("user", 3), ("user", 4), ("client", 1), ("client", 2)}  # levels (DESIGN section 7)


def credential(api: Api, caller: str) -> str:
    """What *caller* presents. A guest has a valid token without the scope to fetch."""
    return {
        "nobody": "",
        "management": api.management_key,
        "agent": api.agent_key,
        "user": api.access_token(),
        "client": api.access_token(sub="batch", azp="batch"),
        "guest": api.access_token(scope="openid"),
    }[caller]


@pytest.mark.parametrize("engine", ["sqlite"])
@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: f"row {endpoint.row}")
async def test_every_row_takes_its_callers_only(api: Api, endpoint: Endpoint) -> None:
    """Each row with each kind of caller: the refused get 401 or 403, the others anything else, always flat."""
    path = endpoint.path.replace("{id}", "nothing" if endpoint.row != 24 else PROJECT)
    for caller in CALLERS:
        headers = {"Authorization": f"Bearer {PROJECT}:{credential(api, caller)}"}
        async with api.session.request(
            endpoint.method, api.url + path, headers=headers, json=BODIES.get(endpoint.row, {})
        ) as response:
            status, answer = response.status, await response.json()
        wanted = REFUSES[endpoint.credential].get(caller)
        if (caller, endpoint.row) in NOT_THEIRS:
            wanted = 403
        if wanted is not None:
            assert wanted == status, (caller, answer)
        else:
            assert status not in (401, 403), (caller, answer)
        assert status == 200 or {"errorCode", "errorDescription", "errorMessage"} == set(answer)
    if endpoint.is_fetch:
        fetched = [fields["caller"]["kind"] for event, fields in api.recorded if event == "raw_token_fetched"]
        assert ["management", "jwt"] == fetched
