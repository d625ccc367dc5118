"""The connections of a route: what is kept for the next call, and what is not."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.proxy.wire import call, calling, eventually, gateway_with, request
from tests.world import Issuer, Provider, Received, Running, Upstream, answer


async def test_connection_is_kept_for_the_next_call(gateway: Running, upstream: Upstream, issuer: Issuer) -> None:
    """
    Calls one after another share a connection, also those of several callers.
    """
    for _ in range(5):
        await call(gateway, request("GET", "/api/x", credential=issuer.token("ada")))

    assert (5, 1) == (len(upstream.received), upstream.connections)


async def test_unreachable_upstream_is_told(
    tmp_path: Path, upstream: Upstream, provider: Provider, issuer: Issuer
) -> None:
    """
    An upstream where nobody listens is 502, retryable.
    """
    async with gateway_with(tmp_path, upstream, issuer, provider) as gateway:
        await upstream.stop()
        got = await call(gateway, request("GET", "/api/x", credential=issuer.token("ada")))
        outcome = gateway.lines("outcome")[0]

    assert (502, "upstream_unreachable") == (got.status, got.code)
    assert b'"retryable":true' in got.body
    assert (502, "upstream_unreachable") == (outcome["status"], outcome["error"])


async def test_connection_of_an_abandoned_call_is_not_reused(
    gateway: Running, upstream: Upstream, issuer: Issuer
) -> None:
    """
    A call whose caller goes away before the answer takes its connection along.
    """
    go = asyncio.Event()

    async def respond(received: Received, writer: asyncio.StreamWriter) -> None:
        if "/slow" in received.request_line:
            await go.wait()
        writer.write(answer(200, received.request_line.encode()))

    upstream.respond = respond
    credential = issuer.token("ada")
    async with calling(gateway) as caller:
        await caller.send(request("GET", "/api/slow", credential=credential))
        assert await eventually(lambda: 1 == len(upstream.received))
    assert await eventually(lambda: bool(gateway.lines("outcome")))
    go.set()
    got = await call(gateway, request("GET", "/api/fast", credential=credential))

    assert b"GET /fast HTTP/1.1" == got.body
    assert 2 == upstream.connections
