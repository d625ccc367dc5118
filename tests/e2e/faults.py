"""
The faults of an HTTP server, by the sentence that tests and docs/egress.md know them by, and runs of many at once.

1. Each dependency that speaks HTTP has an outcome for every one of them: its table has the same sentences.
2. Limits are the gateway's own, up to a minute, and nothing shortens them. So the rows of a table run at the same time,
   each with a server, a proxy, a route and a connection of its own.
"""

from __future__ import annotations

import asyncio
import gzip
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from tests.fault_proxy import Fault, FaultProxy, fault_proxy
from tests.proxy.wire import WireAnswer, calling, request
from tests.world import Running

GUARD_SECONDS = 60.0  # for one call: the longest that a caller waits is 25 seconds, for somebody else's exchange
ENORMOUS_BYTES = 4 << 20  # beyond every limit of an answer that the gateway reads itself
HTML = b"<!doctype html><title>Sign in to the hotel's network</title>"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Seen:
    """What the caller got (*code*: of a refusal), whether it was whole, and the error that the outcome line names."""

    status: int
    code: str | None
    is_whole: bool
    error: str | None


PASSED = Seen(200, None, True, None)


def refused(status: int, code: str) -> Seen:
    """What a refusal looks like: whole, and named in the record."""
    return Seen(status, code, True, code)


def _length(replacement: bytes) -> Callable[[bytes], bytes]:
    return lambda data: re.sub(rb"Length: (\d+)", replacement, data, count=1)


def _type(media_type: bytes) -> Callable[[bytes], bytes]:
    return lambda data: re.sub(rb"Content-Type: [^\r]*", b"Content-Type: " + media_type, data, count=1)


def _with(body: Callable[[bytes], bytes], *fields: bytes, has_length: bool = True) -> Callable[[bytes], bytes]:
    """Return what gives an answer another body, and its length where *has_length* says so."""

    def rewrite(data: bytes) -> bytes:
        if not data.startswith(b"HTTP/1.1 200 "):
            return data
        new = body(data.partition(b"\r\n\r\n")[2])
        framing = (b"Content-Length: %d" % len(new),) if has_length else ()
        head = (b"HTTP/1.1 200 OK", b"Content-Type: application/json", *fields, *framing, b"", b"")
        return b"\r\n".join(head) + new

    return rewrite


def _enormous(body: bytes) -> bytes:
    return b" " * ENORMOUS_BYTES + body  # which is JSON as before


# Of a server whose answer is written at once, its body longer than 20 bytes.
HTTP_FAULTS = {
    "nothing": Fault(),
    # the connection
    "a connection that is reset at once": Fault("accept"),
    "a connection that is closed at once": Fault("accept", "close"),
    "a connection that nobody serves": Fault("accept", "hang"),
    # the request
    "a reset when the request comes": Fault("request"),
    "an end when the request comes": Fault("request", "close"),
    "silence when the request comes": Fault("request", "hang"),
    # the answer breaks off
    "a reset in the middle of the head": Fault("answer", "reset", 20),
    "an end in the middle of the head": Fault("answer", "close", 20),
    "silence in the middle of the head": Fault("answer", "hang", 20),
    "a reset in the middle of the body": Fault("answer", "reset", -20),
    "an end in the middle of the body": Fault("answer", "close", -20),
    "silence in the middle of the body": Fault("answer", "hang", -20),
    # it is slow
    "an answer that drips but comes": Fault(drip_seconds=0.001),
    "an answer that drips for too long": Fault(drip_seconds=0.3),
    # its length is wrong
    "a length that is too large, then an end": Fault("answer", "close", rewrite=_length(rb"Length: 9\1")),
    "a length that is too large, then silence": Fault("answer", "hang", rewrite=_length(rb"Length: 9\1")),
    "a length that is too small": Fault(rewrite=_length(rb"Length: 9")),
    "a length that is no number": Fault(rewrite=_length(rb"Length: x\1")),
    "two lengths": Fault(rewrite=_length(rb"Length: 9\r\nContent-Length: \1")),
    # it is something else
    "garbage": Fault(rewrite=lambda _: b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
    "a page of HTML": Fault(rewrite=_with(lambda _: HTML)),
    "a type that is not the body's": Fault(rewrite=_type(b"text/html; charset=utf-16")),
    "a gzip stream that is cut short": Fault(
        rewrite=_with(lambda body: gzip.compress(body, mtime=0)[:-9], b"Content-Encoding: gzip")
    ),
    # it is enormous
    "an enormous head": Fault(rewrite=_with(lambda body: body, b"X-Filler: " + b"x" * 100_000)),
    "an enormous body": Fault("answer", "close", rewrite=_with(_enormous)),
    "an enormous body without a length": Fault("answer", "close", rewrite=_with(_enormous, has_length=False)),
}


def slug(row: str) -> str:
    """Return the sentence *row* as a name, of a route and what belongs to it."""
    return re.sub(r"[^a-z]+", "-", row.lower())


@asynccontextmanager
async def proxies(port: int, rows: Iterable[str]) -> AsyncIterator[dict[str, FaultProxy]]:
    """Yield a proxy for each of *rows* in front of the server on *port* of loopback."""
    async with AsyncExitStack() as opened:
        yield {row: await opened.enter_async_context(fault_proxy(port=port)) for row in rows}


async def at_once(rows: Iterable[str], run: Callable[[str], Awaitable[T]]) -> dict[str, asyncio.Task[T]]:
    """Run every one of *rows*, and return how each ended: its `result()` is the outcome, or raises what went wrong."""

    async def bounded(row: str) -> T:
        async with asyncio.timeout(4 * GUARD_SECONDS):
            return await run(row)

    tasks = {row: asyncio.create_task(bounded(row), name=row) for row in rows}
    await asyncio.wait(tasks.values())
    return tasks


async def call(gateway: Running, path: str, credential: str) -> WireAnswer:
    """Call *path* on a connection of its own."""
    async with calling(gateway, wait_seconds=GUARD_SECONDS) as caller:
        await caller.send(request("GET", path, credential=credential))
        return await caller.answer()


async def call_until(gateway: Running, path: str, credential: str, *, status: int) -> WireAnswer:
    """Call *path* until it is answered with *status*; return that answer, or the last one within GUARD_SECONDS."""
    until = time.monotonic() + GUARD_SECONDS
    while True:
        got = await call(gateway, path, credential)
        if got.status == status or time.monotonic() > until:
            return got
        await asyncio.sleep(0.5)


async def let_go(proxy: FaultProxy) -> bool:
    """Whether the gateway ends every connection that a fault holds up, within GUARD_SECONDS."""
    for _ in range(int(GUARD_SECONDS * 10)):
        if not proxy.held:
            return True
        await asyncio.sleep(0.1)
    return False


def outcomes(gateway: Running, route: str) -> list[dict[str, Any]]:
    """The outcome lines of *route*, in their order."""
    return [line for line in gateway.lines("outcome") if line["route"] == route]


def seen(got: WireAnswer, outcome: dict[str, Any]) -> Seen:
    """What the caller *got*, and what the record says of it."""
    return Seen(got.status, got.code, got.is_whole, outcome["error"])
