"""
An upstream that fails, slowly and in the middle: what the caller gets, what is recorded, and that the route goes on.
"""

from __future__ import annotations

import asyncio
import re
from asyncio import Task
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.faults import HTTP_FAULTS, PASSED, Seen, at_once, call, let_go, outcomes, proxies, refused, seen, slug
from tests.fault_proxy import Fault, FaultProxy
from tests.proxy.wire import respond_with
from tests.world import Issuer, Running, Upstream, answer, create_connection, running, settings

TIMEOUTS = {"connect_seconds": 2, "response_seconds": 2, "idle_seconds": 2}
BODY = b'{"numbers": [%b]}' % b", ".join(b"%d" % number for number in range(40))
ANSWER = answer(200, BODY)

CUT = Seen(200, None, False, "upstream_cut")
UNREACHABLE = refused(502, "upstream_unreachable")
TIMEOUT = refused(504, "upstream_timeout")
UNREADABLE = refused(502, "upstream_protocol_error")

UPSTREAM = {
    "nothing": PASSED,
    "a connection that is reset at once": UNREACHABLE,
    "a connection that is closed at once": UNREACHABLE,
    "a connection that nobody serves": TIMEOUT,
    "a reset when the request comes": UNREACHABLE,
    "an end when the request comes": UNREACHABLE,
    "silence when the request comes": TIMEOUT,
    "a reset in the middle of the head": UNREACHABLE,
    "an end in the middle of the head": UNREACHABLE,
    "silence in the middle of the head": TIMEOUT,
    "a reset in the middle of the body": CUT,
    "an end in the middle of the body": CUT,
    "silence in the middle of the body": CUT,
    "an answer that drips but comes": PASSED,
    "an answer that drips for too long": TIMEOUT,
    "a length that is too large, then an end": CUT,
    "a length that is too large, then silence": CUT,
    "a length that is too small": PASSED,  # nobody can tell; what lies beyond it is nobody's answer
    "a length that is no number": UNREADABLE,
    "two lengths": UNREADABLE,
    "garbage": UNREADABLE,
    # What an answer says and is coded in is the caller's to judge: it passes as it came, however large.
    "a page of HTML": PASSED,
    "a type that is not the body's": PASSED,
    "a gzip stream that is cut short": PASSED,
    "an enormous head": UNREADABLE,
    "an enormous body": PASSED,
    "an enormous body without a length": PASSED,
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of the call with the fault and of the one after it, and whether the gateway let the fault go."""

    seen: Seen
    body: bytes
    after: Seen
    body_after: bytes
    is_let_go: bool


@pytest.fixture(scope="module")
def upstream_outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Task[Outcome]]:
    """What became of each row of the table; they ran at the same time."""
    return asyncio.run(_all(tmp_path_factory.mktemp("faults")))


@pytest.mark.parametrize("fault", HTTP_FAULTS)
def test_upstream_with(upstream_outcomes: dict[str, Task[Outcome]], fault: str) -> None:
    """
    Each fault of the upstream has its answer and its outcome, and the next call on the route is served.
    """
    got = upstream_outcomes[fault].result()

    assert UPSTREAM[fault] == got.seen
    assert (PASSED, BODY) == (got.after, got.body_after)
    assert got.is_let_go
    if got.seen.code is None:
        promised = _promised(HTTP_FAULTS[fault])
        assert got.body == (promised if got.seen.is_whole else promised[: len(got.body)])


def _promised(fault: Fault) -> bytes:
    """The body of the upstream's answer, as long as it says."""
    head, _, body = (fault.rewrite(ANSWER) if fault.rewrite else ANSWER).partition(b"\r\n\r\n")
    length = re.search(rb"Length: (\d+)", head)
    return body[: int(length[1])] if length else body


async def _all(data: Path) -> dict[str, Task[Outcome]]:
    upstream, issuer = await Upstream().start(), await Issuer().start()
    upstream.respond = respond_with(ANSWER)
    try:
        async with proxies(upstream.port, HTTP_FAULTS) as proxied:
            routes = [_route(slug(row), proxy.url) for row, proxy in proxied.items()]
            async with running(settings(*routes, issuers=(issuer,)), data) as gateway:
                await create_connection(gateway, None)
                await gateway.connect("ada", access_token="T1")
                return await at_once(
                    HTTP_FAULTS, lambda row: _run(gateway, row, proxied[row], credential=issuer.token("ada"))
                )
    finally:
        await upstream.stop()
        await issuer.stop()


def _route(name: str, upstream_url: str) -> dict[str, object]:
    return {
        "name": name,
        "prefix": f"/{name}",
        "upstream": upstream_url,
        "connection": "api",
        "timeouts": dict(TIMEOUTS),  # a copy: routes.yaml has no aliases
    }


async def _run(gateway: Running, row: str, proxy: FaultProxy, *, credential: str) -> Outcome:
    path = f"/{slug(row)}/x"
    proxy.fault = HTTP_FAULTS[row]
    got = await call(gateway, path, credential)
    proxy.fault = Fault()
    after = await call(gateway, path, credential)
    first, second = outcomes(gateway, slug(row))
    return Outcome(seen(got, first), got.body, seen(after, second), after.body, await let_go(proxy))
