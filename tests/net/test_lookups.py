"""Host names into addresses, with resolvers that hang."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading

import pytest

from gateway.errors import NameLookupTimeout, NameNotResolved
from gateway.models import Egress
from gateway.net.dial import resolve
from gateway.net.lookups import LOOKUP_THREADS, Dialable, Lookups


class Hanging:
    """Look-ups that hang until released, for names that begin with "slow", and count."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.release = threading.Event()

    def __call__(self, host: str, port: int) -> list[Dialable]:
        self.asked.append(host)
        if host.startswith("slow"):
            self.release.wait(30)
        return [(socket.AF_INET, ("8.8.8.8", port))]


async def ask(host: str, lookups: Lookups, *, timeout_seconds: float = 5) -> str:
    """The first address of *host*."""
    found = await resolve(host, 443, Egress(), timeout_seconds=timeout_seconds, lookups=lookups)
    return str(found[0][1][0])


async def test_a_hanging_name_server_holds_up_its_own_name_only() -> None:
    """
    However many wait for one name, it takes one thread, gives up in time, and other names are answered meanwhile.
    """
    hanging = Hanging()
    lookups = Lookups(hanging)
    try:
        for _ in range(20):
            with pytest.raises(NameLookupTimeout):
                await ask("slow.example.com", lookups, timeout_seconds=0.01)

        assert "8.8.8.8" == await ask("quick.example.com", lookups)
        assert ["slow.example.com", "quick.example.com"] == hanging.asked
    finally:
        hanging.release.set()


async def test_many_hanging_names_leave_a_thread_for_the_others() -> None:
    """
    Every name but one hangs, each asked by several: the one is answered, and the loop goes on turning.
    """
    hanging = Hanging()
    lookups = Lookups(hanging)
    names = [f"slow{number}.example.com" for number in range(LOOKUP_THREADS - 1)]
    try:
        waiting = [asyncio.create_task(ask(name, lookups)) for name in names for _ in range(3)]
        await asyncio.sleep(0)

        assert "8.8.8.8" == await ask("quick.example.com", lookups)
        assert not any(task.done() for task in waiting)
    finally:
        hanging.release.set()
    assert {"8.8.8.8"} == set(await asyncio.gather(*waiting))


async def test_names_beyond_the_threads_wait_and_are_answered() -> None:
    """
    More names than threads: those that come too late for one get it when another look-up has ended.
    """
    hanging = Hanging()
    lookups = Lookups(hanging)
    names = [f"slow{number}.example.com" for number in range(LOOKUP_THREADS + 20)]
    waiting = [asyncio.create_task(ask(name, lookups)) for name in names]
    await asyncio.sleep(0)
    with pytest.raises(NameLookupTimeout):
        await ask("quick.example.com", lookups, timeout_seconds=0.05)
    hanging.release.set()

    assert {"8.8.8.8"} == set(await asyncio.gather(*waiting))
    assert f"threads={LOOKUP_THREADS}>" in repr(lookups)


async def test_threads_are_used_again() -> None:
    """
    Names one after another share a thread.
    """
    lookups = Lookups(Hanging())
    for number in range(10):
        await ask(f"quick{number}.example.com", lookups)

    assert "<Lookups under way=0 threads=1>" == repr(lookups)


def test_a_hanging_look_up_does_not_hold_up_the_end_of_the_process() -> None:
    """
    A process ends although a look-up of its is still under way.
    """
    program = (
        "import threading; from gateway.net.lookups import Lookups\n"
        "Lookups(lambda host, port: threading.Event().wait()).find('slow.example.com', 443)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], timeout=20, check=False)

    assert 0 == ended.returncode


async def test_name_is_asked_again_after_the_system_gave_no_thread() -> None:
    """
    A look-up for which there is no thread is refused, and holds up nobody who asks for the same name later.
    """
    lookups = Lookups(Hanging())
    usual = threading.stack_size(1 << 46)  # more than any address space has
    try:
        with pytest.raises(NameNotResolved):
            await ask("quick.example.com", lookups)
    finally:
        threading.stack_size(usual)

    assert "8.8.8.8" == await ask("quick.example.com", lookups)
    assert "<Lookups under way=0 threads=1>" == repr(lookups)
