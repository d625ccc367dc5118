"""A vault on a real database, with a clock that the tests move, and a provider on a real socket."""

from __future__ import annotations

import ipaddress
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from gateway.errors import RecordUnavailable
from gateway.models import Caller, Egress, TokenKey
from gateway.net.client import OutboundClient
from gateway.store.engine import Store
from gateway.vault.connection import Connection
from gateway.vault.lease import Timing
from gateway.vault.recovery import RECOVERY_DIRECTORY, Recovery
from gateway.vault.sealing import Sealer, SealingKey
from gateway.vault.service import Vault
from gateway.vault.stored_token import StoredToken, TokenDraft
from tests.vault.provider import CLIENT_ID, CLIENT_SECRET, Provider

LOOPBACK = Egress(allow_private=(ipaddress.ip_network("127.0.0.0/8"),), allow_http=True)
ANYBODY = Caller(kind="management", user=None, key_id="tests")
KEY = TokenKey(connection="contacts", user="alice", tenant=None)
# A lease that a test can wait for; as many renewals in it as there are in production.
QUICK = Timing(lease_seconds=1.0, renew_seconds=0.2, poll_seconds=0.02, wait_seconds=10.0, usable_wait_seconds=2.0)


@dataclass
class Clock:
    """Time as the tests want it."""

    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class House:
    """What the vault's tests share: one database, and as many vaults on it as wanted."""

    path: Path  # of the file, where the database is SQLite
    clock: Clock
    provider: Provider
    secret: bytes = field(repr=False)
    database_url: str
    recorded: list[tuple[str, dict[str, object]]] = field(default_factory=list)
    is_record_full: bool = False

    def note(self, event: str, /, **fields: object) -> None:
        """The record of every vault here."""
        if self.is_record_full:
            raise RecordUnavailable
        self.recorded.append((event, fields))

    def events(self) -> list[str]:
        """The names of what was recorded, in order."""
        return [event for event, _ in self.recorded]

    @asynccontextmanager
    async def vault(
        self, *, timing: Timing = QUICK, monotonic: Callable[[], float] = time.monotonic
    ) -> AsyncIterator[Vault]:
        """A vault with an engine, a sealer and a client of its own: what another process would have."""
        store = await Store.open(self.database_url)
        client = OutboundClient(LOOPBACK)
        sealer = Sealer(SealingKey.from_bytes(self.secret), os.urandom)
        vault = Vault(
            store,
            sealer,
            client,
            clock=self.clock,
            random_bytes=os.urandom,
            monotonic=monotonic,
            timing=timing,
            record=self.note,
            recovery=Recovery(self.path.parent / RECOVERY_DIRECTORY, sealer),
        )
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

    def execute(self, statement: str, **values: object) -> list[Any]:
        """Run SQL as somebody else who has the database, and return its rows."""
        engine = create_engine(self.database_url.replace("+aiosqlite", ""), poolclass=NullPool)
        try:
            with engine.begin() as db:
                result = db.execute(text(statement), values)
                return list(result.all()) if result.returns_rows else []
        finally:
            engine.dispose()

    def lease_to(self, owner: str, token_id: str) -> None:
        """Write a lease of another process into the row. Nobody renews it."""
        self.execute(
            "UPDATE tokens SET lease_owner = :owner, lease_until = :until, lease_beat = lease_beat + 1 WHERE id = :id",
            owner=owner,
            until=self.clock.now + QUICK.lease_seconds,
            id=token_id,
        )

    def announced(self, topic: str) -> list[str]:
        """The ids that the change feed has told of *topic*, in order."""
        return [row[0] for row in self.execute("SELECT subject FROM changes WHERE topic = :t ORDER BY seq", t=topic)]

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
async def house(database_path: Path, database_url: str) -> AsyncIterator[House]:
    """A database, a clock and a provider; no vault yet."""
    async with Provider() as provider:
        yield House(database_path, Clock(), provider, os.urandom(32), database_url)


@pytest.fixture
async def vault(house: House) -> AsyncIterator[Vault]:
    """A vault that knows the connection `contacts`."""
    async with house.vault() as vault:
        await vault.connections.create(house.connection())
        yield vault
