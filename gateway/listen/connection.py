"""
One connection of a listener, and the server that knows all of them: what every door does alike.

Rules:
1. Requests are read by `parser.py`. A refusal of it is the last answer: constant, `Connection: close`.
2. A refusal arrives: the connection is ended by halves, and what the other side still sends is thrown away for a short
   while. Closed earlier, the reset would destroy the answer on its way (RFC 9112 section 9.6).
3. A head has HEAD_SECONDS from its first byte on, then 408. One sweep a second looks; no timer per request.
4. Refusals are counted; one line a second and kind at most is logged, without a byte of what was sent (threats G13).
5. What takes too long to be read in one turn of the loop is read in several, while the transport pauses
   (`net/backlog.py`).
6. More connections than the limits allow, in all or from one address, are told so (503) and closed (threats G1). That
   is decided when one is accepted (`acceptor.py`), before its TLS handshake.

The names of aiohttp that this leans on are listed in `proxy/aiohttp_names.py`.
"""

from __future__ import annotations

import asyncio
import select
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import structlog
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from gateway.errors import Refusal, RequestTimeout, TooManyConnections
from gateway.listen.parser import StrictParser
from gateway.listen.sections import SharedSections
from gateway.models import TrafficLimits
from gateway.net.backlog import Backlog

KEEPALIVE_SECONDS = 75.0  # idle connections, and the time for a first request (threats R3, G1)
HEAD_SECONDS = 15.0  # from a head's first byte to its last (threats G1, G2)
LINGER_SECONDS = 2.0
LINGER_BYTES = 65_536  # read and thrown away behind the last answer
MAX_TURNED_AWAY = 256  # connections over the limit that are told so at once; further ones are reset
RETRY_SECONDS = 5  # for those

log = structlog.get_logger()


class StrictConnection(RequestHandler):
    """One connection. Made by a `StrictServer`."""

    __slots__ = ("_awaits_turn", "_head_behind", "_head_since", "_linger_left", "_linger_until", "_strict")

    def __init__(
        self, manager: StrictServer, *, loop: asyncio.AbstractEventLoop, for_application: bool = True, **kwargs: Any
    ) -> None:
        kwargs.setdefault("keepalive_timeout", KEEPALIVE_SECONDS)
        super().__init__(manager, loop=loop, **kwargs)
        self._strict = StrictParser(self, loop, manager.backlog, manager.sections, for_application=for_application)
        self._parser = self._strict  # type: ignore[assignment]  # it has the methods that aiohttp calls
        self._awaits_turn = False
        self._head_since: float | None = None
        self._head_behind = 0  # how many requests were before it
        self._linger_until: float | None = None
        self._linger_left = 0

    def refusal_answer(self, refusal: Refusal) -> bytes:
        """Return the whole answer to what could not be read: constant, and the last on its connection."""
        raise NotImplementedError  # each door has a form of its own: problem+json, or the token API's flat errors

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Serve the connection, or say that there are too many."""
        server = self._manager
        if not (isinstance(server, StrictServer) and server.has_turned_away(self)):
            super().connection_made(transport)
            return
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are none by their class
        self.transport.write(self.refusal_answer(TooManyConnections(retry_after=RETRY_SECONDS)))
        self.linger()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection."""
        if isinstance(self._manager, StrictServer):
            self._manager.dismiss(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came, or throw it away behind the last answer."""
        if self._linger_until is not None:
            self._linger_left -= len(data)
            if self._linger_left < 0 and self.transport is not None:
                self.transport.close()
            return
        if self._awaits_turn:
            if data:  # over TLS some may come although the transport pauses
                self._strict.tail += data
            return
        self._receive(data)
        if self._strict.tail or self._head_since is not None:
            if self._strict.is_behind:
                self._fall_behind()
            self._time_head()

    def _receive(self, data: bytes) -> None:
        """Parse *data*, and serve the requests in it or have them served."""
        super().data_received(data)

    def _fall_behind(self) -> None:
        server = self._manager
        is_ending = self._close or self._force_close  # nothing is read then
        if not (self._awaits_turn or is_ending) and isinstance(server, StrictServer):
            self._awaits_turn = True
            self._pause_transport_reading()
            server.backlog.add(self._read_on)

    def _read_on(self) -> None:
        """Parse the next slice of what has come: it is this connection's turn."""
        self._awaits_turn = False
        if self.transport is None or self._linger_until is not None:
            return
        self.data_received(b"")
        if not (self._awaits_turn or self._reading_paused or self._buffer_paused):
            self._resume_transport_reading()

    def _resume_transport_reading(self) -> None:
        if not self._awaits_turn:
            super()._resume_transport_reading()

    def _time_head(self) -> None:
        """Start the clock where a head has begun, stop it where none waits for its rest."""
        if not self._strict.has_begun:
            self._head_since = None
        elif self._head_since is None or self._head_behind != self._request_count:
            self._head_since, self._head_behind = self._loop.time(), self._request_count
            # Idle no longer: the time for a head counts from here on.
            self._next_keepalive_close_time = self._head_since + KEEPALIVE_SECONDS

    def sweep(self, now: float) -> None:
        """Enforce the deadlines at *now*, the loop's time, and notice who has gone while nothing was read of it."""
        if self.transport is not None and not self.transport.is_reading() and self._other_has_gone():
            self.transport.abort()
        elif self._linger_until is not None and self.transport is not None:
            if now >= self._linger_until + KEEPALIVE_SECONDS:
                self.transport.abort()  # what the caller does not read is not kept for ever
            elif now >= self._linger_until:
                self.transport.close()
        elif self._head_since is not None and now - self._head_since >= HEAD_SECONDS:
            self._head_since = None
            self._messages.append(self._strict.refuse(RequestTimeout()))  # type: ignore[arg-type]  # as `_receive` has it
            waiter = self._waiter
            if waiter is not None and not waiter.done():
                waiter.set_result(None)

    def _other_has_gone(self) -> bool:
        """Ask the system: a transport that reads nothing sees no end and no reset (threats R6)."""
        assert self.transport is not None
        connection = self.transport.get_extra_info("socket")
        if connection is None or connection.fileno() < 0:
            return False
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLRDHUP)  # POLLHUP and POLLERR come unasked
        return bool(poll.poll(0))

    def linger(self) -> None:
        """End the connection by halves: what was written arrives, what still comes is thrown away for a while."""
        self._force_close = True
        if self.transport is None or self._linger_until is not None:
            return
        self._linger_until = self._loop.time() + LINGER_SECONDS
        self._linger_left = LINGER_BYTES
        if self.transport.can_write_eof() and not self.transport.is_closing():
            self.transport.write_eof()
        self._reading_paused = self._buffer_paused = self._awaits_turn = False
        self._resume_transport_reading()


class StrictServer(web.Server):
    """
    Makes the connections of one listener, called *name* in logs and metrics, and ends them with `shutdown`.

    *on_refused* is told each request that could not be read. *is_shared* tells of an address whether many callers
    stand behind it: the limit per address is not its.
    """

    def __init__(
        self,
        handler: Callable[[Any], Any],
        *,
        name: str,
        on_refused: Callable[[Refusal], None] | None = None,
        limits: TrafficLimits | None = None,
        is_shared: Callable[[str], bool] = lambda _: False,
        **kwargs: Any,
    ) -> None:
        super().__init__(handler, **kwargs)
        self._is_shared = is_shared
        self.name = name
        self.backlog = Backlog(asyncio.get_running_loop())
        self.sections = SharedSections()
        self._on_refused = on_refused
        self._limits = limits
        self._open: dict[StrictConnection, str] = {}
        self._turned_away: set[StrictConnection] = set()
        self._per_address: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()

    def receive(self, address: str) -> StrictConnection | None:
        """
        Return the protocol of a connection that *address* has opened, which counts from now on until `dismiss`.

        One too many is told so once it is made. None is returned where too many are being told already: reset it.
        """
        is_turned_away = not self._has_room(address)
        if is_turned_away:
            self.count(TooManyConnections())
            if len(self._turned_away) >= MAX_TURNED_AWAY:
                return None
        connection = self()
        assert isinstance(connection, StrictConnection)
        if is_turned_away:
            self._turned_away.add(connection)
        else:
            self._open[connection] = address
            self._per_address[address] += 1
        return connection

    def _has_room(self, address: str) -> bool:
        limits = self._limits
        if limits is None:
            return True
        is_one_too_many = self._per_address[address] >= limits.connections_per_address
        return len(self._open) < limits.connections and (not is_one_too_many or self._is_shared(address))

    def has_turned_away(self, connection: StrictConnection) -> bool:
        """Whether *connection* was one too many when it came."""
        return connection in self._turned_away

    def dismiss(self, connection: StrictConnection) -> None:
        """Forget *connection*."""
        self._turned_away.discard(connection)
        address = self._open.pop(connection, None)
        if address is not None:
            self._per_address[address] -= 1
            if not self._per_address[address]:
                del self._per_address[address]

    def count(self, refusal: Refusal) -> None:
        """Count a request that was not read, or a connection that was not taken."""
        self._refused[refusal.code] += 1
        if self._on_refused is not None:
            self._on_refused(refusal)

    def sweep(self, now: float) -> None:
        """Enforce the deadlines of every connection at *now*, the loop's time, and log what was refused since."""
        for connection in (*self._open, *self._turned_away):
            connection.sweep(now)
        self._report()

    def _report(self) -> None:
        if self._refused:
            refused, self._refused = self._refused, Counter()
            for code, count in refused.items():
                log.warning("requests_refused", listener=self.name, code=code, count=count)

    async def shutdown(self, timeout: float | None = None) -> None:
        """End every connection, those that were turned away as well."""
        for connection in tuple(self._turned_away):
            connection.force_close()
        await super().shutdown(timeout)
        self._report()
