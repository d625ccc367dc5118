"""A token service that counts, a clock that the tests move, and what tests of the data path's tokens ask with them."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from gateway.errors import ConnectionRequired, TokenServiceUnavailable
from gateway.models import Caller, ConnectionToken, TokenKey
from gateway.proxy.tokens import ConnectionTokens

KEY = TokenKey("api", "ada", None)
ADA = Caller("jwt", "ada")


class Ledger:
    """A token service in memory: one stored token per key, and a count of what was asked of it."""

    def __init__(self, *, shares: bool = True, max_cache_seconds: float | None = None) -> None:
        self.stored: dict[TokenKey, ConnectionToken] = {}
        self.fetches = 0
        self.exchanges = 0
        self.credentials: list[str] = []
        self.gate: asyncio.Event | None = None
        self.is_away = False
        self._shares = shares
        self._max_cache_seconds = max_cache_seconds

    @property
    def shares_tokens_between_callers(self) -> bool:
        return self._shares

    @property
    def max_cache_seconds(self) -> float | None:
        return self._max_cache_seconds

    async def fetch(self, key: TokenKey, *, caller: Caller, credential: str) -> ConnectionToken:
        self.fetches += 1
        self.credentials.append(credential)
        token = self.stored.get(key)
        if self.gate is not None:
            await self.gate.wait()
        if self.is_away:
            raise TokenServiceUnavailable
        if token is None:
            raise ConnectionRequired
        return token

    async def replace(
        self, key: TokenKey, *, rejected: ConnectionToken, caller: Caller, credential: str
    ) -> ConnectionToken:
        if self.is_away:
            raise TokenServiceUnavailable
        stored = self.stored[key]
        if stored.access_token != rejected.access_token:
            return stored
        self.exchanges += 1
        if self.gate is not None:
            await self.gate.wait()
        fresh = replace(stored, access_token=f"T{self.exchanges + 1}", refreshed=True)
        self.stored[key] = replace(fresh, refreshed=False)
        return fresh


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


T1 = ConnectionToken("grant", "T1")


async def fetch(tokens: ConnectionTokens, key: TokenKey = KEY, credential: str = "c") -> ConnectionToken:
    kept = tokens.cached(key, credential)
    return kept.token if kept is not None else await tokens.fetch(key, caller=ADA, credential=credential)


async def rejected(tokens: ConnectionTokens, token: ConnectionToken, route: str = "a") -> ConnectionToken | None:
    return await tokens.replace(KEY, rejected=token, route=route, caller=ADA, credential="c")
