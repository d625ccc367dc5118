"""Callers that go away at any moment: nobody gets another's answer, and nothing is left of those who went."""

from __future__ import annotations

import asyncio
import hashlib
import random
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.proxy.wire import RawCaller, request
from tests.world import Received, Running, Upstream, answer, create_connection, running, settings

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
