"""
kill -9 at every step of the refresh job, while everybody wants every token.

A grant may be lost in one case only: the provider had answered, and the worker died before the write. There the row
says `rotation_interrupted` (threats.md R13, I-3, I-4). `JudgingProvider` watches the exchanges themselves.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import time
from collections import Counter
from dataclasses import dataclass, field

from sqlalchemy import text

from gateway.errors import Refusal, TokenServiceUnavailable
from gateway.models import ConnectionToken, TokenKey
from gateway.net.client import OutboundClient
from gateway.store.engine import Store
from gateway.vault.connection import Connection
from gateway.vault.lease import Timing
from gateway.vault.sealing import Sealer, SealingKey
from gateway.vault.service import Vault
from gateway.vault.stored_token import ROTATION_INTERRUPTED, TokenDraft
from soak.provider import JudgingProvider
from soak.storm import sync_engine
from soak.worker import ANYBODY, CONNECTION, LOOPBACK, POINTS, Order, Worker

TIMING = Timing(lease_seconds=1.5, renew_seconds=0.3, poll_seconds=0.05, wait_seconds=8.0, usable_wait_seconds=1.0)
WORK_SECONDS = 3600.0  # longer than any run: a worker ends by dying


@dataclass(slots=True)
class Killed:
    """What came of a run. *lost* grants were begun anew; *violations* are sentences, and there must be none."""

    kills: Counter[str] = field(default_factory=Counter)
    exchanges: int = 0
    lost: int = 0
    grants: int = 0
    violations: list[str] = field(default_factory=list)
    seconds: float = 0.0


class _Run:
    def __init__(self, database_url: str, vault: Vault, secret: bytes, users: int, seed: int) -> None:
        self._url = database_url
        self._vault = vault
        self._secret = secret
        self._random = random.Random(seed)
        self._engine = sync_engine(database_url)
        self._reader = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        self._numbers = itertools.count(1)
        self._users = {f"user{number}": "" for number in range(users)}  # and the name of the grant each has now
        self._workers: dict[str, Worker] = {}
        self._points = itertools.cycle(POINTS)
        self.provider = JudgingProvider(is_alive=self._is_alive, version_of=self._version_of, seed=seed)
        self.done = Killed()

    def close(self) -> None:
        self._reader.close()
        self._engine.dispose()

    async def prepare(self) -> None:
        await self._vault.connections.create(
            Connection(CONNECTION, "Contacts", client_id="soak", token_url=self.provider.url)
        )
        for user in self._users:
            await self._begin(user)

    async def work(self, *, workers: int, seconds: float) -> None:
        """Kill and replace *workers* for *seconds*, while tokens expire."""
        until = time.monotonic() + seconds
        expiring = asyncio.create_task(self._expire_now_and_then())
        try:
            for _ in range(workers):
                await self._hire(next(self._points))
            while time.monotonic() < until:
                await asyncio.sleep(0.01)
                for worker in [worker for worker in self._workers.values() if not worker.is_alive]:
                    await self._bury(worker)
                    await self._hire(next(self._points))
                await self._renew_lost_grants()
        finally:
            expiring.cancel()
            for worker in list(self._workers.values()):
                worker.process.kill()
                worker.process.join()
                del self._workers[worker.order.name]  # the judge is still asked of it, and a closed process cannot tell
                await worker.close()

    async def judge(self) -> None:
        """Expire every token once more, and see that its grant lives, or that its row says what happened."""
        await asyncio.gather(*(self._judge(user, name) for user, name in self._users.items()))

    async def _judge(self, user: str, name: str) -> None:
        await asyncio.to_thread(self._expire, user)
        try:
            token = await self._fetch_at_last(TokenKey(CONNECTION, user, None))
        except Refusal as refusal:
            if refusal.code != "connection_required" or not await self._says_interrupted(user, name):
                self.done.violations.append(f"{user}: {refusal.code} at the end")
            return
        if not self.provider.is_newest(token.access_token):
            self.done.violations.append(f"{user} was given a token that is not the newest")

    async def _fetch_at_last(self, key: TokenKey) -> ConnectionToken:
        """Return the token as a caller gets it who repeats a call that was said to be worth repeating."""
        for _ in range(3):
            try:
                return await self._vault.fetch(key, caller=ANYBODY, credential="")
            except TokenServiceUnavailable as refusal:
                await asyncio.sleep(refusal.retry_after or 1)
        return await self._vault.fetch(key, caller=ANYBODY, credential="")

    async def _hire(self, point: str) -> None:
        number = next(self._numbers)
        order = Order(f"worker-{number}", self._url, self._secret, TIMING, dies_at=point, seed=number)
        worker = self._workers[order.name] = Worker(order)
        worker.tell("work", list(self._users), WORK_SECONDS)

    async def _bury(self, worker: Worker) -> None:
        self.done.kills[str(worker.order.dies_at)] += 1
        del self._workers[worker.order.name]
        await worker.close()

    async def _begin(self, user: str) -> None:
        name = f"{user}-{next(self._numbers)}"
        access_token, refresh_token = self.provider.begin(name, user)
        draft = TokenDraft(CONNECTION, user, access_token=access_token, refresh_token=refresh_token)
        stored = await self._vault.upload(draft)
        self.provider.stored_first_as(name, stored.version)
        self._users[user] = name
        self.done.grants += 1

    async def _renew_lost_grants(self) -> None:
        for user, name in self._users.items():
            if not self.provider.is_revoked(name):
                continue
            token = await self._vault.tokens.find(TokenKey(CONNECTION, user, None))
            if token is None or not token.dead:
                continue  # the refusal is on its way, or was lost with its worker; the next exchange repeats it
            if token.last_refresh_error != ROTATION_INTERRUPTED:
                self.done.violations.append(f"{user}: lost, and the row says {token.last_refresh_error}")
            self.done.lost += 1
            await self._begin(user)

    async def _says_interrupted(self, user: str, name: str) -> bool:
        token = await self._vault.tokens.find(TokenKey(CONNECTION, user, None))
        is_told = token is not None and token.dead and token.last_refresh_error == ROTATION_INTERRUPTED
        self.done.lost += is_told
        return is_told and self.provider.is_revoked(name)

    async def _expire_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(self._random.uniform(0, 0.06))
            user, is_due_only = self._random.choice(list(self._users)), self._random.random() < 0.3
            # In a thread: SQLite would wait here for a transaction of our own that waits for this loop.
            await asyncio.to_thread(self._expire, user, is_due_only=is_due_only)

    def _expire(self, user: str, *, is_due_only: bool = False) -> None:
        """Let *user*'s token expire, or with *is_due_only* be valid for one second more."""
        now = time.time()
        values = {"at": now + 1 if is_due_only else now - 1, "issued": now - 3600, "user": user}
        with self._engine.begin() as db:
            db.execute(text("UPDATE tokens SET expires_at = :at, issued_at = :issued WHERE user_id = :user"), values)

    def _is_alive(self, name: str) -> bool:
        worker = self._workers.get(name)
        return name.startswith("parent") or (worker is not None and worker.is_alive)

    def _version_of(self, user: str) -> int:
        query = text("SELECT version FROM tokens WHERE user_id = :user")
        return int(self._reader.execute(query, {"user": user}).scalar_one())


class _ParentsClient(OutboundClient):
    async def request(self, *arguments: object, **options: object) -> object:  # type: ignore[override]  # passed on
        headers = options.get("headers")
        assert isinstance(headers, dict)
        options["headers"] = {**headers, "X-Worker": "parent"}
        return await super().request(*arguments, **options)  # type: ignore[arg-type]  # passed on as they came


async def kill_and_judge(database_url: str, *, workers: int, users: int, seconds: float, seed: int) -> Killed:
    """Return what killing *workers* for *seconds* did to the grants of *users*."""
    secret = os.urandom(32)
    store = await Store.open(database_url)
    began = time.monotonic()
    async with _ParentsClient(LOOPBACK) as client:
        sealer = Sealer(SealingKey.from_bytes(secret), os.urandom)
        vault = Vault(store, sealer, client, clock=time.time, random_bytes=os.urandom, timing=TIMING)
        run = _Run(database_url, vault, secret, users, seed)
        async with run.provider:
            await run.prepare()
            await run.work(workers=workers, seconds=seconds)
            await run.judge()
            await vault.close()
        run.close()
    await store.close()
    run.done.exchanges = run.provider.exchanges
    run.done.violations += run.provider.violations
    run.done.seconds = time.monotonic() - began
    return run.done
