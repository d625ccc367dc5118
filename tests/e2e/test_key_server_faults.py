"""
The server of an issuer's keys that fails, slowly and in the middle: nobody is called a liar for it, nothing leaves, and
the keys are had when they can be had.
"""

from __future__ import annotations

import asyncio
from asyncio import Task
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.e2e.faults import HTTP_FAULTS, at_once, call, call_until, let_go, slug
from tests.fault_proxy import Fault, FaultProxy, fault_proxy
from tests.world import Issuer, Running, Upstream, create_connection, running, settings

SERVED = (200, None, 1)
UNAVAILABLE = (503, "keys_unavailable", 0)  # and the upstream has heard nothing

KEY_SERVER = {
    "nothing": SERVED,
    "a connection that is reset at once": UNAVAILABLE,
    "a connection that is closed at once": UNAVAILABLE,
    "a connection that nobody serves": UNAVAILABLE,
    "a reset when the request comes": UNAVAILABLE,
    "an end when the request comes": UNAVAILABLE,
    "silence when the request comes": UNAVAILABLE,
    "a reset in the middle of the head": UNAVAILABLE,
    "an end in the middle of the head": UNAVAILABLE,
    "silence in the middle of the head": UNAVAILABLE,
    "a reset in the middle of the body": UNAVAILABLE,
    "an end in the middle of the body": UNAVAILABLE,
    "silence in the middle of the body": UNAVAILABLE,
    "an answer that drips but comes": SERVED,
    "an answer that drips for too long": UNAVAILABLE,
    "a length that is too large, then an end": UNAVAILABLE,
    "a length that is too large, then silence": UNAVAILABLE,
    "a length that is too small": UNAVAILABLE,
    "a length that is no number": UNAVAILABLE,
    "two lengths": UNAVAILABLE,
    "garbage": UNAVAILABLE,
    "a page of HTML": UNAVAILABLE,
    "a type that is not the body's": SERVED,  # it is read as JSON whatever it is called
    "a gzip stream that is cut short": UNAVAILABLE,
    "an enormous head": UNAVAILABLE,
    "an enormous body": UNAVAILABLE,
    "an enormous body without a length": UNAVAILABLE,
    "an answer that is no key set": UNAVAILABLE,
}
FAULTS = {**HTTP_FAULTS, "an answer that is no key set": Fault(rewrite=lambda data: data.replace(b'"keys"', b'"kyes"'))}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of the first call with a token of the issuer, and of those after the fault."""

    status: int
    code: str | None
    reached: int
    is_told_when: bool  # by Retry-After
    is_let_go: bool
    after: int
    fetches: int  # of the keys by later calls, once they have been had


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What became of each row of the table; they ran at the same time. The record's lines are those of all."""

    rows: dict[str, Task[Outcome]]
    lines: list[dict[str, Any]]


@pytest.fixture(scope="module")
def key_server_outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """What became of every row."""
    return asyncio.run(_all(tmp_path_factory.mktemp("faults")))


@pytest.mark.parametrize("fault", FAULTS)
def test_key_server_with(key_server_outcomes: Outcomes, fault: str) -> None:
    """
    Keys that cannot be had are 503, not 401, and nothing leaves; they are asked for again when they can be had.
    """
    got = key_server_outcomes.rows[fault].result()

    assert KEY_SERVER[fault] == (got.status, got.code, got.reached)
    assert got.is_told_when == (got.status == 503)
    assert (200, 0) == (got.after, got.fetches)
    assert got.is_let_go


def test_callers_who_cannot_be_verified_are_counted_in_the_record(key_server_outcomes: Outcomes) -> None:
    """
    Nobody knows who they are: the record has their number, and lines of their own for those who were let in only.
    """
    lines = key_server_outcomes.lines
    refused = sum(line["count"] for line in lines if line["event"] == "unauthenticated")

    assert list(KEY_SERVER.values()).count(UNAVAILABLE) <= refused
    assert {None} == {line["error"] for line in lines if line["event"] == "outcome"}


async def _all(data: Path) -> Outcomes:
    async with AsyncExitStack() as owned:
        upstream = await Upstream().start()
        owned.push_async_callback(upstream.stop)
        issuers: dict[str, Issuer] = {}
        proxied: dict[str, FaultProxy] = {}
        for row in FAULTS:
            issuers[row] = await Issuer().start()
            owned.push_async_callback(issuers[row].stop)
            port = urlsplit(issuers[row].url).port
            proxied[row] = await owned.enter_async_context(fault_proxy(port=port))
        entries = [
            {**issuers[row].settings(), "jwks_uri": f"{proxied[row].url}/keys", "user_prefix": f"{slug(row)}:"}
            for row in FAULTS
        ]
        route = {"name": "api", "prefix": "/api", "upstream": upstream.url, "connection": "api"}
        async with running(settings(route, callers={"issuers": entries}), data) as gateway:
            await create_connection(gateway, None)

            async def run(row: str) -> Outcome:
                return await _run(gateway, row, issuers[row], proxied[row], upstream)

            rows = await at_once(FAULTS, run)
        return Outcomes(rows, gateway.lines())


async def _run(gateway: Running, row: str, issuer: Issuer, proxy: FaultProxy, upstream: Upstream) -> Outcome:
    path, credential = f"/api/{slug(row)}", issuer.token("ada")
    await gateway.connect(f"{slug(row)}:ada", access_token="T1")
    proxy.fault = FAULTS[row]
    got = await call(gateway, path, credential)
    reached = sum(received.request_line == f"GET /{slug(row)} HTTP/1.1" for received in upstream.received)
    is_let_go = await let_go(proxy)
    proxy.fault = Fault()
    after = await call_until(gateway, path, credential, status=200)
    hits = issuer.hits
    await call(gateway, path, credential)
    return Outcome(
        got.status,
        got.code,
        reached,
        bool(got.values("Retry-After")),
        is_let_go,
        after.status,
        issuer.hits - hits,
    )
