"""
The traffic listener: makes a connection for each caller, knows those that are open, and ends them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

from aiohttp import web

from gateway.errors import Refusal
from gateway.listen.connection import StrictServer
from gateway.models import TrafficLimits
from gateway.proxy.listener import CallerConnection, Serve


async def _unused(_: Any) -> web.StreamResponse:
    raise AssertionError("CallerConnection.start serves requests itself")


class Drained(NamedTuple):
    """What became of the requests whose answers had not left when a drain began."""

    finished: int
    cut: int


class TrafficServer(StrictServer):
    """The factory of callers' connections, for an `Acceptor`; ends them with `drain`."""

    def __init__(
        self,
        serve: Serve,
        *,
        on_refused: Callable[[Refusal], None],
        loop: asyncio.AbstractEventLoop,
        limits: TrafficLimits | None = None,
        is_shared: Callable[[str], bool] = lambda _: False,
    ) -> None:
        super().__init__(
            _unused,
            name="traffic",
            on_refused=on_refused,
            limits=limits,
            is_shared=is_shared,
            handler_cancellation=True,
        )
        self._serve = serve
        self._running_loop = loop

    def __call__(self) -> CallerConnection:
        """Return the protocol of a new connection."""
        return CallerConnection(self, loop=self._running_loop, serve=self._serve)

    async def drain(self, seconds: float) -> Drained:
        """Close the connections that are idle, let answers leave whole within *seconds*, and cut the others."""
        connections = [each for each in self.connections if isinstance(each, CallerConnection)]
        ends = await asyncio.gather(*(connection.drain_requests(seconds) for connection in connections))
        return Drained(ends.count(True), ends.count(False))
