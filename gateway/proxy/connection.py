"""
One connection to an upstream: requests written to it, and the answers that are read from it, one at a time.

Rules:
1. A connection is clean, and may be used again, only if its last exchange ended exactly where it should have: whole
   answer, keep-alive, and not one byte more. Bytes on an idle connection, a second answer, a cancelled exchange end it
   (threats.md section 0, rows 1 and 6). What came after a whole answer is dropped with the connection, the answer is
   good.
2. An answer that must not have a body and announces one (to HEAD; 204, 205, 304) is passed on without, and ends the
   connection: whether the body comes, and when, is not known.
3. Nothing is sent twice by itself. `Stale` tells that a reused connection was lost before a byte of an answer; the
   sender decides (`forward.py`).
4. A body that lasts until the end of the connection is whole only where the upstream ended it in order: under TLS with
   close_notify, else anybody on the way could cut it (RFC 9112 section 9.8).
5. There is no timer per request (1.5-2 microseconds each): an exchange has a deadline, and `pool.py` looks at it.

Leaves the head to `answer_head.py`, the body to `answer_reader.py`. Built on aiohttp's flow control; the names it leans
on are listed in `aiohttp_names.py`.
"""

from __future__ import annotations

import asyncio
import select
from ssl import SSLError

from gateway.errors import UpstreamProtocolError, UpstreamUnreachable
from gateway.models import Timeouts
from gateway.net.backlog import Backlog
from gateway.net.body_stream import Body
from gateway.proxy.answer_head import Answer, HeadInvalid, check_beginning, read_head
from gateway.proxy.answer_reader import BODY, EXTRA, HEAD, NEVER, NO_CONTENT_STATUSES, UNASKED, AnswerReader
from gateway.proxy.chunks import ChunksInvalid

MIN_BODY_BYTES_PER_SECOND = 256  # of a request, beyond the response time: a slower one is a caller that dribbles (G2)
MAX_INFORMATIONAL = 64  # 1xx answers before the answer; servers send one or two, or one every few seconds
# Of answers that may have a body, and that a client of an origin may get.
_USUAL_STATUSES = frozenset(range(200, 600)) - NO_CONTENT_STATUSES - {407}


class Stale(Exception):
    """A reused connection was gone before any byte of an answer came."""


class UpstreamConnection(AnswerReader):
    """
    One connection, one exchange at a time. Made by `UpstreamPool`.

    While it *is_waiting* there is neither *answer*, whose head has come, nor *failure*, which ends the exchange
    (whatever has come): `Stale`, UpstreamUnreachable, UpstreamProtocolError, or why somebody ended it.
    """

    __slots__ = (
        "_begun_at",
        "_continue",
        "_feeder",
        "_has_ended",
        "_head",
        "_informational",
        "_is_silent",
        "_may_switch",
        "_poll",
        "address",
        "answer",
        "awaits_caller",
        "fresh_until",
        "is_reused",
        "is_waiting",
        "keep_alive_seconds",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, backlog: Backlog) -> None:
        super().__init__(loop, backlog)
        self.address = ""
        self.awaits_caller = False  # more of the request's body, which it does not send
        self.fresh_until = 0.0  # while it is idle: its upstream may have begun to end it then
        self.is_reused = False
        self.is_waiting = True  # *answered* is fired when it no longer is
        self.keep_alive_seconds: int | None = None  # for which the upstream says that it keeps it idle
        self._begun_at = 0.0
        self.answer: Answer | None = None
        self._head = b""  # of the answer, as far as it has come
        self._may_switch = False
        self._informational = 0
        self._has_ended = False  # the upstream will send no more, and says so
        self._poll: select.poll | None = None
        self._continue: asyncio.Future[None] | None = None
        self._feeder: Body | None = None  # what is held back while the upstream does not take more
        self._is_silent = True

    def __repr__(self) -> str:
        state = "closed" if self.transport is None else "spoiled" if self._spoiled else "open"
        return f"<UpstreamConnection {self.address} {state}>"

    @property
    def can_be_used(self) -> bool:
        """Whether a request may be written to this idle connection."""
        return self.transport is not None and not self._spoiled and not self.transport.is_closing()

    def is_quiet(self) -> bool:
        """
        Whether it `can_be_used`, and the upstream has sent nothing since the last exchange, not even its end.

        What lies there unread would be taken for the answer to the request that is written now. 0.5 microseconds.
        """
        transport = self.transport
        if transport is None or self._spoiled or transport.is_closing():
            return False
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not self._poll.poll(0)

    def is_overdue(self, now: float) -> bool:
        """Whether at *now*, in the loop's time, the deadline has passed; one that we do not read has none."""
        return self.deadline < now and not self._reading_paused

    def begin(self, data: bytes, method: str, timeouts: Timeouts, may_switch: bool = False) -> None:
        """
        Write *data*, with which one request with *method* begins; its answer must begin within the response time.

        *may_switch*: the request asks for another protocol, and the answer may be 101.

        Raises:
            UpstreamUnreachable: the upstream is gone.
        """
        if not self._spoiled:
            self._due = HEAD
        self._head = b""
        self._is_head_request = method == "HEAD"
        self._may_switch = may_switch
        self._informational = 0
        self.answer = None
        self.is_waiting = self.failure is None
        self._body = None
        self._continue = None
        self._is_silent = True
        self.awaits_caller = False
        self._timeouts = timeouts
        self._begun_at = now = self._loop.time()
        self.deadline = now + timeouts.response_seconds
        if self.transport is None:
            raise self.failure or UpstreamUnreachable()
        self.transport.write(data)

    def extend_response_time(self, sent_bytes: int) -> None:
        """Count the response time from now, *sent_bytes* of the body being sent. One that dribbles ends anyway."""
        if self.answer is None:
            seconds = self._timeouts.response_seconds
            longest = self._begun_at + seconds + sent_bytes / MIN_BODY_BYTES_PER_SECOND
            self.deadline = min(self._loop.time() + seconds, longest)

    def restart_response_time(self) -> None:
        """Count the response time from now: the whole request has been sent."""
        if self.answer is None:
            self.deadline = self._loop.time() + self._timeouts.response_seconds

    def write(self, data: bytes) -> None:
        """Write *data*, more of the request, or raise UpstreamUnreachable when the upstream is gone."""
        if self.transport is None:
            raise self.failure or UpstreamUnreachable()
        self.transport.write(data)

    def hold_back(self, body: Body | None) -> None:
        """From now on hold *body*, the request's, back while the upstream does not take more of it; None: no longer."""
        self._feeder = body
        self.awaits_caller = body is not None
        if self._paused:
            self._hold()

    def _hold(self) -> None:
        if self._feeder is not None:
            self.awaits_caller = False
            self._feeder.pause()

    def pause_writing(self) -> None:
        """The upstream does not take more for now."""
        super().pause_writing()
        self._hold()

    def resume_writing(self) -> None:
        """The upstream takes more."""
        super().resume_writing()
        if self._feeder is not None:
            self.awaits_caller = True
            self._feeder.resume()

    async def wait_for_continue(self, seconds: float) -> bool:
        """
        Wait until the upstream has sent `100 Continue` (true) or a final answer (false), at most *seconds* (true).

        RFC 9110 10.1.1: a client must not wait for ever; an upstream that ignores Expect gets the body.
        """
        if self.is_waiting:
            self._continue = self._loop.create_future()
            try:
                await asyncio.wait((self._continue,), timeout=seconds)
            finally:
                self._continue = None
        return self.is_waiting

    def spoil(self) -> None:
        """Let the exchange end as it does; the connection is not used again."""
        self._spoiled = True

    def fail(self, failure: Exception) -> None:
        """End the exchange and the connection with *failure*, for whoever waits for its head or its body."""
        self._spoiled = True
        self._due = EXTRA
        if self.failure is None:
            self.failure = failure
        if self._body is not None:
            self._body.stream.set_exception(failure)
        if self.transport is not None:
            self.transport.abort()
        self._stop_waiting()
        self.answered.fire()

    # --- asyncio.Protocol ------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Read what the upstream sent, as what is due. Bytes that nobody waits for end the connection."""
        self._is_silent = False
        due = self._due
        try:
            if due == HEAD:
                read, ended, body = data.partition(b"\r\n\r\n")
                if self._head or not ended:
                    self._read_head(data)
                else:
                    head = read_head(read)
                    if head.length == len(body) and head.status in _USUAL_STATUSES and not self._is_head_request:
                        # Most answers come whole in one piece: what `_take_head` would do, for 1,200 instructions less.
                        self._due = EXTRA
                        head.whole = body
                        self.answer = head
                        self.is_waiting = False
                        if self._continue is not None:
                            self._stop_waiting()
                    elif not self._take_head(head, body):
                        self._read_head(body)
            elif due == BODY:
                self._read_body(data)
            elif due == UNASKED:
                raise HeadInvalid
            else:
                self._spoiled = True  # the answer stands, the connection does not
        except (HeadInvalid, ChunksInvalid):
            self.fail(UpstreamProtocolError())
            return
        if self.answer is not None:  # a head that trickles in has the response time, not more
            self.deadline = self._loop.time() + self._timeouts.idle_seconds
            # Last of all: who waits may go on at once, and use this connection for the next request.
            if self._body is None or not self._body.stream.is_passing:
                self.answered.fire()

    def _read_head(self, data: bytes) -> None:
        checked = len(self._head)
        if checked:
            data, self._head = self._head + data, b""
        while data:
            read, ended, behind = data.partition(b"\r\n\r\n")
            if not ended:
                check_beginning(data, checked)
                self._head = data
                return
            if self._take_head(read_head(read), behind):
                return
            data, checked = behind, 0

    def _take_informational(self, head: Answer) -> None:
        self._informational += 1
        # RFC 9110 15.2: it ends with its head. 101 switches to what nobody asked for (threats A9).
        if head.status == 101 or head.is_chunked or head.length or self._informational > MAX_INFORMATIONAL:
            raise HeadInvalid
        if head.status == 100 and self._continue is not None and not self._continue.done():
            self._continue.set_result(None)

    def _take_head(self, head: Answer, data: bytes) -> bool:
        """Take *head*, and *data*, which came behind it. Return whether it is the final one: else *data* is a head."""
        status = head.status
        if status < 200 and not (status == 101 and self._may_switch):
            self._take_informational(head)
            return False
        if status == 101:
            self._take_switch(head, data)
            return True
        if status == 407:
            raise HeadInvalid  # RFC 9110 15.5.8: a proxy says so to its client, and the gateway is nobody's here
        self._begin_body(head, data)
        self.answer = head
        self._stop_waiting()
        return True

    def _take_switch(self, head: Answer, data: bytes) -> None:
        """Take an answer behind which another protocol begins, with *data* as far as it has come."""
        if head.is_chunked or head.length:
            raise HeadInvalid  # RFC 9110 15.2: a 101 has no content
        self._spoiled = True
        self._due = EXTRA
        head.whole = data
        self.answer = head
        self._stop_waiting()
        self._pause_transport_reading()  # what comes next is for whoever takes the transport over

    def hand_over(self) -> asyncio.Transport:
        """Return the transport, for the protocol that the upstream has switched to; from now on it has no deadline."""
        if self.transport is None:
            raise UpstreamUnreachable
        self.deadline = NEVER
        return self.transport

    def _stop_waiting(self) -> None:
        self.is_waiting = False
        if self._continue is not None and not self._continue.done():
            self._continue.set_result(None)

    def eof_received(self) -> bool:
        """The upstream has finished: nothing more is written to it."""
        self._spoiled = True
        self._has_ended = self._has_ended_tls()
        return False

    def _has_ended_tls(self) -> bool:
        # asyncio and uvloop call `eof_received` where TCP ends without close_notify, too: only the TLS object knows.
        tls = self.transport.get_extra_info("ssl_object") if self.transport is not None else None
        try:
            return tls is None or tls.read(1) == b""
        except SSLError:  # it wants more: nobody said that this is the end
            return False

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tell whoever waits: a whole close-delimited answer ends here, everything else is cut."""
        self._spoiled = True
        if self.answer is None and self.failure is None:
            self.failure = Stale() if self.is_reused and self._is_silent else UpstreamUnreachable()
        elif self._body is not None and self.failure is None:
            if self._has_ended and exc is None and self._body.lasts:
                self._body.stream.feed_eof()
            elif not self._awaits_turn:  # else the end may be among what has come already
                self._cut_body()
        super().connection_lost(exc)
        self._stop_waiting()
        self.answered.fire()

    def rest(self) -> bool:
        """
        End the exchange: from now on any byte ends the connection. Return whether it may be kept for another, its
        exchange having ended exactly where its answer did.
        """
        self._due = UNASKED
        self.deadline = NEVER
        answer = self.answer
        if self._spoiled or answer is None or not answer.keeps_alive or self._body is not None:
            return False
        self.keep_alive_seconds = answer.keep_alive_seconds
        # Paused: the reader left at a full buffer, and nobody would read the next answer. Whether the transport is open
        # is asked when the connection is taken (`is_quiet`), and costs 1,000 instructions here.
        return not (self._paused or self._reading_paused)
