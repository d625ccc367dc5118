"""
A connection to an upstream as far as it reads the body of an answer: at whose pace, in whose turn, and by which way.

Rules:
1. Reading pauses while the body's reader has enough, and goes on when it asks.
2. A body in very many chunks is read in several turns of the loop, while the transport pauses (`net/backlog.py`).
3. A large body is read straight into a buffer that is written from (`direct.py`), once its reader has all pieces passed
   on and can do with a view of them. Not over TLS: there the system's bytes are not the body's.
4. What came after a whole body is dropped with the connection.

`connection.py` has the rest of the connection: requests, heads, deadlines, its end.
"""

from __future__ import annotations

import asyncio

from aiohttp.base_protocol import BaseProtocol

from gateway.models import Timeouts
from gateway.net.backlog import Backlog
from gateway.proxy.answer_body import AnswerBody, AnswerStream, Truncated
from gateway.proxy.answer_head import Answer
from gateway.proxy.direct import DIRECT_BYTES, DirectReader
from gateway.proxy.steps import Signal

NEVER = float("inf")
NO_CONTENT_STATUSES = frozenset({204, 205, 304})  # RFC 9110 15.3.5, 15.3.6, 15.4.5

# What the next bytes are: nothing that anybody asked for, an answer's head, its body, more than the whole answer. Plain
# ints: a method of the object, put into an attribute, costs 250 instructions each time.
UNASKED, HEAD, BODY, EXTRA = range(4)


class AnswerReader(BaseProtocol):
    """What `UpstreamConnection` is built on. *answered* is fired for a head, for more of the body, for a failure."""

    __slots__ = (
        "_awaits_turn",
        "_backlog",
        "_body",
        "_due",
        "_is_head_request",
        "_spoiled",
        "_timeouts",
        "answered",
        "deadline",
        "failure",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, backlog: Backlog) -> None:
        super().__init__(loop)
        self._backlog = backlog
        self.answered = Signal()
        self._awaits_turn = False
        self._body: AnswerBody | None = None  # while its end has not been read
        self._due = UNASKED
        self.failure: Exception | None = None
        self._is_head_request = False
        self._spoiled = False
        self._timeouts = Timeouts()
        self.deadline = NEVER

    def pause_reading(self) -> None:
        """Read no more until the body's reader has caught up."""
        self._reading_paused = True
        self._pause_transport_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Read on, if reading was paused."""
        if self._reading_paused:
            self._reading_paused = False
            if self._body is not None:  # nobody could read what the upstream may have sent meanwhile
                self.deadline = self._loop.time() + self._timeouts.idle_seconds
            self._resume_transport_reading()

    def _resume_transport_reading(self) -> None:
        if not self._awaits_turn:
            super()._resume_transport_reading()

    def _begin_body(self, head: Answer, data: bytes) -> None:
        """Give *head* the body that follows it, of which *data* is here."""
        length = head.length
        self._due = EXTRA
        if self._is_head_request or head.status in NO_CONTENT_STATUSES:
            # RFC 9110 15.3.6: a 205 says that it is empty, or ends the connection.
            is_open = head.is_chunked or length or (length is None and head.status == 205)
            self._spoiled = self._spoiled or bool(data or is_open)
            head.whole = b""
            return
        if length is not None and len(data) >= length:
            self._spoiled = self._spoiled or len(data) > length
            head.whole = data[:length]
            return
        head.body = stream = AnswerStream(self, self._backlog, self.answered)
        self._body = AnswerBody(head, stream)
        self._spoiled = self._spoiled or self._body.lasts
        self._due = BODY
        if data:
            self._read_body(data)

    def _read_body(self, data: bytes) -> None:
        body = self._body
        assert body is not None
        body.feed(data)
        if body.is_over:
            self._end_body(has_extra=body.has_extra)
        elif body.is_behind and not self._awaits_turn:
            self._awaits_turn = True
            self._pause_transport_reading()
            self._backlog.add(self._read_on)

    def _end_body(self, *, has_extra: bool) -> None:
        self._spoiled = self._spoiled or has_extra
        self._due = EXTRA
        self._body = None

    def _read_on(self) -> None:
        """Read the next slice of the chunks that have come: it is this connection's turn."""
        self._awaits_turn = False
        if self._body is not None and self.failure is None:
            self.data_received(b"")
        if self._awaits_turn:
            return
        if self.transport is None:
            self._cut_body()
            self.answered.fire()
        elif not self._reading_paused:
            self._resume_transport_reading()

    def _cut_body(self) -> None:
        if self._body is not None and self.failure is None:
            self._body.stream.set_exception(Truncated())

    # --- without a copy ------------------------------------------------------------------------------------------

    def read_direct(self) -> None:
        """Read the rest of the body straight into a buffer, if it is large and not encrypted."""
        body, transport = self._body, self.transport
        if body is None or transport is None or body.left < DIRECT_BYTES:
            return
        if transport.get_extra_info("sslcontext") is None:
            _change_protocol(transport, DirectReader(self, body.left))

    def direct_received(self, data: memoryview) -> bool:
        """Take *data*, the body's next; return whether somebody still needs it behind this call."""
        body = self._body
        if body is None:  # it failed, and the transport is being aborted
            return False
        is_needed = body.lend(data)
        self.deadline = self._loop.time() + self._timeouts.idle_seconds
        if body.is_over:
            self._end_body(has_extra=False)
            if self.transport is not None:
                _change_protocol(self.transport, self)
        if body.is_over or not body.stream.is_passing:
            self.answered.fire()
        return is_needed


def _change_protocol(transport: asyncio.Transport, protocol: asyncio.BaseProtocol) -> None:
    is_reading = transport.is_reading()
    if is_reading:  # uvloop asks how its protocol reads only when it begins to
        transport.pause_reading()
    transport.set_protocol(protocol)
    if is_reading:
        transport.resume_reading()
