"""The scanner for injected tokens, against searches of whole texts."""

from __future__ import annotations

import base64
import gzip
import zlib
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy.echo import (
    KNOWN,
    MAX_KNOWN_BYTES,
    MAX_LOOKED_INTO_BYTES,
    MIN_HELD_BYTES,
    MIN_TOKEN_BYTES,
    Needles,
    Scanner,
    Watch,
    needles_of,
)

TOKEN = "ya29.a0Ac~d/e+f?g=="  # every kind of character that some spelling changes

TOKENS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=MIN_TOKEN_BYTES, max_size=40)
AROUND = st.binary(max_size=20)

SPELLED: dict[str, Callable[[bytes], bytes]] = {
    "as it is": lambda token: token,
    "in base64": base64.b64encode,
    "in base64 behind 1": lambda token: base64.b64encode(b"1" + token),
    "in base64 behind 2": lambda token: base64.b64encode(b"12" + token),
    "in base64 between others": lambda token: base64.b64encode(b"user:" + token + b"@host"),
    "in URL-safe base64": lambda token: base64.urlsafe_b64encode(b"12" + token).rstrip(b"="),
    "percent-encoded": lambda token: quote(token, safe="").encode(),
    "percent-encoded in small letters": lambda token: b"".join(
        b"%%%02x" % byte if quote(bytes((byte,)), safe="").startswith("%") else bytes((byte,)) for byte in token
    ),
    "percent-encoded as a path": lambda token: quote(token, safe="!$&'()*+,;=:@").encode(),
    "in JSON that escapes slashes": lambda token: token.replace(b"/", b"\\/"),
}


@pytest.mark.parametrize("spelling", SPELLED)
@given(token=TOKENS, before=AROUND, after=AROUND)
def test_token_is_found_however_it_is_spelled(spelling: str, token: str, before: bytes, after: bytes) -> None:
    """
    Each documented spelling of a token is found between any bytes, and is not there after it was replaced.
    """
    needles = Needles.of(token)
    spelled = SPELLED[spelling](token.encode())

    assert needles.are_in(before + spelled + after)
    assert spelled not in needles.replace(spelled)


def test_text_without_the_token_is_none() -> None:
    """
    A token's beginning, its end, and the token with one character changed are not found.
    """
    needles = Needles.of(TOKEN)
    changed = TOKEN.replace("Ac", "Bc")

    for text in (TOKEN[:-1], TOKEN[1:], changed, ""):
        for spell in SPELLED.values():
            assert not needles.are_in(b"<" + spell(text.encode()) + b">"), text


def test_needles_are_remembered_within_bounds() -> None:
    """
    What is looked for is made once for a token, and forgotten when many others have come since.
    """
    token = "once-" + "Aa9_" * 9
    first = needles_of(token)
    again = needles_of(token)
    for number in range(1_000):
        needles_of(f"{number}-" + "Aa9_" * 4_000)
        assert KNOWN.currsize <= MAX_KNOWN_BYTES
    later = needles_of(token)
    KNOWN.clear()

    assert first is again
    assert first is not later
    assert first.spellings == later.spellings


def test_short_token_is_not_looked_for() -> None:
    """
    A token that answers would hold by chance has no spellings.
    """
    assert () == Needles.of("x" * (MIN_TOKEN_BYTES - 1)).spellings
    assert not Needles.of("").are_in(b"")
    assert all(len(spelling) >= MIN_HELD_BYTES for spelling in Needles.of("x" * MIN_TOKEN_BYTES).spellings)


# Few letters, so that beginnings, overlaps and repetitions are frequent.
NEEDLES = st.lists(st.text("ab", min_size=MIN_HELD_BYTES, max_size=14), min_size=1, max_size=3).map(
    lambda texts: tuple(text.encode() for text in texts)
)


@st.composite
def bodies(draw: st.DrawFn) -> tuple[tuple[bytes, ...], list[bytes]]:
    """Return needles, and the pieces of a body that often holds one, or the most of one."""
    needles = draw(NEEDLES)
    parts = draw(
        st.lists(
            st.one_of(
                st.text("abc", max_size=12).map(str.encode),
                st.sampled_from(needles),
                st.sampled_from(needles).flatmap(
                    lambda needle: st.integers(0, len(needle)).map(lambda at: needle[:at])
                ),
            ),
            max_size=5,
        )
    )
    text = b"".join(parts)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    return needles, [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def _live(needles: tuple[bytes, ...], text: bytes) -> int:
    return max(
        (size for needle in needles for size in range(len(needle)) if size == 0 or text.endswith(needle[:size])),
        default=0,
    )


@given(bodies())
def test_scanner_agrees_with_a_search_of_the_whole(body: tuple[tuple[bytes, ...], list[bytes]]) -> None:
    """
    However a body is cut: the piece that completes a needle stops it, nothing else does; what left before is the body's
    beginning, and lacks a live partial match of MIN_HELD_BYTES or more, and not one byte beside it.
    """
    spellings, pieces = body
    scanner = Scanner(Needles(spellings))
    came, left = b"", b""
    for piece in pieces:
        came += piece
        passed = scanner.feed(piece)
        if any(spelling in came for spelling in spellings):
            assert passed is None
            return
        assert passed is not None
        left += passed
        live = _live(spellings, came)
        held = came[len(left) :]
        assert came.startswith(left)
        assert len(held) <= live
        assert held == b"" if live < MIN_HELD_BYTES else True
        # What is not held of a live match had left while it was too short to be one.
        assert len(held) >= live - (MIN_HELD_BYTES - 1) if live >= MIN_HELD_BYTES else True
    assert came == left + scanner.end()
    assert b"" == scanner.end()


def test_event_is_not_held_up() -> None:
    """
    What ends as messages of a stream do leaves at once, also behind the beginning of a token.
    """
    for end in (b"\n\n", b"\n", b"}", b'"', b"\0", b" "):
        event = b"data: " + TOKEN[:-1].encode() + end
        assert event == Scanner(Needles.of(TOKEN)).feed(event)


def test_beginning_of_a_token_waits_for_the_next_bytes() -> None:
    """
    A beginning that would be worth something is held until bytes decide, or the body ends.
    """
    scanner = Scanner(Needles.of(TOKEN))
    assert b"token: " == scanner.feed(b"token: " + TOKEN[:15].encode())
    assert TOKEN[:15].encode() + b"!" == scanner.feed(b"!")
    assert b"" == scanner.feed(TOKEN[:10].encode())
    assert TOKEN[:10].encode() == scanner.end()


CODED: dict[str, tuple[bytes | None, Callable[[bytes], bytes], bool, bool]] = {
    # case: (Content-Encoding, what it does, found, unread)
    "none": (None, bytes, True, False),
    "gzip": (b"gzip", gzip.compress, True, False),
    "x-gzip": (b"x-gzip", gzip.compress, True, False),
    "deflate": (b"deflate", zlib.compress, True, False),
    "gzip that is none": (b"gzip", bytes, False, True),
    "another coding": (b"br", bytes, False, True),
    "two codings": (b"gzip, gzip", lambda data: gzip.compress(gzip.compress(data)), False, True),
    "a second member of gzip": (b"gzip", lambda data: gzip.compress(b"first") + gzip.compress(data), False, True),
}


@pytest.mark.parametrize("case", CODED)
@pytest.mark.parametrize("size", [1, 7, 1_000_000])
def test_watch_looks_into_what_it_can_read(case: str, size: int) -> None:
    """
    A token is found in a plain, gzip or deflate body, in pieces of any size; of every other the watch says unread.
    """
    coding, encode, found, is_unread = CODED[case]
    data = encode(b'{"token": "' + TOKEN.encode() + b'"}')
    watch = Watch(Needles.of(TOKEN), coding)
    for start in range(0, len(data), size):
        watch.feed(data[start : start + size])

    assert (found, is_unread) == (watch.found, watch.is_unread)


@pytest.mark.parametrize("coding", [None, b"gzip"])
@pytest.mark.parametrize(
    ("padding", "found", "is_unread"),
    [
        (MAX_LOOKED_INTO_BYTES - len(TOKEN), True, False),
        (MAX_LOOKED_INTO_BYTES - len(TOKEN) + 1, False, True),
        (MAX_LOOKED_INTO_BYTES * 50, False, True),
    ],
)
def test_watch_ends_at_its_size(coding: bytes | None, padding: int, found: bool, is_unread: bool) -> None:
    """
    The first 64 KiB are looked into, unpacked ones count; what is behind them is unread.
    """
    body = b" " * padding + TOKEN.encode()
    watch = Watch(Needles.of(TOKEN), coding)
    watch.feed(gzip.compress(body) if coding else body)

    assert (found, is_unread) == (watch.found, watch.is_unread)


def test_nothing_shows_the_token() -> None:
    """
    No repr holds a spelling.
    """
    needles = Needles.of(TOKEN)
    scanner, watch = Scanner(needles), Watch(needles, None)
    scanner.feed(TOKEN[:12].encode())
    watch.feed(TOKEN[:12].encode())

    for shown in map(repr, (needles, scanner, watch)):
        assert "ya29" not in shown
