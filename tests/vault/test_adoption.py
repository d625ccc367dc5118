"""Uploads whose refresh token is verified: one exchange, whoever else has the same token in hand."""

from __future__ import annotations

import asyncio

import pytest

from gateway.vault.adoption import CLAIM_SECONDS, RefreshTokenStored
from gateway.vault.backoff import RefreshFailed
from gateway.vault.service import Vault
from gateway.vault.stored_token import StoredToken, TokenDraft
from tests.vault.conftest import ANYBODY, KEY, House


def draft(house: House, *, scopes: tuple[str, ...] = ("read",), refresh_token: str = "") -> TokenDraft:
    """A grant of alice's, just begun at the provider and stored nowhere."""
    refresh_token = refresh_token or house.provider.grant("alice")[1]
    return TokenDraft("contacts", "alice", scopes=scopes, refresh_token=refresh_token)


async def upload(vault: Vault, given: TokenDraft) -> StoredToken:
    """Upload with verifyRefresh."""
    return await vault.upload(given, verify_refresh=True)


async def test_two_verified_uploads_of_one_token_exchange_it_once(house: House, vault: Vault) -> None:
    """A client that repeats its upload while the first is under way does not spend the refresh token twice."""
    given = draft(house)
    house.provider.gate = asyncio.Event()
    async with house.vault() as other:
        first = asyncio.create_task(upload(vault, given))
        await house.provider.entered.wait()
        with pytest.raises(RefreshFailed) as refusal:
            await upload(other, given)
        with pytest.raises(RefreshFailed):
            await other.upload(given)  # nor can it be stored meanwhile, to be exchanged by a fetch
        house.provider.gate.set()
        stored = await first

    assert "in_progress" == refusal.value.error
    assert ["RT-alice-0"] == house.provider.exchanges
    assert ("AT-alice-1", "RT-alice-1") == (stored.access_token, stored.refresh_token)
    assert house.provider.is_alive("alice")


async def test_token_that_is_stored_already_is_exchanged_by_its_own_job(house: House, vault: Vault) -> None:
    """A verified upload of what the row holds joins the exchange under way, in whichever process."""
    await house.grant(vault, seconds=100.0)
    house.clock.now += 101.0
    house.provider.gate = asyncio.Event()
    async with house.vault() as other:
        fetching = asyncio.create_task(vault.fetch(KEY, caller=ANYBODY, credential=""))
        await house.provider.entered.wait()
        uploading = asyncio.create_task(upload(other, draft(house, refresh_token="RT-alice-0")))
        await asyncio.sleep(0.1)
        house.provider.gate.set()
        fetched, uploaded = await asyncio.gather(fetching, uploading)

    assert ["RT-alice-0"] == house.provider.exchanges
    assert "AT-alice-1" == fetched.access_token == uploaded.access_token


@pytest.mark.parametrize("verify", [True, False])
async def test_one_refresh_token_in_two_rows_is_refused(house: House, vault: Vault, verify: bool) -> None:
    """Each row would spend it for the other: the second upload says which row has it, and changes nothing."""
    stored = await house.grant(vault)
    with pytest.raises(RefreshTokenStored) as refusal:
        await vault.upload(draft(house, scopes=("read", "write"), refresh_token="RT-alice-0"), verify_refresh=verify)

    assert stored.id == refusal.value.token_id
    assert [] == house.provider.exchanges
    assert 1 == len(await vault.tokens.list())
    again = await vault.upload(draft(house, refresh_token="RT-alice-0"))  # the same identity: an upload as ever
    assert stored.id == again.id


async def test_refused_token_is_not_stored(house: House, vault: Vault) -> None:
    """invalid_grant: nothing is written, the claim is gone, and the old token stays."""
    before = await house.grant(vault)
    for _ in range(2):
        with pytest.raises(RefreshFailed) as refusal:
            await upload(vault, draft(house, refresh_token="RT-nobody-0"))
        assert "invalid_grant" == refusal.value.error

    assert before == await vault.tokens.get(before.id)
    assert [] == house.execute("SELECT id FROM connect_attempts")


UNAVAILABLE: dict[str, tuple[int | str, str]] = {
    "busy": (429, "server_error"),
    "failing": (503, "answer_lost"),
    "a lost answer": ("lost", "answer_lost"),
}


@pytest.mark.parametrize(("fault", "error"), UNAVAILABLE.values(), ids=UNAVAILABLE.keys())
async def test_provider_that_cannot_tell_is_no_refusal(
    house: House, vault: Vault, fault: int | str, error: str
) -> None:
    """Whoever uploads is told to come back, or that the refresh token may be spent; nothing is stored."""
    house.provider.fault = fault
    with pytest.raises(RefreshFailed) as refusal:
        await upload(vault, draft(house))

    assert error == refusal.value.error
    assert [] == await vault.tokens.list()


async def test_granted_scopes_are_the_providers(house: House, vault: Vault) -> None:
    """What the provider says it granted is stored beside what was asked for."""
    house.provider.scope = "read"
    stored = await upload(vault, draft(house, scopes=("read", "write")))

    assert (("read", "write"), ("read",)) == (stored.requested_scopes, stored.granted_scopes)


async def test_claim_of_a_dead_process_ends(house: House, vault: Vault) -> None:
    """A process that died while it verified does not keep the refresh token from ever being uploaded."""
    given = draft(house)
    async with vault._adoption._claimed(given), house.vault() as other:
        with pytest.raises(RefreshFailed):
            await upload(other, given)
        house.clock.now += CLAIM_SECONDS
        stored = await upload(other, given)

    assert ("AT-alice-1", "RT-alice-1") == (stored.access_token, stored.refresh_token)
