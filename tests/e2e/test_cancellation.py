"""Callers that go away at any moment: nobody gets another's answer, and nothing is left of those who went."""

from __future__ import annotations

import asyncio
import hashlib
import random
import socket
import time
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from urllib.parse import urlsplit

import pytest

from tests.proxy.wire import RawCaller, call, eventually, request
from tests.world import Issuer, Received, Running, Upstream, answer, create_connection, running, settings

USERS = 200
REQUESTS_PER_USER = 25  # 5,000 in all (issue 4)
AT_ONCE = 100
MAX_DELAY_SECONDS = 0.02  # of the upstream: some callers leave before the head, some in the middle of the body
PIECES = 3
GUARD_SECONDS = 120.0
SEED = 4  # the same points each time, as far as two processes allow it

needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="descriptors are counted in Linux's /proc")


@needs_proc
async def test_cancelled_requests_never_shift_an_answer(tmp_path: Path, upstream: Upstream) -> None:
    """
    5,000 requests of 200 users, half of them cancelled at random points: every answer is the digest of its own user's
    token, and there are no more sockets and tasks than before.
    """
    chance = random.Random(SEED)  # noqa: S311  # points in time, not secrets

    async def respond(received: Received, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(chance.random() * MAX_DELAY_SECONDS)
        digest = _digest(received.values("Authorization")[0].removeprefix("Bearer ")).encode()
        writer.write(answer(200, digest * PIECES)[:-40])
        await writer.drain()
        await asyncio.sleep(chance.random() * MAX_DELAY_SECONDS)
        writer.write((digest * PIECES)[-40:])

    upstream.respond = respond
    route = {"name": "api", "prefix": "/api", "upstream": upstream.url, "connection": "api"}
    async with asyncio.timeout(GUARD_SECONDS), running(settings(route), tmp_path / "data") as gateway:
        await create_connection(gateway, None)
        users = [f"user-{number}" for number in range(USERS)]
        for user in users:
            await gateway.connect(user, access_token=_token(user))
        keys = {user: await gateway.agent_key(user) for user in users}
        await _ask(gateway, keys[users[0]], leave_after=None)
        before = _held()

        room = asyncio.Semaphore(AT_ONCE)
        wrong: list[str] = []
        whole = 0

        async def many(user: str) -> None:
            nonlocal whole
            for _ in range(REQUESTS_PER_USER):
                leaves = chance.random() < 0.5
                async with room:
                    leave_after = chance.random() * 2 * MAX_DELAY_SECONDS if leaves else None
                    body = await _ask(gateway, keys[user], leave_after=leave_after)
                if body is not None:
                    whole += 1
                    if body != _digest(_token(user)).encode() * PIECES:
                        wrong.append(user)

        await asyncio.gather(*(many(user) for user in users))
        after = await _settled(before)
        outcomes = gateway.lines("outcome")

    assert [] == wrong
    assert whole >= USERS * REQUESTS_PER_USER * 0.4
    assert _is_within(after, before), (before, after)
    assert {None, "client_aborted"} == {line["error"] for line in outcomes}
    # A caller may also leave while its token is fetched: nothing has left then, and nothing was intended.
    assert {line["id"] for line in outcomes if line["attempts"]} == {line["id"] for line in gateway.lines("intent")}


async def _ask(gateway: Running, key: str, *, leave_after: float | None) -> bytes | None:
    """Ask on a connection of its own; return the answer's body, or None when the caller left before it was whole."""
    parts = urlsplit(gateway.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    caller = RawCaller(reader, writer)
    try:
        writer.write(request("GET", "/api/x", credential=key))
        async with asyncio.timeout(leave_after):
            got = await caller.answer()
        assert 200 == got.status, got
    except TimeoutError:
        return None
    else:
        return got.body if got.is_whole else None
    finally:
        writer.transport.abort()


def _token(user: str) -> str:
    return f"token-of-{user}"


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _held() -> tuple[int, int]:
    """Return how many sockets and tasks this process has: the gateway's, and the few of the test."""
    sockets = 0
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the descriptor of this very listing
            sockets += str(link.readlink()).startswith("socket:")
    return sockets, len(asyncio.all_tasks())


async def _settled(wanted: tuple[int, int]) -> tuple[int, int]:
    """Return what is held once idle connections have been given up: no more than *wanted*, or what it is at last."""
    for _ in range(300):
        if _is_within(_held(), wanted):
            break
        await asyncio.sleep(0.1)
    return _held()


def _is_within(held: tuple[int, int], wanted: tuple[int, int]) -> bool:
    return held[0] <= wanted[0] and held[1] <= wanted[1]


async def test_caller_that_goes_as_an_early_answer_comes_costs_its_route_nothing(tmp_path: Path) -> None:
    """
    An upload is answered before its end, and in the same turn of a busy loop its caller goes: it is over, and counted
    as such. The route, which takes one call at a time, takes the next one.
    """
    api = EarlyApi()
    issuer = await Issuer().start()
    route = {"name": "api", "prefix": "/api", "upstream": api.url, "connection": "api", "limits": {"concurrent": 1}}
    async with (
        asyncio.timeout(GUARD_SECONDS),
        running(settings(route, issuers=(issuer,)), tmp_path / "data") as gateway,
    ):
        await create_connection(gateway, None)
        await gateway.connect("ada", access_token="T1")
        credential = issuer.token("ada")
        head = request("POST", "/api/x", credential=credential, fields=("Content-Length: 1000",))
        address = urlsplit(gateway.url).hostname, urlsplit(gateway.url).port
        for number in range(1, 4):
            caller = socket.create_connection(address)
            caller.sendall(head + b"0123456789")
            assert await asyncio.to_thread(api.asked.wait, 5)
            api.asked.clear()
            await asyncio.sleep(0.1)  # the gateway waits for the rest of the body by now
            asyncio.get_running_loop().call_soon(api.answer_while_the_loop_is_busy, caller)
            await eventually(lambda number=number: number == len(gateway.lines("outcome")))  # type: ignore[misc]
        errors = [line["error"] for line in gateway.lines("outcome")]
        got = await call(gateway, request("POST", "/api/x", credential=credential, body=b"hi"))
    await issuer.stop()
    api.close()

    assert ["client_aborted"] * 3 == errors
    assert 200 == got.status


class EarlyApi:
    """An API in threads of its own: it answers a request whose body has not come when it is told to, others at once."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.asked, self._goes, self._has_answered = Event(), Event(), Event()
        Thread(target=self._accept, daemon=True).start()

    def answer_while_the_loop_is_busy(self, caller: socket.socket) -> None:
        """Hold the loop until the answer is sent and *caller* has gone: it learns both in one turn."""
        self._has_answered.clear()
        self._goes.set()
        self._has_answered.wait(5)
        time.sleep(0.02)
        caller.close()
        time.sleep(0.02)

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                Thread(target=self._serve, args=(self._listener.accept()[0],), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        data = b""
        while more := connection.recv(65_536):
            data += more
            if b"\r\n\r\n" not in data:
                continue
            if not data.endswith(b"hi"):
                self.asked.set()
                self._goes.wait(5)
                self._goes.clear()
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
            self._has_answered.set()
            break
        with suppress(OSError):
            while connection.recv(65_536):
                pass
        connection.close()
