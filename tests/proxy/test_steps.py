"""Coroutines that run from callback to callback, and in a task only where they need one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.proxy.steps import Signal, Steps, in_task


class Owner:
    """Runs coroutines in steps, and keeps what it is told of them."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.steps = Steps(on_end=self._end, on_hand_over=lambda: self.told.append("handed over"))

    def _end(self, outcome: bool | Exception) -> None:
        self.told.append(repr(outcome))


def current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


async def test_signal_is_gone_on_from_inside_of_fire() -> None:
    """
    A coroutine runs at once up to its signal, and to its end while the signal is fired.
    """
    owner, signal = Owner(), Signal()

    async def work() -> bool:
        owner.told.append("begun")
        await signal
        await signal
        owner.told.append("ends")
        return True

    owner.steps.run(work())
    owner.told.append("waits")
    signal.fire()
    assert owner.steps.under_way is not None
    signal.fire()

    assert ["begun", "waits", "ends"] == owner.told  # its owner has nothing to do
    assert owner.steps.under_way is None


async def test_signal_wakes_a_task_as_well() -> None:
    """
    Whoever waits in a task is woken as by a future; fired before, or twice, a signal is lost.
    """
    signal = Signal()

    async def wait() -> str:
        await signal
        return "woken"

    signal.fire()
    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    assert not task.done()
    signal.fire()
    signal.fire()

    assert "woken" == await task


async def wait_for_a_future() -> None:
    await asyncio.sleep(0.001)


async def wait_for_a_turn_of_the_loop() -> None:
    await asyncio.sleep(0)


async def wait_in_a_task() -> None:
    await in_task()
    async with asyncio.timeout(5):
        await asyncio.sleep(0)


async def wait_in_a_task_twice() -> None:
    await in_task()
    await in_task()


ELSE: dict[str, Callable[[], Awaitable[None]]] = {
    "a future": wait_for_a_future,
    "a turn of the loop": wait_for_a_turn_of_the_loop,
    "a task": wait_in_a_task,
    "a task, where it is in one": wait_in_a_task_twice,
}


@pytest.mark.parametrize("case", ELSE)
async def test_anything_else_is_handed_over(case: str) -> None:
    """
    What waits for something else than a signal goes on in the task that awaits `rest`; there signals work, too.
    """
    owner, signal = Owner(), Signal()

    async def work() -> bool:
        await signal
        await ELSE[case]()
        owner.told.append(f"in a task: {current_task() is task}")
        await signal
        return False

    owner.steps.run(work())
    signal.fire()
    assert ["handed over"] == owner.told
    assert owner.steps.awaits_task
    task = asyncio.create_task(owner.steps.rest())
    for _ in range(1000):
        if signal.waiter is not None:
            break
        await asyncio.sleep(0.001)
    signal.fire()

    assert await task is False
    assert ["handed over", "in a task: True"] == owner.told
    assert owner.steps.under_way is None
    assert not owner.steps.awaits_task


async def test_failure_is_told() -> None:
    """
    An exception of the coroutine reaches its owner, not who fires the signal.
    """
    owner, signal = Owner(), Signal()

    async def work() -> bool:
        await signal
        raise ValueError("broken")

    owner.steps.run(work())
    signal.fire()

    assert ["ValueError('broken')"] == owner.told


@pytest.mark.parametrize("where", ["at a signal", "handed over"])
async def test_cancel_ends_it_where_it_waits(where: str) -> None:
    """
    CancelledError is raised where the coroutine waits, its cleaning up is done, and its owner is told nothing.
    """
    owner, signal = Owner(), Signal()
    seen: list[str] = []

    async def work() -> bool:
        try:
            if where == "handed over":
                await asyncio.sleep(60)
            await signal
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        finally:
            seen.append("cleaned up")
        return True

    owner.steps.run(work())
    owner.steps.cancel()
    owner.steps.cancel()
    signal.fire()

    assert ["cancelled", "cleaned up"] == seen
    assert [] == [word for word in owner.told if word != "handed over"]
    assert owner.steps.under_way is None


async def test_cleaning_up_that_takes_longer_is_done() -> None:
    """
    What a cancelled coroutine still waits for has a task of its own.
    """
    owner, signal = Owner(), Signal()
    done = asyncio.Event()

    async def work() -> bool:
        try:
            await signal
        finally:
            await asyncio.sleep(0.001)
            done.set()
        return True

    owner.steps.run(work())
    owner.steps.cancel()

    async with asyncio.timeout(5):
        await done.wait()


async def test_task_that_is_cancelled_cancels_what_it_took_over() -> None:
    """
    Cancelling the task that goes on with a coroutine reaches the place where that waits; what it returns then counts.
    """
    owner = Owner()

    async def work() -> bool:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return False
        return True

    owner.steps.run(work())
    task = asyncio.create_task(owner.steps.rest())
    await asyncio.sleep(0)
    task.cancel()

    assert await task is False
