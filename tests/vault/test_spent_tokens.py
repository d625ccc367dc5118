"""Refresh tokens that the vault has spent itself: whoever uploads one again loses nothing, and no provider sees it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from gateway.vault.adoption import RefreshTokenStored
from gateway.vault.backoff import RefreshFailed
from gateway.vault.sealing import Sealer, SealingKey
from gateway.vault.service import Vault
from gateway.vault.spent_tokens import FIRST_KEPT, LAST_KEPT, SpentTokens
from gateway.vault.stored_token import StoredToken, TokenDraft, preview
from tests.vault.conftest import ANYBODY, KEY, House

DRAFT = TokenDraft("contacts", "alice", scopes=("read",), access_token="AT-alice-0", refresh_token="RT-alice-0")


async def verified(vault: Vault, draft: TokenDraft) -> None:
    """One upload with verifyRefresh."""
    await vault.upload(draft, verify_refresh=True)


async def single(vault: Vault, draft: TokenDraft) -> None:
    """One upload as it is."""
    await vault.upload(draft)


async def batch(vault: Vault, draft: TokenDraft) -> None:
    """A batch of this one and another user's."""
    await vault.uploads.put_all([TokenDraft("contacts", "bob", access_token="x"), draft])


Upload = Callable[[Vault, TokenDraft], Awaitable[None]]
UPLOADS: dict[str, Upload] = {"single": single, "batch": batch, "verified": verified}
pytestmark = pytest.mark.usefixtures("vault")


async def refreshed(house: House, vault: Vault) -> StoredToken:
    """Begin alice's grant, store it as DRAFT, exchange it, and return the row."""
    house.provider.grant("alice")
    await vault.upload(DRAFT)
    token, _ = await vault.fetch_stored(KEY, force_refresh=True)
    assert "RT-alice-1" == token.refresh_token
    return token


async def still_refreshes(house: House, vault: Vault) -> bool:
    """Whether the grant can be exchanged once more, and its provider never saw a spent token."""
    before = len(house.provider.exchanges)
    await vault.fetch_stored(KEY, force_refresh=True)
    is_exchanged = len(house.provider.exchanges) == before + 1
    return is_exchanged and house.provider.is_alive("alice") and not house.provider.reuses


@pytest.mark.parametrize("upload", UPLOADS.values(), ids=UPLOADS.keys())
async def test_upload_that_is_repeated_after_a_refresh_changes_nothing(
    house: House, vault: Vault, upload: Upload
) -> None:
    """The newer tokens stay, with all else that the row says, and the provider is not asked."""
    before = await refreshed(house, vault)
    house.execute("DELETE FROM changes")
    house.clock.now += 10
    for _ in range(2):
        await upload(vault, replace(DRAFT, access_token="older", expires_at=house.clock.now + 9, granted_by="bob"))

    assert before == await vault.tokens.get(before.id)
    assert ["RT-alice-0"] == house.provider.exchanges
    assert not [owner for owner in house.announced("tokens") if "alice" in owner]
    assert await still_refreshes(house, vault)


@pytest.mark.parametrize("upload", UPLOADS.values(), ids=UPLOADS.keys())
async def test_upload_that_was_verified_is_repeated(house: House, vault: Vault, upload: Upload) -> None:
    """A client that repeats its upload is answered as the first time, and the grant lives."""
    house.provider.grant("alice")
    await verified(vault, DRAFT)
    await upload(vault, DRAFT)
    await verified(vault, DRAFT)

    assert ["RT-alice-0"] == house.provider.exchanges
    assert await still_refreshes(house, vault)


async def test_verified_upload_is_repeated_after_its_caller_has_gone(house: House, vault: Vault) -> None:
    """Whoever was told to come back while the provider thought is answered with what its first upload brought."""
    house.provider.grant("alice")
    house.provider.gate = asyncio.Event()
    first = asyncio.create_task(verified(vault, DRAFT))
    await house.provider.entered.wait()
    with pytest.raises(RefreshFailed, match="in_progress"):
        await verified(vault, DRAFT)
    first.cancel()
    await asyncio.wait({first})
    house.provider.gate.set()
    is_answered = False
    while not is_answered:
        try:
            await verified(vault, DRAFT)
            is_answered = True
        except RefreshFailed as exc:
            assert "in_progress" == exc.error  # it may come, or not

    assert ["RT-alice-0"] == house.provider.exchanges
    assert await still_refreshes(house, vault)


@pytest.mark.parametrize("upload", UPLOADS.values(), ids=UPLOADS.keys())
async def test_tokens_that_an_exchange_brought_are_remembered(house: House, vault: Vault, upload: Upload) -> None:
    """A refresh token that was read from the vault, and uploaded when it had been spent, is known as well."""
    await refreshed(house, vault)
    await vault.fetch_stored(KEY, force_refresh=True)
    await upload(vault, replace(DRAFT, refresh_token="RT-alice-1"))

    assert await still_refreshes(house, vault)


@pytest.mark.parametrize("upload", UPLOADS.values(), ids=UPLOADS.keys())
async def test_spent_token_for_other_scopes_is_refused(house: House, vault: Vault, upload: Upload) -> None:
    """The token that has spent it is named, as the one that holds it would be; nothing is written."""
    stored = await refreshed(house, vault)
    with pytest.raises(RefreshTokenStored) as refusal:
        await upload(vault, replace(DRAFT, scopes=("write",)))

    assert stored.id == refusal.value.token_id
    assert [stored.id] == [token.id for token in await vault.tokens.list()]
    assert await still_refreshes(house, vault)


async def test_another_grant_is_stored_and_the_spent_tokens_stay_known(house: House, vault: Vault) -> None:
    """A refresh token that the vault has not spent replaces the row's, whatever was spent before."""
    await refreshed(house, vault)
    await vault.upload(replace(DRAFT, refresh_token="RT-other-0"))
    for upload in UPLOADS.values():
        await upload(vault, DRAFT)
    stored = await vault.tokens.latest(KEY)

    assert stored is not None
    assert "RT-other-0" == stored.refresh_token
    assert ["RT-alice-0"] == house.provider.exchanges


async def test_verified_upload_of_a_spent_token_of_a_dead_grant_is_refused(house: House, vault: Vault) -> None:
    """The newest refresh token was refused, so an older one is as well: that is said without asking."""
    before = await refreshed(house, vault)
    house.execute("UPDATE tokens SET dead = :dead", dead=True)
    with pytest.raises(RefreshFailed, match="invalid_grant"):
        await verified(vault, DRAFT)
    await single(vault, DRAFT)

    assert replace(before, dead=True) == await vault.tokens.get(before.id)
    assert ["RT-alice-0"] == house.provider.exchanges


async def test_deleted_token_takes_what_it_has_spent_along(house: House, vault: Vault) -> None:
    """After a delete an upload is as the first one: that is the way out for who knows better than the vault."""
    stored = await refreshed(house, vault)
    await vault.tokens.delete(stored.id)
    await single(vault, DRAFT)
    again = await vault.tokens.latest(KEY)

    assert again is not None
    assert ("RT-alice-0", None) == (again.refresh_token, again.sealed_spent)


@pytest.mark.parametrize("upload", UPLOADS.values(), ids=UPLOADS.keys())
async def test_refresh_token_of_an_otherwise_unusable_answer_is_the_newer_one(
    house: House, vault: Vault, upload: Upload
) -> None:
    """What was exchanged for it is spent, although the exchange brought no access token."""
    house.provider.grant("alice")
    await vault.upload(DRAFT)
    house.provider.unusable = {"access_token": None}
    await vault.fetch_stored(KEY, force_refresh=True)
    house.provider.unusable = {}
    house.clock.now += 600
    await upload(vault, DRAFT)

    assert await still_refreshes(house, vault)


async def test_refresh_token_that_stays_is_not_spent(house: House, vault: Vault) -> None:
    """Of a provider that does not rotate the same refresh token is uploaded again as ever."""
    house.provider.rotates = False
    house.provider.grant("alice")
    await vault.upload(DRAFT)
    await vault.fetch_stored(KEY, force_refresh=True)
    await vault.upload(replace(DRAFT, access_token="newer"))
    answer = await vault.fetch(KEY, caller=ANYBODY, credential="")

    assert "newer" == answer.access_token


async def test_memory_that_was_damaged_hinders_no_refresh(house: House, vault: Vault) -> None:
    """What a row has spent does not open: its refresh is stored all the same, and begins another memory."""
    await refreshed(house, vault)
    house.execute("UPDATE tokens SET sealed_spent = sealed_refresh_token")
    await vault.fetch_stored(KEY, force_refresh=True)
    await vault.upload(replace(DRAFT, refresh_token="RT-alice-1"))

    assert await still_refreshes(house, vault)


def test_memory_is_bounded() -> None:
    """Kept are a row's first spent tokens, which somebody brought, and its last; no other row opens them."""
    spent = SpentTokens(Sealer(SealingKey.from_bytes(os.urandom(32)), os.urandom))
    token = replace(preview(DRAFT, now=1.0), id="t1")
    total = FIRST_KEPT + 2 * LAST_KEPT
    for number in range(total):
        token = replace(token, sealed_spent=spent.sealed(token, f"CANARY-{number}"))
    known = [number for number in range(total) if spent.has(token, f"CANARY-{number}")]

    assert [*range(FIRST_KEPT), *range(total - LAST_KEPT, total)] == known
    assert not spent.has(replace(token, id="t2"), "CANARY-0")
    assert not spent.has(replace(token, refresh_token="CANARY-0"), "CANARY-0")
    assert "CANARY" not in repr(token) + repr(spent)
