"""Which keys a database was sealed with, and a start with a ring that lacks some."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest

from gateway.store.engine import Store
from gateway.vault.connection import Connection
from gateway.vault.connections import Connections
from gateway.vault.key_census import Counted, check_keys, count_keys, sealed_columns
from gateway.vault.sealing import Sealer, SealingKey, SealingKeyError
from gateway.vault.stored_token import TokenDraft
from gateway.vault.tokens import Tokens

KEYS = [SealingKey.from_bytes(bytes(range(start, start + 32))) for start in range(3)]


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    """A database with a connection and a token of the first key, and a token of the second."""
    store = await Store.open(database_url)
    first, second = (Sealer(key, os.urandom) for key in KEYS[:2])
    connection = Connection(id="contacts", name="Contacts", client_id="me", client_secret="CANARY")
    await Connections(store, first, clock=lambda: 1.0, random_bytes=os.urandom).create(connection)
    for sealer, user in ((first, "alice"), (second, "bob")):
        tokens = Tokens(store, sealer, clock=lambda: 1.0, random_bytes=os.urandom)
        await tokens.put(TokenDraft("contacts", user=user, access_token="CANARY"))
    yield store
    await store.close()


def test_every_sealed_column_is_known() -> None:
    """The columns are found by their names; those that hold secrets today are among them."""
    names = {f"{column.table.name}.{column.name}" for column in sealed_columns()}

    assert {"connections.sealed_client_secret", "tokens.sealed_access_token", "tokens.sealed_refresh_token"} <= names


async def test_empty_database_counts_nothing_and_takes_any_key(database_url: str) -> None:
    """Where nothing is sealed there is nothing to miss."""
    store = await Store.open(database_url)
    assert [] == await count_keys(store)
    await check_keys(store, Sealer(KEYS[2], os.urandom))
    await store.close()


async def test_counts_by_key(store: Store) -> None:
    """Each column and key is counted; absent secrets are not."""
    expected = {
        Counted("connections", "sealed_client_secret", KEYS[0].key_id, 1),
        Counted("tokens", "sealed_access_token", KEYS[0].key_id, 1),
        Counted("tokens", "sealed_access_token", KEYS[1].key_id, 1),
    }
    assert expected == set(await count_keys(store))


async def test_missing_keys_are_named(store: Store) -> None:
    """A ring that lacks one of the keys is refused, with the missing and the given ids, wherever the value is."""
    for given, missing in ((KEYS[0], [KEYS[1]]), (KEYS[2], KEYS[:2])):
        with pytest.raises(SealingKeyError, match="give the gateway the key") as error:
            await check_keys(store, Sealer(given, os.urandom))
        assert all(key.key_id.hex() in str(error.value) for key in (given, *missing))
