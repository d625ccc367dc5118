"""The vault as a token service: which token answers, when it is refreshed, what is said where there is none."""

from __future__ import annotations

import asyncio
import os

import pytest

from gateway.errors import ConnectionRequired, ConnectionUnknown, TokenServiceUnavailable
from gateway.models import ConnectionToken, TokenKey
from gateway.store.engine import Store
from gateway.vault.sealing import Sealer, SealingKey, SealingKeyError
from gateway.vault.service import Vault, check_sealing_key
from gateway.vault.stored_token import TokenDraft
from tests.vault.conftest import ANYBODY, KEY, House


async def fetch(vault: Vault) -> ConnectionToken:
    """Fetch alice's token."""
    return await vault.fetch(KEY, caller=ANYBODY, credential="")


async def test_tells_what_is_missing(house: House, vault: Vault) -> None:
    """An unknown connection, and a user who never connected, are two different answers."""
    with pytest.raises(ConnectionUnknown):
        await vault.fetch(KEY._replace(connection="nothing"), caller=ANYBODY, credential="")
    with pytest.raises(ConnectionRequired) as refusal:
        await fetch(vault)
    assert "contacts" == refusal.value.connection


WHEN_DUE: dict[str, tuple[float | None, float, bool]] = {
    "long before expiry": (3600.0, 3539.0, False),
    "a minute before expiry": (3600.0, 3540.0, True),
    "short life, long before": (100.0, 89.0, False),
    "short life, a tenth before": (100.0, 90.0, True),
    "expired": (100.0, 100.0, True),
    "unknown expiry, after a year": (None, 365 * 86400.0, False),
}


@pytest.mark.parametrize(("lifetime", "after", "is_due"), WHEN_DUE.values(), ids=WHEN_DUE.keys())
async def test_refreshes_ahead_of_expiry(
    house: House, vault: Vault, lifetime: float | None, after: float, is_due: bool
) -> None:
    """From min(60 s, 10 % of the lifetime) before expiry the token is refreshed; of an unknown expiry never."""
    await house.grant(vault, seconds=lifetime)
    house.clock.now += after

    answer = await fetch(vault)

    assert (is_due, is_due) == (answer.refreshed, answer.access_token == "AT-alice-1")
    if not is_due:
        assert (lifetime is None) == (answer.refresh_at is None)


async def test_answer_says_where_it_may_go_and_when_to_ask_again(house: House, vault: Vault) -> None:
    """The token carries its connection's origins, its scopes and the time from which it is due."""
    await vault.connections.upsert_from_file([house.connection(origins=("https://p.example",))])
    await house.grant(vault, seconds=3600.0)

    answer = await fetch(vault)

    assert (("https://p.example",), ("read",)) == (answer.origins, answer.scopes)
    assert (house.clock.now + 3540.0, house.clock.now + 3600.0) == (answer.refresh_at, answer.expires_at)


async def test_token_without_refresh_token_serves_until_it_expires(house: House, vault: Vault) -> None:
    """Nothing is asked of the provider; rejected, it is returned as it is; after expiry somebody must connect again."""
    draft = TokenDraft("contacts", "alice", access_token="AT", expires_at=house.clock.now + 100)
    await vault.tokens.put(draft)
    house.clock.now += 99
    answer = await fetch(vault)
    assert ("AT", answer.expires_at) == (answer.access_token, answer.refresh_at)
    assert answer == await vault.replace(KEY, rejected=answer, caller=ANYBODY, credential="")

    house.clock.now += 1
    with pytest.raises(ConnectionRequired):
        await fetch(vault)
    assert [] == house.provider.exchanges


async def test_upload_of_a_refresh_token_alone_is_exchanged_at_first_use(house: House, vault: Vault) -> None:
    """Without an access token the first fetch asks the provider."""
    _, refresh_token = house.provider.grant("alice")
    await vault.tokens.put(TokenDraft("contacts", "alice", refresh_token=refresh_token))

    assert "AT-alice-1" == (await fetch(vault)).access_token


async def test_replace_returns_what_changed_meanwhile(house: House, vault: Vault) -> None:
    """A token that differs from the rejected one is returned without an exchange."""
    await house.grant(vault)
    rejected = await fetch(vault)
    await vault.tokens.put(TokenDraft("contacts", "alice", scopes=("read",), access_token="uploaded"))

    answer = await vault.replace(KEY, rejected=rejected, caller=ANYBODY, credential="")

    assert ("uploaded", False) == (answer.access_token, answer.refreshed)
    assert [] == house.provider.exchanges


async def test_short_lived_answer_is_served(house: House, vault: Vault) -> None:
    """A provider whose tokens live shorter than our margins does not send callers in circles."""
    house.provider.expires_in = 1
    await house.grant(vault, seconds=100.0)
    house.clock.now += 100.0

    answer = await fetch(vault)

    assert ("AT-alice-1", house.clock.now + 1) == (answer.access_token, answer.refresh_at)


async def test_minted_token_needs_nobody_to_connect(house: House, vault: Vault) -> None:
    """A client-credentials connection gives a tenant its first token, and the next one, by itself; no user has one."""
    minted = house.connection(id="minted", name="Minted", extra={"grantType": "client_credentials"})
    await vault.connections.create(minted)
    key = TokenKey("minted", None, "acme")

    async with house.vault() as other:
        answers = await asyncio.gather(
            *(one.fetch(key, caller=ANYBODY, credential="") for one in (vault, other) for _ in range(10))
        )
    house.clock.now += 3601.0
    again = await vault.fetch(key, caller=ANYBODY, credential="")

    assert {"MT-1"} == {answer.access_token for answer in answers}
    assert ("MT-2", 2) == (again.access_token, house.provider.minted)
    with pytest.raises(ConnectionRequired):
        await vault.fetch(key._replace(user="alice"), caller=ANYBODY, credential="")


async def test_minting_that_fails_ends_nothing(house: House, vault: Vault) -> None:
    """Refused or unanswered, a minted grant is neither dead nor lost: the next attempt has a token."""
    minted = house.connection(id="minted", name="Minted", extra={"grantType": "client_credentials"})
    await vault.connections.create(minted)
    key = TokenKey("minted", None, "acme")
    for fault in ("drop", 503, "garbage"):
        house.provider.fault = fault
        with pytest.raises(TokenServiceUnavailable):
            await vault.fetch(key, caller=ANYBODY, credential="")
        house.clock.now += 100.0
    house.provider.fault = None

    assert (await vault.fetch(key, caller=ANYBODY, credential="")).access_token.startswith("MT-")


async def test_force_asks_the_provider(house: House, vault: Vault) -> None:
    """forceRefresh exchanges a fresh token; when that fails for a passing cause, the fresh token is served."""
    await house.grant(vault)

    forced, _ = await vault.fetch_stored(KEY, force_refresh=True)
    house.provider.fault = 503
    kept, _ = await vault.fetch_stored(KEY, force_refresh=True)

    assert ("AT-alice-1", "") == (forced.access_token, forced.last_refresh_error)
    assert ("AT-alice-1", "answer_lost") == (kept.access_token, kept.last_refresh_error)


async def test_verified_upload_stores_what_the_provider_gave(house: House, vault: Vault) -> None:
    """verifyRefresh exchanges first and stores the outcome; a refused one stores nothing."""
    _, refresh_token = house.provider.grant("alice")
    draft = TokenDraft("contacts", "alice", refresh_token=refresh_token)

    stored = await vault.upload(draft, verify_refresh=True)

    assert ("AT-alice-1", "RT-alice-1") == (stored.access_token, stored.refresh_token)


async def test_broken_seal_and_broken_database_are_unavailable(house: House, vault: Vault) -> None:
    """What cannot be opened or read is not served, and no cause reaches the caller."""
    await house.grant(vault)
    house.execute("UPDATE tokens SET sealed_access_token = sealed_refresh_token")
    with pytest.raises(TokenServiceUnavailable):
        await fetch(vault)
    house.execute("DROP TABLE tokens")
    with pytest.raises(TokenServiceUnavailable):
        await fetch(vault)


async def test_wrong_sealing_key_is_told_at_start(house: House, vault: Vault) -> None:
    """A database with sealed values starts with its own key only."""
    await vault.start()
    store = await Store.open(house.database_url)
    try:
        with pytest.raises(SealingKeyError, match="give the gateway the key that belongs to this data"):
            await check_sealing_key(store, Sealer(SealingKey.from_bytes(os.urandom(32)), os.urandom))
    finally:
        await store.close()
