"""
Read a large body straight into a buffer that is written from, in larger pieces than uvloop's and without its copy.

Rules:
1. One buffer serves all bodies of the process: what is read into it is written in the same call.
2. What the other side does not take of it at once is still to be written: that buffer is lent to its transport, and the
   next piece gets another one. Small pieces are copied instead (`net/body_stream.py`), and a transport that holds a
   large one wants no more: one that does not read costs two buffers at most, mostly one, however its body comes. While
   MAX_LENT_BYTES are lent, buffers are smaller: two hundred cost 72 MiB (threats G3).
3. Never more is read than the body has left: what comes behind it is the connection's own to judge.
4. Everything else that a transport tells goes to the connection, which is its protocol again once the body is over.

Pieces of 512 KiB instead of 250 took 325 microseconds of CPU a megabyte instead of 445: the system sends less often,
and uvloop makes no bytes object of what it reads.
"""

from __future__ import annotations

import asyncio
import weakref
from typing import Protocol

LARGE_BYTES = 524_288
SMALL_BYTES = 262_144
MAX_LENT_BYTES = 16_777_216
DIRECT_BYTES = 524_288  # left of a body, from which on the change of protocols (5 microseconds) pays


class Owner(Protocol):
    """The connection."""

    def direct_received(self, data: memoryview) -> bool:
        """Take *data*, the body's next; return whether somebody still needs it behind this call."""

    def eof_received(self) -> bool | None:
        """As a transport calls it."""

    def connection_lost(self, exc: BaseException | None) -> None:
        """As a transport calls it."""

    def pause_writing(self) -> None:
        """As a transport calls it."""

    def resume_writing(self) -> None:
        """As a transport calls it."""


class _Block(bytearray):
    """A buffer of which it is known when nobody needs it any more."""

    __slots__ = ("__weakref__",)


class Memory:
    """The buffer that is read into; *lent_bytes* are those of the buffers before it that are still to be written."""

    __slots__ = ("_block", "lent_bytes")

    def __init__(self) -> None:
        self._block: _Block | None = None
        self.lent_bytes = 0

    def get(self) -> memoryview:
        """Return the buffer to read into."""
        size = LARGE_BYTES if self.lent_bytes < MAX_LENT_BYTES else SMALL_BYTES
        if self._block is None or len(self._block) != size:
            self._block = _Block(size)
        return memoryview(self._block)

    def filled(self, size: int) -> memoryview:
        """Return the first *size* bytes of what was read into."""
        assert self._block is not None
        return memoryview(self._block)[:size]

    def lend(self) -> None:
        """Leave the buffer to whom it was written to."""
        block, self._block = self._block, None
        if block is not None:
            self.lent_bytes += len(block)
            weakref.finalize(block, self._give_back, len(block)).atexit = False

    def _give_back(self, size: int) -> None:
        self.lent_bytes -= size


_memory = Memory()


class DirectReader(asyncio.BufferedProtocol):
    """The protocol of a transport while *left* bytes of a body are read for *owner*."""

    def __init__(self, owner: Owner, left: int) -> None:
        self._owner = owner
        self._left = left

    def get_buffer(self, _: int) -> memoryview:
        """Return where to read to."""
        return _memory.get()[: self._left]

    def buffer_updated(self, nbytes: int) -> None:
        """Pass on what was read."""
        self._left -= nbytes
        if self._owner.direct_received(_memory.filled(nbytes)):
            _memory.lend()

    def eof_received(self) -> bool | None:
        """The other side has ended."""
        return self._owner.eof_received()

    def connection_lost(self, exc: BaseException | None) -> None:
        """The connection is gone."""
        self._owner.connection_lost(exc)

    def pause_writing(self) -> None:
        """The other side does not take more."""
        self._owner.pause_writing()

    def resume_writing(self) -> None:
        """The other side takes more."""
        self._owner.resume_writing()
