"""From a refused call to an answered one: the link, our pages, the provider's, and the same call again."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.vault.authority import Authority, authority
from tests.vault.connecting import Browser
from tests.world import Issuer, Running, Upstream, running, settings

ROUTE = {"name": "api", "prefix": "/api", "connection": "api"}


@pytest.fixture
async def provider() -> AsyncIterator[Authority]:
    """A provider that can be discovered, and registers clients."""
    async with authority(registration={"client_id": "client"}) as provider:
        yield provider


@pytest.fixture
async def gateway(tmp_path: Path, upstream: Upstream, provider: Authority, issuer: Issuer) -> AsyncIterator[Running]:
    """A gateway whose connection knows nothing of its provider but where it can be discovered."""
    async with running(settings(ROUTE | {"upstream": upstream.url}, issuers=(issuer,)), tmp_path / "data") as gateway:
        await gateway.api(
            "/v1/mgmt/outbound/app/create",
            {"id": "api", "name": "The API", "useDcr": True, "discoveryUrl": provider.url},
        )
        yield gateway


async def call(gateway: Running, issuer: Issuer) -> tuple[int, dict[str, str]]:
    """Call the API as ada's agent."""
    headers = {"Authorization": f"Bearer {issuer.token('ada')}"}
    async with gateway.session.get(f"{gateway.url}/api/me", headers=headers) as response:
        return response.status, json.loads(await response.read())


async def test_refused_call_leads_to_a_connection(
    gateway: Running, provider: Authority, upstream: Upstream, issuer: Issuer
) -> None:
    """
    The client was registered at creation; the link of a refusal leads over our page and the provider's to a token with
    which the same call is answered, and the wait address says so.
    """
    status, refused = await call(gateway, issuer)
    async with Browser() as browser:
        page = await browser.get(refused["connect_url"])
        done = await browser.answer(page)
    async with gateway.session.get(refused["wait_url"]) as response:
        waited = await response.json()
    again, _ = await call(gateway, issuer)

    assert [f"{gateway.url}/v1/outbound/oauth/callback"] == provider.registered[0]["redirect_uris"]
    assert (403, "connection_required") == (status, refused["code"])
    assert "ada" in page.text
    assert 200 == done.status
    assert "connected" == waited["status"]
    assert (200, ["Bearer AT-1"]) == (again, upstream.authorizations)
    assert "code=" not in done.url


async def test_discovered_endpoint_refreshes(
    gateway: Running, provider: Authority, upstream: Upstream, issuer: Issuer
) -> None:
    """
    A connection without a token URL of its own is refreshed at the one that its provider's metadata names.
    """
    await gateway.connect("ada", access_token="OLD", refresh_token="RT-0", accessTokenExpiry=int(time.time()) - 10)

    status, _ = await call(gateway, issuer)

    assert (200, ["Bearer AT-1"]) == (status, upstream.authorizations)
    assert ["RT-0"] == [form["refresh_token"] for form in provider.exchanged]
