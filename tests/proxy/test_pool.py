"""The connections of a route: what is kept for the next call, and what is not."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from gateway.errors import UpstreamTimeout, UpstreamUnreachable
from gateway.models import Origin, Route, Timeouts
from gateway.proxy.connection import UpstreamConnection
from gateway.proxy.pool import Addresses, UpstreamPool, direct_opener
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


ROUTE = Route("api", "/api", Origin("http", "api.test", 80), "c", timeouts=Timeouts(connect_seconds=0.2))


async def test_new_connection_goes_to_the_first_address_that_accepts(upstream: Upstream) -> None:
    """
    The addresses are asked for at each connection and tried in their order; where none accepts, that is told.
    """
    loop = asyncio.get_running_loop()
    with socket.socket() as closed:  # bound and not listening: it refuses
        closed.bind(("127.0.0.1", 0))
        refusing = (int(socket.AF_INET), tuple(closed.getsockname()))
        accepting = (int(socket.AF_INET), ("127.0.0.1", upstream.port))
        rounds: list[Addresses] = [[refusing, accepting], [refusing], []]

        async def resolve() -> Addresses:
            return rounds.pop(0)

        pool = UpstreamPool(
            ROUTE, open_connection=direct_opener(ROUTE, resolve=resolve, tls=None, loop=loop), loop=loop
        )
        connection = await pool.connect()
        for _ in range(2):
            with pytest.raises(UpstreamUnreachable):
                await pool.connect()
        await pool.close()

    assert f"127.0.0.1:{upstream.port}" == connection.address
    assert [] == rounds


async def test_opening_ends_with_the_time_limit() -> None:
    """
    Whatever opens connections has connect_seconds for it.
    """

    async def never() -> UpstreamConnection:
        await asyncio.Event().wait()
        raise AssertionError

    pool = UpstreamPool(ROUTE, open_connection=never, loop=asyncio.get_running_loop())
    with pytest.raises(UpstreamTimeout):
        await pool.connect()
