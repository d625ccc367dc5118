"""The official Python SDK, unmodified, against the token API on a real listener: only its base URL differs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import pytest
from descope import AuthException, DescopeClient

from gateway.vault.service import Vault
from tests.vault.api_server import PROJECT, Api, serve
from tests.vault.conftest import House

T = TypeVar("T")
PROJECT_ID = PROJECT


@pytest.fixture
async def api(house: House, vault: Vault) -> AsyncIterator[Api]:
    """A running token API with a connection and no tokens."""
    async with serve(house, vault) as api:
        yield api


async def sync(call: Callable[[], T]) -> T:
    """Run a call of the SDK, which blocks, beside the event loop that serves it."""
    return await asyncio.to_thread(call)


async def manager(api: Api, suffix: str = "") -> DescopeClient:
    """The SDK with a management key, made as its users make it."""
    return await sync(lambda: DescopeClient(PROJECT_ID, management_key=api.management_key, base_url=api.url + suffix))


async def test_uploads_and_fetches(api: Api) -> None:
    """A connection is created and loaded; a user's and a tenant's tokens go in and come out."""
    outbound = (await manager(api)).mgmt.outbound_application

    def work() -> list[Any]:
        created = outbound.create_application("Mail", id="mail", client_secret="CANARY")
        loaded = outbound.load_application("mail")
        outbound.upload_user_token("mail", "alice", access_token="AT-user", scopes=["a", "b"])
        outbound.upload_tenant_token("mail", "acme", access_token="AT-tenant", scopes=["a"])
        return [
            created["app"] == loaded["app"],
            outbound.fetch_token("mail", "alice")["token"]["accessToken"],
            outbound.fetch_token_by_scopes("mail", "alice", ["b", "a"])["token"]["accessToken"],
            outbound.fetch_tenant_token("mail", "acme")["token"]["accessToken"],
            outbound.fetch_tenant_token_by_scopes("mail", "acme", ["a"])["token"]["accessToken"],
        ]

    assert [True, "AT-user", "AT-user", "AT-tenant", "AT-tenant"] == await sync(work)


async def test_refreshes_on_demand(api: Api) -> None:
    """forceRefresh and withRefreshToken pass through the SDK; a base URL with a slash at its end works."""
    _, refresh_token = api.house.provider.grant("alice")
    outbound = (await manager(api, "/")).mgmt.outbound_application

    def work() -> dict[str, Any]:
        outbound.upload_user_token("contacts", "alice", refresh_token=refresh_token, verify_refresh=True)
        options = {"forceRefresh": True, "withRefreshToken": True}
        token: dict[str, Any] = outbound.fetch_token("contacts", "alice", options=options)["token"]
        return token

    token = await sync(work)
    assert ("AT-alice-2", "RT-alice-2", True) == (token["accessToken"], token["refreshToken"], token["hasRefreshToken"])


async def test_errors_reach_the_user_of_the_sdk(api: Api) -> None:
    """A missing token is an AuthException with status 404 and the contract's code in its text."""
    outbound = (await manager(api)).mgmt.outbound_application

    with pytest.raises(AuthException) as error:
        await sync(lambda: outbound.fetch_token("contacts", "nobody"))

    assert 404 == error.value.status_code
    assert "E111504" == json.loads(str(error.value.error_message))["errorCode"]


async def test_fetches_by_access_token(api: Api) -> None:
    """With an access token and no management key the SDK gets its user's tokens, and nobody else's."""
    outbound = (await manager(api)).mgmt.outbound_application
    client = await sync(lambda: DescopeClient(PROJECT_ID, base_url=api.url))
    by_token = client.mgmt.outbound_application_by_token
    alice = api.access_token()
    batch = api.access_token(sub="batch", azp="batch")

    def work() -> list[str]:
        outbound.upload_user_token("contacts", "alice", access_token="AT-user", scopes=["a"])
        outbound.upload_tenant_token("contacts", "acme", access_token="AT-tenant", scopes=["a"])
        answers = [
            by_token.fetch_token(alice, "contacts", "alice"),
            by_token.fetch_token_by_scopes(alice, "contacts", "alice", ["a"]),
            by_token.fetch_tenant_token(batch, "contacts", "acme"),
            by_token.fetch_tenant_token_by_scopes(batch, "contacts", "acme", ["a"]),
        ]
        return [answer["token"]["accessToken"] for answer in answers]

    assert ["AT-user", "AT-user", "AT-tenant", "AT-tenant"] == await sync(work)
    with pytest.raises(AuthException) as error:
        await sync(lambda: by_token.fetch_token(alice, "contacts", "bob"))
    assert 403 == error.value.status_code
