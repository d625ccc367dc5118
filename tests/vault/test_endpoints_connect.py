"""Connecting by the API, and the keys: what is handed to the flow, what is answered, what is public."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import ClientSession

from gateway.access.policy import Policy, PolicySet
from gateway.errors import RateLimited, SubjectNotAllowed
from gateway.vault.api import create_app
from gateway.vault.connection import Connection
from gateway.vault.links import ConnectInvalid
from gateway.vault.listener import ApiRunner
from gateway.vault.record import to_log
from gateway.vault.service import Vault
from tests.vault.api_server import PROJECT, Api, running, serve
from tests.vault.conftest import House

CONNECT = ("/v1/mgmt/outbound/app/connect", "/v1/outbound/oauth/connect")


@dataclass
class Link:
    """What a flow hands out."""

    url: str = "https://gateway.test/connect/secret"


class Flow:
    """Begins nothing: it keeps what it was asked for, or refuses."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.refuses: Exception | None = None

    async def start(self, connection_id: str, **asked: Any) -> Link:
        if self.refuses is not None:
            raise self.refuses
        self.asked.append({"connection": connection_id} | asked)
        return Link()

    async def register(self, connection: Connection) -> Connection:
        return connection

    async def public_keys(self) -> list[dict[str, str]]:
        """Two issuers: one key of both, and two keys with one kid."""
        return [{"kid": "a", "n": "1"}, {"kid": "a", "n": "2"}, {"n": "1", "kid": "a"}]


@pytest.fixture
async def api(house: House, vault: Vault) -> AsyncIterator[Api]:
    """A running token API."""
    await house.grant(vault)
    async with serve(house, vault) as api:
        yield api


async def test_asks_the_flow_and_answers_its_page(api: Api, vault: Vault) -> None:
    """Tenant and level stand beside or among the options; the answer is the page and nothing else."""
    flow = Flow()
    async with connecting(api, vault, flow) as url, ClientSession() as session:
        options = {"redirectUrl": "https://app.test", "scopes": ["a"], "externalIdentifier": "work", "tenantId": "acme"}
        for path in CONNECT:
            async with session.post(
                url + path, json={"appId": "contacts", "options": options}, headers=bearer(api.access_token())
            ) as response:
                assert (200, {"url": Link().url}) == (response.status, await response.json())
        for refusal, status, code in (
            (SubjectNotAllowed(), 403, "E011006"),
            (ConnectInvalid("scopes: unknown"), 400, "E011004"),
            (RateLimited(retry_after=7), 429, "E130429"),
        ):
            flow.refuses = refusal
            async with session.post(
                url + CONNECT[0], json={"appId": "contacts"}, headers=bearer(api.access_token())
            ) as response:
                assert (status, code) == (response.status, (await response.json())["errorCode"])
        async with session.post(
            url + CONNECT[0], json={"appId": "nothing"}, headers=bearer(api.access_token())
        ) as response:
            assert 404 == response.status

    asked = [
        {name: each[name] for name in ("connection", "user", "tenant", "tenant_level", "account", "redirect_url")}
        for each in flow.asked
    ]
    expected = {
        "connection": "contacts", "user": "alice", "tenant": "acme", "tenant_level": False, "account": "work",
        "redirect_url": "https://app.test",
    }  # fmt: skip
    assert [expected, expected] == asked
    assert ["alice", "alice"] == [each["started_by"].user for each in flow.asked]


TENANT = {"tenantId": "acme", "tenantLevel": True}
MAY_CONNECT_A_TENANT: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[Policy, ...] | None, int]] = {
    "a user for themselves, without any policy": ({}, {}, None, 200),
    "a user for themselves, whatever is denied": ({}, {}, (Policy(id="no", effect="deny"),), 200),
    "a tenant, without any policy": ({}, TENANT, None, 403),
    "a tenant, with none that allows": ({}, TENANT, (), 403),
    "a tenant, by a role that may": (
        {},
        TENANT,
        (Policy(id="sales", effect="allow", roles=frozenset({"sales"})),),
        200,
    ),
    "a tenant, by a role that may not": (
        {"roles": ["guest"]},
        TENANT,
        (Policy(id="sales", effect="allow", roles=frozenset({"sales"})),),
        403,
    ),
    "a tenant, allowed on a route": ({}, TENANT, (Policy(id="r", effect="allow", routes=frozenset({"api"})),), 403),
    "a tenant, denied on a route": (
        {},
        TENANT,
        (Policy(id="all", effect="allow"), Policy(id="r", effect="deny", routes=frozenset({"api"}))),
        403,
    ),
    "a tenant, by its client": (
        {"sub": "batch", "azp": "batch"},
        TENANT,
        (Policy(id="b", effect="allow", clients=frozenset({"batch"})),),
        200,
    ),
    "a tenant, allowed for another connection": (
        {},
        TENANT,
        (Policy(id="o", effect="allow", connections=frozenset({"other"})),),
        403,
    ),
    "a tenant that is not named": ({}, {"tenantLevel": True}, (), 200),  # the flow refuses that, as wrong
}


@pytest.mark.parametrize(
    ("claims", "body", "policies", "status"), MAY_CONNECT_A_TENANT.values(), ids=MAY_CONNECT_A_TENANT.keys()
)
async def test_tenant_is_connected_by_whom_a_policy_names(
    api: Api,
    vault: Vault,
    claims: dict[str, Any],
    body: dict[str, Any],
    policies: tuple[Policy, ...] | None,
    status: int,
) -> None:
    """
    Connecting one's own account asks no policy; connecting a tenant decides for everybody in it, and asks.
    """
    flow = Flow()
    api.policies = PolicySet(policies)
    async with connecting(api, vault, flow) as url, ClientSession() as session:
        headers = bearer(api.access_token(**claims))
        async with session.post(url + CONNECT[1], json={"appId": "contacts", **body}, headers=headers) as response:
            assert status == response.status

    assert (1 if status == 200 else 0) == len(flow.asked)


async def test_keys_are_public_and_told_once(api: Api, vault: Vault) -> None:
    """No credential is needed; a key of two issuers is told once, two keys of one kid both; another project is 401."""
    async with connecting(api, vault, Flow()) as url, ClientSession() as session:
        async with session.get(f"{url}/v2/keys/{PROJECT}") as response:
            assert {"keys": [{"kid": "a", "n": "1"}, {"kid": "a", "n": "2"}]} == _sorted(await response.json())
        async with session.get(f"{url}/v2/keys/other") as response:
            assert (401, "E011005") == (response.status, (await response.json())["errorCode"])


def _sorted(answer: dict[str, Any]) -> dict[str, Any]:
    return {"keys": sorted(answer["keys"], key=lambda key: str(key["n"]))}


def bearer(credential: str) -> dict[str, str]:
    """The header of an access token, with the part that SDKs append."""
    return {"Authorization": f"Bearer {PROJECT}:{credential}:authentication-key"}


def connecting(api: Api, vault: Vault, flow: Flow) -> Any:
    """Serve the same vault once more, with a flow and keys."""
    app = create_app(
        vault,
        api.identity,
        api.keyring,
        api.policies,
        project=PROJECT,
        record=to_log,
        random_bytes=os.urandom,
        issuers=flow,
        connecting=flow,
    )
    return running(ApiRunner(app, access_log=None, shutdown_timeout=0.1))
