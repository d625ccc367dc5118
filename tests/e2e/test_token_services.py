"""The vault as others use it: through Descope's official SDK, and as the token service of a second gateway."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from descope import AuthException, DescopeClient

from tests.world import PROJECT, Issuer, Provider, Running, Upstream, create_connection, running, settings

USER = "ada"
CALLERS = 20


@pytest.fixture
async def vault(tmp_path: Path, issuer: Issuer, provider: Provider) -> AsyncIterator[Running]:
    """A gateway without routes; users may ask its vault for tokens of the connection "api" by access token."""
    # DESIGN section 7: a raw token needs an allow policy without routes, methods, paths or request conditions.
    policies = [{"id": "raw-tokens", "effect": "allow"}]
    async with running(settings(issuers=(issuer,), policies=policies), tmp_path / "vault") as gateway:
        await create_connection(gateway, provider)
        yield gateway


# --- the official SDK --------------------------------------------------------------------------------------------


async def test_sdk_uploads_and_fetches_with_a_management_key(vault: Running) -> None:
    """
    Given only our address, the SDK stores a user's token and reads it back.
    """
    token = {"appId": "api", "userId": USER, "accessToken": "T1", "refreshToken": "R1", "scopes": ["read"]}

    def call() -> dict[str, Any]:
        applications = _sdk(vault, vault.management_key).mgmt.outbound_application
        applications.upload_user_token(
            "api", USER, access_token="T1", refresh_token="R1", access_token_expiry=4_000_000_000, scopes=["read"]
        )
        return dict(applications.fetch_token_by_scopes("api", USER, ["read"])["token"])

    fetched = await asyncio.to_thread(call)

    assert "refreshToken" not in fetched
    assert fetched["hasRefreshToken"]
    assert {**fetched, "refreshToken": "R1"} == {**fetched, **token}
    assert "4000000000" == fetched["accessTokenExpiry"]


async def test_sdk_fetches_with_an_access_token(vault: Running, issuer: Issuer) -> None:
    """
    A user's JWT, and no management key, is enough for that user's token; another user's is 403, none at all is 404.
    """
    await vault.connect(USER, access_token="T1")
    await vault.connect("bob", access_token="T2")

    def call(user: str, caller: str) -> str:
        by_token = _sdk(vault).mgmt.outbound_application_by_token
        return str(by_token.fetch_token(issuer.token(caller), "api", user)["token"]["accessToken"])

    assert "T1" == await asyncio.to_thread(call, USER, USER)
    for user, caller, status in (("bob", USER, 403), ("carl", "carl", 404)):
        with pytest.raises(AuthException) as refused:
            await asyncio.to_thread(call, user, caller)
        assert status == refused.value.status_code
        assert {"errorCode", "errorDescription"} <= set(json.loads(refused.value.error_message or ""))


def _sdk(vault: Running, management_key: str | None = None) -> DescopeClient:
    return DescopeClient(project_id=PROJECT, management_key=management_key, base_url=vault.gateway.token_api_url)


# --- a gateway whose token service is another gateway ------------------------------------------------------------


@pytest.mark.parametrize("kind", ["caller", "management key"])
async def test_gateway_takes_tokens_from_a_second_vault(
    vault: Running, upstream: Upstream, issuer: Issuer, tmp_path: Path, kind: str
) -> None:
    """
    A JWT caller's call goes out with the token of the second gateway's vault, and without its own credential.
    """
    await vault.connect(USER, access_token="T1")
    credential = issuer.token(USER)

    async with _front(vault, upstream, issuer, tmp_path, kind) as front:
        status, _ = await _call(front, credential)

        assert front.gateway.token_api_url is None
        assert [USER] == [line["caller"]["user"] for line in front.lines("outcome")]

    assert 200 == status
    assert ["Bearer T1"] == upstream.authorizations
    assert credential.encode() not in upstream.received[0].head


@pytest.mark.parametrize("kind", ["caller", "management key"])
async def test_rejected_token_is_refreshed_once_through_both(
    vault: Running, upstream: Upstream, provider: Provider, issuer: Issuer, tmp_path: Path, kind: str
) -> None:
    """
    Many callers with credentials of their own meet a 401 together: one exchange at the provider, and 200 for each.
    """
    await vault.connect(USER, access_token="T1", refresh_token=provider.issue())
    upstream.live = set()
    provider.on_exchange = upstream.live.add
    credentials = [issuer.token(USER, jti=str(number)) for number in range(CALLERS)]

    async with _front(vault, upstream, issuer, tmp_path, kind) as front:
        answers = await asyncio.gather(*(_call(front, credential) for credential in credentials))

        assert any(line["refreshed"] for line in front.lines("outcome"))

    assert [200] * CALLERS == [status for status, _ in answers]
    assert (1, 0) == (provider.exchanges, provider.reused)
    assert {"Bearer T1", f"Bearer {next(iter(upstream.live))}"} == set(upstream.authorizations)


@pytest.mark.parametrize("kind", ["caller", "management key"])
async def test_missing_connection_is_told(
    vault: Running, upstream: Upstream, issuer: Issuer, tmp_path: Path, kind: str
) -> None:
    """
    Where the second vault has no token of the user, the call is refused as connection_required, and nothing leaves.
    """
    async with _front(vault, upstream, issuer, tmp_path, kind) as front:
        status, content = await _call(front, issuer.token("carl"))

    assert (403, "connection_required") == (status, content["code"])
    assert "api" == content["connection"]
    assert [] == upstream.received


async def test_agent_key_cannot_ask_as_the_caller(
    vault: Running, upstream: Upstream, issuer: Issuer, tmp_path: Path
) -> None:
    """
    An agent key means nothing to the token service: with `credential: caller` it is refused, and never sent there.
    """
    await vault.connect(USER, access_token="T1")

    async with _front(vault, upstream, issuer, tmp_path, "caller") as front:
        status, content = await _call(front, await front.agent_key(USER))

    assert (403, "caller_kind_unsupported") == (status, content["code"])
    assert [] == upstream.received


async def test_agent_key_works_where_the_gateway_has_a_management_key(
    vault: Running, upstream: Upstream, issuer: Issuer, tmp_path: Path
) -> None:
    """
    With a management key the gateway asks for itself, so an agent key of its own is as good as a JWT.
    """
    await vault.connect(USER, access_token="T1")

    async with _front(vault, upstream, issuer, tmp_path, "management key") as front:
        status, _ = await _call(front, await front.agent_key(USER))

    assert 200 == status
    assert ["Bearer T1"] == upstream.authorizations


def _front(
    vault: Running, upstream: Upstream, issuer: Issuer, tmp_path: Path, kind: str
) -> AbstractAsyncContextManager[Running]:
    """Return a gateway with the route /api that asks *vault* for tokens, by its callers' JWTs or a management key."""
    credential = "caller" if kind == "caller" else vault.management_key
    base_url = vault.gateway.token_api_url
    service = {"kind": "descope", "project": PROJECT, "base_url": base_url, "credential": credential}
    route = {"name": "api", "prefix": "/api", "upstream": upstream.url, "connection": "api"}
    return running(settings(route, issuers=(issuer,), token_service=service), tmp_path / "front")


async def _call(gateway: Running, credential: str) -> tuple[int, dict[str, Any]]:
    headers = {"Authorization": f"Bearer {credential}"}
    async with gateway.session.get(f"{gateway.url}/api/v1/me", headers=headers) as response:
        return response.status, await response.json(content_type=None)
