"""
One connection to an upstream: requests written to it, and the answers that are read from it, one at a time.

Rules:
1. A connection is clean, and may be used again, only if its last exchange ended exactly where it should have: whole
   answer, keep-alive, and not one byte more. Bytes on an idle connection, a second answer, a cancelled exchange end it
   (threats.md section 0, rows 1 and 6).
2. The parser is made anew for each exchange, so nothing of one answer can become part of the next.
3. Nothing is sent twice by itself. `Stale` tells that a reused connection was lost before a byte of an answer; the
   sender decides (`forward.py`).
4. There is no timer per request (1.5-2 microseconds each): an exchange has a deadline, and `pool.py` looks at it.

Built on aiohttp's C parser and flow control; the names it leans on are listed in `aiohttp_names.py`.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpResponseParser, RawResponseMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

from gateway.errors import UpstreamProtocolError, UpstreamUnreachable
from gateway.models import Timeouts

MIN_BODY_BYTES_PER_SECOND = 256  # of a request, beyond the response time: a slower one is a caller that dribbles (G2)
READ_BUFFER_BYTES = 65_536  # per direction: beyond twice this the peer is not read any more (threats G3)


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
        "_begun_at",
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
        self._begun_at = 0.0
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

    def is_overdue(self, now: float) -> bool:
        """Whether at *now*, in the loop's time, the deadline has passed; one that we do not read has none."""
        return self.deadline < now and not self._reading_paused

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
        self._begun_at = self._loop.time()
        self.deadline = self._begun_at + timeouts.response_seconds

    def extend_response_time(self, sent_bytes: int) -> None:
        """Count the response time from now, *sent_bytes* of the body being sent. One that dribbles ends anyway."""
        if self._answer is None:
            seconds = self._timeouts.response_seconds
            longest = self._begun_at + seconds + sent_bytes / MIN_BODY_BYTES_PER_SECOND
            self.deadline = min(self._loop.time() + seconds, longest)

    def restart_response_time(self) -> None:
        """Count the response time from now: the whole request has been sent."""
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
        """Read on, if reading was paused and all that had come was taken."""
        # aiohttp's stream asks for it after every read, paused or not, and the parser is fed nothing. It asks from
        # 64 KiB downwards; one read of uvloop's is 250 KiB, and two of them would be held (threats G3).
        if self._reading_paused and not self._body._size:
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
