"""The table of connections: created, owned by a file, unique."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.vault.connection import Connection
from gateway.vault.connections import ConnectionExists, ConnectionInvalid
from gateway.vault.service import Vault
from tests.vault.conftest import House


async def test_what_was_created_is_loaded(house: House, vault: Vault) -> None:
    """Every field comes back, the client secret too; the list has no secrets."""
    wanted = house.connection(
        id="mail", name="Mail", origins=("https://m.example",), token_params=(("a", "b"),), extra={"logo": "x"}
    )
    await vault.connections.create(wanted)

    assert wanted == await vault.connections.load("mail")
    assert await vault.connections.known("mail")
    assert not await vault.connections.known("MAIL")
    assert await vault.connections.load("nothing") is None
    assert [None, None] == [connection.client_secret for connection in await vault.connections.list()]


async def test_id_and_name_are_unique(house: House, vault: Vault) -> None:
    """A second connection of the same id or name is refused and changes nothing."""
    for changes in ({"name": "Other"}, {"id": "other"}):
        with pytest.raises(ConnectionExists):
            await vault.connections.create(house.connection(**changes))
    assert ["contacts"] == [connection.id for connection in await vault.connections.list()]


async def test_file_is_the_truth(house: House, vault: Vault) -> None:
    """The file's connections are written, taken over and reported when they leave it; nothing is written twice."""
    ours, more = house.connection(), house.connection(id="more", name="More")

    first = await vault.connections.upsert_from_file([ours, more])
    again = await vault.connections.upsert_from_file([ours, more])
    later = await vault.connections.upsert_from_file([replace(ours, client_secret="another")])

    assert (("contacts", "more"), ("contacts",), ()) == (first.written, first.taken_over, first.left)
    assert ((), (), ()) == (again.written, again.taken_over, again.left)
    assert (("contacts",), (), ("more",)) == (later.written, later.taken_over, later.left)
    changed, left = await vault.connections.load("contacts"), await vault.connections.load("more")
    assert changed is not None
    assert ("another", "file") == (changed.client_secret, changed.owner)
    assert left is not None
    assert left.owner == "file"


DCR = {"useDcr": True, "discoveryUrl": "https://p.example"}


async def test_registered_client_outlives_the_file(house: House, vault: Vault) -> None:
    """
    A client is registered once: the file, read again, keeps it; said to be registered elsewhere, it waits for another.
    """
    said = Connection("dcr", "Registered", extra=DCR, token_auth="client_secret_basic")
    made = replace(said, client_id="made", client_secret="s3cret", token_auth="client_secret_post")

    await vault.connections.upsert_from_file([said])
    stored = [await vault.connections.store_client(made), await vault.connections.store_client(made)]
    again = await vault.connections.upsert_from_file([replace(said, default_scopes=("more",))])
    kept = await vault.connections.load("dcr")
    same = await vault.connections.upsert_from_file([replace(said, default_scopes=("more",))])
    moved = replace(said, extra=DCR | {"discoveryUrl": "https://q.example"})
    await vault.connections.upsert_from_file([moved])

    assert [True, False] == stored
    assert (("dcr",), ()) == (again.written, same.written)
    assert kept == replace(made, owner="file", default_scopes=("more",))
    assert replace(moved, owner="file") == await vault.connections.load("dcr")
    assert not await vault.connections.store_client(made)
    assert not await vault.connections.store_client(replace(made, id="nothing"))


async def test_id_or_name_that_is_taken_is_not_free(house: House, vault: Vault) -> None:
    """What could not be created is known before."""
    await vault.connections.check_free(house.connection(id="other", name="Other"))
    for changes in ({"name": "Other"}, {"id": "other"}):
        with pytest.raises(ConnectionExists):
            await vault.connections.check_free(house.connection(**changes))


async def test_file_is_taken_whole_or_not_at_all(house: House, vault: Vault) -> None:
    """One invalid connection leaves all as they were, and is named."""
    with pytest.raises(ConnectionInvalid, match=r"^bad: token URL"):
        await vault.connections.upsert_from_file(
            [house.connection(id="good", name="Good"), house.connection(id="bad", name="Bad", token_url="x")]
        )
    assert not await vault.connections.known("good")


async def test_change_of_a_connection_is_announced(house: House, vault: Vault) -> None:
    """Where a token may go is cached with the token: every cache hears of the connection."""
    await vault.connections.upsert_from_file([house.connection(origins=("https://m.example",))])

    assert "contacts" == house.announced("connections")[-1]
