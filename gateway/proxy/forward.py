"""
Send a request to its upstream once, and wait for the head of the answer.

Rules:
1. The head is written anew: our Host, the caller's fields that may cross, the injected field, our framing, and our Via
   behind those that came (RFC 9110 section 7.6.3).
2. A body that has arrived leaves with the head in one write; any other is sent by a task of its own while the answer is
   awaited, so that an early answer is seen at once.
3. A stale connection costs a repetition only for requests that change nothing and have no body (RFC 9110 section
   9.2.1): nothing else is ever sent twice by itself.
4. Whatever ends the exchange early ends its connection.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from aiohttp.web_protocol import RequestPayloadError

from gateway.errors import InvalidRequest, Refusal, UpstreamUnreachable
from gateway.proxy.answer_head import Answer
from gateway.proxy.body import RequestBody
from gateway.proxy.connection import Stale, UpstreamConnection
from gateway.proxy.echo import Needles
from gateway.proxy.lane import Injected, Lane
from gateway.proxy.request import ProxyRequest
from gateway.proxy.steps import in_task
from gateway.proxy.websocket import UPGRADE_LINES

CONTINUE_SECONDS = 1.0  # how long an upstream may think about Expect before it gets the body (DESIGN section 10)
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})  # RFC 9110 9.2.1; TRACE is never passed on


class Sent:
    """
    A request on an upstream connection: its answer's head, the task that still sends its body, what was *injected*, and
    the *needles* by which that is found in the answer, and the tokens that were sent before it. *is_ended*: the
    connection was given back, which two requests would take if it were given back twice.

    Made by `send`, which sets all of it: an `__init__` costs 1,200 instructions.
    """

    __slots__ = ("answer", "connection", "injected", "is_ended", "needles", "pump")

    connection: UpstreamConnection
    answer: Answer
    pump: asyncio.Task[None] | None
    injected: Injected
    needles: Needles
    is_ended: bool

    def become(self, other: Sent) -> None:
        """Be *other*, this one having ended. What one API rejects may work elsewhere: it is looked for, too."""
        self.connection, self.answer, self.pump = other.connection, other.answer, other.pump
        self.injected = other.injected
        self.needles |= other.needles
        self.is_ended = False

    async def end(self, lane: Lane) -> None:
        """Stop sending the body, and give the connection back to *lane*'s pool, once."""
        if self.pump is not None and not self.is_ended:
            if not self.pump.done():
                self.connection.fail(UpstreamUnreachable())
            try:
                await _stop(self.pump)
            finally:  # also where whoever waits is cancelled
                self._release(lane)
        else:
            self._release(lane)

    def _release(self, lane: Lane) -> None:
        if not self.is_ended:
            self.is_ended = True
            lane.pool.release(self.connection)


class Gate(Protocol):
    """What stands before a new connection. Both raise Refusal, and then nothing leaves."""

    async def connected(self, request: ProxyRequest, injected: Injected) -> Injected:
        """The connection is there, and connecting took its time: return what to inject by now."""

    async def repeating(self, request: ProxyRequest, injected: Injected) -> None:
        """The request leaves a second time, because of a stale connection."""


async def send(
    request: ProxyRequest,
    lane: Lane,
    body: RequestBody | None,
    injected: Injected,
    gate: Gate,
) -> Sent:
    """
    Send *request* with *injected* to *lane*'s upstream and return it with the head of its answer.

    Raises:
        Refusal: *gate* let it not pass; the upstream could not be reached, broke the protocol or took too long; the
            body was too large, too slow or broken.
    """
    call, match = request.call, request.call.match
    assert match is not None  # a request without a route was refused
    call.attempts += 1
    if body is not None:
        body.settle_length()
        if not body.is_buffered:
            await in_task()
    reading = request.reading
    framing = b"" if reading.is_plain else _framing(request, body)
    lines = reading.lines if reading.is_plain else b"".join(request.fields.lines)
    is_repeated = False
    while True:
        # Repeated once, on a new connection: an upstream that hangs up each time must not be asked 256 times.
        connection = None if is_repeated else lane.pool.take_idle()
        is_new = connection is None
        if connection is None:
            await in_task()
            connection = await lane.pool.connect()
        call.address = connection.address
        pump: asyncio.Task[None] | None = None
        try:
            if is_new:
                injected = await gate.connected(request, injected)
            target = match.target if lane.injects_field else lane.target(match.target, injected.token.access_token)
            data = b"".join(
                (
                    f"{call.method} {target}{lane.host_line}".encode("ascii"),
                    lines,
                    injected.line,
                    framing,
                    # RFC 9110 7.6.3: the version is that of the request as it was received.
                    lane.via_lines[request.is_http_1_0],
                    call.traceparent,
                    b"\r\n",
                )
            )
            awaited = body
            if body is not None and body.is_buffered:
                data, awaited = data + body.take_buffered(), None
            connection.begin(data, call.method, lane.route.timeouts, request.handshake is not None)
            if awaited is not None:
                pump = asyncio.create_task(_pump(connection, awaited), name="request-body")
            if connection.is_waiting:
                await connection.answered
            if connection.failure is not None:
                raise connection.failure
            answer = connection.answer
            assert answer is not None
        except Stale as exc:
            await _abandon(lane, connection, pump)
            if call.method not in SAFE_METHODS or call.effective_method is not None or body is not None:
                raise UpstreamUnreachable from exc
            await gate.repeating(request, injected)
            call.attempts += 1
            is_repeated = True
        except BaseException:
            await _abandon(lane, connection, pump)
            raise
        else:
            sent = Sent()
            sent.connection = connection
            sent.answer = answer
            sent.pump = pump
            sent.injected = injected
            sent.needles = injected.needles
            sent.is_ended = False
            return sent


def _framing(request: ProxyRequest, body: RequestBody | None) -> bytes:
    """Return the field lines that say whether *body* follows, and what is asked for with it."""
    framing = b""
    if body is not None:
        framing = b"Transfer-Encoding: chunked\r\n" if body.length is None else b"Content-Length: %d\r\n" % body.length
        if body.expects:
            framing += b"Expect: 100-continue\r\n"
    elif request.fields.content_length is not None:
        framing = b"Content-Length: 0\r\n"
    if request.handshake is not None:
        framing += UPGRADE_LINES
    return framing


async def _pump(connection: UpstreamConnection, body: RequestBody) -> None:
    """Send *body* as it arrives. The caller's faults end the exchange; the upstream's are told by its connection."""

    def send_piece(data: bytes) -> None:
        connection.write(data if body.length is not None else b"%x\r\n%b\r\n" % (len(data), data))
        connection.extend_response_time(body.received_bytes)

    try:
        if body.expects and not await connection.wait_for_continue(CONTINUE_SECONDS):
            # Answered without the body: it is not spent. What the upstream reads next on this connection it may take
            # for the body that was announced, so nothing else is sent on it (threats A15).
            connection.spoil()
            return
        connection.hold_back(body.incoming)
        try:
            await body.pass_on(send_piece)
        finally:
            connection.hold_back(None)
        connection.restart_response_time()
        if body.length is None:
            connection.write(b"0\r\n\r\n")
    except RequestPayloadError:
        connection.fail(InvalidRequest())
    except (UpstreamUnreachable, Stale):
        return  # the connection has told its reader already; an answer may have come before it was lost
    except Refusal as refusal:
        connection.fail(refusal)


async def _abandon(lane: Lane, connection: UpstreamConnection, pump: asyncio.Task[None] | None) -> None:
    connection.fail(UpstreamUnreachable())
    lane.pool.release(connection)
    if pump is not None:
        await _stop(pump)


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait((task,))
