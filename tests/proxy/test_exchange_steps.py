"""Calls served in steps, beside upstreams that answer, fail and end at the worst moment: one outcome each."""

from __future__ import annotations

import asyncio
import gc
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.listen.site import GUARD_SECONDS, LOOPS, run
from tests.net.certificates import Authority
from tests.proxy.wire import RawCaller, calling, request
from tests.world import LOOPBACK, Received, Running, Upstream, answer, create_connection, running, settings


class House:
    """A gateway with one upstream, which answers what `answers` says, when its word is given; and who calls."""

    def __init__(self, gateway: Running, upstream: Upstream, key: str) -> None:
        self.gateway = gateway
        self.upstream = upstream
        self.key = key
        self.waiting: dict[str, asyncio.StreamWriter] = {}
        self.sent = 0
        self.trusted: ssl.SSLContext | None = None
        upstream.respond = self._respond

    async def _respond(self, received: Received, writer: asyncio.StreamWriter) -> None:
        target = received.request_line.split(" ")[1]
        if target.startswith("/now"):
            writer.write(answer(200, target.encode()))
            return
        self.waiting[target] = writer
        while self.waiting.get(target) is writer and not writer.is_closing():  # noqa: ASYNC110
            await asyncio.sleep(0)

    def calling(self) -> AbstractAsyncContextManager[RawCaller]:
        """Open a caller's connection."""
        return calling(self.gateway, tls=self.trusted)

    def answer(self, target: str) -> None:
        self.waiting.pop(target).write(answer(200, target.encode()))

    def end(self, target: str) -> None:
        self.waiting.pop(target).transport.abort()

    async def waits(self, target: str) -> None:
        while target not in self.waiting:  # noqa: ASYNC110
            await asyncio.sleep(0)

    def call(self, *targets: str, method: str = "GET", body: bytes = b"") -> bytes:
        """Return requests for *targets*."""
        self.sent += len(targets)
        return b"".join(request(method, f"/api{target}", credential=self.key, body=body) for target in targets)

    async def warm(self, caller: RawCaller) -> None:
        """Have *caller*'s connection, its credential, its token and a connection to the upstream ready."""
        await caller.send(self.call("/now"))
        assert 200 == (await caller.answer()).status

    async def outcomes(self) -> Counter[tuple[int, str | None]]:
        """Return how the calls ended, once each has its outcome."""
        while len(self.gateway.lines("outcome")) < self.sent:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        lines = self.gateway.lines("outcome")
        assert self.sent == len(lines) == len({line["id"] for line in lines})
        return Counter((line["status"], line["error"]) for line in lines)


@asynccontextmanager
async def house(directory: Path, *, over_tls: bool = False, **route: Any) -> AsyncIterator[House]:
    """Run a gateway, over TLS on both its sides or on neither; behind it there is no task and no complaint."""
    loop, complaints = asyncio.get_running_loop(), list[dict[str, Any]]()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    before = asyncio.all_tasks()
    authority = Authority(directory)
    tls, pem = authority.server_context(), str(directory / "127.0.0.1-1.pem")
    upstream = await Upstream().start(tls=tls if over_tls else None)
    url = upstream.url.replace("http:", "https:") if over_tls else upstream.url
    entry = {"name": "api", "prefix": "/api", "upstream": url, "connection": "api", **route}
    entry["egress"] = {**LOOPBACK, "allow_private": ["127.0.0.0/8"], "ca_file": authority.ca_file}
    configuration = settings(entry)
    if over_tls:
        configuration["listeners"]["traffic"]["tls"] = {"cert": pem, "key": pem}
    async with asyncio.timeout(GUARD_SECONDS):
        async with running(configuration, directory / "data") as gateway:
            await create_connection(gateway, None)
            await gateway.connect("ada", access_token="T1")
            here = House(gateway, upstream, await gateway.agent_key("ada"))
            if over_tls:
                here.trusted = ssl.create_default_context(cafile=authority.ca_file)
            yield here
        await upstream.stop()
        while asyncio.all_tasks() - before:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    gc.collect(1)
    assert [] == complaints


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("over_tls", [False, True], ids=["plain", "tls"])
def test_answer_and_end_in_one_turn(tmp_path: Path, loop: str, over_tls: bool) -> None:
    """The caller leaves and the upstream answers, or ends, in the same turn: one outcome, no slot is lost."""

    async def scenario() -> None:
        async with house(tmp_path, over_tls=over_tls, limits={"concurrent": 1}) as here:
            for number in range(40):
                target = f"/{number}"
                async with here.calling() as caller:
                    await here.warm(caller)
                    await caller.send(here.call(target))
                    await here.waits(target)
                    if number & 1:
                        caller.reset()
                    if number & 2:
                        here.answer(target)
                    else:
                        here.end(target)
                    caller.reset()
                    if number & 4:
                        await asyncio.sleep(0)
            async with here.calling() as caller:
                await caller.send(here.call("/now-at-last"))
                assert b"/now-at-last" == (await caller.answer()).body
            outcomes = await here.outcomes()
            assert 81 == sum(outcomes.values())
            assert {(200, None), (0, "client_aborted"), (502, "upstream_unreachable")} >= set(outcomes), outcomes

    run(loop, scenario())


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("over_tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_stale_connection_amid_a_pipeline(tmp_path: Path, loop: str, over_tls: bool, method: str) -> None:
    """A kept connection that ends instead of answering: what is safe is sent again, the rest refused; order holds."""

    async def scenario() -> None:
        async with house(tmp_path, over_tls=over_tls) as here, here.calling() as caller:
            await here.warm(caller)
            await caller.send(here.call("/a", method=method) + here.call("/b", "/now"))
            await here.waits("/a")
            here.end("/a")
            if method == "GET":
                await here.waits("/a")
                here.answer("/a")
            first = await caller.answer()
            await here.waits("/b")
            here.answer("/b")
            rest = [(await caller.answer()).body for _ in range(2)]

            assert (200 if method == "GET" else 502) == first.status
            assert [b"/b", b"/now"] == rest
            await here.outcomes()

    run(loop, scenario())


@pytest.mark.parametrize("loop", LOOPS)
def test_silent_upstream_amid_pipelines(tmp_path: Path, loop: str) -> None:
    """The sweep that ends one call in steps goes on inside it with the next on its connection, and then with others."""

    async def scenario() -> None:
        async with house(tmp_path, timeouts={"response_seconds": 1}) as here:
            async with here.calling() as first, here.calling() as second, here.calling() as third:
                for caller in (first, second, third):
                    await here.warm(caller)
                for number, caller in enumerate((first, second, third)):
                    await caller.send(here.call(f"/{number}", f"/now-{number}"))
                for number, caller in enumerate((first, second, third)):
                    answers = [await caller.answer(), await caller.answer()]
                    assert [504, 200] == [got.status for got in answers]
                    assert f"/now-{number}".encode() == answers[1].body
            outcomes = await here.outcomes()
            assert {(200, None): 6, (504, "upstream_timeout"): 3} == outcomes

    run(loop, scenario())


@pytest.mark.parametrize("loop", LOOPS)
def test_answer_before_the_request_was_read(tmp_path: Path, loop: str) -> None:
    """An upstream that answers before it has read the body: the answer is passed on, and the next call is its own."""

    async def scenario() -> None:
        async with house(tmp_path) as here, here.calling() as caller:
            await here.warm(caller)

            async def early(head: bytes, writer: asyncio.StreamWriter) -> bool:
                if head.startswith(b"POST"):
                    writer.write(answer(413, b"early"))
                return False

            here.upstream.early = early
            here.upstream.respond = nothing
            await caller.send(here.call("/now", method="POST", body=b"b" * 60_000))
            assert b"early" == (await caller.answer()).body
            here.upstream.respond = here._respond
            await caller.send(here.call("/now-1", "/now-2"))
            assert [b"/now-1", b"/now-2"] == [(await caller.answer()).body for _ in range(2)]
            assert {(200, None): 3, (413, None): 1} == await here.outcomes()

    run(loop, scenario())


async def nothing(_: Received, __: asyncio.StreamWriter) -> None:
    """Answer nothing."""


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("over_tls", [False, True], ids=["plain", "tls"])
def test_informational_answers_in_steps(tmp_path: Path, loop: str, over_tls: bool) -> None:
    """1xx answers and heads cut anywhere wake nobody too early, whatever turn they come in."""

    async def scenario() -> None:
        async with house(tmp_path, over_tls=over_tls) as here, here.calling() as caller:
            await here.warm(caller)
            data = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + answer(200, b"body")
            await caller.send(here.call(*(f"/{cut}" for cut in range(1, len(data), 7))))
            for cut in range(1, len(data), 7):
                await here.waits(f"/{cut}")
                writer = here.waiting[f"/{cut}"]
                writer.write(data[:cut])
                await asyncio.sleep(0.001)
                writer.write(data[cut:])
                del here.waiting[f"/{cut}"]
                assert b"body" == (await caller.answer()).body
            assert {(200, None): here.sent} == await here.outcomes()
            assert 1 == here.upstream.connections

    run(loop, scenario())


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("over_tls", [False, True], ids=["plain", "tls"])
def test_upstream_that_ends_behind_its_answer(tmp_path: Path, loop: str, over_tls: bool) -> None:
    """What waits in line is answered, although the connection ends that the answer before it came on."""

    async def respond(received: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(200, received.request_line.encode()))
        if "/0" in received.request_line:
            writer.close()

    async def scenario() -> None:
        async with house(tmp_path, over_tls=over_tls) as here, here.calling() as caller:
            here.upstream.respond = respond
            await here.warm(caller)
            await caller.send(here.call("/0", "/1", "/2"))
            got = [await caller.answer() for _ in range(3)]
            assert [200] * 3 == [each.status for each in got]
            assert [f"GET /{number} HTTP/1.1".encode() for number in range(3)] == [each.body for each in got]

    run(loop, scenario())
