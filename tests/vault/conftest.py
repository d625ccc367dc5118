"""A vault on a real SQLite file, with a clock that the tests move, and a provider on a real socket."""

from __future__ import annotations

import ipaddress
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gateway.models import Caller, Egress, TokenKey
from gateway.net.client import OutboundClient
from gateway.store.engine import Store, sqlite_url
from gateway.vault.connection import Connection
from gateway.vault.sealing import Sealer, SealingKey
from gateway.vault.service import Vault
from gateway.vault.tokens import LEASE_SECONDS, StoredToken, TokenDraft
from tests.vault.provider import CLIENT_ID, CLIENT_SECRET, Provider

LOOPBACK = Egress(allow_private=(ipaddress.ip_network("127.0.0.0/8"),), allow_http=True)
ANYBODY = Caller(kind="management", user=None, key_id="tests")
KEY = TokenKey(connection="contacts", user="alice", tenant=None)


@dataclass
class Clock:
    """Time as the tests want it."""

    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class House:
    """What the vault's tests share: one database, and as many vaults on it as wanted."""

    path: Path
    clock: Clock
    provider: Provider
    secret: bytes = field(repr=False)

    @asynccontextmanager
    async def vault(self) -> AsyncIterator[Vault]:
        """A vault with an engine, a sealer and a client of its own: what another process would have."""
        store = await Store.open(sqlite_url(self.path))
        client = OutboundClient(LOOPBACK)
        sealer = Sealer(SealingKey.from_bytes(self.secret), os.urandom)
        vault = Vault(store, sealer, client, clock=self.clock, random_bytes=os.urandom)
        try:
            yield vault
        finally:
            await vault.close()
            await client.close()
            await store.close()

    def connection(self, **changes: object) -> Connection:
        """The connection to the tests' provider."""
        settings: dict[str, object] = {
            "id": "contacts",
            "name": "Contacts",
            "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET,
            "token_url": self.provider.url,
        }
        return Connection(**(settings | changes))  # type: ignore[arg-type]  # the tests' own values

    def lease_to(self, owner: str, token_id: str) -> None:
        """Write a lease of another process into the row."""
        with closing(sqlite3.connect(self.path)) as db, db:
            db.execute(
                "UPDATE tokens SET lease_owner = ?, lease_until = ? WHERE id = ?",
                (owner, self.clock.now + LEASE_SECONDS, token_id),
            )

    def announced(self, topic: str) -> list[str]:
        """The ids that the change feed has told of *topic*, in order."""
        with closing(sqlite3.connect(self.path)) as db:
            return [row[0] for row in db.execute("SELECT subject FROM changes WHERE topic = ? ORDER BY seq", (topic,))]

    async def grant(self, vault: Vault, *, seconds: float | None = 3600.0, user: str = "alice") -> StoredToken:
        """Begin a grant at the provider and store it for *user*."""
        access_token, refresh_token = self.provider.grant(user)
        return await vault.tokens.put(
            TokenDraft(
                connection="contacts",
                user=user,
                scopes=("read",),
                access_token=access_token,
                refresh_token=refresh_token,
                expires_at=None if seconds is None else self.clock.now + seconds,
            )
        )


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """A database, a clock and a provider; no vault yet."""
    async with Provider() as provider:
        yield House(tmp_path / "data" / "gateway.db", Clock(), provider, os.urandom(32))


@pytest.fixture
async def vault(house: House) -> AsyncIterator[Vault]:
    """A vault that knows the connection `contacts`."""
    async with house.vault() as vault:
        await vault.connections.create(house.connection())
        yield vault
