"""
Whether a provider's token endpoint is asked at all: a breaker and a bounded number of exchanges for each origin.

Rules (threats.md R7; DESIGN section 7):
1. An exchange takes its turn before it begins: before its lease, its line in the record and its request. Without a turn
   nothing was begun, so nothing can be lost.
2. What says that nobody is there, or that nobody answers, counts against the endpoint: no connection, no answer in
   time, a reset, a 5xx, what cannot be read. What the provider says about one grant or one client is an answer, and
   answers tell that it is there.
3. Failures in a row open the breaker (`breaker.py`). Failures of one token count once: that may be the grant. Nor
   does a failure count that began before the last answer.
4. At most MAX_UNDER_WAY exchanges run at one endpoint; the others wait for their turn and have spent nothing when the
   breaker opens: it takes an exchange a minute to find out that nobody answers.
5. The probe has no other place to wait than its own. A turn that ends without an outcome leaves the probe to the next.

It knows of this process' exchanges only: each process finds out for itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import structlog
from cachetools import LRUCache

from gateway.breaker import FAILURES, PAUSE_SECONDS, Breaker
from gateway.vault.backoff import RefreshFailed
from gateway.vault.oauth import KNOWN_ERRORS, ExchangeFailed, Outcome

ENDPOINT_PAUSED = "endpoint_paused"
ENDPOINT_BUSY = "endpoint_busy"
BUSY_RETRY_SECONDS = 5
MAX_UNDER_WAY = 16  # of the 20 connections that `net/client.py` opens to one host: the rest is for users who connect
MAX_ENDPOINTS = 1_000
PROBE_SECONDS = 120.0  # longer than metadata and an exchange may take
# Reasons of `net/client.py`, and what `oauth.py` calls a success that holds no token.
AWAY = frozenset({"unreachable", "tls", "reset", "timeout", "protocol", "too_large", "malformed_answer"})

log = structlog.get_logger()


class Turn:
    """The right to one exchange of the token *whose* with *endpoint* (None: any number): until `end`, or its `with`."""

    def __init__(self, endpoint: TokenEndpoint | None, whose: str, *, is_probe: bool = False) -> None:
        self._endpoint = endpoint
        self.whose = whose
        self.is_probe = is_probe
        self.answers_before = 0 if endpoint is None else endpoint.breaker.answers

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    async def if_taken(self, lease: Awaitable[bool]) -> Self | None:
        """Return this turn if *lease* is had; where it is not, or fails, the turn has ended unused."""
        is_taken = False
        try:
            is_taken = await lease
        finally:
            if not is_taken:
                self.end()
        return self if is_taken else None

    def end(self, outcome: Outcome | None = None) -> None:
        """The exchange has brought *outcome*; None: it was not begun, or says nothing about the endpoint."""
        endpoint, self._endpoint = self._endpoint, None
        if endpoint is not None:
            endpoint.ended(self, None if outcome is None else is_answer(outcome))


class TokenEndpoint:
    """One endpoint, known by its *origin*. *monotonic* gives seconds."""

    def __init__(self, origin: str, *, monotonic: Callable[[], float], random_bytes: Callable[[int], bytes]) -> None:
        self._origin = origin
        self.breaker = Breaker(monotonic=monotonic, probe_seconds=PROBE_SECONDS, random_bytes=random_bytes)
        self._room = asyncio.Semaphore(MAX_UNDER_WAY)
        self._failing: set[str] = set()  # whose failures were counted: fewer than the breaker takes

    def __repr__(self) -> str:
        return f"<TokenEndpoint {self._origin} {self.breaker!r}>"

    async def turn(self, whose: str, *, wait_seconds: float) -> Turn:
        """
        Return the turn for an exchange of the token *whose*, waiting for it *wait_seconds* at most.

        Raises:
            RefreshFailed: the endpoint is left alone for now, or has too many others to answer.
        """
        if self.breaker.is_closed():
            try:
                async with asyncio.timeout(wait_seconds):
                    await self._room.acquire()
            except TimeoutError:
                raise RefreshFailed(ENDPOINT_BUSY, retry_after=BUSY_RETRY_SECONDS) from None
            if self.breaker.is_closed():
                return Turn(self, whose)
            self._room.release()  # it has opened meanwhile
        if (wait := self.breaker.wait_seconds()) is not None:
            raise RefreshFailed(ENDPOINT_PAUSED, retry_after=wait)
        return Turn(self, whose, is_probe=True)

    def ended(self, turn: Turn, has_answered: bool | None) -> None:
        """*turn* is over, and the endpoint has answered or has not; None: nobody knows."""
        if has_answered:
            self._answered()
        elif has_answered is False:
            self._failed(turn)
        elif turn.is_probe and not self.breaker.is_closed():
            self.breaker.withdrawn()
        if not turn.is_probe:
            self._room.release()

    def _answered(self) -> None:
        self._failing.clear()
        if not self.breaker.is_closed():
            log.info("token_endpoint_answers", endpoint=self._origin)
        self.breaker.succeeded()

    def _failed(self, turn: Turn) -> None:
        if self.breaker.is_closed() and turn.whose in self._failing:
            return
        if self.breaker.is_closed() and turn.answers_before == self.breaker.answers:
            self._failing.add(turn.whose)
        if self.breaker.failed(answers_before=turn.answers_before):
            log.warning("token_endpoint_paused", endpoint=self._origin, failures=FAILURES, pause_seconds=PAUSE_SECONDS)


class TokenEndpoints:
    """The endpoints of one process, the least used forgotten beyond MAX_ENDPOINTS."""

    def __init__(self, *, monotonic: Callable[[], float], random_bytes: Callable[[int], bytes]) -> None:
        self._monotonic = monotonic
        self._random_bytes = random_bytes
        self._known: LRUCache[str, TokenEndpoint] = LRUCache(maxsize=MAX_ENDPOINTS)

    async def turn(self, url: str, whose: str, *, wait_seconds: float) -> Turn:
        """Return the turn for an exchange at *url*, as `TokenEndpoint.turn`. What cannot be dialled needs none."""
        origin = _origin(url)
        if origin is None:
            return Turn(None, whose)
        endpoint = self._known.get(origin)
        if endpoint is None:
            endpoint = TokenEndpoint(origin, monotonic=self._monotonic, random_bytes=self._random_bytes)
            self._known[origin] = endpoint
        return await endpoint.turn(whose, wait_seconds=wait_seconds)


def is_answer(outcome: Outcome) -> bool | None:
    """Tell whether *outcome* says that the endpoint is there (rule 2); None: it says neither."""
    if not isinstance(outcome, ExchangeFailed):
        return True
    error = outcome.error
    if error in AWAY or error.startswith("status_5"):
        return False
    # The rest was never sent: a full record, a key that cannot be read, an address that is not dialled.
    return True if error in KNOWN_ERRORS or error.startswith("status_") else None


def _origin(url: str) -> str | None:
    """Return scheme, host and port of *url*, and nothing else of it: it is logged."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"https": 443, "http": 80}.get(parts.scheme, 0)
    except ValueError:
        return None
    return f"{parts.scheme}://{parts.hostname}:{port}" if parts.hostname else None
