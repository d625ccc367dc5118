"""
The connections of one route: opened, kept, given out again, ended.

Rules:
1. Each route has a pool of its own, bounded by the route's `concurrent`: a slow upstream cannot starve another. Nobody
   waits for a connection: the call above the limit is refused.
2. What comes back is kept only if it is clean (`connection.py`), and used again only while it is young (in the words of
   the upstream's `Keep-Alive: timeout=`, if it has any) and nothing lies on it unread.
3. How a connection is opened is not decided here (`opener.py`).
4. One sweep a second enforces the deadlines of the exchanges under way.
"""

from __future__ import annotations

import asyncio

from gateway.errors import RequestTimeout, UpstreamOverloaded, UpstreamTimeout, UpstreamUnreachable
from gateway.models import Route
from gateway.proxy.connection import UpstreamConnection
from gateway.proxy.opener import Opener

IDLE_SECONDS = 15.0  # a kept connection older than this is not used: most servers close theirs later than that
MARGIN_SECONDS = 1.0  # before the time that a server names: its answer to a request then could be the end of it
MAX_IDLE_CONNECTIONS = 256  # kept per route; more would be descriptors held for nothing


class UpstreamPool:
    """The connections of one route. *open_connection* makes a new one, and sets its `address`."""

    def __init__(self, route: Route, *, open_connection: Opener, loop: asyncio.AbstractEventLoop) -> None:
        self._route = route
        self._open_connection = open_connection
        self._loop = loop
        self._idle: list[UpstreamConnection] = []
        self._open: set[UpstreamConnection] = set()  # idle, and under way
        self._in_use = 0

    def __repr__(self) -> str:
        return f"<UpstreamPool {self._route.name} busy={self._in_use} idle={len(self._idle)}>"

    def enter(self) -> None:
        """
        Count a call as under way, until `leave`.

        Raises:
            UpstreamOverloaded: the route's `concurrent` is reached.
        """
        limit = self._route.limits.concurrent
        if limit is not None and self._in_use >= limit:
            raise UpstreamOverloaded(retry_after=1)
        self._in_use += 1

    def leave(self) -> None:
        """The call that entered is over."""
        self._in_use -= 1

    def take_idle(self) -> UpstreamConnection | None:
        """Return a kept connection that may be used, the youngest first; None when there is none."""
        idle = self._idle
        while idle:
            connection = idle.pop()
            if connection.fresh_until > self._loop.time() and connection.is_quiet():
                connection.is_reused = True
                return connection
            self._end(connection)
        return None

    async def connect(self) -> UpstreamConnection:
        """
        Open a new connection.

        Raises:
            EgressBlocked: no address of the upstream may be dialled.
            NameNotResolved, UpstreamUnreachable, UpstreamTimeout: none accepts, or not in time.
        """
        connection = await self._open_connection()
        self._open.add(connection)
        return connection

    def release(self, connection: UpstreamConnection) -> None:
        """Take back a connection after an exchange: kept if it is clean, ended otherwise."""
        if connection.rest() and len(self._idle) < MAX_IDLE_CONNECTIONS:
            seconds = IDLE_SECONDS
            if connection.keep_alive_seconds is not None:
                seconds = min(seconds, connection.keep_alive_seconds - MARGIN_SECONDS)
            connection.fresh_until = self._loop.time() + seconds
            self._idle.append(connection)
        else:
            self._end(connection)

    def sweep(self) -> None:
        """Fail the exchanges whose deadline has passed, and end connections that were idle for too long."""
        now = self._loop.time()
        for connection in tuple(self._open):  # one that is idle has no deadline
            if connection.is_overdue(now):
                connection.fail(RequestTimeout() if connection.awaits_caller else UpstreamTimeout())
        fresh = [each for each in self._idle if each.fresh_until > now and each.can_be_used]
        for connection in set(self._idle) - set(fresh):
            self._end(connection)
        self._idle = fresh

    async def close(self) -> None:
        """End every connection."""
        for connection in tuple(self._open):
            self._end(connection)
        self._idle.clear()

    def _end(self, connection: UpstreamConnection) -> None:
        self._open.discard(connection)
        connection.fail(UpstreamUnreachable())
