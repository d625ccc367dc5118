"""
A process of the rotation tests: `write`, `read` or `rotate` on a data directory and a database, until its stdin closes.

It says "ready" once it works, and at its end one line of JSON: how much it did, and what failed.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path

from gateway.models import TokenKey
from gateway.store.engine import Store
from gateway.vault.key_ring import SealingRing
from gateway.vault.rotation import Pace, retire, rotate
from gateway.vault.sealing import Sealer
from gateway.vault.stored_token import TokenDraft
from gateway.vault.tokens import Tokens

USERS = 40
QUICK = Pace(batch=7, pause_seconds=0.0, attend_seconds=10.0, settle_seconds=0.0)


def draft(user: str, number: int) -> TokenDraft:
    """The token that was written as the *number*th for *user*."""
    return TokenDraft(
        "contacts", user=user, access_token=f"AT-{user}-{number}", refresh_token=f"RT-{user}-{number}", expires_at=None
    )


class Work:
    """What one process does again and again, and how that went."""

    def __init__(self, store: Store, ring: SealingRing) -> None:
        self.store = store
        self.ring = ring
        self.tokens = Tokens(store, Sealer(ring, os.urandom), clock=time.time, random_bytes=os.urandom)
        self.done = 0
        self.failed: list[str] = []

    async def write(self) -> None:
        """Write the next token of a user, and read what was written."""
        written = draft(f"w{self.done % USERS}", self.done)
        await self.tokens.put(written)
        found = await self.tokens.find(TokenKey("contacts", written.user, None))
        if found is None or (found.access_token, found.refresh_token) != (written.access_token, written.refresh_token):
            self.failed.append(f"lost: {written.user}")

    async def read(self) -> None:
        """Read the token of a user that nobody writes, and of one that somebody writes."""
        for user in (f"r{self.done % USERS}", f"w{self.done % USERS}"):
            found = await self.tokens.find(TokenKey("contacts", user, None))
            if found is not None and not (found.access_token or "").startswith(f"AT-{user}-"):
                self.failed.append(f"wrong: {user}")

    async def rotate(self) -> None:
        """Rotate, and retire every key but the new one."""
        done = await rotate(self.store, self.ring, random_bytes=os.urandom, pace=QUICK)
        if done.broken:
            self.failed.append("broken")
        assert self.ring.directory is not None
        for entry in self.ring.directory.read():
            is_listed = self.ring.directory.find(entry.key_id) or (self.ring.directory.path / "sealing.key").exists()
            if entry.key_id != done.key_id and is_listed:
                await retire(self.store, self.ring, entry.key_id, pace=QUICK)


async def main(step: str, data: Path, database_url: str) -> None:
    """Work until stdin closes."""
    store = await Store.open(database_url)
    ring = await SealingRing.open(data, {}, with_retired=step == "rotate")
    if step != "rotate":
        ring.watch()
    work = Work(store, ring)
    ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    print("ready", flush=True)
    while not ended.done():
        try:
            await getattr(work, step)()
        except Exception as exc:
            work.failed.append(f"{type(exc).__name__}: {exc}")
        work.done += 1
    await ring.close()
    await store.close()
    print(json.dumps({"done": work.done, "failed": work.failed[:5]}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
