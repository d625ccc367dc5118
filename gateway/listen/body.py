"""
The chunked coding of a request's body, taken off (RFC 9112 section 7.1).

Rules:
1. A chunk's size is 1 to 16 hexadecimal digits, and after them at once CRLF or extensions. A chunk ends in CRLF.
2. Extensions are read as the RFC writes them, and dropped: a line of at most 256 bytes, and 4 KiB of them in one body.
3. Trailer fields are read like header fields, and dropped: at most 8 KiB of them (nobody declares any to us, and those
   that matter must not come so late: RFC 9110 section 6.5.1).
4. What breaks a rule is refused at the byte that does, without waiting for more.
5. What is no data (sizes, line ends, extensions, trailers) is at most MAX_OVERHEAD_BYTES more than the data: chunks of
   5 bytes may come for ever, a flood of smaller ones is refused.
6. One feeding takes CHUNKS_AT_ONCE chunks; whoever feeds reads the rest in another turn of the loop (`net/backlog.py`).

A server that takes a bare LF for a line's end, or skips what it does not understand in an extension, sees other chunks
than the one before it (threats A3).
"""

from __future__ import annotations

import re

from gateway.errors import InvalidRequest
from gateway.listen.head import MAX_LENGTH

MAX_SIZE_LINE_BYTES = 256
MAX_EXTENSION_BYTES = 4_096
MAX_TRAILER_BYTES = 8_192
MAX_OVERHEAD_BYTES = 65_536  # beyond as much as there is data
# 0.8 milliseconds, and as much for all the trailers. The 256 KiB that one read brings can be 43,700 chunks.
CHUNKS_AT_ONCE = 512

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'
_EXTENSION = rb"[\t ]*;[\t ]*%b(?:[\t ]*=[\t ]*(?:%b|%b))?" % (_TOKEN, _TOKEN, _QUOTED)
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})((?:%b)*)\r\n" % _EXTENSION)
_SIZE_BEGINS = re.compile(rb"[0-9A-Fa-f]{1,16}(?:\r|[\t ;][\t -~\x80-\xff]*\r?)?")
_TRAILER = re.compile(rb"%b:[\t -~\x80-\xff]*\r\n" % _TOKEN)


class ChunkedBody:
    """
    A chunked body on its way; *is_done* once its last byte was fed.

    *is_behind*: the last feeding ended for the number of its chunks, and there is more to read.
    """

    __slots__ = ("_extensions", "_in_trailers", "_left", "_overhead", "_trailers", "is_behind", "is_done")

    def __init__(self) -> None:
        self.is_done = False
        self.is_behind = False
        self._overhead = 0  # bytes that are no data, less those that are
        self._left = 0  # of the chunk: its data and the CRLF behind
        self._extensions = 0
        self._trailers = 0
        self._in_trailers = False

    def feed(self, data: bytes, at: int) -> tuple[bytes, int]:
        """
        Return what *data* holds of the body from *at* on, and where the first byte stands that must be fed again.

        Raises:
            InvalidRequest: the coding is broken.
        """
        pieces: list[bytes] = []
        self.is_behind = False
        while at < len(data) and not self.is_done:
            if self._in_trailers:
                after = self._trailer(data, at)
            elif self._left:
                after = self._chunk(data, at, pieces)
            elif len(pieces) < CHUNKS_AT_ONCE:
                after = self._size(data, at)
            else:
                self.is_behind = True
                break
            if after == at:
                break
            at = after
        return (pieces[0] if len(pieces) == 1 else b"".join(pieces)), at

    def _size(self, data: bytes, at: int) -> int:
        found = _SIZE_LINE.match(data, at, at + MAX_SIZE_LINE_BYTES)
        if found is None:
            begun = data[at : at + MAX_SIZE_LINE_BYTES]
            if len(begun) == MAX_SIZE_LINE_BYTES or _SIZE_BEGINS.fullmatch(begun) is None:
                raise InvalidRequest
            return at
        digits, extensions = found.groups()
        if extensions:
            self._extensions += len(extensions)
            if self._extensions > MAX_EXTENSION_BYTES:
                raise InvalidRequest
        end = found.end()
        size = int(digits, 16)
        if size > MAX_LENGTH:
            raise InvalidRequest
        if size:
            self._left = size + 2
            self._overhead += end - at + 2 - size
            if self._overhead > MAX_OVERHEAD_BYTES:
                raise InvalidRequest
        else:
            self._in_trailers = True
        return end

    def _chunk(self, data: bytes, at: int, pieces: list[bytes]) -> int:
        here = min(len(data) - at, self._left)
        of_body = min(here, self._left - 2)
        if of_body > 0:
            pieces.append(data[at : at + of_body])
        else:
            of_body = 0
        self._left -= here
        end = data[at + of_body : at + here]
        if end and end != b"\r\n"[2 - self._left - len(end) : 2 - self._left]:
            raise InvalidRequest
        return at + here

    def _trailer(self, data: bytes, at: int) -> int:
        end = data.find(b"\n", at)
        stop = len(data) if end < 0 else end + 1
        if self._trailers + stop - at > MAX_TRAILER_BYTES:
            raise InvalidRequest
        if end < 0:
            if data[at : at + 1] == b"\r" and stop - at > 1:
                raise InvalidRequest
            return at
        line = data[at:stop]
        if line == b"\r\n":
            self.is_done = True
        elif _TRAILER.fullmatch(line) is None:
            raise InvalidRequest
        self._trailers += len(line)
        return stop
