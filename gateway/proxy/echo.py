"""
Find the injected token in an upstream's answer (threats E3): as it is, in base64, and percent-encoded.

Rules:
1. Found are: the token's own bytes; its base64, standard and URL-safe, at each of the three places where it can begin
   inside of another text; its percent encoding, in capitals and small letters; "/" as JSON may escape it. Anything else
   (another encoding, two of them, a coding of the content that is not unpacked) is not.
2. A token shorter than MIN_TOKEN_BYTES is not looked for: it would be found where it is not.
3. Nothing is held back but a live partial match: the longest end of what came that begins a spelling, from
   MIN_HELD_BYTES on. The next bytes decide it, or the end of the body. No clock does: whoever could wait it out would
   have the token in two halves. A stream is not held up by that, since a message ends in a line break, a bracket or a
   quote, and no spelling has one; a shorter partial match passes, and is remembered.
4. Nothing here does I/O, and no repr shows a spelling.

What follows from a find, `relay.py` decides. Prices (1 KB of JSON, 40 characters of token): see `Needles.are_in`.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator
from urllib.parse import quote

from cachetools import LRUCache, cached

from gateway.proxy.record import Echo

MIN_TOKEN_BYTES = 12  # opaque tokens have 20 and more; what is shorter stands in some answer by chance
MIN_HELD_BYTES = 8  # the beginnings of tokens that are no secret are longer: "ya29.a0A", "eyJhbGci", "xoxb-"
MAX_KNOWN_BYTES = 67_108_864  # spellings of 80,000 short tokens, or of 8,000 that have 1,500 characters
MAX_LOOKED_INTO_BYTES = 65_536  # of a body in `record` (DESIGN section 9)
REPLACEMENT = b"REDACTED"  # may stand wherever a token could: in a URL, a quoted string, a list

_PCHAR = "!$&'()*+,;=:@"  # RFC 3986 3.3: what may stand in a path segment as it is
_UNPACKABLE = frozenset({b"gzip", b"x-gzip", b"deflate"})  # RFC 9110 8.4.1
_AUTO_WBITS = 47  # zlib.decompressobj: gzip or zlib, by its first bytes


class Needles:
    """The spellings of one token, each at least MIN_HELD_BYTES long. None of a short token."""

    __slots__ = ("_searches", "_short", "spellings")

    def __init__(self, spellings: tuple[bytes, ...]) -> None:
        self.spellings = spellings
        self._searches = tuple((*_rarest(each), each) for each in spellings)
        self._short: frozenset[bytes] | None = None  # their beginnings, 3 KB: made for those who hold something back

    def __repr__(self) -> str:
        return f"<Needles of {len(self.spellings)} spellings>"

    @classmethod
    def of(cls, token: str) -> Needles:
        """Return what to look for where *token*, of ASCII, was injected."""
        return cls(tuple(dict.fromkeys(_spellings(token))) if len(token) >= MIN_TOKEN_BYTES else ())

    @property
    def size_bytes(self) -> int:
        """How much memory they take, about."""
        return 600 + sum(map(len, self.spellings))

    def __or__(self, other: Needles) -> Needles:
        """Return what to look for where two tokens were sent, one after the other."""
        return Needles((*self.spellings, *other.spellings))

    def are_in(self, data: bytes) -> bool:
        """Return whether *data* holds any of them."""
        # Three characters are looked for first, which most answers lack (memchr): an answer of 1.4 KB takes 0.2
        # microseconds then, 1.0 to 1.7 where all are there, and 1.2 to 1.5 by a search for each spelling alone, which
        # takes 7 to 15 where one character fills the body. One regular expression takes 10 and more.
        for first, second, third, spelling in self._searches:
            if first in data and second in data and third in data and spelling in data:
                return True
        return False

    def replace(self, data: bytes) -> bytes:
        """Return *data* with REPLACEMENT for each of them."""
        for spelling in self.spellings:
            data = data.replace(spelling, REPLACEMENT)
        return data

    def live_bytes(self, data: bytes) -> int:
        """Return the length of the longest end of *data* that begins a spelling and is not a whole one."""
        longest = 0
        for spelling in self.spellings:
            beginning = spelling[:MIN_HELD_BYTES]
            at = data.find(beginning, max(len(data) - len(spelling) + 1, 0))
            while at >= 0:
                if spelling.startswith(data[at:]):
                    longest = max(longest, len(data) - at)
                    break
                at = data.find(beginning, at + 1)
        if longest:
            return longest
        if self._short is None:
            self._short = frozenset(each[:size] for each in self.spellings for size in range(1, MIN_HELD_BYTES))
        for size in range(min(MIN_HELD_BYTES - 1, len(data)), 0, -1):
            if data[-size:] in self._short:
                return size
        return 0


KNOWN: LRUCache[str, Needles] = LRUCache(MAX_KNOWN_BYTES, getsizeof=lambda needles: needles.size_bytes)


@cached(KNOWN)
def needles_of(token: str) -> Needles:
    """
    Return what `Needles.of` makes of *token*, remembered for all routes: 0.8 microseconds, where to make it takes 40
    for 40 characters and 100 for 1,500. What was not asked for the longest time is forgotten, and so is what belongs to
    tokens that have ended.
    """
    return Needles.of(token)


# Characters of tokens, the rarest in JSON and in header fields first.
_BY_RARITY = b"QZXJqKVWYzHUGFBLNjRPDMCOSTxIEAkwvy_9786543210-bghfpumldcrnsaoite"


def _rarest(spelling: bytes) -> tuple[int, int, int]:
    """Return the three characters of *spelling* that answers have least often; one again where it has fewer."""
    rarest = sorted(set(spelling), key=_BY_RARITY.find)[:3]  # what is not listed is rarer still
    return rarest[0], rarest[min(1, len(rarest) - 1)], rarest[-1]


def _spellings(token: str) -> Iterator[bytes]:
    raw = token.encode("ascii")
    yield raw
    for lead, shared in ((0, 0), (1, 2), (2, 3)):
        # What stands before and after the token in one text shares a character with it at either end.
        whole = base64.b64encode(b"\0" * lead + raw).rstrip(b"=")
        core = whole[shared : -1 if (lead + len(raw)) % 3 else None]
        yield core
        yield core.translate(bytes.maketrans(b"+/", b"-_"))
    for safe in ("", _PCHAR):
        encoded = quote(token, safe=safe).encode("ascii")
        yield encoded
        yield _small_letters(encoded)
    yield raw.replace(b"/", b"\\/")


def _small_letters(encoded: bytes) -> bytes:
    first, *rest = encoded.split(b"%")
    return b"%".join((first, *(part[:2].lower() + part[2:] for part in rest)))


class Scanner:
    """Looks through one body as it comes, and says what of it may leave."""

    __slots__ = ("_held", "_live", "_needles")

    def __init__(self, needles: Needles) -> None:
        self._needles = needles
        self._live = b""  # the partial match at the end of what came
        self._held = 0  # how many bytes of it have not left, at its end

    def __repr__(self) -> str:
        return f"<Scanner holding {self._held} bytes>"

    def feed(self, data: bytes) -> bytes | None:
        """Return what may leave now that *data* has come; None: the token is there, and nothing may leave any more."""
        text = self._live + data if self._live else data
        left = len(self._live) - self._held
        if self._needles.are_in(text):
            return None
        live = self._needles.live_bytes(text)
        self._live = text[len(text) - live :]
        self._held = min(live, len(text) - left) if live >= MIN_HELD_BYTES else 0
        return text[left : len(text) - self._held]

    def end(self) -> bytes:
        """Return what was held back: the body has ended, and it was no token."""
        held = self._live[len(self._live) - self._held :]
        self._live, self._held = b"", 0
        return held


class Watch:
    """
    Looks into the first MAX_LOOKED_INTO_BYTES of one body, without holding any of it back; of a body in gzip or deflate
    into a copy, up to the same size unpacked.

    *found*: the token is there. *is_unread*: some of the body was not looked into.
    """

    __slots__ = ("_left", "_live", "_needles", "_unpacking", "found", "is_unread")

    def __init__(self, needles: Needles, coding: bytes | None) -> None:
        self._needles = needles
        self._unpacking = zlib.decompressobj(_AUTO_WBITS) if coding in _UNPACKABLE else None
        self._live = b""
        self._left = MAX_LOOKED_INTO_BYTES
        self.found = False
        self.is_unread = not (coding is None or self._unpacking is not None)

    def __repr__(self) -> str:
        return f"<Watch found={self.found} is_unread={self.is_unread}>"

    def feed(self, data: bytes) -> bytes:
        """Look into *data*, the body's next bytes, unless that is decided; return it."""
        if not (self.found or self.is_unread):
            self._look_into(data)
        return data

    def says(self) -> tuple[Echo, ...]:
        """Return what the outcome of the call says of this body."""
        return ("body",) if self.found else ("unread",) if self.is_unread else ()

    def _look_into(self, data: bytes) -> None:
        if self._unpacking is not None:
            try:
                data = self._unpacking.decompress(data, self._left + 1)
                self.is_unread = bool(self._unpacking.unused_data)  # RFC 1952 2.2: another member
            except zlib.error:
                self.is_unread = True
                return
        self._left -= len(data)
        if self._left < 0:
            data = data[: self._left]
            self.is_unread = True
        text = self._live + data
        self.found = self._needles.are_in(text)
        self._live = text[len(text) - self._needles.live_bytes(text) :]
