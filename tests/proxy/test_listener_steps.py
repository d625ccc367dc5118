"""Requests that are served in steps, in a task, or first so and then so: nothing is lost at any point between them."""

from __future__ import annotations

import asyncio
import gc
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.listen import connection as listen_connection
from gateway.listen.acceptor import Acceptor
from gateway.listen.connection import HEAD_SECONDS
from gateway.listen.head import RequestHead
from gateway.net.body_stream import Body
from gateway.proxy import listener
from gateway.proxy.listener import CallerConnection
from gateway.proxy.steps import Signal, in_task
from gateway.proxy.traffic import TrafficServer
from tests.listen.site import GUARD_SECONDS, LOOPS, contexts, run

BIG = "x" * 16_000_000
Act = Callable[[CallerConnection], None]


class Floor:
    """
    A traffic listener. Each target says in words where its request waits, and each request is answered with its target.

    *now*: nowhere. *signal*: until `go` in steps. *task*: for a task, there until `go`. *future*: likewise without
    asking for a task. *raise*: then it breaks. *act*: it first calls `act`.
    """

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.complaints: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.complaints.append(context))
        self.server = TrafficServer(self._serve, on_refused=lambda _: None, loop=self.loop)
        self.acceptor: Acceptor
        self.act: Act = lambda _: None
        self.waiting: dict[str, Signal | asyncio.Future[None]] = {}
        self.clients: list[CallerConnection] = []
        self.begun: list[str] = []
        self.ended: list[tuple[str, str]] = []

    async def _serve(self, head: RequestHead, _: Body, client: CallerConnection) -> bool:
        target = head.target
        self.begun.append(target)
        self.clients.append(client)
        how = "broke"
        try:
            if "act" in target:
                self.act(client)
            for word in target.strip("/").split("-"):
                await self._wait(word, target)
            if "raise" in target:
                raise ValueError(target)
            if "big" in target:
                client.send(big(target)[:-1_000_000])  # twice: over TLS the first piece pauses nobody
                client.send(big(target)[-1_000_000:])
            else:
                client.send(answer(target))
            how = "served"
        except asyncio.CancelledError:
            how = "drained" if client.is_drained else "gone"
            raise
        except ConnectionError:
            how = "gone"
            return False
        finally:
            self.ended.append((target, how))
        return True

    async def _wait(self, word: str, target: str) -> None:
        if word == "signal":
            self.waiting[target] = signal = Signal()
            await signal
        elif word in ("task", "future"):
            if word == "task":
                await in_task()
            self.waiting[target] = future = self.loop.create_future()
            await future

    async def waits(self, *targets: str) -> None:
        """Return when the requests of *targets* wait."""
        while not self.waiting.keys() >= set(targets):  # noqa: ASYNC110  # the guard of `floor` bounds it
            await asyncio.sleep(0)

    def go(self, target: str) -> None:
        """Have the request of *target* go on."""
        waiting = self.waiting.pop(target)
        if isinstance(waiting, Signal):
            waiting.fire()
        elif not waiting.done():
            waiting.set_result(None)

    async def is_empty(self) -> None:
        """Return when no connection is left, and no request."""
        while self.server._open or len(self.begun) > len(self.ended):  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def answer(target: str) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(target)}\r\n\r\n{target}".encode()


def big(target: str) -> bytes:
    """Return an answer that no buffer of the system takes whole."""
    return answer(target + BIG)


def get(*targets: str) -> bytes:
    return b"".join(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for target in targets)


@asynccontextmanager
async def floor(tls: ssl.SSLContext | None = None) -> AsyncIterator[Floor]:
    """Run a listener; behind it nothing may be left: no connection, no task, no complaint."""
    before = asyncio.all_tasks()
    floor = Floor()
    floor.acceptor = await Acceptor.listen(floor.server, "127.0.0.1", 0, tls=tls)
    try:
        async with asyncio.timeout(GUARD_SECONDS):
            yield floor
            await floor.acceptor.end()
            await floor.server.shutdown(1.0)
            await floor.is_empty()
            while asyncio.all_tasks() - before:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
    finally:
        floor.acceptor.close()
    floor.clients.clear()
    gc.collect(1)  # of a task that nobody asked how it ended, its loop is told when it is collected
    await asyncio.sleep(0)
    assert [] == floor.complaints
    assert sorted(floor.begun) == sorted(target for target, _ in floor.ended)


@asynccontextmanager
async def opened(
    floor: Floor, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A caller's connection that the listener waits on."""
    reader, writer = await asyncio.open_connection("127.0.0.1", floor.acceptor.port, ssl=tls)
    try:
        writer.write(get("/now"))
        assert answer("/now") == await reader.readexactly(len(answer("/now")))
        yield reader, writer
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("over_tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize(
    "kinds", [("signal", "task"), ("task", "signal"), ("future", "now"), ("signal", "now")], ids="-".join
)
def test_requests_of_one_connection_keep_their_order(
    tmp_path: Path, loop: str, over_tls: bool, kinds: tuple[str, str]
) -> None:
    """32 requests at once, in steps and in tasks by turns, are answered one after another, whichever could go first."""

    async def scenario() -> None:
        shown, trusted = contexts(tmp_path) if over_tls else (None, None)
        async with floor(shown) as here, opened(here, trusted) as (reader, writer):
            targets = [f"/{kinds[number % 2]}-{number}" for number in range(32)]
            writer.write(get(*targets))
            for target in targets:
                if not target.startswith("/now"):
                    await here.waits(target)
                    here.go(target)
                assert answer(target) == await reader.readexactly(len(answer(target)))
            assert targets == here.begun[1:]

    run(loop, scenario())


POINTS = ["/signal", "/task", "/future", "/signal-task", "/task-signal", "/signal-future-signal"]
WAITS = [(point, number) for point in POINTS for number in range(1, point.count("-") + 2)]


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("over_tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("end", ["gone", "drained", "shut down"])
def test_request_ends_where_it_waits(tmp_path: Path, loop: str, over_tls: bool, end: str) -> None:
    """A caller that vanishes, a drain and a stop end a request at each of its waits; those behind it never begin."""

    async def scenario() -> None:
        shown, trusted = contexts(tmp_path) if over_tls else (None, None)
        for point, reached in WAITS:
            async with floor(shown) as here, opened(here, trusted) as (_, writer):
                writer.write(get(point, "/now"))
                for at in range(reached):
                    await here.waits(point)
                    if at + 1 < reached:
                        here.go(point)
                if end == "gone":
                    writer.transport.abort()
                elif end == "drained":
                    assert (0, 1) == await here.server.drain(0.0)
                else:
                    await here.server.shutdown(0.01)
                await here.is_empty()
                assert [("/now", "served"), (point, "drained" if end == "drained" else "gone")] == here.ended

    run(loop, scenario())


def drain_at_once(client: CallerConnection) -> None:
    client._loop.create_task(client.drain_requests(0.0))


def lose(client: CallerConnection) -> None:
    assert client.transport is not None
    client.transport.abort()


# What happens to a connection inside a step, and how its request ends: what waits behind it is cancelled.
ACTS: dict[str, tuple[Act, str]] = {
    "reset by the step itself": (CallerConnection.abort, "gone"),
    "lost": (lose, "gone"),
    "drained": (drain_at_once, "drained"),
    "closed": (CallerConnection.force_close, "gone"),
}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("case", ACTS)
def test_request_ends_between_two_steps(loop: str, case: str, point: str) -> None:
    """What ends in the very turn of the loop in which a request is handed over is not taken, and not forgotten."""
    act, how = ACTS[case]

    async def scenario() -> None:
        async with floor() as here, opened(here) as (_, writer):
            here.act = act
            writer.write(get(f"/act{point.replace('/', '-')}", "/now"))
            await here.is_empty()
            assert [("/now", "served"), (f"/act{point.replace('/', '-')}", how)] == here.ended

    run(loop, scenario())


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("target", ["/raise", "/signal-raise", "/task-raise", "/signal-task-raise", "/first-raise"])
def test_request_that_breaks_ends_its_connection(loop: str, target: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An exception that nobody foresaw resets the connection at once, wherever it is raised, and the log names it."""

    async def scenario() -> None:
        async with floor() as here:
            reader, writer = await asyncio.open_connection("127.0.0.1", here.acceptor.port)
            if target != "/first-raise":  # the first request of a connection is served by its task
                writer.write(get("/now"))
                assert answer("/now") == await reader.readexactly(len(answer("/now")))
            writer.write(get(target, "/now"))
            for word in target.strip("/").split("-"):
                if word in ("signal", "task"):
                    await here.waits(target)
                    here.go(target)
            with pytest.raises(ConnectionResetError):
                await reader.read()
            writer.close()
            await here.is_empty()
            assert (target, "broke") == here.ended[-1]

    run(loop, scenario())
    out = capsys.readouterr().out
    assert "connection_broke" in out and "ValueError" in out
    assert target not in out


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("target", ["/signal", "/task", "/signal-task", "/task-signal"])
def test_only_an_idle_connection_is_ended_for_its_age(monkeypatch: pytest.MonkeyPatch, loop: str, target: str) -> None:
    """A request may take longer than a connection may be idle, and the time for the next one counts from its end."""
    for module in (listener, listen_connection):
        monkeypatch.setattr(module, "KEEPALIVE_SECONDS", 0.5)

    async def scenario() -> None:
        async with floor() as here, opened(here) as (reader, writer):
            writer.write(get(target))
            for word in target.strip("/").split("-"):
                await here.waits(target)
                await asyncio.sleep(0.75)
                assert not here.clients[0].is_closing, word
                here.go(target)
            assert answer(target) == await reader.readexactly(len(answer(target)))
            assert b"" == await reader.read()

    run(loop, scenario())


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("target", ["/signal", "/task", "/signal-task", "/task-signal"])
def test_head_that_takes_too_long_is_refused_behind_what_is_under_way(loop: str, target: str) -> None:
    """Half a head behind a request is answered 408 once that request is, however it is served, and ends it all."""

    async def scenario() -> None:
        async with floor() as here, opened(here) as (reader, writer):
            writer.write(get(target) + b"GET / HTTP/1.1\r\nHo")
            await here.waits(target)
            here.server.sweep(here.loop.time() + 2 * HEAD_SECONDS)
            await asyncio.sleep(0)
            for _ in target.strip("/").split("-"):
                await here.waits(target)
                here.go(target)
            assert answer(target) == await reader.readexactly(len(answer(target)))
            assert (await reader.read()).startswith(b"HTTP/1.1 408 ")

    run(loop, scenario())


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("over_tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("end", ["reads on", "gone", "drained"])
def test_caller_that_does_not_read_is_not_served_on(tmp_path: Path, loop: str, over_tls: bool, end: str) -> None:
    """Between two requests a connection waits for a caller that reads nothing, and is ended there like anywhere."""

    async def scenario() -> None:
        shown, trusted = contexts(tmp_path) if over_tls else (None, None)
        async with floor(shown) as here, opened(here, trusted) as (reader, writer):
            writer.write(get("/signal-big", "/signal-next", "/now"))
            await here.waits("/signal-big")
            here.go("/signal-big")
            await asyncio.sleep(0.05)
            assert ["/now", "/signal-big"] == here.begun
            if end == "gone":
                writer.transport.abort()
            elif end == "drained":
                assert (0, 1) == await here.server.drain(0.01)
            else:
                assert big("/signal-big") == await reader.readexactly(len(big("/signal-big")))
                await here.waits("/signal-next")
                here.go("/signal-next")
                rest = answer("/signal-next") + answer("/now")
                assert rest == await reader.readexactly(len(rest))
            writer.transport.abort()
            await here.is_empty()
            assert {"served"} == {how for _, how in here.ended}
            assert (4 if end == "reads on" else 2) == len(here.begun)

    run(loop, scenario())
