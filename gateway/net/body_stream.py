"""
The bytes of one body on their way from the connection that they come by to one reader.

Rules:
1. A reader asks for what is here, or has each piece passed on as it comes (`pass_on`), uncut and without a turn of the
   loop in between: 256 KB, as uvloop reads them, are written on by one call. aiohttp's StreamReader, read in pieces of
   32 KB, took 230 microseconds more a megabyte.
2. What nobody takes is kept up to HIGH_BYTES, then the connection is not read any more until all of it was taken. One
   read of uvloop's is 250 KiB; the next one begins only when nothing of it is held (threats G3).
3. Who passes on stops the connection itself (`pause`) for as long as the other side does not take more. And a turn of
   the loop passes so many bytes on and no more (`net/backlog.py`): others have theirs.
4. What broke the body is told before anything of it that is still here: it must not look whole.
5. A fault in passing on is the reader's, not the body's: what still comes can be read.

The connection feeds, and then wakes the reader (`wake`): last of all, since who is woken may go on at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from gateway.net.backlog import Backlog
from gateway.net.whole_body import WholeBody

Piece = Any  # bytes, or a view of some: what transports write. The type of both is Buffer, from Python 3.12 on

HIGH_BYTES = 131_072  # kept for a reader that does not come
LENT_BYTES = 65_536  # a transport that holds more stops its source, so that nobody holds more than two lent buffers


class Source(Protocol):
    """The connection that a body comes by; both do nothing where there is nothing to do."""

    def pause_reading(self) -> None:
        """Read no more."""

    def resume_reading(self) -> None:
        """Read on."""


class BodyStream:
    """One body. *total_bytes* are those that have come."""

    __slots__ = (
        "_awaits_turn",
        "_backlog",
        "_failure",
        "_fault",
        "_has_ended",
        "_is_held",
        "_kept",
        "_lends",
        "_pieces",
        "_source",
        "_take",
        "_waiter",
        "total_bytes",
    )

    def __init__(self, source: Source, backlog: Backlog) -> None:
        self._source = source
        self._backlog = backlog
        self._pieces: list[bytes] = []
        self._kept = 0  # bytes in them
        self._is_held = False
        self._awaits_turn = False
        self._has_ended = False
        self._failure: Exception | None = None
        self._take: Callable[[bytes], None] | None = None
        self._fault: Exception | None = None  # of what took
        self._lends: Callable[[], bool] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.total_bytes = 0

    def __repr__(self) -> str:
        state = "broken" if self._failure is not None else "whole" if self._has_ended else "open"
        return f"<BodyStream {state}, {self.total_bytes} bytes have come>"

    @property
    def is_passing(self) -> bool:
        """Whether what comes is passed on: nobody needs to be woken for it."""
        return self._take is not None

    # --- the connection's side -----------------------------------------------------------------------------------

    def feed_data(self, data: Piece) -> None:
        """Pass *data* on, or keep it until it is read: bytes, except where `lend` calls."""
        self.total_bytes += len(data)
        take = self._take
        if take is not None:
            try:
                take(data)
            except Exception as exc:
                self._fault, self._take = exc, None
            if self._backlog.has_spent(len(data)) and not self._awaits_turn:
                self._awaits_turn = True
                self._source.pause_reading()
                self._backlog.add(self._read_on)
            return
        self._pieces.append(data)
        self._kept += len(data)
        if self._kept > HIGH_BYTES:
            self.pause()

    def lend(self, data: memoryview) -> bool:
        """
        Do as `feed_data` with *data*, which is good for this call only; return whether it is needed longer.

        What is small is copied: it costs 1 microsecond, where a new buffer for what comes next costs 14.
        """
        lends = self._lends
        if self._take is None or lends is None or len(data) <= LENT_BYTES:
            self.feed_data(bytes(data))
            return False
        self.feed_data(data)
        return lends()

    def feed_eof(self) -> None:
        """All has come."""
        self._has_ended = True

    def set_exception(self, failure: Exception) -> None:
        """No more comes: *failure* broke the body."""
        self._failure = failure

    def wake(self) -> None:
        """Have the reader look at what was fed."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # --- the reader's side ---------------------------------------------------------------------------------------

    def is_eof(self) -> bool:
        """Whether all has come."""
        return self._has_ended

    def at_eof(self) -> bool:
        """Whether everything has been read."""
        return self._has_ended and not self._pieces

    def exception(self) -> Exception | None:
        """What broke it."""
        return self._failure

    def pause(self) -> None:
        """Hold the connection: what has come is enough for now."""
        if not (self._is_held or self._has_ended):
            self._is_held = True
            self._source.pause_reading()

    def resume(self) -> None:
        """Let the connection go on, if it is held."""
        if self._is_held:
            self._is_held = False
            if not self._awaits_turn:
                self._source.resume_reading()

    def _read_on(self) -> None:
        """Let the connection go on: it is its turn."""
        if self._awaits_turn:
            self._awaits_turn = False
            if not self._is_held:
                self._source.resume_reading()

    def read_nowait(self) -> bytes:
        """Return what is here; raises what broke the body."""
        if self._failure is not None:
            raise self._failure
        if not self._pieces:
            return b""
        pieces, self._pieces, self._kept = self._pieces, [], 0
        self.resume()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def readany(self) -> bytes:
        """Return what is here, or what comes next; nothing at the end. Raises what broke the body."""
        while not self._pieces and not self._has_ended and self._failure is None:
            await self._moved()
        return self.read_nowait()

    async def pass_on(self, take: Callable[[bytes], None], lends: Callable[[], bool] | None = None) -> None:
        """
        Give *take* each piece that is here or comes; return at the end of the body.

        With *lends*, *take* may get views of memory that is used again, unless *lends* then says that they are needed.

        Raises what broke the body, or what *take* raised: from then on nothing is given to it.
        """
        if data := self.read_nowait():
            take(data)
        self._take, self._fault, self._lends = take, None, lends
        try:
            if lends is not None:
                self._may_lend()
            while self._fault is None and self._failure is None and not self._has_ended:
                await self._moved()
        finally:
            self._take = None
            self._read_on()
            self.resume()
        if self._fault is not None:
            raise self._fault
        if self._failure is not None:
            raise self._failure

    def _may_lend(self) -> None:
        """Tell the connection that pieces may be lent, where it does so."""

    def _moved(self) -> Awaitable[None]:
        """Return what ends with the next `wake`."""
        self._waiter = asyncio.get_running_loop().create_future()
        return self._waiter


Body = BodyStream | WholeBody
