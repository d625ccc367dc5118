"""
Which tokens are refreshed before anybody has to wait for it, and when.

Rules (DESIGN section 7):
1. A token is in use if it was asked for since it was last refreshed: callers keep it in their caches until it is due,
   so that is the only sign there is. One that nobody asks for again is refreshed once more, and then left alone.
2. Its time is `refresh_at`, less a random share of up to a quarter of what `refresh_at` lies before the expiry: before
   any cache asks again, and not in all processes at once. Between processes the job's lease decides, as always.
3. At most `MAX_AT_ONCE` refreshes run, so that a thousand tokens that are due together do not meet one provider
   together; the rest wait for their turn.
4. A failure that may pass is tried again after what the refresher says, as long as the token is valid; nothing is
   tried here after an answer was lost.
5. Everything here is an advantage, no promise: what is forgotten (restart, `MAX_TOKENS`) is refreshed when it is asked
   for.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from gateway.vault.stored_token import StoredToken

TICK_SECONDS = 0.25
MAX_AT_ONCE = 8
MAX_TOKENS = 100_000
MAX_EARLY_SHARE = 0.25
CLOSE_SECONDS = 15.0

log = structlog.get_logger()


class RefreshAhead:
    """
    Calls *refresh* for tokens in use shortly before they are due. Owns one task between `start` and `close`.

    *refresh* returns after how many seconds it should be called again, or None, and raises nothing that may pass.
    """

    def __init__(
        self,
        refresh: Callable[[StoredToken], Awaitable[int | None]],
        *,
        clock: Callable[[], float],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._refresh = refresh
        self._clock = clock
        self._random_bytes = random_bytes
        self._due: list[tuple[float, str, int]] = []  # a heap: when, token, version
        self._known: dict[str, StoredToken] = {}  # without their secrets; whose entry in the heap is meant
        self._under_way: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None

    def used(self, token: StoredToken) -> None:
        """Somebody was given *token*: it is to be refreshed when its time comes."""
        known = self._known.get(token.id)
        if token.refresh_at is None or token.expires_at is None or token.dead:
            return
        if (known is None and len(self._known) >= MAX_TOKENS) or (known and known.version == token.version):
            return
        self._known[token.id] = token.without_secrets()
        early = (token.expires_at - token.refresh_at) * MAX_EARLY_SHARE * self._random_bytes(1)[0] / 255
        self._schedule(token, token.refresh_at - early)

    def start(self) -> None:
        """Begin to look for what is due."""
        self._task = asyncio.create_task(self._run(), name="refresh-ahead")

    async def close(self) -> None:
        """Begin nothing more, and wait for what is under way as long as an exchange may take."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        if self._under_way:
            _, late = await asyncio.wait(self._under_way, timeout=CLOSE_SECONDS)
            for task in late:
                task.cancel()

    def tick(self) -> set[asyncio.Task[None]]:
        """Begin what is due by now, as far as there is room, and return what is under way."""
        now = self._clock()
        while self._due and self._due[0][0] <= now and len(self._under_way) < MAX_AT_ONCE:
            _, token_id, version = heapq.heappop(self._due)
            token = self._known.get(token_id)
            if token is None or token.version != version:
                continue  # it was refreshed meanwhile, and has another time
            task = asyncio.create_task(self._one(token), name="refresh-ahead-one")
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
        return set(self._under_way)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self.tick()

    async def _one(self, token: StoredToken) -> None:
        again = None
        try:
            again = await self._refresh(token)
        except Exception as exc:  # one token that cannot be refreshed ends nothing for the others
            log.error("refresh_ahead_broke", token=token.id, error=type(exc).__name__)
        known = self._known.get(token.id)
        if known is None or known.version != token.version:
            return  # used again meanwhile, as a newer one
        at = None if again is None else self._clock() + max(1, again)
        if at is None or (token.expires_at is not None and at >= token.expires_at):
            del self._known[token.id]
        else:
            self._schedule(token, at)

    def _schedule(self, token: StoredToken, at: float) -> None:
        heapq.heappush(self._due, (at, token.id, token.version))
