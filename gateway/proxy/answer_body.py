"""
The body of an answer as its bytes come: where it ends, and to whom it goes.

Rules:
1. Its end is where its framing says: Content-Length, the last chunk, else the end of the connection (RFC 9112 section
   6.3). What comes behind is told (*has_extra*), and is no part of it.
2. What is here of it goes to its stream at once, in the pieces in which it came.

Leaves the chunked coding to `chunks.py`; bodies that came whole with their head, those that must not be there, and what
becomes of the connection, to `connection.py`.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

from gateway.net.backlog import Backlog
from gateway.net.body_stream import BodyStream, Source
from gateway.proxy.answer_head import Answer
from gateway.proxy.chunks import Chunks
from gateway.proxy.steps import Signal


class Truncated(Exception):
    """The upstream ended its answer before the end that it had announced."""


class AnswerSource(Source, Protocol):
    """The connection that an answer comes by."""

    def read_direct(self) -> None:
        """From now on pieces may be lent."""


class AnswerStream(BodyStream):
    """A body whose reader is woken by *signal*, the connection's own: it may run without a task (`steps.py`)."""

    __slots__ = ("_connection", "_signal")

    def __init__(self, connection: AnswerSource, backlog: Backlog, signal: Signal) -> None:
        super().__init__(connection, backlog)
        self._connection = connection
        self._signal = signal

    def _may_lend(self) -> None:
        self._connection.read_direct()

    def _moved(self) -> Awaitable[None]:
        return self._signal


class AnswerBody:
    """
    A body on its way: fed with bytes, it gives *stream* what is the body's.

    *is_over*: its end was fed; *has_extra*: and more than that. *is_behind*: very many chunks have come, and some wait
    (feed it nothing). *lasts*: until the end of the connection.
    """

    __slots__ = ("_chunks", "_left", "has_extra", "is_behind", "is_over", "lasts", "stream")

    def __init__(self, head: Answer, stream: BodyStream) -> None:
        self.stream = stream
        self._chunks = Chunks() if head.is_chunked else None
        self._left = head.length or 0
        self.lasts = not head.is_chunked and head.length is None
        self.is_over = False
        self.has_extra = False
        self.is_behind = False

    @property
    def left(self) -> int:
        """How many bytes are still to come, as far as Content-Length says so."""
        return self._left

    def lend(self, data: memoryview) -> bool:
        """Read *data*, at most what is left; it is good for this call only. Return whether it is needed longer."""
        self._left -= len(data)
        is_needed = self.stream.lend(data)
        if not self._left:
            self.is_over = True
            self.stream.feed_eof()
        return is_needed

    def feed(self, data: bytes) -> None:
        """
        Read the next *data*.

        Raises:
            ChunksInvalid: the chunked coding is broken.
        """
        if self._chunks is not None:
            self._feed_chunks(self._chunks, data)
        elif self.lasts:
            self.stream.feed_data(data)
        else:
            left = self._left - len(data)
            self._left = left
            if left <= 0:
                self.is_over = True
                self.has_extra = left < 0
                data = data[:left] if left else data
                self.stream.feed_data(data)
                self.stream.feed_eof()
            else:
                self.stream.feed_data(data)

    def _feed_chunks(self, chunks: Chunks, data: bytes) -> None:
        if data := chunks.read(data):
            self.stream.feed_data(data)
        self.is_behind = chunks.is_behind
        if chunks.is_over:
            self.is_over = True
            self.has_extra = chunks.extra
            self.stream.feed_eof()
