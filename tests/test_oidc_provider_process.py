"""The provider that judges our refreshes is as strict as it claims: else the tests that lean on it prove nothing."""

from __future__ import annotations

import os

import aiohttp
import pytest

from tests.oidc_provider_process import OidcProviderProcess


async def test_grants_tokens_to_the_user_who_was_hinted(oidc_provider: OidcProviderProcess) -> None:
    """
    The code flow ends with a token of the user named by login_hint, with the scopes asked for.
    """
    tokens = await oidc_provider.authorize("alice", ["contacts.read"])

    async with (
        aiohttp.ClientSession() as session,
        session.get(oidc_provider.me_url, headers={"Authorization": f"Bearer {tokens['access_token']}"}) as response,
    ):
        assert {"sub": "alice", "scope": "openid offline_access contacts.read"} == await response.json()
    assert 3600 == tokens["expires_in"]
    assert {"authorization_code": 1} == (await oidc_provider.stats())["exchanges"]


async def test_rotates_the_refresh_token_at_each_use(oidc_provider: OidcProviderProcess) -> None:
    """
    Each refresh brings a new access token and a new refresh token, and the grant lives on.
    """
    tokens = await oidc_provider.authorize("alice")
    seen = {tokens["refresh_token"]}

    for _ in range(3):
        tokens = await oidc_provider.refresh(tokens["refresh_token"])
        seen.add(tokens["refresh_token"])

    stats = await oidc_provider.stats()
    assert 4 == len(seen)
    assert 3 == stats["exchanges"]["refresh_token"]
    assert 0 == stats["reuse_detected"]
    assert [("alice", True)] == [(grant["user"], grant["alive"]) for grant in stats["grants"]]


async def test_revokes_the_grant_when_a_spent_refresh_token_comes_back(oidc_provider: OidcProviderProcess) -> None:
    """
    A second use of one refresh token is refused and takes every token of that grant with it, and of no other.
    """
    first = await oidc_provider.authorize("alice")
    other = await oidc_provider.authorize("bob")
    second = await oidc_provider.refresh(first["refresh_token"])

    reuse = await oidc_provider.refresh(first["refresh_token"])

    assert "invalid_grant" == reuse["error"]
    assert 401 == await oidc_provider.status_of(second["access_token"])
    assert "invalid_grant" == (await oidc_provider.refresh(second["refresh_token"]))["error"]
    assert 200 == await oidc_provider.status_of(other["access_token"])
    stats = await oidc_provider.stats()
    assert 1 == stats["reuse_detected"]
    assert [("alice", False), ("bob", True)] == [(grant["user"], grant["alive"]) for grant in stats["grants"]]


async def test_kills_an_access_token_before_its_time(oidc_provider: OidcProviderProcess) -> None:
    """
    A revoked access token gets 401 with a challenge at once, and one refresh brings a live one.
    """
    tokens = await oidc_provider.authorize("alice")
    assert 200 == await oidc_provider.status_of(tokens["access_token"])

    await oidc_provider.revoke_access_token(tokens["access_token"])

    async with (
        aiohttp.ClientSession() as session,
        session.get(oidc_provider.me_url, headers={"Authorization": f"Bearer {tokens['access_token']}"}) as response,
    ):
        assert 401 == response.status
        assert 'error="invalid_token"' in response.headers["WWW-Authenticate"]
    fresh = await oidc_provider.refresh(tokens["refresh_token"])
    assert 200 == await oidc_provider.status_of(fresh["access_token"])


async def test_serves_the_client_itself(oidc_provider: OidcProviderProcess) -> None:
    """
    The client_credentials grant works for tokens that stand for no user.
    """
    tokens = await oidc_provider.exchange({"grant_type": "client_credentials"})

    assert 200 == await oidc_provider.status_of(tokens["access_token"])
    assert "refresh_token" not in tokens


async def test_refuses_a_wrong_client_secret(oidc_provider: OidcProviderProcess) -> None:
    """
    The token endpoint takes client_secret_basic with the right secret and nothing else.
    """
    oidc_provider.client_secret = "wrong"

    answer = await oidc_provider.exchange({"grant_type": "client_credentials"})

    assert "invalid_client" == answer["error"]


async def test_leaves_no_process_behind_and_keeps_its_secret() -> None:
    """
    The process is gone after the block, and the client's secret stands in no repr.
    """
    async with OidcProviderProcess() as provider:
        process = provider._process
        assert process is not None
        assert provider.client_secret not in repr(provider)

    assert process.returncode is not None
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)
