"""
The bytes of one connection into requests, in order. Takes the place of aiohttp's parser (`RequestHandler._parser`).

Rules:
1. A head is judged as a whole. For an application, and where it is unusual (another method than the seven, HTTP/1.0,
   absolute form), it is then given to aiohttp's C parser, alone, and its refusal counts like ours. The body never
   reaches it: what follows a head is read here, as `read_section` said.
2. What stands before an error is answered first; the error is the last message of its connection.
3. Nothing is read behind a request that says it is the last one (Connection: close), behind an upgrade that somebody
   may have begun, or behind a broken body.
4. At most MAX_QUEUED requests wait; what else has come is kept as bytes, and reading pauses. So it does where one
   feeding would take too long (*is_behind*): whoever feeds goes on, with nothing new, in another turn of the loop.
5. A head whose fields are, byte for byte, those of the head before it on this connection, or those of one that other
   connections brought (`sections.py`), is not read a second time: most clients send nothing else.

The split into packets changes nothing: a head waits until it is whole, unless a fault shows before.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParser, RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestPayloadError, _ErrInfo

from gateway.errors import FieldsTooLarge, InvalidRequest, Refusal
from gateway.listen.body import ChunkedBody
from gateway.listen.head import (
    END,
    LINE,
    MAX_FIELD_BYTES,
    MAX_FIELDS,
    MAX_FIELDS_BYTES,
    MAX_LINE_BYTES,
    MAX_TARGET_BYTES,
    NEVER_TAKEN,
    NO_BODY,
    HeaderSection,
    RequestHead,
    end_of_fields,
    first_fault,
    read_section,
    room_in_line,
    split_fields,
)
from gateway.listen.sections import MAX_KNOWN_BYTES, SharedSections
from gateway.net.backlog import Backlog
from gateway.net.body_stream import Body, BodyStream
from gateway.net.whole_body import EMPTY_BODY, WholeBody

if TYPE_CHECKING:
    from aiohttp.base_protocol import BaseProtocol

MAX_QUEUED = 32  # as many as aiohttp itself lets wait; it pauses reading at the same number
SMALL_BODY_BYTES = 2_048  # at most 400 chunks, 0.3 milliseconds: MAX_QUEUED of them are read in one feeding
READ_BUFFER_BYTES = 65_536  # of an application's body that it has not taken yet; reading pauses at twice as much

Message = RawRequestMessage | RequestHead
Payload = StreamReader | Body  # an application's, and ours
Messages = list[tuple[Message | _ErrInfo, Payload]]
# The methods that are taken without asking the C parser; it knows some more, and refuses all others.
_METHODS = {name.encode("ascii"): name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}
_NOTHING: tuple[Any, bool, bytes] = ((), False, b"")


class StrictParser:
    """
    Reads requests as `head.py` and `body.py` say. Has the methods that aiohttp calls on its own parser.

    *sections* are those that other connections have read. *for_application*: messages are aiohttp's own, as its
    applications want them; else each is a `RequestHead`.
    """

    __slots__ = (
        "_backlog",
        "_body",
        "_c_parser",
        "_ends",
        "_for_application",
        "_framing",
        "_has_ended",
        "_head_end",
        "_in_flight",
        "_is_last",
        "_known",
        "_known_fields",
        "_known_is_shared",
        "_left",
        "_loop",
        "_payload",
        "_protocol",
        "_room",
        "_sections",
        "_skipped_line",
        "has_extra",
        "is_behind",
        "tail",
    )

    def __init__(
        self,
        protocol: BaseProtocol,
        loop: asyncio.AbstractEventLoop,
        backlog: Backlog,
        sections: SharedSections,
        *,
        for_application: bool,
    ) -> None:
        self._protocol = protocol
        self._loop = loop
        self._backlog = backlog
        self._sections = sections
        self._for_application = for_application
        self._c_parser = HttpRequestParser(
            protocol,
            loop,
            READ_BUFFER_BYTES,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_FIELD_BYTES,
            max_headers=MAX_FIELDS_BYTES,  # `_read` counts them, and has a better word for too many
            payload_exception=RequestPayloadError,
            response_with_body=False,  # it reads heads alone
            auto_decompress=False,  # a body passes as it came (threats.md section 0, row 4)
        )
        self.tail = b""  # what has come and is not read yet
        self.is_behind = False
        self._room = 0  # bytes without LF by which `tail`, a head that has begun, may grow unjudged: it may drip
        self._skipped_line = False
        self._has_ended = False
        self.has_extra = False  # bytes behind the last request, which nobody reads
        self._is_last = False
        self._in_flight = 0
        self._payload: StreamReader | BodyStream | None = None
        self._head_end = 0
        self._left = 0
        self._body: ChunkedBody | None = None
        self._known_fields = b""  # from the CRLF before the first one to the empty line
        self._known: HeaderSection | None = None
        self._known_is_shared = False
        self._framing = NO_BODY
        self._ends = False  # with the request whose head was read last

    @property
    def has_begun(self) -> bool:
        """Whether the first bytes of a request are here, and not all of its head."""
        return self._payload is None and bool(self.tail) and self._in_flight < MAX_QUEUED

    def message_consumed(self) -> None:
        """Count a message that was taken from the queue."""
        if self._in_flight:
            self._in_flight -= 1

    def pause_reading(self) -> None:
        """Do nothing: what has come of a body is its reader's; that no more comes is the transport's business."""

    def set_upgraded(self, _: bool) -> None:
        """Do nothing: no connection of ours ever speaks another protocol."""

    def feed_eof(self) -> None:
        """Do nothing: what ends early ends with its connection."""

    def refuse(self, refusal: Refusal) -> tuple[_ErrInfo, Payload]:
        """End reading here, and return the last message: why."""
        self._has_ended = True
        self.is_behind = False
        self.tail = b""
        self._in_flight += 1
        return _ErrInfo(status=refusal.status, exc=refusal, message=""), EMPTY_PAYLOAD

    def read_alone(self, data: bytes) -> RequestHead | None:
        """
        Return the request that *data* is, where nothing waits and it is one whole head, not large, without a body.

        None for all else: then *data* is to be fed; fields that were read here are not read again. 7,000 instructions
        less than to feed and to queue it.
        """
        if self.tail or self._in_flight or self._payload is not None or self._has_ended or self._skipped_line:
            return None
        section = self._known
        if section is not None and data.endswith(self._known_fields):
            # They begin with the CRLF that ends the line. Where others stand before them, this is no whole line.
            line = LINE.fullmatch(data, 0, len(data) - len(self._known_fields) + 2)
        elif data.endswith(END) and len(data) <= MAX_KNOWN_BYTES:
            line, section = LINE.match(data), None
        else:
            return None
        if line is None:
            return None
        method, target, minor = line.groups()
        if method not in _METHODS or minor != b"1" or len(target) > MAX_TARGET_BYTES:
            return None
        if section is None:
            try:
                section = self._find_section(data, 0, line.end() - 2)
            except Refusal:
                return None
            if section is None or self._head_end != len(data):
                return None
        if section.framing is not NO_BODY or section.is_last:
            return None
        return RequestHead(_METHODS[method], target.decode("ascii"), section)

    def feed_data(self, data: bytes) -> tuple[Messages | tuple[()], bool, bytes]:
        """Return the messages that *data* completes, in order; the rest is aiohttp's form, and always the same."""
        if self._has_ended:
            self.has_extra = self.has_extra or bool(data)
            return _NOTHING
        if self.tail:
            if self._room and len(data) <= self._room and b"\n" not in data:
                self._room -= len(data)
                self.tail += data
                return _NOTHING
            data, self.tail = self.tail + data, b""
        self._room = 0
        messages: Messages = []
        at, size = 0, len(data)
        self.is_behind = False
        try:
            while at < size and not self._has_ended:
                if self._payload is not None:
                    at = self._feed_body(data, at)
                    if self._is_in_body() or self.is_behind:
                        break
                    continue
                if self._in_flight >= MAX_QUEUED:
                    break
                message = self._read(data, at)
                if message is None:
                    after = self._begin(data, at)
                    if after == at:
                        break
                    at = after
                    continue
                messages.append((message, self._open_body(data)))
                self._in_flight += 1
                self._skipped_line = False
                at = self._head_end
        except Refusal as refusal:
            if self._payload is not None:
                self._break(self._payload)
            else:
                messages.append(self.refuse(refusal))
        if at < size:
            rest = data[at:] if at else data
            self.has_extra = self._has_ended
            self.tail = b"" if self._has_ended else rest  # behind the last request only that it came is kept
            if self.has_begun and not self.is_behind:
                self._room = room_in_line(self.tail)
        return (messages, False, b"") if messages else _NOTHING

    # --- heads ---------------------------------------------------------------------------------------------------

    def _begin(self, data: bytes, at: int) -> int:
        """
        Return where a head begins that is not whole yet: behind an empty line, of which one is ignored.

        Raises:
            Refusal: it will never be a request.
        """
        if data[at] == 13 and not self._skipped_line:  # RFC 9112 2.2: CRLF before a request line
            if len(data) - at == 1:
                return at
            if data[at + 1] != 10:
                raise InvalidRequest
            self._skipped_line = True
            return at + 2
        fault = first_fault(data[at:] if at else data)
        if fault is not None:
            raise fault
        return at

    def _read(self, data: bytes, at: int) -> Message | None:
        """Return the message whose head is in *data* at *at*, up to `_head_end`; None where it is not whole."""
        line = LINE.match(data, at)
        if line is None:
            return self._read_odd(data, at)
        method, target, minor = line.groups()
        stop = line.end() - 2
        if stop - at > MAX_LINE_BYTES or len(target) > MAX_TARGET_BYTES or method in NEVER_TAKEN:
            raise first_fault(data[at:]) or InvalidRequest()
        if minor != b"1" or method not in _METHODS or self._for_application:
            self._head_end = end = end_of_fields(data, at, stop)
            return self._read_unusual(data[at:end], target, is_http_1_0=minor == b"0") if end else None
        section = self._known
        if section is None or not data.startswith(self._known_fields, stop):
            section = self._find_section(data, at, stop)
            if section is None:
                return None
        else:
            self._head_end = stop + len(self._known_fields)
        self._framing, self._ends = section.framing, section.is_last
        return RequestHead(_METHODS[method], target.decode("ascii"), section)

    def _find_section(self, data: bytes, at: int, stop: int) -> HeaderSection | None:
        """
        Return what the fields say of the head at *at*, which begin at *stop* and end at `_head_end`: shared with other
        connections, or read now. None where they are not whole.

        Raises:
            Refusal: they say what no request may.
        """
        # Only whole sections are found, so where this one ends is guessed: to search 900 bytes for it takes 0.9
        # microseconds, to find it among 10,000 sections 0.4.
        end = len(data) if data.endswith(END) else data.find(END, stop) + 4
        fields = data[stop:end] if end - stop <= MAX_KNOWN_BYTES else b""
        section = self._sections.get(fields)
        is_shared = section is not None
        if section is None:
            end = end_of_fields(data, at, stop)
            if not end:
                return None
            if end - stop != len(fields):
                fields = data[stop:end]
            raw_fields = split_fields(fields)
            if len(raw_fields) > MAX_FIELDS:
                raise FieldsTooLarge
            section = read_section(raw_fields)
        if end - stop <= MAX_KNOWN_BYTES:
            section.is_kept = True
            last = self._known
            if last is not None and last.reading is not None and not self._known_is_shared:
                self._sections.offer(self._known_fields, last)
            self._known, self._known_fields, self._known_is_shared = section, fields, is_shared
        self._head_end = end
        return section

    def _read_odd(self, data: bytes, at: int) -> Message | None:
        """Do as `_read` for a line that is no plain one: refuse its head, if it is whole."""
        end = data.find(END, at)
        if end < 0 or data[at] == 13:
            return None
        head = data[at : end + 4]
        fault = first_fault(head)
        if fault is not None:
            raise fault
        self._head_end = end + 4
        return self._read_unusual(head, head.split(b" ", 2)[1], is_http_1_0=False)

    def _read_unusual(self, head: bytes, target: bytes, *, is_http_1_0: bool) -> Message:
        """Have the C parser read *head*, judge what its fields say together, and return the message."""
        try:
            messages, _, _ = self._c_parser.feed_data(head)
        except HttpProcessingError as exc:
            raise first_fault(head) or InvalidRequest() from exc
        if len(messages) != 1:
            raise InvalidRequest
        message = messages[0][0]
        assert isinstance(message, RawRequestMessage)
        if len(message.raw_headers) > MAX_FIELDS:
            raise FieldsTooLarge
        section = read_section(message.raw_headers, target=target, is_http_1_0=is_http_1_0)
        self._framing, self._ends = section.framing, section.is_last
        if not self._for_application:
            return RequestHead(message.method, message.path, section, is_http_1_0=is_http_1_0)
        return message._replace(should_close=self._ends)

    def _is_in_body(self) -> bool:
        return self._payload is not None

    # --- bodies --------------------------------------------------------------------------------------------------

    def _open_body(self, data: bytes) -> Payload:
        """Return the reader of the body that follows the head that was read last, in *data* up to `_head_end`."""
        self._is_last = self._ends
        framing = self._framing
        if framing.length and not self._for_application:
            end = self._head_end + framing.length
            if end <= len(data):
                body = WholeBody(data[self._head_end : end])
                self._head_end = end
                self._has_ended = self._is_last
                return body
        if framing.is_chunked:
            self._body = ChunkedBody()
        elif framing.length:
            self._left = framing.length
        else:
            self._has_ended = self._is_last
            return EMPTY_PAYLOAD if self._for_application else EMPTY_BODY
        if self._for_application:
            self._payload = StreamReader(self._protocol, READ_BUFFER_BYTES, loop=self._loop)
        else:
            self._payload = BodyStream(self._protocol, self._backlog)
        return self._payload

    def _feed_body(self, data: bytes, at: int) -> int:
        """Give the reader of the body what *data* holds of it from *at* on; return where the rest begins."""
        payload, body = self._payload, self._body
        assert payload is not None
        if body is None:
            after = at + self._left
            piece = data if at == 0 and after >= len(data) else data[at:after]
            at += len(piece)
            self._left -= len(piece)
            is_done = self._left == 0
        else:
            start = at
            piece, at = body.feed(data, at)
            is_done = body.is_done
            self.is_behind = at < len(data) and (body.is_behind or (is_done and at - start > SMALL_BODY_BYTES))
        if piece:
            payload.feed_data(piece)
        if is_done:
            self._payload = self._body = None
            self._has_ended = self._is_last
            payload.feed_eof()
        if isinstance(payload, BodyStream):
            payload.wake()
        return at

    def _break(self, payload: StreamReader | BodyStream) -> None:
        """End reading: the coding of a body is broken. Who reads it is told."""
        self._has_ended = True
        self.is_behind = False
        self._payload = self._body = None
        payload.set_exception(RequestPayloadError())
        if isinstance(payload, BodyStream):
            payload.wake()
            return
        # Twice: a reader that the end of a piece has woken looks for data, not for an exception, and waits on.
        self._loop.call_soon(payload.set_exception, RequestPayloadError())
