"""
Connections to one route's upstream: made, judged, reused, ended.

Rules:
1. Each route has a pool of its own, bounded by the route's `concurrent`: a slow upstream cannot starve another.
2. A connection is used again only if its last exchange ended exactly where it should have: whole answer, keep-alive,
   and not one byte more. Bytes on an idle connection, a second answer, a cancelled exchange end it (threats.md
   section 0, rows 1 and 6).
3. The parser is made anew for each exchange, so nothing of one answer can become part of the next.
4. The address that the egress guard checked is the one that is dialled; each new connection checks again.
5. Nothing is sent twice by itself. `Stale` tells that a reused connection was lost before a byte of an answer; the
   caller decides (`exchange.py`).
6. One sweep a second enforces the deadlines: no timer per request (1.5-2 microseconds each).

Built on aiohttp's C parser and flow control; the names it leans on are listed in `aiohttp_names.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from ssl import SSLContext, SSLError
from typing import NamedTuple

from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpResponseParser, RawResponseMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

from gateway.errors import (
    RequestTimeout,
    UpstreamOverloaded,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from gateway.models import Route, Timeouts

READ_BUFFER_BYTES = 65_536  # per direction: beyond twice this the peer is not read any more (threats G3)
IDLE_SECONDS = 15.0  # a kept connection older than this is not used: most servers close theirs later than that
MAX_IDLE_CONNECTIONS = 256  # kept per route; more would be descriptors held for nothing


class Stale(Exception):
    """A reused connection was gone before any byte of an answer came."""


class Truncated(Exception):
    """The upstream ended its answer before the end that it had announced."""


class Answer(NamedTuple):
    """The head of an upstream's answer and the stream of its body, not yet read."""

    status: int
    reason: str
    raw_fields: tuple[tuple[bytes, bytes], ...]
    body: StreamReader
    chunked: bool


class UpstreamConnection(BaseProtocol):
    """One connection, one exchange at a time. Made by `UpstreamPool`."""

    __slots__ = (
        "_answer",
        "_body",
        "_continue",
        "_failure",
        "_is_silent",
        "_spoiled",
        "_timeouts",
        "_waiter",
        "address",
        "awaits_caller",
        "deadline",
        "idle_since",
        "is_reused",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.address = ""
        self.awaits_caller = False  # more of the request's body, which it does not send
        self.deadline = float("inf")
        self.idle_since = 0.0
        self.is_reused = False
        self._timeouts = Timeouts()
        self._answer: RawResponseMessage | None = None
        self._body: StreamReader = EMPTY_PAYLOAD
        self._waiter: asyncio.Future[None] | None = None
        self._continue: asyncio.Future[None] | None = None
        self._failure: Exception | None = None
        self._is_silent = True
        self._spoiled = False

    def __repr__(self) -> str:
        state = "closed" if self.transport is None else "spoiled" if self._spoiled else "open"
        return f"<UpstreamConnection {self.address} {state}>"

    @property
    def can_be_used(self) -> bool:
        """Whether a request may be written to this idle connection."""
        return self.transport is not None and not self._spoiled and not self.transport.is_closing()

    @property
    def is_clean(self) -> bool:
        """Whether the exchange ended exactly where its answer did, and the connection may be kept."""
        answer = self._answer
        return (
            self.can_be_used
            and self._failure is None
            and answer is not None
            and not answer.should_close
            and self._body.is_eof()
            and not self._paused
            and not self._has_more()
        )

    def _has_more(self) -> bool:
        """Whether the parser holds the beginning of something after the answer; asks by ending it (0.1 µs)."""
        try:
            return self._parser is None or self._parser.feed_eof() is not None
        except Exception:  # the parser's own errors: a second answer was begun, in whatever form
            return True

    def begin(self, *, method: str, timeouts: Timeouts) -> None:
        """Get ready for the answer to one request with *method*, which must begin within the response time."""
        self._parser = HttpResponseParser(
            self,
            self._loop,
            READ_BUFFER_BYTES,
            payload_exception=Truncated,
            response_with_body=method != "HEAD",
            read_until_eof=True,
            auto_decompress=False,
        )
        self._answer = None
        self._body = EMPTY_PAYLOAD
        self._failure = None
        self._continue = None
        self._is_silent = True
        self.awaits_caller = False
        self._timeouts = timeouts
        self.deadline = self._loop.time() + timeouts.response_seconds

    def restart_response_time(self) -> None:
        """Count the response time from now: more of the request has been sent."""
        if self._answer is None:
            self.deadline = self._loop.time() + self._timeouts.response_seconds

    def write(self, data: bytes) -> None:
        """Write *data* to the upstream, or raise UpstreamUnreachable when it is gone."""
        if self.transport is None:
            raise self._failure or UpstreamUnreachable()
        self.transport.write(data)

    async def drain(self) -> None:
        """Wait until the upstream has taken enough of what was written."""
        if self._paused:
            try:
                await self._drain_helper()
            except ConnectionError as exc:
                raise UpstreamUnreachable from exc

    async def answer(self) -> Answer:
        """
        Wait for the head of the answer, past any informational ones.

        Raises:
            Stale: a reused connection was closed before a byte of an answer came.
            UpstreamUnreachable, UpstreamProtocolError, UpstreamTimeout: as their names say.
        """
        if self._answer is None and self._failure is None:
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self._failure is not None:
            raise self._failure
        answer = self._answer
        assert answer is not None  # the waiter is woken for nothing else
        if answer.code == 101:
            raise UpstreamProtocolError  # nobody asked for an upgrade
        return Answer(answer.code, answer.reason, answer.raw_headers, self._body, answer.chunked)

    async def wait_for_continue(self, seconds: float) -> bool:
        """
        Wait until the upstream has sent `100 Continue` (true) or a final answer (false), at most *seconds* (true).

        RFC 9110 10.1.1: a client must not wait for ever; an upstream that ignores Expect gets the body.
        """
        if self._answer is None and self._failure is None:
            self._continue = self._loop.create_future()
            try:
                await asyncio.wait((self._continue,), timeout=seconds)
            finally:
                self._continue = None
        return self._answer is None and self._failure is None

    def spoil(self) -> None:
        """Let the exchange end as it does; the connection is not used again."""
        self._spoiled = True

    def fail(self, failure: Exception) -> None:
        """End the exchange and the connection with *failure*, for whoever waits for its head or its body."""
        self._spoiled = True
        if self._failure is None:
            self._failure = failure
        if not self._body.is_eof():
            self._break_body(failure)
        self._wake()
        if self.transport is not None:
            self.transport.abort()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Read on, if reading was paused."""
        # aiohttp's stream asks for it after every read, paused or not, and the parser is fed nothing.
        if self._reading_paused:
            super().resume_reading(resume_parser)

    # --- asyncio.Protocol ------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Parse what the upstream sent. Bytes that nobody waits for end the connection."""
        parser = self._parser
        if parser is None:
            if data:
                self.fail(UpstreamProtocolError())
            return
        if data:
            self._is_silent = False
        try:
            messages, upgraded, _ = parser.feed_data(data)
        except HttpProcessingError:
            self.fail(UpstreamProtocolError())
            return
        if upgraded:
            self._spoiled = True
        for message, body in messages:
            self._on_head(message, body)
        if data and self._answer is not None:  # a head that trickles in has the response time, not more
            self.deadline = self._loop.time() + self._timeouts.idle_seconds

    def _on_head(self, message: RawResponseMessage, body: StreamReader) -> None:
        if 100 <= message.code < 200 and message.code != 101:
            if message.code == 100 and self._continue is not None and not self._continue.done():
                self._continue.set_result(None)
            return
        if self._answer is not None or message.code < 100:
            self.fail(UpstreamProtocolError())  # an answer that nobody asked for
            return
        self._answer = message
        self._body = body
        self._wake()

    def _wake(self) -> None:
        for waiter in (self._waiter, self._continue):
            if waiter is not None and not waiter.done():
                waiter.set_result(None)

    def eof_received(self) -> bool:
        """The upstream has finished: nothing more is written to it."""
        self._spoiled = True
        return False

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tell whoever waits: a whole close-delimited answer ends here, everything else is cut."""
        self._spoiled = True
        if self._answer is None and self._failure is None:
            self._failure = Stale() if self.is_reused and self._is_silent else UpstreamUnreachable()
        elif self._parser is not None and not self._body.is_eof():
            self._end_body(exc)
        self._parser = None
        self._wake()
        super().connection_lost(exc)

    def _end_body(self, exc: BaseException | None) -> None:
        if exc is not None:
            self._break_body(Truncated())
            return
        try:
            assert self._parser is not None
            self._parser.feed_eof()
        except Exception:  # the parser's own errors: not enough data, in whatever framing
            self._break_body(Truncated())

    def _break_body(self, failure: Exception) -> None:
        # Twice: a reader that the end of a chunk has woken looks for data, not for an exception, and waits on.
        self._body.set_exception(failure)
        self._loop.call_soon(self._body.set_exception, failure)

    def retire_parser(self) -> None:
        """Between two exchanges nothing may come: from now on any byte spoils the connection."""
        self._parser = None
        self.deadline = float("inf")


class UpstreamPool:
    """The connections of one route. *resolve* gives the checked addresses; *tls* is None for plain http."""

    def __init__(
        self,
        route: Route,
        *,
        resolve: Callable[[], Awaitable[list[tuple[int, tuple[object, ...]]]]],
        tls: SSLContext | None,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._route = route
        self._resolve = resolve
        self._tls = tls
        self._loop = loop
        self._idle: list[UpstreamConnection] = []
        self._busy: set[UpstreamConnection] = set()
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
        now = self._loop.time()
        while self._idle:
            connection = self._idle.pop()
            if connection.can_be_used and now - connection.idle_since < IDLE_SECONDS:
                connection.is_reused = True
                self._busy.add(connection)
                return connection
            connection.fail(UpstreamUnreachable())
        return None

    async def connect(self) -> UpstreamConnection:
        """
        Open a new connection to the first address that accepts.

        Raises:
            EgressBlocked: no address of the upstream may be dialled.
            UpstreamUnreachable, UpstreamTimeout: none accepts, or not within the route's connect_seconds.
        """
        try:
            async with asyncio.timeout(self._route.timeouts.connect_seconds):
                connection = await self._connect_any(await self._resolve())
        except TimeoutError as exc:
            raise UpstreamTimeout("The upstream did not accept a connection within the route's time limit.") from exc
        self._busy.add(connection)
        return connection

    async def _connect_any(self, addresses: list[tuple[int, tuple[object, ...]]]) -> UpstreamConnection:
        failure: Exception | None = None
        for family, sockaddr in addresses:
            try:
                _, connection = await self._loop.create_connection(
                    lambda: UpstreamConnection(self._loop),
                    str(sockaddr[0]),
                    int(str(sockaddr[1])),
                    family=family,
                    ssl=self._tls,
                    server_hostname=self._route.origin.host if self._tls is not None else None,
                )
            except SSLError as exc:
                raise UpstreamUnreachable("The upstream's TLS certificate or protocol was not accepted.") from exc
            except OSError as exc:
                failure = exc
                continue
            connection.address = f"{sockaddr[0]}:{sockaddr[1]}"
            return connection
        raise UpstreamUnreachable from failure

    def release(self, connection: UpstreamConnection) -> None:
        """Take back a connection after an exchange: kept if it is clean, ended otherwise."""
        self._busy.discard(connection)
        if connection.is_clean and len(self._idle) < MAX_IDLE_CONNECTIONS:
            connection.retire_parser()
            connection.idle_since = self._loop.time()
            self._idle.append(connection)
        else:
            connection.fail(UpstreamUnreachable())

    def sweep(self) -> None:
        """Fail the exchanges whose deadline has passed, and end connections that were idle for too long."""
        now = self._loop.time()
        for connection in tuple(self._busy):
            if connection.deadline < now and not connection._reading_paused:
                connection.fail(RequestTimeout() if connection.awaits_caller else UpstreamTimeout())
        fresh = [c for c in self._idle if c.can_be_used and now - c.idle_since < IDLE_SECONDS]
        for connection in set(self._idle) - set(fresh):
            connection.fail(UpstreamUnreachable())
        self._idle = fresh

    async def close(self) -> None:
        """End every connection."""
        for connection in (*self._idle, *self._busy):
            connection.fail(UpstreamUnreachable())
        self._idle.clear()
        self._busy.clear()
