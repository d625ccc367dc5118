"""Tokens that need no browser: a connection of routes.yaml gives a tenant's calls theirs, from a strict provider."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.gateway_process import serving
from tests.oidc_provider_process import OidcProviderProcess
from tests.world import Upstream, settings

CALLERS = 8


def configuration(provider: OidcProviderProcess, upstream: Upstream, **connection: Any) -> dict[str, Any]:
    """A route for tenants, and the connection whose client mints their tokens."""
    made = {
        "id": "machine",
        "grant_type": "client_credentials",
        "client_id": provider.client_id,
        "client_secret": "${MACHINE_SECRET}",
        "scopes": ["contacts.read"],
        **connection,
    }
    route = {"name": "api", "prefix": "/api", "upstream": upstream.url, "connection": "machine", "subject": "tenant"}
    return settings(route, connections=[made])


@pytest.mark.parametrize("place", ["token_url", "discovery_url"])
async def test_client_credentials_give_a_tenant_its_token(
    tmp_path: Path, oidc_provider: OidcProviderProcess, upstream: Upstream, place: str
) -> None:
    """
    The first calls of a tenant share one exchange, its token reaches the API, and the provider knows that token.
    """
    where = {"token_url": oidc_provider.token_url, "discovery_url": oidc_provider.issuer}[place]
    environ = {"MACHINE_SECRET": oidc_provider.client_secret}
    async with serving(
        configuration(oidc_provider, upstream, **{place: where}), tmp_path / "data", environ=environ
    ) as gateway:
        key = await gateway.agent_key(None, tenants=("acme",))
        headers = {"Authorization": f"Bearer {key}", "Gateway-Tenant": "acme"}

        async def call() -> int:
            async with gateway.session.get(f"{gateway.url}/api/me", headers=headers) as response:
                await response.read()
                return response.status

        statuses = await asyncio.gather(*(call() for _ in range(CALLERS)))
        fetched = await gateway.api(
            "/v1/mgmt/outbound/app/tenant/token/latest", {"appId": "machine", "tenantId": "acme"}
        )
        lines = gateway.lines("exchange_outcome")
        stderr = gateway.process.stderr
    exchanges = (await oidc_provider.stats())["exchanges"]

    token = fetched["token"]["accessToken"]
    assert [200] * CALLERS == statuses
    assert {"client_credentials": 1} == exchanges
    assert {f"Bearer {token}"} == set(upstream.authorizations)
    assert ["granted"] == [line["outcome"] for line in lines]
    assert oidc_provider.client_secret not in stderr
    assert token not in stderr


async def test_another_tenant_gets_none_where_the_connection_has_its_own(
    tmp_path: Path, oidc_provider: OidcProviderProcess, upstream: Upstream
) -> None:
    """
    With `tenant_id` no other tenant's call is answered with a token, and the provider is not asked.
    """
    said = configuration(oidc_provider, upstream, token_url=oidc_provider.token_url, tenant_id="acme")
    environ = {"MACHINE_SECRET": oidc_provider.client_secret}
    async with serving(said, tmp_path / "data", environ=environ) as gateway:
        key = await gateway.agent_key(None, tenants=("other",))
        headers = {"Authorization": f"Bearer {key}", "Gateway-Tenant": "other"}
        async with gateway.session.get(f"{gateway.url}/api/me", headers=headers) as response:
            refused = await response.json()

    assert ("connection_required", []) == (refused["code"], upstream.authorizations), refused
    assert {} == (await oidc_provider.stats())["exchanges"]
