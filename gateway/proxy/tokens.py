"""
The connection token of a call: from the cache, from the token service, or fresh after a rejection (DESIGN section 2).

Rules:
1. A token is cached until the token service wants to be asked again (`refresh_at`), at most the service's
   `max_cache_seconds`; it is dropped when the service says that the owner's tokens changed. While that cannot be heard
   (`Feed`) the service is asked for each call. One that does not answer leaves a token in use that has not expired,
   for OUTAGE_SECONDS longer than it may be cached (threats R7), and nobody waits for it longer than PATIENCE_SECONDS
   then; what it does answer with, a refusal too, ends that.
2. Where the service answers per caller, so does the cache: the caller's credential is part of its key.
3. One fetch and one replacement at a time for one token, whoever asks. Both run to their end when a caller goes away.
4. A rejection counts only for the token that was sent. Is another one here by now, that one is used, without a refresh.
5. A fresh token that a route has answered with nothing but 401 is not refreshed again for that route for
   REJECTED_SECONDS: a route that always answers 401 causes no refresh storm.
6. The wall clock says whether a token has expired, nothing else: ages are counted in monotonic time, so a clock that
   jumped back keeps no token for longer (threats R28).
7. What is cached is found by the whole `TokenKey`, a tuple: two users can never share an entry by their spelling.

The token service itself is a protocol: the vault, or Descope.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from typing import Protocol

from gateway.errors import Refusal, TokenServiceUnavailable
from gateway.models import Caller, ConnectionToken, TokenKey
from gateway.proxy.steps import in_task

OUTAGE_SECONDS = 300.0  # decisions of the token service may be that much older while it is away
PATIENCE_SECONDS = 2.0  # for a service that is slow, where a token that would serve is here
REJECTED_SECONDS = 60.0  # DESIGN section 2, rule (4) of compare-and-refresh
MAX_CACHED_TOKENS = 100_000  # about 60 MB; beyond it the oldest entry goes

NEVER = float("inf")

CacheKey = tuple[TokenKey, str | None]


class Kept:
    """
    A cached token: used without asking until *until* (POSIX) and for an age that ends at *until_monotonic*. What takes
    it out of the cache ends it, so whoever holds it need not look there.
    """

    __slots__ = ("token", "until", "until_monotonic")

    def __init__(self, token: ConnectionToken, until: float, until_monotonic: float) -> None:
        self.token = token
        self.until = until
        self.until_monotonic = until_monotonic

    def __repr__(self) -> str:
        return "<Kept>"

    def end(self) -> None:
        """Use it no more."""
        self.until_monotonic = float("-inf")


class Feed(Protocol):
    """What tells of changes (`forget_owner`, `forget_connection`): heard until *live_until*, in monotonic seconds."""

    live_until: float


class TokenService(Protocol):
    """Where connection tokens come from."""

    @property
    def shares_tokens_between_callers(self) -> bool:
        """Whether every caller who may use a `TokenKey` gets the same answer."""

    @property
    def max_cache_seconds(self) -> float | None:
        """How long an answer may be cached at most; None: until `refresh_at`."""

    async def fetch(self, key: TokenKey, *, caller: Caller, credential: str) -> ConnectionToken:
        """
        Return the usable token of *key*; *credential* is the caller's own, for a service that asks in its name.

        Raises:
            ConnectionRequired, ConnectionUnknown, CallerKindUnsupported, DeniedByPolicy, TokenServiceUnavailable.
        """

    async def replace(
        self, key: TokenKey, *, rejected: ConnectionToken, caller: Caller, credential: str
    ) -> ConnectionToken:
        """
        Return a token other than *rejected*: the stored one if it differs by now, else a refreshed one.

        *rejected* itself where no other can be had.

        Raises: as `fetch`.
        """


class Unchanging:
    """The `Feed` where nothing changes that is not told by the service itself."""

    live_until = NEVER


class ConnectionTokens:
    """
    The connection tokens in use by this process. *clock* gives POSIX seconds, *monotonic* those that never jump.

    Without a *feed*, none is needed for the cache to be believed.
    """

    def __init__(
        self,
        service: TokenService,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        feed: Feed | None = None,
    ) -> None:
        self._service = service
        self._feed = feed or Unchanging()
        self._shared = service.shares_tokens_between_callers
        self._clock = clock
        self._monotonic = monotonic
        self._cached: OrderedDict[CacheKey, Kept] = OrderedDict()
        self._owned: dict[str, set[CacheKey]] = {}
        self._flights: dict[object, asyncio.Task[ConnectionToken]] = {}
        # (family, route) → token last rejected, until. The hot path asks whether there are any.
        self.on_trial: dict[tuple[str, str], tuple[str, float]] = {}
        self._changes = 0  # heard so far

    def cached(self, key: TokenKey, credential: str) -> Kept | None:
        """Return the cached token of *key* if it may still be used without asking."""
        kept = self._cached.get((key, None if self._shared else credential))
        return kept if kept is not None and self.may_use(kept, self._monotonic()) else None

    def may_use(self, kept: Kept, now: float) -> bool:
        """Whether *kept* may be used without asking at *now*, in monotonic seconds."""
        return kept.until_monotonic > now and self._feed.live_until > now and kept.until > self._clock()

    async def fetch(self, key: TokenKey, *, caller: Caller, credential: str) -> ConnectionToken:
        """Return the token of *key* from the service, and cache it. Raises as `TokenService.fetch`."""
        place: CacheKey = (key, None if self._shared else credential)
        flight = self._one_flight(
            place, lambda: self._ask(place, self._service.fetch(key, caller=caller, credential=credential))
        )
        kept = self._cached.get(place)
        if kept is None or not self._may_outlast(kept):
            return await flight
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                return await flight
        except TimeoutError:
            kept = self._cached.get(place)
            if kept is None or not self._may_outlast(kept):  # its end was heard in the meantime
                raise TokenServiceUnavailable(retry_after=1) from None
            return kept.token

    async def current(
        self, token: ConnectionToken, key: TokenKey, *, caller: Caller, credential: str
    ) -> ConnectionToken:
        """Return *token* if nothing was heard of its end, else what stands in its place. Raises as `fetch`."""
        kept = self._cached.get((key, None if self._shared else credential))
        if kept is None:
            await in_task()
            return await self.fetch(key, caller=caller, credential=credential)
        return token if kept.token.access_token == token.access_token else kept.token

    async def replace(
        self, key: TokenKey, *, rejected: ConnectionToken, route: str, caller: Caller, credential: str
    ) -> ConnectionToken | None:
        """
        Return a token to send instead of *rejected*, or None when *route* has to live with the 401.

        Raises: as `TokenService.replace`.
        """
        place: CacheKey = (key, None if self._shared else credential)
        known = self.cached(key, credential)
        if known is not None and known.token.access_token != rejected.access_token:
            return known.token
        if self.is_on_trial(rejected, route):
            return await self._without_refresh(key, rejected, route, caller=caller, credential=credential)
        fresh = await self._one_flight(
            (place, rejected.access_token),
            lambda: self._ask(
                place,
                self._service.replace(key, rejected=rejected, caller=caller, credential=credential),
                is_newest=True,
            ),
        )
        if fresh.access_token == rejected.access_token:
            return None
        if fresh.refreshed:
            self.on_trial[fresh.id, route] = (fresh.access_token, self._monotonic() + REJECTED_SECONDS)
        return fresh

    def is_on_trial(self, token: ConnectionToken, route: str) -> bool:
        """
        Whether *token*'s family was refreshed for *route*, which took none since, and rule 5's minute is not over.
        """
        trial = self.on_trial.get((token.id, route))
        return trial is not None and trial[1] > self._monotonic()

    async def _without_refresh(
        self, key: TokenKey, rejected: ConnectionToken, route: str, *, caller: Caller, credential: str
    ) -> ConnectionToken | None:
        """Return the stored token if it is another one than *rejected*: the service is asked, not made to refresh."""
        seen, until = self.on_trial[rejected.id, route]
        if seen == rejected.access_token:
            return None
        stored = await self.fetch(key, caller=caller, credential=credential)
        if stored.access_token != rejected.access_token:
            return stored
        if (rejected.id, route) not in self.on_trial:  # acquitted while the service answered
            return await self.replace(key, rejected=rejected, route=route, caller=caller, credential=credential)
        self.on_trial[rejected.id, route] = (rejected.access_token, until)  # the next rejection need not ask
        return None

    def accepted(self, token: ConnectionToken, route: str) -> None:
        """The upstream of *route* answered *token* with something else than a rejection."""
        self.on_trial.pop((token.id, route), None)

    def forget_owner(self, owner: str) -> None:
        """Drop every cached token of *owner* (`TokenKey.owner`): something about them changed."""
        self._changes += 1
        for place in self._owned.pop(owner, ()):
            self._drop(place)

    def forget_all(self) -> None:
        """Drop every cached token: what changed was not heard."""
        self._changes += 1
        self._owned.clear()
        for kept in self._cached.values():
            kept.end()
        self._cached.clear()

    def forget_connection(self, connection: str) -> None:
        """Drop every cached token of *connection*: its settings changed, its origins are cached with the tokens."""
        for owner in {key.owner for key, _ in self._cached if key.connection == connection}:
            self.forget_owner(owner)

    def sweep(self) -> None:
        """Let go of trials that are over."""
        now = self._monotonic()
        self.on_trial = {place: trial for place, trial in self.on_trial.items() if trial[1] > now}

    async def close(self) -> None:
        """Wait for fetches and refreshes under way: a refresh that was begun is stored."""
        if self._flights:
            await asyncio.wait(tuple(self._flights.values()))

    async def _one_flight(
        self, flight: object, begin: Callable[[], Coroutine[None, None, ConnectionToken]]
    ) -> ConnectionToken:
        """Join the flight of that name or start it. A caller that goes away leaves it running for the others."""
        task = self._flights.get(flight)
        if task is None:
            task = asyncio.create_task(begin(), name="connection-token")
            self._flights[flight] = task
            task.add_done_callback(lambda done: self._land(flight, done))
        return await asyncio.shield(task)

    def _land(self, flight: object, task: asyncio.Task[ConnectionToken]) -> None:
        del self._flights[flight]
        if not task.cancelled():
            task.exception()  # seen: whoever waited has it, and with nobody waiting there is nobody to tell

    async def _ask(
        self, place: CacheKey, answer: Awaitable[ConnectionToken], *, is_newest: bool = False
    ) -> ConnectionToken:
        """Await the service's *answer* and cache it. *is_newest*: it is the outcome of a refresh, or newer."""
        changes, before = self._changes, self._cached.get(place)
        try:
            token = await answer
        except TokenServiceUnavailable:
            known = self._cached.get(place)
            if is_newest or known is None or not self._may_outlast(known):
                raise
            return known.token
        except Refusal:
            self._drop(place)
            raise
        now = self._cached.get(place)
        if not is_newest and now is not None and now is not before:
            # Read before a refresh that ended in the meantime was stored: what that one brought must not be undone.
            return now.token
        # A change heard while the service answered may have been this token's end: then it serves this call only.
        if changes == self._changes:
            self._remember(place, token)
        elif is_newest:
            # What a fetch read before this refresh was stored must not stay, nor come: until the change of the refresh
            # itself is heard, calls would go out with the rejected token.
            self._changes += 1
            self._drop(place)
        return token

    def _may_outlast(self, kept: Kept) -> bool:
        """Whether *kept* may be used although the service does not answer."""
        expires_at = kept.token.expires_at if kept.token.expires_at is not None else kept.until
        return self._clock() < expires_at and self._monotonic() < kept.until_monotonic + OUTAGE_SECONDS

    def _remember(self, place: CacheKey, token: ConnectionToken) -> None:
        until = token.refresh_at if token.refresh_at is not None else NEVER
        longest = self._service.max_cache_seconds
        age = min(until - self._clock(), NEVER if longest is None else longest)
        until_monotonic = NEVER if age == NEVER else self._monotonic() + age  # one object for all of them
        if place not in self._cached and len(self._cached) >= MAX_CACHED_TOKENS:
            self._drop(next(iter(self._cached)))  # the oldest: quick, where a dict would pass over all that went before
        self._drop(place)
        self._cached[place] = Kept(token, until, until_monotonic)
        self._owned.setdefault(place[0].owner, set()).add(place)

    def _drop(self, place: CacheKey) -> None:
        kept = self._cached.pop(place, None)
        if kept is None:
            return
        kept.end()
        owner = place[0].owner
        places = self._owned.get(owner)
        if places is not None:  # else all of the owner's are being dropped
            places.discard(place)
            if not places:
                del self._owned[owner]
