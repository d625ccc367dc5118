"""Concurrent calls against a provider that revokes the whole grant when a spent refresh token comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.e2e.gateway_process import RunningProcess, serving
from tests.oidc_provider_process import OidcProviderProcess
from tests.world import settings

USER = "ada"
CALLERS = 20


async def test_grant_lives_after_fifty_rounds_of_concurrent_refresh(
    tmp_path: Path, oidc_provider: OidcProviderProcess
) -> None:
    """
    Twenty callers meet a dead token together, fifty times: each is answered 200, one exchange a round, no reuse.
    """
    async with serving(_settings(oidc_provider), tmp_path / "data") as gateway:
        await _connect(gateway, oidc_provider)

        await _rounds([gateway], oidc_provider, rounds=50)

        await _assert_grant_alive(gateway, oidc_provider, exchanges=50)


async def test_two_processes_on_one_database_never_exchange_at_once(
    tmp_path: Path, database_url: str, oidc_provider: OidcProviderProcess
) -> None:
    """
    Two gateways that share a data directory and a database make one exchange a round between them; the grant lives on.
    """
    data, environ = tmp_path / "data", {"GATEWAY_DATABASE_URL": database_url}
    async with (
        serving(_settings(oidc_provider), data, environ=environ) as first,
        serving(_settings(oidc_provider), data, environ=environ) as second,
    ):
        await _connect(first, oidc_provider)

        await _rounds([first, second], oidc_provider, rounds=10)

        await _assert_grant_alive(first, oidc_provider, exchanges=10)


def _settings(provider: OidcProviderProcess) -> dict[str, Any]:
    return settings({"name": "api", "prefix": "/api", "upstream": provider.issuer, "connection": "api"})


async def _connect(gateway: RunningProcess, provider: OidcProviderProcess) -> None:
    """Create the connection and store what the provider granted to the user."""
    body = {"id": "api", "name": "The API", "tokenUrl": provider.token_url}
    await gateway.api(
        "/v1/mgmt/outbound/app/create",
        {**body, "clientId": provider.client_id, "clientSecret": provider.client_secret},
    )
    granted = await provider.authorize(USER)
    await gateway.connect(USER, access_token=granted["access_token"], refresh_token=granted["refresh_token"])


async def _rounds(gateways: Sequence[RunningProcess], provider: OidcProviderProcess, *, rounds: int) -> None:
    """Kill the token and call with it from every side, *rounds* times."""
    key = await gateways[0].agent_key(USER)
    for round_number in range(1, rounds + 1):
        await provider.revoke_access_token(await _access_token(gateways[0]))

        statuses = await asyncio.gather(*(_status(gateways[n % len(gateways)], key) for n in range(CALLERS)))

        assert [200] * CALLERS == statuses
        assert round_number == (await provider.stats())["exchanges"].get("refresh_token", 0)


async def _status(gateway: RunningProcess, key: str) -> int:
    headers = {"Authorization": f"Bearer {key}"}
    async with gateway.session.get(f"{gateway.url}/api/me", headers=headers) as response:
        await response.read()
        return response.status


async def _access_token(gateway: RunningProcess) -> str:
    content = await gateway.api("/v1/mgmt/outbound/app/user/token/latest", {"appId": "api", "userId": USER})
    return str(content["token"]["accessToken"])


async def _assert_grant_alive(gateway: RunningProcess, provider: OidcProviderProcess, *, exchanges: int) -> None:
    stats = await provider.stats()
    assert exchanges == stats["exchanges"]["refresh_token"]
    assert 0 == stats["reuse_detected"]
    assert {} == stats["refusals"]
    assert [True] == [grant["alive"] for grant in stats["grants"]]
    assert 200 == await provider.status_of(await _access_token(gateway))
