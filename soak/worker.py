"""
One process of a soak: a vault on the shared database, driven through a pipe, and told where to die.

Rules:
1. A worker is started by a fork server that has imported everything: it is there in milliseconds.
2. It dies of SIGKILL by its own hand at the point it was told, or by the parent's: nothing is cleaned up either way.
   The points wrap the vault's parts here; the product knows nothing of them.
"""

from __future__ import annotations

import asyncio
import ipaddress
import multiprocessing
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from typing import Any

import structlog

from gateway.errors import Refusal
from gateway.models import Caller, Egress, TokenKey
from gateway.net.client import Answer, OutboundClient
from gateway.store.engine import Store
from gateway.vault.lease import Timing
from gateway.vault.sealing import Sealer, SealingKey
from gateway.vault.service import Vault

LOOPBACK = Egress(allow_private=(ipaddress.ip_network("127.0.0.0/8"),), allow_http=True)
ANYBODY = Caller(kind="management", user=None, key_id="soak")
CONNECTION = "contacts"
POINTS = (
    "lease: before it is written",
    "lease: while it is written",
    "lease: written",
    "exchange: before the request",
    "exchange: while the provider works",
    "exchange: answered",
    "write: before",
    "write: while it is written",
    "write: done",
    "any time",
)
MIDWAY_SECONDS = 0.006  # a write takes a few milliseconds
ANY_TIME_SECONDS = 1.0
CALLERS = 16  # most of them wait for leases of the dead


@dataclass(frozen=True, slots=True)
class Order:
    """What a worker is: its *name* at the provider, its database and key, and where it dies (None: nowhere)."""

    name: str
    database_url: str
    secret: bytes = field(repr=False)
    timing: Timing
    dies_at: str | None = None
    seed: int = 0


class NamedClient(OutboundClient):
    """Tells the provider which worker asks, and dies on the way if the worker was told to."""

    def __init__(self, order: Order, doom: Doom) -> None:
        super().__init__(LOOPBACK)
        self._name = order.name
        self._doom = doom

    async def request(self, *arguments: Any, **options: Any) -> Answer:
        self._doom.strike("exchange: before the request")
        self._doom.strike("exchange: while the provider works", within_seconds=0.08)
        options["headers"] = {**options.get("headers", {}), "X-Worker": self._name}
        answer = await super().request(*arguments, **options)
        self._doom.strike("exchange: answered")
        return answer


class Doom:
    """Ends this process with SIGKILL when it comes to its point."""

    def __init__(self, order: Order) -> None:
        self._point = order.dies_at
        self._random = random.Random(order.seed)

    def strike(self, point: str, *, within_seconds: float = 0.0) -> None:
        """Die here, or *within_seconds* from now in whatever the process does then."""
        if point != self._point:
            return
        if within_seconds:
            # A thread of its own: the loop may be busy with the very thing that is to be cut.
            threading.Timer(self._random.uniform(0, within_seconds), _die).start()
        else:
            _die()

    def wrap(self, name: str, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """Return *method* with its three points: before, while, after."""
        before, midway, after = POINTS[0:3] if name == "lease" else POINTS[6:9]

        async def wrapped(*arguments: Any, **options: Any) -> Any:
            self.strike(before)
            self.strike(midway, within_seconds=MIDWAY_SECONDS)
            result = await method(*arguments, **options)
            self.strike(after)
            return result

        return wrapped


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run(order: Order, pipe: Pipe) -> None:
    """Serve the parent's questions until it says nothing more."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(order, pipe))


async def _serve(order: Order, pipe: Pipe) -> None:
    doom = Doom(order)
    store = await Store.open(order.database_url)
    client = NamedClient(order, doom)
    sealer = Sealer(SealingKey.from_bytes(order.secret), os.urandom)
    vault = Vault(store, sealer, client, clock=time.time, random_bytes=os.urandom, timing=order.timing)
    # Instance attributes over the methods: the points are the soak's, the job is the product's.
    rows = vault.tokens.rows
    rows.lease = doom.wrap("lease", rows.lease)  # type: ignore[assignment, method-assign]  # see above
    rows.store_granted = doom.wrap("write", rows.store_granted)  # type: ignore[assignment, method-assign]  # see above
    pipe.send("ready")
    doom.strike("any time", within_seconds=ANY_TIME_SECONDS)
    loop = asyncio.get_running_loop()
    while (question := await loop.run_in_executor(None, _receive, pipe)) is not None:
        kind, arguments = question[0], question[1:]
        pipe.send(await (_callers(vault, *arguments) if kind == "callers" else _work(vault, order, *arguments)))
    await vault.close()
    await client.close()
    await store.close()


def _receive(pipe: Pipe) -> Any:
    try:
        return pipe.recv()
    except (EOFError, OSError):
        return None


async def _fetch(vault: Vault, user: str) -> str:
    try:
        token = await vault.fetch(TokenKey(CONNECTION, user, None), caller=ANYBODY, credential="")
    except Refusal as refusal:
        return f"refused: {refusal.code}"
    return token.access_token


async def _callers(vault: Vault, user: str, count: int) -> Counter[str]:
    """Return what *count* callers at once were given: access tokens, or the codes of refusals."""
    return Counter(await asyncio.gather(*(_fetch(vault, user) for _ in range(count))))


async def _work(vault: Vault, order: Order, users: list[str], seconds: float) -> Counter[str]:
    """Return how callers fared who asked for *users*' tokens in any order for *seconds*."""
    fared: Counter[str] = Counter()
    choose = random.Random(order.seed)
    until = time.monotonic() + seconds

    async def caller() -> None:
        while time.monotonic() < until:
            answer = await _fetch(vault, choose.choice(users))
            fared[answer if answer.startswith("refused") else "served"] += 1
            await asyncio.sleep(choose.uniform(0, 0.04))

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return fared


class Worker:
    """The parent's end of one worker."""

    def __init__(self, order: Order) -> None:
        self.order = order
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["soak.worker"])
        self._pipe, theirs = context.Pipe()
        self.process = context.Process(target=run, args=(order, theirs), daemon=True)
        self.process.start()
        theirs.close()

    @property
    def is_alive(self) -> bool:
        return self.process.is_alive()

    def tell(self, *question: Any) -> None:
        """Ask without waiting; nothing happens if the worker has died."""
        with suppress(OSError):
            self._pipe.send(question)

    async def answer(self) -> Any:
        """Return the worker's next answer, or None if it died first."""
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self._pipe.fileno(), readable.set)
        try:
            await readable.wait()
            return self._pipe.recv()
        except (EOFError, OSError):
            return None
        finally:
            loop.remove_reader(self._pipe.fileno())

    async def close(self) -> None:
        """Let the worker end, and wait for it."""
        with suppress(OSError):
            self._pipe.send(None)
        for _ in range(500):
            if not self.process.is_alive():
                break
            await asyncio.sleep(0.02)
        else:
            self.process.kill()
        self.process.join()
        self.process.close()
        self._pipe.close()
