"""
Read a chunked body in exactly one way, or not at all (RFC 9112 section 7.1). No I/O.

Rules:
1. A size is 1 to 15 hexadecimal digits; lines end with CRLF; extensions and trailers are read within bounds and
   dropped.
2. What has arrived of a chunk is given out at once. What is not understood ends the body as broken.
3. A read takes CHUNKS_AT_ONCE chunks; whoever reads goes on in another turn of the loop (`net/backlog.py`). Small
   chunks are never refused: that is how answers arrive token by token. Extensions and zeros without end are.
"""

from __future__ import annotations

import re

from gateway.proxy.answer_head import BARE_LF, NAME, TEXT

MAX_SIZE_LINE_BYTES = 1_024  # size and extensions of one chunk; nobody is known to send more than a signature of 100
MAX_TRAILER_BYTES = 8_190
# 0.5 milliseconds. All the 256 KiB that one read of a socket brings can be 43,700 chunks.
CHUNKS_AT_ONCE = 512
# What is no data, beyond 16 times as much as there is data: the smallest chunk, "1 CRLF x CRLF", has 5 times as much.
MAX_OVERHEAD_BYTES = 65_536
_OVERHEAD_RATIO = 16

# From the second chunk on the CRLF that ends the chunk before stands in front.
_FIRST_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*+(?:;%b*+)?\r\n" % TEXT)
_SIZE = re.compile(rb"\r\n" + _FIRST_SIZE.pattern)
_TRAILERS = re.compile(rb"(?>(?:%b++:%b*+\r\n)*)\r\n" % (NAME, TEXT))


class ChunksInvalid(Exception):
    """This is no chunked body, or one that could be read in two ways."""


class Chunks:
    """
    The chunks of one body. *is_over*: its end was read; *extra*: bytes came after it.

    *is_behind*: more has come than one read takes; the next one gets it, with nothing new or in front of what is new.
    """

    __slots__ = ("_is_first", "_is_last", "_left", "_overhead", "_tail", "extra", "is_behind", "is_over")

    def __init__(self) -> None:
        self._is_first = True
        self._is_last = False
        self._left = 0
        self._tail = b""
        self._overhead = 0
        self.is_behind = False
        self.is_over = False
        self.extra = False

    def read(self, data: bytes) -> bytes:
        """
        Return the bytes of the body that *data*, which comes next, brings.

        Raises:
            ChunksInvalid: it breaks a rule; *data* is lost then.
        """
        if self._tail:
            data, self._tail = self._tail + data, b""
        parts: list[bytes] = []
        at = 0
        self.is_behind = False
        while not self._is_last:
            if self._left:
                part = data[at : at + self._left]
                if part:
                    parts.append(part)
                self._left -= len(part)
                at += len(part)
                if self._left:
                    break
            if len(parts) >= CHUNKS_AT_ONCE and at < len(data):
                self._tail = data[at:]
                self.is_behind = True
                break
            matched = (_FIRST_SIZE if self._is_first else _SIZE).match(data, at)
            if matched is None:
                self._keep_line(data[at:])
                break
            line_bytes = matched.end() - at
            if line_bytes > MAX_SIZE_LINE_BYTES:
                raise ChunksInvalid
            self._is_first = False
            self._left = size = int(matched[1], 16)
            self._overhead += line_bytes - _OVERHEAD_RATIO * size
            if self._overhead > MAX_OVERHEAD_BYTES:
                raise ChunksInvalid
            at += line_bytes
            self._is_last = self._left == 0
        if self._is_last:
            self._read_trailers(data, at)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _keep_line(self, line: bytes) -> None:
        """Keep the beginning of a size line; what cannot become one is refused at once."""
        before, rest = (b"", line) if self._is_first else (line[:2], line[2:])
        if not b"\r\n".startswith(before) or b"\n" in rest or len(line) > MAX_SIZE_LINE_BYTES:
            raise ChunksInvalid
        self._tail = line

    def _read_trailers(self, data: bytes, at: int) -> None:
        matched = _TRAILERS.match(data, at)
        if matched is not None and matched.end() - at <= MAX_TRAILER_BYTES:
            self.is_over = True
            self.extra = matched.end() < len(data)
            return
        self._tail = data[at:]
        is_ended = matched is not None or b"\r\n\r\n" in self._tail or BARE_LF.search(self._tail)
        if is_ended or len(self._tail) > MAX_TRAILER_BYTES:
            raise ChunksInvalid
