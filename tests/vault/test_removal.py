"""Deleting: what goes, what stays, who is told, and that a provider cannot hold it up."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gateway.models import token_owner
from gateway.vault import removal
from gateway.vault.connections import ConnectionMissing, ConnectionReadOnly
from gateway.vault.service import Vault
from gateway.vault.stored_token import StoredToken, TokenDraft
from tests.vault.conftest import House


async def test_many_owners_are_announced_by_connection(
    house: House, vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few deletes name each owner, many name the connection."""
    monkeypatch.setattr(removal, "MAX_OWNERS", 2)
    for user in ("a", "b", "c", "d"):
        await vault.tokens.put(TokenDraft("contacts", user, access_token="x"))
    before = len(house.announced("connections"))
    assert 1 == (await vault.removal.of_users(connection=None, user="a")).deleted
    assert token_owner("contacts", "a", None) == house.announced("tokens")[-1]
    assert 3 == (await vault.removal.of_users(connection="contacts", user=None)).deleted
    assert ["contacts"] == house.announced("connections")[before:]


async def test_provider_that_hangs_holds_nothing_up(
    house: House, vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its time a revocation is given up and counted, and the token is deleted."""
    monkeypatch.setattr(removal, "REVOKE_SECONDS", 0.05)

    async def hang(token: StoredToken) -> bool:
        await asyncio.sleep(3600)
        return True

    vault.removal.revoke = hang
    await vault.connections.update("contacts", lambda it: replace(it, revocation_url="https://p.example/r"))
    token = await house.grant(vault)
    removed = await vault.removal.one(token.id)
    assert (1, 0, 1) == (removed.deleted, removed.revoked, removed.unrevoked)
    assert None is await vault.tokens.get(token.id)


async def test_all_that_could_be_revoked_are_counted(
    house: House, vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the limit or refused is unrevoked; dead, or of a provider without a place to tell it, is not counted."""
    monkeypatch.setattr(removal, "MAX_REVOKED", 5)
    asked: list[str] = []

    async def refuse_one(token: StoredToken) -> bool:
        asked.append(token.user)
        return len(asked) > 1

    vault.removal.revoke = refuse_one
    await vault.connections.update("contacts", lambda it: replace(it, revocation_url="https://p.example/r"))
    await vault.connections.create(replace(house.connection(), id="silent", name="Silent"))
    for connection in ("silent", "contacts"):  # the first five rows are of the one that cannot be told
        for number in range(8):
            await vault.tokens.put(TokenDraft(connection, "alice", account=f"a{number}", access_token="x"))
    await vault.tokens.put(TokenDraft("contacts", "alice", "acme", access_token="x"))
    house.execute("UPDATE tokens SET dead = TRUE WHERE account = 'a7'")
    removed = await vault.removal.of_users(connection=None, user="alice")

    assert (17, 4, 4) == (removed.deleted, removed.revoked, removed.unrevoked)
    assert 5 == len(asked)


async def test_what_does_not_open_is_counted(house: House, vault: Vault) -> None:
    """A row whose seal is broken cannot be revoked, is counted, and is deleted."""

    async def revoke(token: StoredToken) -> bool:
        return True

    vault.removal.revoke = revoke
    await vault.connections.update("contacts", lambda it: replace(it, revocation_url="https://p.example/r"))
    token = await house.grant(vault)
    house.execute("UPDATE tokens SET sealed_refresh_token = sealed_access_token")

    removed = await vault.removal.one(token.id)
    assert (1, 0, 1) == (removed.deleted, removed.revoked, removed.unrevoked)


async def test_connections_go_only_where_they_may(house: House, vault: Vault) -> None:
    """One that is not there and one of the file's are refused, and keep their tokens."""
    await vault.connections.upsert_from_file([replace(house.connection(), id="filed", name="Filed")])
    await vault.tokens.put(TokenDraft("filed", "alice", access_token="x"))
    with pytest.raises(ConnectionMissing):
        await vault.removal.connection("nothing")
    with pytest.raises(ConnectionReadOnly):
        await vault.removal.connection("filed")
    with pytest.raises(ValueError, match="expected a connection or a user"):
        await vault.removal.of_users(connection=None, user=None)
    assert 1 == len(await vault.tokens.list())
