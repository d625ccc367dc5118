"""Whose turn it is to read what has come."""

from __future__ import annotations

import asyncio

from gateway.net.backlog import Backlog


async def test_one_reads_in_each_turn_in_the_order_of_asking() -> None:
    """
    However many wait, and however often each asks again, a turn of the loop has one slice, and all come forward alike.
    """
    backlog = Backlog(asyncio.get_running_loop())
    read: list[str] = []

    def reader(name: str, slices: int) -> None:
        read.append(name)
        if slices > 1:
            backlog.add(lambda: reader(name, slices - 1))

    backlog.add(lambda: reader("a", 3))
    backlog.add(lambda: reader("b", 1))
    backlog.add(lambda: reader("c", 2))
    assert "<Backlog waiting=3>" == repr(backlog)
    seen = []
    for _ in range(7):
        await asyncio.sleep(0)
        seen.append(len(read))

    assert ["a", "b", "c", "a", "c", "a"] == read
    assert [1, 2, 3, 4, 5, 6, 6] == seen
    assert "<Backlog waiting=0>" == repr(backlog)


async def test_reader_that_fails_does_not_hold_up_the_next() -> None:
    """
    An error in one connection's turn is the loop's to tell, and the others go on.
    """
    loop = asyncio.get_running_loop()
    told: list[str] = []
    loop.set_exception_handler(lambda _, context: told.append(repr(context["exception"])))
    backlog, read = Backlog(loop), []

    backlog.add(lambda: read.append(1 // 0))
    backlog.add(lambda: read.append(2))
    for _ in range(4):
        await asyncio.sleep(0)

    assert ["ZeroDivisionError('integer division or modulo by zero')"] == told
    assert [2] == read
