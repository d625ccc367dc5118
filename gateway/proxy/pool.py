"""
The connections to one upstream: opened, kept, given out again, ended.

Rules:
1. All routes that reach the same origin in the same way share them. Nobody waits for a connection: a call that finds
   none opens one, and how many calls a route has under way is the lane's to bound. So no route starves another. Nor
   does it see another's answers, but for an upstream that answers out of step, which none of its routes can use safely.
2. What comes back is kept only if it is clean (`connection.py`), and used again only while it is young (in the words of
   the upstream's `Keep-Alive: timeout=`, if it has any) and nothing lies on it unread.
3. How a connection is opened is not decided here (`opener.py`).
4. One sweep a second enforces the deadlines of the exchanges under way.
"""

from __future__ import annotations

import asyncio

from gateway.errors import RequestTimeout, UpstreamTimeout, UpstreamUnreachable
from gateway.models import Origin
from gateway.proxy.connection import UpstreamConnection
from gateway.proxy.opener import Opener

IDLE_SECONDS = 15.0  # a kept connection older than this is not used: most servers close theirs later than that
MARGIN_SECONDS = 1.0  # before the time that a server names: its answer to a request then could be the end of it
MAX_IDLE_CONNECTIONS = 256  # kept per upstream; more would be descriptors held for nothing


class UpstreamPool:
    """The connections to *origin*. *open_connection* makes a new one, and sets its `address`."""

    __slots__ = ("_idle", "_loop", "_open", "_open_connection", "_origin")

    def __init__(self, origin: Origin, *, open_connection: Opener, loop: asyncio.AbstractEventLoop) -> None:
        self._origin = origin
        self._open_connection = open_connection
        self._loop = loop
        self._idle: list[UpstreamConnection] = []
        self._open: set[UpstreamConnection] = set()  # idle, and under way

    def __repr__(self) -> str:
        return f"<UpstreamPool {self._origin} open={len(self._open)} idle={len(self._idle)}>"

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
