"""
A strict rotating provider that keeps the judge's book.

Rules:
1. It rotates at each exchange, and revokes the grant when a spent refresh token comes back.
2. It takes its time before and after it rotates, so that whoever asks can die at either side of it.
3. At every exchange it judges: is another worker that lives in the middle of one for the same grant; was the answer to
   this refresh token stored before; and where it was spent, did the worker that spent it die. What must not be is kept
   in `violations`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from aiohttp import web

MAX_DELAY_SECONDS = 0.03  # before it rotates, and again before it answers


@dataclass(slots=True)
class Grant:
    """One grant: the number of its newest refresh token, who fetched each, and who is fetching now."""

    user: str
    first_version: int = 0
    newest: int = 0
    rotated_for: dict[int, str] = field(default_factory=dict)
    open: list[str] = field(default_factory=list)
    is_revoked: bool = False


class JudgingProvider:
    """
    A provider on a real socket. *is_alive* tells of a worker's name whether it lives; *version_of* which version of a
    user's token is stored.
    """

    def __init__(self, *, is_alive: Callable[[str], bool], version_of: Callable[[str], int], seed: int) -> None:
        self._is_alive = is_alive
        self._version_of = version_of
        self._random = random.Random(seed)
        self._grants: dict[str, Grant] = {}
        self._runner: web.AppRunner | None = None
        self.exchanges = 0
        self.violations: list[str] = []
        self.url = ""

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/token", self._token)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}/token"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def begin(self, name: str, user: str) -> tuple[str, str]:
        """Begin the grant *name* of *user*; return its access and refresh token."""
        self._grants[name] = Grant(user)
        return f"AT.{name}.0", f"RT.{name}.0"

    def stored_first_as(self, name: str, version: int) -> None:
        """The grant's first refresh token was stored as *version* of the user's token."""
        self._grants[name].first_version = version

    def is_newest(self, access_token: str) -> bool:
        """Whether *access_token* is the newest of a grant that lives."""
        _, name, number = access_token.split(".")
        grant = self._grants[name]
        return not grant.is_revoked and grant.newest == int(number)

    def is_revoked(self, name: str) -> bool:
        """Whether a spent refresh token of the grant came back."""
        return self._grants[name].is_revoked

    async def _token(self, request: web.Request) -> web.Response:
        form = await request.post()
        _, name, digits = str(form["refresh_token"]).split(".")
        worker, grant, number = request.headers["X-Worker"], self._grants[name], int(digits)
        self.exchanges += 1
        self._judge(grant, number, worker)
        grant.open.append(worker)
        try:
            await asyncio.sleep(self._random.uniform(0, MAX_DELAY_SECONDS))
            if grant.is_revoked or number != grant.newest:
                grant.is_revoked = True
                return web.json_response({"error": "invalid_grant"}, status=400)
            grant.rotated_for[number] = worker
            grant.newest += 1
            await asyncio.sleep(self._random.uniform(0, MAX_DELAY_SECONDS))
        finally:
            grant.open.remove(worker)
        tokens = {"access_token": f"AT.{name}.{number + 1}", "refresh_token": f"RT.{name}.{number + 1}"}
        return web.json_response({**tokens, "token_type": "Bearer", "expires_in": 3600})

    def _judge(self, grant: Grant, number: int, worker: str) -> None:
        living = [other for other in grant.open if self._is_alive(other)]
        if living:
            self.violations.append(f"{worker} and {living} exchange one grant at once")
        stored = self._version_of(grant.user) - grant.first_version
        if number < stored:
            self.violations.append(f"{worker} presents refresh token {number}, and {stored} is stored")
        if number < grant.newest and self._is_alive(grant.rotated_for[number]):
            self.violations.append(f"{worker} presents what {grant.rotated_for[number]} spent, who lives")
