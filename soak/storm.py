"""
A refresh storm: many processes and callers meet one expired token of a strict rotating provider, round after round.

One exchange per expiry, every caller gets the one new token, no refresh token is ever presented twice, and the grant
lives at the end (threats.md R10).
"""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import dataclass

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.pool import NullPool

from gateway.net.client import OutboundClient
from gateway.store.engine import Store
from gateway.vault.connection import Connection
from gateway.vault.lease import Timing
from gateway.vault.sealing import Sealer, SealingKey
from gateway.vault.service import Vault
from gateway.vault.stored_token import TokenDraft
from soak.worker import CONNECTION, LOOPBACK, Order, Worker
from tests.oidc_provider_process import OidcProviderProcess

USER = "alice"


@dataclass(frozen=True, slots=True)
class Storm:
    """What came of a storm. *answers* are how the callers fared: served, or the code of their refusal."""

    rounds: int
    answers: Counter[str]
    exchanges: int
    reuses: int
    is_grant_alive: bool
    torn_rounds: int  # rounds whose callers did not all get the same, new token
    seconds: float


def sync_engine(database_url: str) -> Engine:
    """Return an engine for somebody beside the vaults, who has the database."""
    return create_engine(database_url.replace("+aiosqlite", ""), poolclass=NullPool)


async def storm(
    provider: OidcProviderProcess, database_url: str, *, processes: int, callers: int, rounds: int
) -> Storm:
    """Return what *rounds* expiries did to one grant of *provider*, wanted by *processes* with *callers* each."""
    secret = os.urandom(32)
    await _prepare(provider, database_url, secret)
    workers = [Worker(Order(f"storm-{number}", database_url, secret, Timing())) for number in range(processes)]
    answers: Counter[str] = Counter()
    torn, before = 0, ""
    try:
        for worker in workers:
            await worker.answer()
        began = time.monotonic()
        for _ in range(rounds):
            _expire(database_url)
            for worker in workers:
                worker.tell("callers", USER, callers)
            given: Counter[str] = Counter()
            for worker in workers:
                given += await worker.answer() or Counter({"died": 1})
            torn += len(given) != 1 or before in given
            before = next(iter(given))
            answers.update({name if name.startswith("refused") else "served": count for name, count in given.items()})
        seconds = time.monotonic() - began
    finally:
        for worker in workers:
            await worker.close()
    stats = await provider.stats()
    return Storm(
        rounds=rounds,
        answers=answers,
        exchanges=stats["exchanges"].get("refresh_token", 0),
        reuses=stats["reuse_detected"],
        is_grant_alive=[grant["alive"] for grant in stats["grants"]] == [True]
        and await provider.status_of(before) == 200,
        torn_rounds=torn,
        seconds=seconds,
    )


async def _prepare(provider: OidcProviderProcess, database_url: str, secret: bytes) -> None:
    granted = await provider.authorize(USER, ["contacts.read"])
    store = await Store.open(database_url)
    async with OutboundClient(LOOPBACK) as client:
        sealer = Sealer(SealingKey.from_bytes(secret), os.urandom)
        vault = Vault(store, sealer, client, clock=time.time, random_bytes=os.urandom)
        await vault.connections.create(
            Connection(
                CONNECTION,
                "Contacts",
                client_id=provider.client_id,
                client_secret=provider.client_secret,
                token_url=provider.token_url,
            )
        )
        tokens = {name: granted[name] for name in ("access_token", "refresh_token")}
        await vault.upload(TokenDraft(CONNECTION, USER, **tokens, expires_at=time.time() + 3600))
        await vault.close()
    await store.close()


def _expire(database_url: str) -> None:
    engine = sync_engine(database_url)
    with engine.begin() as db:
        db.execute(text("UPDATE tokens SET expires_at = :past"), {"past": time.time() - 1})
