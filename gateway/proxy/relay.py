"""
Stream an upstream's answer to the caller.

Rules:
1. Nothing is collected: what has arrived leaves with the head, the rest as it comes, at the pace of the slower side:
   while the caller's buffer has more than its transport takes (64 KiB), the upstream is not read (threats G3).
2. Framing is the gateway's own: Content-Length where the length is known, else chunked, else (HTTP/1.0) until the end
   of the connection. HEAD, 204 and 304 have no body (RFC 9112 section 6.3).
3. A 401 that reaches the caller challenges for the upstream, not with the provider's own words: those would send the
   caller to look for a better credential of its own.
4. An answer that the upstream cuts is cut for the caller too: the connection is reset, never ended cleanly (threats
   R1).
5. Where the injected token stands in a field, a constant replaces it. In a body the route's `echo_guard` decides: the
   outcome says so (`record`), or the token's last byte does not leave (`cut`): the answer is refused, or, where it has
   begun, cut. `echo.py` finds it. 1.4 microseconds for an answer of 1 KB with its head.
"""

from __future__ import annotations

from collections.abc import Awaitable

from gateway.errors import AnswerEncoded, Refusal, TokenEchoed, UpstreamProtocolError
from gateway.proxy.answer_body import Truncated
from gateway.proxy.answer_head import Answer
from gateway.proxy.answers import NAME, STATUS_LINES
from gateway.proxy.echo import MAX_LOOKED_INTO_BYTES, Needles, Scanner, Watch
from gateway.proxy.lane import Lane
from gateway.proxy.passage import SMALL_BYTES, Passage
from gateway.proxy.record import Call
from gateway.proxy.request import ProxyRequest
from gateway.proxy.websocket import UPGRADE_LINES

_UPGRADE = UPGRADE_LINES.decode()
# By status: to write the number costs 1,000 instructions each time.
_RECEIVED = tuple(f"Proxy-Status: {NAME}; received-status={status}" for status in range(600))
NO_BODY_STATUSES = frozenset({204, 304})


class AnswerCut(Exception):
    """The upstream's answer ended before its end; the caller's connection was reset to say so."""


def relay(
    request: ProxyRequest, lane: Lane, answer: Answer, needles: Needles, public_url: str, note: str
) -> Awaitable[None] | None:
    """
    Send *answer*, as far as it is here, to the caller of *request*, and *note* with it in Proxy-Status.

    Return what sends the rest; None: that was all, as of most answers.

    Raises, or the rest does:
        UpstreamProtocolError: its head or the first of its body cannot be passed on; nothing was sent yet.
        TokenEchoed, AnswerEncoded: it holds the token, or may hold it, and the route cuts such answers.
        AnswerCut: it ended too early.
        ConnectionError: the caller has gone.
    """
    call = request.call
    assert call.match is not None  # what has no route was refused
    lines = answer.lines
    challenges: tuple[bytes, ...] = ()
    coding: bytes | None = None
    if answer.judged:
        lines, challenges, coding = lane.answer_rules.read(lines, answer.judged, public_url, call.match.target)
    else:  # 900 instructions less
        lines.append(lane.answer_rules.own_lines)
    data = answer.whole
    is_whole = data is not None
    if data is None:
        try:
            data = answer.body.read_nowait()
            is_whole = answer.body.at_eof()
        except Truncated as exc:
            raise UpstreamProtocolError from exc
    # The gateway stops since this request came; or a body was announced and not asked for: the caller may send it now
    # or not (RFC 9110 section 10.1.1), so nobody knows whether a body comes next or a request.
    if request.client.is_closing or (not request.reading.is_plain and request.may_get_uninvited_body):
        request.keep_alive = False
    if is_whole and call.method != "HEAD" and answer.status not in NO_BODY_STATUSES:
        framing, is_chunked = f"Content-Length: {len(data)}\r\n", False
    else:
        framing, is_chunked = _framing(request, answer)
    if answer.status == 401:
        lines.append(f'WWW-Authenticate: Upstream realm="{lane.route.name}"\r\n'.encode("ascii"))
    elif challenges:
        lines += [b"WWW-Authenticate: %b\r\n" % challenge for challenge in challenges]
    head = _head(request, answer.status, lines, framing, note)
    look: Scanner | Watch | None = None
    # Most answers end here: one search of head and body costs 0.7 microseconds less than one of each.
    is_small = is_whole and len(data) <= SMALL_BYTES
    answered = head + data if is_small else b""
    if not is_small or coding is not None or needles.are_in(answered):
        if needles.are_in(head):
            head = needles.replace(head)
            call.echo += ("field",)
        if needles.spellings and lane.route.echo_guard != "off" and (data or not is_whole):
            data, look = _look(call, lane, needles, data, coding=coding, is_whole=is_whole)
        answered = head + data if is_small else b""
    call.status = answer.status
    request.has_answered = True
    if is_small:
        call.bytes_sent = len(data)
        request.client.send(answered)
        return None
    passage = Passage(call, request.client, look, is_chunked=is_chunked)
    passage.begin(head, data)
    if is_whole:
        return request.client.drain(lane.route.timeouts.idle_seconds)
    return _relay_rest(request, lane, answer, passage, look)


def switch(request: ProxyRequest, lane: Lane, answer: Answer, needles: Needles, *, note: str) -> bytes:
    """
    Send *answer*, which switches protocols, to the caller of *request*; return what the upstream has sent behind it.

    Raises:
        UpstreamProtocolError: it does not answer the caller's handshake; nothing was sent.
        InvalidRequest: the caller has not waited for it; nothing was sent.
        ConnectionError: the caller has gone.
    """
    call = request.call
    assert request.handshake is not None  # without one, no connection takes a 101
    request.handshake.check(answer.raw_fields)
    request.client.hand_over()
    lines, _, _ = lane.answer_rules.read(answer.lines, answer.judged, "")
    request.keep_alive = True  # what the field Connection says of a tunnel is Upgrade, and nothing else
    head = _head(request, 101, lines, _UPGRADE, note)
    if needles.are_in(head):
        head = needles.replace(head)
        call.echo += ("field",)
    call.status = 101
    request.has_answered = True
    request.client.send(head)
    request.keep_alive = False
    return answer.body.read_nowait()


def _look(
    call: Call, lane: Lane, needles: Needles, data: bytes, *, coding: bytes | None, is_whole: bool
) -> tuple[bytes, Scanner | Watch | None]:
    """
    Look into *data*, with which a body begins; return what of it may leave, and what looks into the rest.

    Raises:
        TokenEchoed, AnswerEncoded: as `relay`.
    """
    cuts = lane.route.echo_guard == "cut"
    if cuts and coding is not None:
        call.echo += ("unread",)
        raise AnswerEncoded
    if is_whole and coding is None and (cuts or len(data) <= MAX_LOOKED_INTO_BYTES):
        if needles.are_in(data):
            call.echo += ("cut" if cuts else "body",)
            if cuts:
                raise TokenEchoed
        return data, None
    look = Scanner(needles) if cuts else Watch(needles, coding)
    passed = look.feed(data)
    if passed is None:
        call.echo += ("cut",)
        raise TokenEchoed
    if is_whole and isinstance(look, Watch):
        call.echo += look.says()
    return passed, look


def _framing(request: ProxyRequest, answer: Answer) -> tuple[str, bool]:
    """Return the field line that frames a body which has not come whole, and whether it is chunked."""
    length = answer.length
    if request.call.method == "HEAD" or answer.status in NO_BODY_STATUSES:
        return (f"Content-Length: {length}\r\n" if length is not None and answer.status != 204 else ""), False
    if length is not None:
        return f"Content-Length: {length}\r\n", False
    if request.is_http_1_0:
        request.keep_alive = False
        return "", False
    return "Transfer-Encoding: chunked\r\n", True


async def _relay_rest(
    request: ProxyRequest, lane: Lane, answer: Answer, passage: Passage, look: Scanner | Watch | None
) -> None:
    call, client = request.call, request.client
    idle_seconds = lane.route.timeouts.idle_seconds
    client.hold_back(answer.body, idle_seconds)
    try:
        await answer.body.pass_on(passage.take, None if isinstance(look, Scanner) else passage.keeps_pieces)
    except TokenEchoed:
        raise
    except (Truncated, Refusal) as exc:
        request.keep_alive = False
        client.abort()
        raise AnswerCut from exc
    finally:
        client.hold_back(None)
        if isinstance(look, Watch):
            call.echo += look.says()
    await client.drain(idle_seconds)
    passage.end()


def _head(request: ProxyRequest, status: int, lines: list[bytes], framing: str, note: str) -> bytes:
    """Return the head of an answer: *lines*, those of *framing*, and the fields that the gateway adds."""
    call = request.call
    connection = b"\r\n"
    if not request.keep_alive:
        connection = b"Connection: close\r\n\r\n"
    elif request.is_http_1_0:
        connection = b"Connection: keep-alive\r\n\r\n"
    auth, token, upstream = call.durations()
    details = f'; details="{note}"' if note else ""
    refreshed = ';desc="refreshed"' if call.refreshed else ""
    said = (
        f"{framing}{_RECEIVED[status]}{details}\r\n"
        f"Server-Timing: auth;dur={auth}, token{refreshed};dur={token}, upstream;dur={upstream}\r\n"
    )
    return b"".join((STATUS_LINES[status], *lines, said.encode(), call.traceparent, connection))
