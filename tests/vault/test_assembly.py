"""The vault as a gateway opens it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from gateway.models import Caller, Egress, TokenKey
from gateway.net.client import OutboundClient
from gateway.store.engine import Store
from gateway.vault.assembly import OpenVault, open_vault
from gateway.vault.connection import Connection
from gateway.vault.record import to_log
from gateway.vault.sealing import SealingKeyError

KEY = TokenKey("c", "ada", None)
ADA = Caller("agent", "ada", key_id="k")


async def opened(store: Store, client: OutboundClient, data: Path) -> OpenVault:
    return await open_vault(
        store,
        client,
        data=data,
        environ={},
        base_url=lambda: "https://gateway.example",
        allow_http=False,
        clock=time.time,
        monotonic=time.monotonic,
        random_bytes=os.urandom,
        record=to_log,
    )


async def test_opens_offers_and_closes(tmp_path: Path, database_url: str) -> None:
    """
    What was opened offers a link for a connection that a browser can connect, none for one that is unknown, and closes.
    """
    store = await Store.open(database_url)
    async with OutboundClient(Egress()) as client:
        house = await opened(store, client, tmp_path)
        await house.vault.connections.create(
            Connection(
                "c", "C", client_id="x", authorization_url="https://p.example/a", token_url="https://p.example/t"
            )
        )

        offer, none = await house.offers.offer(KEY, ADA), await house.offers.offer(KEY._replace(connection="d"), ADA)
        await house.close()
    await store.close()

    assert offer is not None
    assert offer.url.startswith("https://gateway.example/connect/")
    assert none is None
    assert offer.url not in repr(offer)


async def test_does_not_open_with_another_key(tmp_path: Path, database_url: str) -> None:
    """
    A database that was sealed with another key is refused, and nothing stays open.
    """
    store = await Store.open(database_url)
    async with OutboundClient(Egress()) as client:
        house = await opened(store, client, tmp_path)
        await house.vault.connections.create(Connection("c", "C", client_id="x", client_secret="s3cret"))
        await house.close()
        (tmp_path / "sealing.key").unlink()

        with pytest.raises(SealingKeyError):
            await opened(store, client, tmp_path)
    await store.close()
