"""The vault against npm's oidc-provider, a real process that revokes a grant when a spent refresh token comes back."""

from __future__ import annotations

import asyncio

import pytest

from gateway.vault.stored_token import TokenDraft
from tests.oidc_provider_process import OidcProviderProcess
from tests.vault.conftest import ANYBODY, KEY, House

pytestmark = pytest.mark.parametrize("engine", ["sqlite"])  # the rules are the provider's

ROUNDS = 50


async def test_grant_is_alive_after_rounds_of_concurrent_refresh(
    house: House, oidc_provider: OidcProviderProcess
) -> None:
    """Two vaults on one database, ten callers a round: one exchange a round, no reuse, and the grant lives."""
    granted = await oidc_provider.authorize("alice", ["contacts.read"])
    connection = house.connection(
        token_url=oidc_provider.token_url,
        client_id=oidc_provider.client_id,
        client_secret=oidc_provider.client_secret,
    )
    async with house.vault() as one, house.vault() as two:
        await one.connections.create(connection)
        await one.upload(
            TokenDraft(
                "contacts", "alice", access_token=granted["access_token"], refresh_token=granted["refresh_token"]
            )
        )
        for _ in range(ROUNDS):
            rejected = await one.fetch(KEY, caller=ANYBODY, credential="")
            answers = await asyncio.gather(
                *(
                    vault.replace(KEY, rejected=rejected, caller=ANYBODY, credential="")
                    for vault in (one, two)
                    for _ in range(5)
                )
            )
            assert 1 == len({answer.access_token for answer in answers} - {rejected.access_token})
        newest = await one.fetch(KEY, caller=ANYBODY, credential="")

    stats = await oidc_provider.stats()
    assert (ROUNDS, 0) == (stats["exchanges"]["refresh_token"], stats["reuse_detected"])
    assert [True] == [grant["alive"] for grant in stats["grants"]]
    assert 200 == await oidc_provider.status_of(newest.access_token)


async def test_grant_is_alive_after_uploads_that_are_repeated(house: House, oidc_provider: OidcProviderProcess) -> None:
    """The refresh token that was exchanged comes again, in each way of uploading it: the provider never sees it."""
    granted = await oidc_provider.authorize("alice", ["contacts.read"])
    connection = house.connection(
        token_url=oidc_provider.token_url,
        client_id=oidc_provider.client_id,
        client_secret=oidc_provider.client_secret,
    )
    draft = TokenDraft("contacts", "alice", refresh_token=granted["refresh_token"])
    before = await oidc_provider.stats()
    async with house.vault() as vault:
        await vault.connections.create(connection)
        for _ in range(2):
            await vault.upload(draft, verify_refresh=True)
            await vault.upload(draft)
            await vault.uploads.put_all([draft])
            await vault.fetch_stored(KEY, force_refresh=True)
        newest = await vault.fetch(KEY, caller=ANYBODY, credential="")

    stats = await oidc_provider.stats()
    exchanges = [told["exchanges"].get("refresh_token", 0) for told in (before, stats)]
    assert (3, before["reuse_detected"]) == (exchanges[1] - exchanges[0], stats["reuse_detected"])
    assert 200 == await oidc_provider.status_of(newest.access_token)
