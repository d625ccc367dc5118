"""
A provider's token endpoint that fails, slowly and in the middle: what the caller gets, what becomes of the grant, and
how the user's calls are served again.
"""

from __future__ import annotations

import asyncio
import time
from asyncio import Task
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from gateway.store.changes import POLL_SECONDS
from tests.e2e.faults import (
    GUARD_SECONDS,
    HTTP_FAULTS,
    PASSED,
    Seen,
    at_once,
    call,
    call_until,
    let_go,
    outcomes,
    refused,
    seen,
    slug,
)
from tests.fault_proxy import Fault, fault_proxy
from tests.world import Issuer, Provider, Running, Upstream, create_connection, running, settings

LONG_AGO = 1_700_000_000
UNAVAILABLE = refused(503, "token_service_unavailable")
REQUIRED = refused(403, "connection_required")


@dataclass(frozen=True, slots=True)
class Refresh:
    """
    What the caller got, what the record says of the exchange, and how the next one ended.

    *error* is what the token's row says between the two. After a lost answer the only refresh token is tried once more:
    that serves the call where the provider has never heard of it, and shows that a rotation was interrupted where it
    has. Then the user connects again.
    """

    seen: Seen
    outcome: str
    error: str
    after: Seen


SERVED = Refresh(PASSED, "granted", "", PASSED)


def survives(outcome: str, error: str) -> Refresh:
    """The provider has not heard of the refresh token: it still works."""
    return Refresh(UNAVAILABLE, outcome, error, PASSED)


def lost(outcome: str) -> Refresh:
    """The provider has rotated the refresh token, and its answer could not be used."""
    return Refresh(UNAVAILABLE, outcome, "answer_lost", REQUIRED)


PROVIDER = {
    "nothing": SERVED,
    "a connection that is reset at once": survives("reset", "answer_lost"),
    "a connection that is closed at once": survives("reset", "answer_lost"),
    "a connection that nobody serves": survives("timeout", "answer_lost"),
    "a reset when the request comes": survives("reset", "answer_lost"),
    "an end when the request comes": survives("reset", "answer_lost"),
    "silence when the request comes": survives("timeout", "answer_lost"),
    "a reset in the middle of the head": lost("reset"),
    "an end in the middle of the head": lost("reset"),
    "silence in the middle of the head": lost("timeout"),
    "a reset in the middle of the body": lost("protocol"),
    "an end in the middle of the body": lost("protocol"),
    "silence in the middle of the body": lost("timeout"),
    "an answer that drips but comes": SERVED,
    "an answer that drips for too long": lost("timeout"),
    "a length that is too large, then an end": lost("protocol"),
    "a length that is too large, then silence": lost("timeout"),
    "a length that is too small": lost("protocol"),
    "a length that is no number": lost("protocol"),
    "two lengths": lost("protocol"),
    "garbage": lost("protocol"),
    "a page of HTML": lost("malformed_answer"),
    "a type that is not the body's": SERVED,  # it is read as JSON whatever it is called: providers lie about it
    "a gzip stream that is cut short": lost("protocol"),
    "an enormous head": lost("protocol"),
    "an enormous body": lost("too_large"),
    "an enormous body without a length": lost("too_large"),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a call that needs a new token while the fault lasts, and of those behind it."""

    refresh: Refresh
    is_let_go: bool
    reconnected: Seen
    exchanges: int
    reused: int  # how often the provider has seen a refresh token that it had rotated


@pytest.fixture(scope="module")
def provider_outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Task[Outcome]]:
    """What became of each row of the table; they ran at the same time."""
    return asyncio.run(_all(tmp_path_factory.mktemp("faults")))


@pytest.mark.parametrize("fault", HTTP_FAULTS)
def test_provider_with(provider_outcomes: dict[str, Task[Outcome]], fault: str) -> None:
    """
    A refresh that fails is told as such; a grant that the provider has not heard of survives and is used again, another
    one needs its user, whose calls are then served.
    """
    got = provider_outcomes[fault].result()

    assert PROVIDER[fault] == got.refresh
    assert got.is_let_go
    assert PASSED == got.reconnected
    assert (2, 1 if got.refresh.after == REQUIRED else 0) == (got.exchanges, got.reused)


async def _all(data: Path) -> dict[str, Task[Outcome]]:
    upstream, issuer = await Upstream().start(), await Issuer().start()
    try:
        routes = [
            {"name": slug(row), "prefix": f"/{slug(row)}", "upstream": upstream.url, "connection": slug(row)}
            for row in HTTP_FAULTS
        ]
        async with running(settings(*routes, issuers=(issuer,)), data) as gateway:
            return await at_once(HTTP_FAULTS, lambda row: _run(gateway, row, credential=issuer.token("ada")))
    finally:
        await upstream.stop()
        await issuer.stop()


async def _run(gateway: Running, row: str, *, credential: str) -> Outcome:
    name, path = slug(row), f"/{slug(row)}/x"
    async with AsyncExitStack() as owned:
        provider = await Provider().start()
        owned.push_async_callback(provider.stop)
        proxy = await owned.enter_async_context(fault_proxy(port=urlsplit(provider.url).port))
        await create_connection(gateway, None, id=name, name=row, tokenUrl=f"{proxy.url}/token")
        await _connect(gateway, name, provider)
        proxy.fault = HTTP_FAULTS[row]
        got = await call(gateway, path, credential)
        ended = await _exchange(gateway, name)
        is_let_go = await let_go(proxy)
        proxy.fault = Fault()
        after = await call_until(gateway, path, credential, status=PROVIDER[row].after.status)
        lines = outcomes(gateway, name)
        refresh = Refresh(seen(got, lines[0]), ended["outcome"], ended["error"], seen(after, lines[-1]))
        await _connect(gateway, name, provider)
        await asyncio.sleep(3 * POLL_SECONDS)  # the gateway hears of its own uploads, and drops what they changed
        again = await call(gateway, path, credential)
        reconnected = seen(again, outcomes(gateway, name)[-1])
        return Outcome(refresh, is_let_go, reconnected, provider.exchanges, provider.reused)


async def _connect(gateway: Running, connection: str, provider: Provider) -> None:
    """Give "ada" a token that has expired, and whose refresh token works."""
    await gateway.connect(
        "ada",
        access_token="T1",
        refresh_token=provider.issue(),
        connection=connection,
        accessTokenExpiry=LONG_AGO,
    )


async def _exchange(gateway: Running, connection: str) -> dict[str, str]:
    """Return the record's line about the first exchange of *connection*, once it is there."""
    until = time.monotonic() + 2 * GUARD_SECONDS
    while time.monotonic() < until:
        for line in gateway.lines("exchange_outcome"):
            if line["connection"] == connection:
                return line
        await asyncio.sleep(0.2)
    raise AssertionError(f"the exchange of {connection} has no end")
