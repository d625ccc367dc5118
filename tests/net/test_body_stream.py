"""One body on its way: what is kept of it, at whose pace it comes, and how it ends."""

from __future__ import annotations

import asyncio

import pytest

from gateway.net import backlog as backlog_module
from gateway.net.backlog import Backlog
from gateway.net.body_stream import HIGH_BYTES, BodyStream


class Cut(Exception):
    """What breaks a body here."""


class Source:
    """A connection that keeps what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def pause_reading(self) -> None:
        self.told.append("pause")

    def resume_reading(self) -> None:
        self.told.append("resume")


def stream() -> tuple[BodyStream, Source]:
    source = Source()
    return BodyStream(source, Backlog(asyncio.get_running_loop())), source


async def test_what_nobody_takes_is_kept_up_to_a_bound() -> None:
    """
    Above the bound the connection is held, until all of it was taken at once.
    """
    body, source = stream()
    body.feed_data(b"x" * HIGH_BYTES)
    before = list(source.told)
    body.feed_data(b"y")
    held = list(source.told)

    assert ([], ["pause"]) == (before, held)
    assert b"x" * HIGH_BYTES + b"y" == await body.readany()
    assert ["pause", "resume"] == source.told
    assert (False, False, HIGH_BYTES + 1) == (body.is_eof(), body.at_eof(), body.total_bytes)


async def test_reader_waits_for_the_next_piece_and_sees_the_end() -> None:
    """
    A reader gets what comes while it waits, and then nothing at the end.
    """
    body, _ = stream()
    reading = asyncio.ensure_future(body.readany())
    await asyncio.sleep(0)
    body.feed_data(b"a")
    body.feed_eof()
    body.wake()

    assert b"a" == await reading
    assert (b"", True) == (await body.readany(), body.at_eof())


async def test_broken_body_never_looks_whole() -> None:
    """
    What broke a body is told before what is still here of it, to whom reads and to whom passes on.
    """
    body, _ = stream()
    body.feed_data(b"half")
    body.set_exception(Cut())
    taken: list[bytes] = []

    with pytest.raises(Cut):
        await body.readany()
    with pytest.raises(Cut):
        await body.pass_on(taken.append)
    assert [] == taken


async def test_pieces_are_passed_on_as_they_come() -> None:
    """
    What is here is passed on first, then each piece in the call that feeds it; the end ends it.
    """
    body, _ = stream()
    body.feed_data(b"a")
    body.feed_data(b"b")
    taken: list[bytes] = []
    passing = asyncio.ensure_future(body.pass_on(taken.append))
    await asyncio.sleep(0)
    body.feed_data(b"c")
    seen = list(taken)
    body.feed_eof()
    body.wake()
    await passing

    assert [b"ab", b"c"] == seen


async def test_fault_of_the_taker_leaves_the_body_readable() -> None:
    """
    Who passes on and fails gets nothing more; the rest of the body can still be read.
    """
    body, _ = stream()

    def take(_: bytes) -> None:
        raise Cut

    passing = asyncio.ensure_future(body.pass_on(take))
    await asyncio.sleep(0)
    body.feed_data(b"a")
    body.feed_data(b"b")
    body.wake()

    with pytest.raises(Cut):
        await passing
    assert (b"b", None) == (await body.readany(), body.exception())


async def test_connection_goes_on_when_passing_on_ends() -> None:
    """
    Held by the taker, the connection is let go when nobody passes on any more: a whole answer's is used again.
    """
    body, source = stream()
    passing = asyncio.ensure_future(body.pass_on(lambda _: body.pause()))
    await asyncio.sleep(0)
    body.feed_data(b"a")
    body.feed_eof()
    body.wake()
    await passing

    assert ["pause", "resume"] == source.told


async def test_lent_piece_is_copied_where_nobody_takes_it() -> None:
    """
    Memory that is used again is never kept: it is passed on in the call, or copied.
    """
    body, _ = stream()
    memory = bytearray(b"abc")
    is_needed = body.lend(memoryview(memory))
    memory[:] = b"xyz"

    assert (False, b"abc") == (is_needed, body.read_nowait())


async def test_turn_of_the_loop_passes_so_many_bytes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Beyond them the connection waits for a turn of its own, whether its reader takes all or not.
    """
    monkeypatch.setattr(backlog_module, "TURN_BYTES", 10)
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "time", lambda: 1.0)  # uvloop's stands still during a turn
    body, source = stream()
    passing = asyncio.ensure_future(body.pass_on(lambda _: None))
    await asyncio.sleep(0)
    body.feed_data(b"x" * 10)
    before = list(source.told)
    body.feed_data(b"x")
    body.feed_data(b"x")
    paused = list(source.told)
    await asyncio.sleep(0)

    assert ([], ["pause"], ["pause", "resume"]) == (before, paused, source.told)
    passing.cancel()
