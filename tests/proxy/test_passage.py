"""The body of an answer on its way to the caller: framed, looked into, counted."""

from __future__ import annotations

from typing import Any, cast

import pytest

from gateway.errors import TokenEchoed
from gateway.proxy.echo import Needles, Scanner, Watch
from gateway.proxy.passage import SMALL_BYTES, Passage
from gateway.proxy.record import Call

TOKEN = "a-token-of-the-provider-0123456789"
HEAD = b"HTTP/1.1 200 OK\r\n\r\n"
LARGE = b"x" * (SMALL_BYTES + 1)


class Caller:
    """A caller's connection that keeps what was sent, write by write."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.has_unsent = False

    def send(self, data: bytes) -> None:
        self.writes.append(bytes(data))


def call() -> Call:
    return Call("GET", "/x", call_id="1" * 16, trace_id="2" * 32, peer="192.0.2.1", started_at=0.0, started=0.0)


def passage(caller: Caller, of: Call, look: Scanner | Watch | None = None, *, is_chunked: bool = False) -> Passage:
    return Passage(of, cast(Any, caller), look, is_chunked=is_chunked)


@pytest.mark.parametrize("piece", [b"small", LARGE], ids=["small", "large"])
@pytest.mark.parametrize("is_chunked", [False, True], ids=["a length", "chunks"])
def test_what_passes_is_framed_and_counted(piece: bytes, is_chunked: bool) -> None:
    """
    Head, beginning and pieces leave in order, as chunks or as they are; the record counts the body's bytes alone.
    """
    caller, of = Caller(), call()
    passing = passage(caller, of, is_chunked=is_chunked)
    passing.begin(HEAD, piece)
    passing.take(piece)
    passing.end()

    framed = b"%x\r\n%b\r\n" % (len(piece), piece)
    expected = HEAD + framed + framed + b"0\r\n\r\n" if is_chunked else HEAD + piece + piece
    assert (expected, 2 * len(piece)) == (b"".join(caller.writes), of.bytes_sent)


def test_small_pieces_are_one_write_and_large_ones_are_not_copied() -> None:
    """
    A frame and a small piece leave together; a large one leaves as it came.
    """
    caller = Caller()
    passing = passage(caller, call(), is_chunked=True)
    passing.take(b"small")
    passing.take(LARGE)

    assert [b"5\r\nsmall\r\n", b"%x\r\n" % len(LARGE), LARGE, b"\r\n"] == caller.writes


def test_last_byte_of_the_token_does_not_leave() -> None:
    """
    A scanner ends the passage where the token would be whole, and the record says so.
    """
    caller, of = Caller(), call()
    passing = passage(caller, of, Scanner(Needles.of(TOKEN)))
    passing.take(b"before " + TOKEN[:20].encode())
    with pytest.raises(TokenEchoed):
        passing.take(TOKEN[20:].encode())

    assert (b"before ", ("cut",), 7) == (b"".join(caller.writes), of.echo, of.bytes_sent)


def test_what_was_held_back_leaves_at_the_end() -> None:
    """
    The beginning of a token that is none after all arrives.
    """
    caller, of = Caller(), call()
    passing = passage(caller, of, Scanner(Needles.of(TOKEN)), is_chunked=True)
    passing.take(TOKEN[:20].encode())
    passing.end()

    assert (b"14\r\n" + TOKEN[:20].encode() + b"\r\n0\r\n\r\n", 20) == (b"".join(caller.writes), of.bytes_sent)


def test_pieces_are_kept_while_the_caller_has_not_taken_them() -> None:
    """
    Whoever lends a piece is told whether it is still to be written.
    """
    caller = Caller()
    passing = passage(caller, call())
    before = passing.keeps_pieces()
    caller.has_unsent = True

    assert (False, True) == (before, passing.keeps_pieces())
