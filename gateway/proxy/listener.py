"""
One caller's connection: its requests in order, and the bytes of answers. `traffic.py` has the server that makes them.

Rules:
1. One task a connection serves its requests one after another; answers leave in the order of the requests.
2. What cannot be read (`listen/`) is answered with a constant refusal, closed, and counted; the bytes are neither
   echoed nor logged (threats.md section 0, row 2: aiohttp itself does both).
3. After an answer the rest of an unread body is read only if it is small; otherwise the connection is closed, by
   halves, so that the answer arrives. Who does not read its answers is not served on.
4. When the caller goes away, the task is cancelled, and with it everything done for it. So it is when a drain's time is
   over: `is_drained` then tells the two apart. A drain also waits for answers in buffers of this process.
5. `start` replaces aiohttp's loop of the same name: no task, no request object and no stream writer per request (50
   against 130 microseconds). The names it leans on are listed in `aiohttp_names.py`.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import sys
import termios
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import structlog
from aiohttp import web
from aiohttp.web_protocol import _ErrInfo

from gateway.errors import InvalidRequest, Refusal
from gateway.listen.connection import KEEPALIVE_SECONDS, StrictConnection, StrictServer
from gateway.listen.head import RequestHead
from gateway.net.body_stream import Body
from gateway.net.whole_body import EMPTY_BODY
from gateway.proxy.answers import refusal_answer
from gateway.proxy.request import MAX_DISCARDED_BYTES, Reading
from gateway.proxy.steps import Steps, in_task
from gateway.telemetry import place_of

DISCARD_SECONDS = 2.0  # for the rest of a body, so that its connection can be kept
# How long a body is thrown away before its connection is closed: closed earlier, the reset would destroy the answer on
# its way to a caller that sends all before it reads (RFC 9112 section 9.6).
CLOSING_SECONDS = 10.0
UNSENT_SECONDS = 0.02  # how often a drain looks whether a caller has read the rest of its answer
UNSENT_LOOKS = 5  # over TLS: so often in a row nothing must be seen
CLOSING_BYTES = 16_777_216  # for as long as that; who sends more to be refused is cut
CUT_SECONDS = 1.0  # for a request that was cut in a drain to end its own exchange and write its outcome

Serve = Callable[[RequestHead, Body, "CallerConnection"], Awaitable[bool]]
_NO_TRACE = "0" * 32
log = structlog.get_logger()
_RESET = struct.pack("ii", 1, 0)  # socket(7): SO_LINGER on, 0 seconds: close with a reset


class CallerConnection(StrictConnection):
    """One caller's connection. Made by `TrafficServer`. *peer* is the address of the other end, without the port."""

    __slots__ = (
        "_feeder",
        "_is_ending",
        "_is_over",
        "_is_refused",
        "_read_by",
        "_read_seconds",
        "_serve",
        "_steps",
        "is_drained",
        "last_reading",
        "peer",
    )

    def __init__(self, manager: StrictServer, *, loop: asyncio.AbstractEventLoop, serve: Serve) -> None:
        super().__init__(
            manager,
            loop=loop,
            for_application=False,
            access_log=None,  # aiohttp takes None for "no access log"
        )
        self._serve = serve
        self.peer = ""
        self.last_reading: Reading | None = None
        self.is_drained = False
        self._is_ending = False
        self._is_over = False  # by what `_steps` ran
        self._is_refused = False
        self._feeder: Body | None = None  # the answer's, held back while the caller does not read
        self._read_seconds = 0.0
        self._read_by = float("inf")  # the loop's time until when it has to have read enough
        self._steps = Steps(on_end=self._end_steps, on_hand_over=self._wake)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Serve the connection."""
        name = transport.get_extra_info("peername")
        self.peer = str(name[0]) if isinstance(name, tuple) else ""
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Cancel what is done for the caller."""
        super().connection_lost(exc)
        self._steps.cancel()

    async def shutdown(self, timeout: float | None = 15.0) -> None:
        """End the connection, when its request under way is served or after *timeout* seconds."""
        await super().shutdown(timeout)
        self._steps.cancel()

    def refusal_answer(self, refusal: Refusal) -> bytes:
        """Return the answer to what could not be read."""
        return refusal_answer(refusal, trace_id=_NO_TRACE, public_url="", keep_alive=False, with_body=True)

    @property
    def is_closing(self) -> bool:
        """Whether this answer is the last on its connection."""
        return self._close or self._force_close or self._is_ending

    def send(self, data: bytes) -> None:
        """Write *data* to the caller, or raise ConnectionError when it has gone."""
        if self.transport is None:
            raise ConnectionResetError("the caller has gone")
        self.transport.write(data)

    async def drain(self, seconds: float) -> None:
        """Wait until the caller has read enough of what was sent; raise ConnectionError after *seconds*."""
        if self._paused:
            await in_task()
            try:
                async with asyncio.timeout(seconds):
                    await self._drain_helper()
            except TimeoutError as exc:
                self.abort()
                raise ConnectionResetError("the caller does not read") from exc

    def hold_back(self, body: Body | None, seconds: float = 0.0) -> None:
        """From now on hold *body* back while the caller has not read enough, for *seconds* at most; None: no longer."""
        self._feeder, self._read_seconds, self._read_by = body, seconds, float("inf")
        if self._paused:
            self._hold()

    def _hold(self) -> None:
        if self._feeder is not None:
            self._read_by = self._loop.time() + self._read_seconds
            self._feeder.pause()

    def pause_writing(self) -> None:
        """The caller has not read enough: what is sent stays here."""
        super().pause_writing()
        self._hold()

    def resume_writing(self) -> None:
        """The caller has read enough."""
        super().resume_writing()
        if self._feeder is not None:
            self._read_by = float("inf")
            self._feeder.resume()

    def sweep(self, now: float) -> None:
        """Enforce the deadlines at *now*, that of reading an answer among them; no timer per pause (2 microseconds)."""
        if now >= self._read_by:
            self.abort()
        super().sweep(now)

    def abort(self) -> None:
        """Reset the connection: the caller sees that its answer was cut."""
        self._force_close = True
        if self.transport is not None:
            # Without it the end is a FIN: to HTTP/1.0, or over TLS without close_notify, the end of a whole answer.
            connection = self.transport.get_extra_info("socket")
            with suppress(OSError):  # it is closed already
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.transport.abort()

    def hand_over(self) -> asyncio.Transport:
        """
        Return the transport, for another protocol.

        Raises:
            InvalidRequest: the caller has not waited for the answer, and has spoken it already (RFC 6455 section 4.1).
            ConnectionResetError: it has gone.
        """
        if self._strict.has_extra:
            raise InvalidRequest
        if self.transport is None:
            raise ConnectionResetError("the caller has gone")
        return self.transport

    async def drain_requests(self, seconds: float) -> bool | None:
        """
        End the connection once the request under way is answered and the answer has left, or after *seconds*.

        Return whether that was in time; None where there was nothing to wait for.
        """
        task = self._task_handler
        serving = task if self._request_in_progress else None
        had_unsent = False
        self._is_ending = True  # the answer under way is the last
        if serving is None:
            self.close()  # aiohttp reads nothing more then: not while a body may still come
        try:
            async with asyncio.timeout(seconds):
                if serving is not None:
                    await asyncio.wait((serving,))
                had_unsent = await self._unsent_has_left()
        except TimeoutError:
            if serving is not None or self._is_answer_here:
                await self._cut(task)
                return False
        self.force_close()
        return True if serving is not None or had_unsent else None

    async def _cut(self, task: asyncio.Task[None] | None) -> None:
        self.is_drained = True
        self.abort()
        self._steps.cancel()
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait((task,), timeout=CUT_SECONDS)

    @property
    def has_unsent(self) -> bool:
        """Whether some of what was given to `send` is still to be written, and what holds it must not change."""
        return self.transport is not None and bool(self.transport.get_write_buffer_size())

    @property
    def _is_answer_here(self) -> bool:
        """Whether some of an answer is still in this process."""
        if self.transport is None:
            return False
        if self.has_unsent:
            return True
        if not self._is_over_tls:
            return False
        # What TLS has encrypted waits in a buffer below, which nobody shows. Meanwhile the system's is hardly empty.
        try:
            queued = fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
        except (OSError, ValueError):  # it is closed already
            return False
        return bool(int.from_bytes(queued, sys.byteorder))

    @property
    def _is_over_tls(self) -> bool:
        return self.transport is not None and self.transport.get_extra_info("sslcontext") is not None

    async def _unsent_has_left(self) -> bool:
        """Wait until nothing of an answer is in this process; return whether something was."""
        had_unsent = False
        looks = left = UNSENT_LOOKS if self._is_over_tls else 1
        while left:
            if self._is_answer_here:
                had_unsent, left = True, looks
            else:
                left -= 1
            if left:
                await asyncio.sleep(UNSENT_SECONDS)
        return had_unsent

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Read on, if reading was paused (`connection.py` has the price of doing it always)."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def _receive(self, data: bytes) -> None:
        if self._force_close or self._close:
            return
        # Who is idle serves what comes here and now, as far as that goes.
        waiter, steps = self._waiter, self._steps
        if waiter is not None and steps.under_way is None and not waiter.done():
            head = self._strict.read_alone(data)
            if head is not None:
                self._request_count += 1
                self._keepalive = False
                steps.run(self._serve_queue(head))
                return
        messages, _, _ = self._strict.feed_data(data)
        if messages:
            self._request_count += len(messages)
            self._messages.extend(messages)  # type: ignore[arg-type]  # heads of ours where aiohttp has its messages
            if not self._buffer_paused and len(self._messages) >= self._max_msg_queue_size:
                self._pause_reading_for_buffer()
            waiter = self._waiter  # what was fed may have ended the request before
            if waiter is not None and steps.under_way is None and not waiter.done():
                self._keepalive = False
                steps.run(self._serve_queue())

    async def start(self) -> None:
        """
        End the connection when its last request was served. Called by aiohttp when the connection is made.

        Until then this task serves what `data_received` cannot: what has to wait for more than a signal.
        """
        goes_on = True
        try:
            while goes_on and not (self._force_close or self._is_over):
                if self._steps.awaits_task:
                    goes_on = await self._steps.rest()
                elif self._messages and self._steps.under_way is None:
                    goes_on = await self._serve_queue()
                else:
                    await self._wait()
        except Exception as exc:
            self._end_steps(exc)
        if not self._force_close and self.transport is not None:
            self._task_handler = None
            if self.transport.can_write_eof() or self._is_refused:
                self.linger()
            else:  # over TLS there are no halves: what ends with its connection must end now
                if self.transport.get_write_buffer_size():  # what the caller does not read is not kept for ever
                    self._loop.call_later(KEEPALIVE_SECONDS, self.transport.abort)
                self.transport.close()

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _end_steps(self, outcome: bool | Exception) -> None:
        if outcome is not True:
            self._is_over = True
            self._wake()
            if isinstance(outcome, Exception):
                log.error("connection_broke", error=type(outcome).__name__, place=place_of(outcome))
                self.abort()

    async def _serve_queue(self, head: RequestHead | None = None) -> bool:
        """
        Serve the requests that have come, one after another; return whether the connection stays open.

        *head* is a request without a body that came while none was waiting: it goes past the queue.
        """
        messages: Any = self._messages
        payload: Any = EMPTY_BODY
        while (head is not None or messages) and not self._force_close:
            if self.transport is None or self.transport.is_closing():
                break
            if head is None:
                message, payload = messages.popleft()
                self._strict.message_consumed()
                if self._buffer_paused and len(messages) <= self._msg_queue_resume_size:
                    self._resume_reading_if_drained()
                if isinstance(message, _ErrInfo):
                    self._refuse_unread(message.exc)
                    self._is_refused = True
                    return False
                head = message
            self._request_in_progress = True
            try:
                keep_alive = await self._serve(head, payload, self)
            finally:
                self._request_in_progress = False
                if self._handler_waiter is not None and not self._handler_waiter.done():
                    self._handler_waiter.set_result(None)
            if payload is not EMPTY_BODY and not payload.is_eof() and not self._force_close:
                keep_alive = await self._discard(payload, then_close=not keep_alive) and keep_alive
            if not keep_alive or self._close or self._force_close or self._is_ending:
                return False
            if self._paused and not await self._has_read():
                return False  # a caller that sends on and never reads would pile up its answers here
            head = None
        self._keepalive = True
        self._next_keepalive_close_time = self._loop.time() + KEEPALIVE_SECONDS
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(self._next_keepalive_close_time, self._process_keepalive)
        return not self._force_close

    async def _has_read(self) -> bool:
        try:
            await self.drain(KEEPALIVE_SECONDS)
        except ConnectionError:
            return False
        return not self.is_closing

    async def _discard(self, payload: Body, *, then_close: bool) -> bool:
        """Read the rest of a body that nobody wants. Return whether it ended soon enough to go on."""
        await in_task()
        discarded, most = 0, CLOSING_BYTES if then_close else MAX_DISCARDED_BYTES
        if then_close and self.transport is not None and self.transport.can_write_eof():
            self.transport.write_eof()
        try:
            async with asyncio.timeout(CLOSING_SECONDS if then_close else DISCARD_SECONDS):
                while chunk := await payload.readany():
                    discarded += len(chunk)
                    if discarded > most:
                        return False
        except (TimeoutError, web.HTTPException, Exception):  # whatever breaks a body ends the connection
            return False
        return True

    def _refuse_unread(self, reason: BaseException) -> None:
        refusal = reason if isinstance(reason, Refusal) else InvalidRequest()
        if isinstance(self._manager, StrictServer):
            self._manager.count(refusal)
        if self.transport is not None:
            self.transport.write(self.refusal_answer(refusal))
