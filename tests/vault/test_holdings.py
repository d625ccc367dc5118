"""Many tokens at once: all stored or none, and whose connections are valid."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import IntegrityError

from gateway.vault.service import Vault
from gateway.vault.stored_token import TokenDraft
from tests.vault.conftest import House


async def test_batch_is_one_transaction(vault: Vault) -> None:
    """A token of a connection that is not there undoes the whole batch."""
    with pytest.raises(IntegrityError):
        await vault.holdings.put_all(
            [TokenDraft("contacts", "alice", access_token="x"), TokenDraft("nothing", "alice", access_token="x")]
        )
    assert [] == await vault.tokens.list()
    stored = await vault.holdings.put_all([TokenDraft("contacts", user, access_token="x") for user in "ab"])
    assert set(stored) == {token.id for token in await vault.tokens.list()}


async def test_expired_with_a_refresh_token_is_valid(house: House, vault: Vault) -> None:
    """What a fetch could still serve counts; what nobody can refresh does not."""
    await house.grant(vault, seconds=10)
    await vault.tokens.put(TokenDraft("contacts", "bob", access_token="x", expires_at=house.clock.now + 10))
    house.clock.now += 60
    assert ("contacts",) == await vault.holdings.connections_of("alice", tenant=None)
    assert () == await vault.holdings.connections_of("bob", tenant=None)
