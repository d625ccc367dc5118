"""The connections to an upstream: what is kept for the next call, and what is not."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.errors import UpstreamProtocolError
from gateway.models import Origin, Timeouts
from gateway.net.body_stream import HIGH_BYTES
from gateway.proxy.connection import UpstreamConnection
from gateway.proxy.opener import Addresses, direct_opener
from gateway.proxy.pool import MAX_IDLE_CONNECTIONS, UpstreamPool
from tests.proxy.wire import answer_of, call, calling, eventually, gateway_with, request
from tests.world import (
    Issuer,
    Provider,
    Received,
    Running,
    Upstream,
    answer,
    create_connection,
    running,
    settings,
)


async def test_connection_is_kept_for_the_next_call(gateway: Running, upstream: Upstream, issuer: Issuer) -> None:
    """
    Calls one after another share a connection, also those of several callers.
    """
    for _ in range(5):
        await call(gateway, request("GET", "/api/x", credential=issuer.token("ada")))

    assert (5, 1) == (len(upstream.received), upstream.connections)


async def test_routes_to_one_upstream_share_its_connections_and_no_limit(
    tmp_path: Path, upstream: Upstream, issuer: Issuer
) -> None:
    """
    A connection that one route has used serves another to the same origin, reached in the same way; how many calls are
    under way is counted for each.
    """
    go = asyncio.Event()

    async def respond(received: Received, writer: asyncio.StreamWriter) -> None:
        if "/slow" in received.request_line:
            await go.wait()
        writer.write(answer(200, b"{}"))

    upstream.respond = respond
    common = {"upstream": upstream.url, "connection": "api"}
    routes = [{**common, "name": name, "prefix": f"/{name}", "limits": {"concurrent": 1}} for name in ("one", "two")]
    patient = {**common, "name": "patient", "prefix": "/patient", "timeouts": {"connect_seconds": 1}}
    credential = issuer.token("ada")
    async with running(settings(*routes, patient, issuers=(issuer,)), tmp_path / "data") as gateway:
        await create_connection(gateway, None)
        await gateway.connect("ada", access_token="T1")
        for prefix in ("/one", "/two"):
            await call(gateway, request("GET", f"{prefix}/x", credential=credential))
        shared = upstream.connections
        await call(gateway, request("GET", "/patient/x", credential=credential))
        async with calling(gateway) as caller:
            await caller.send(request("GET", "/one/slow", credential=credential))
            assert await eventually(lambda: 4 == len(upstream.received))
            full = await call(gateway, request("GET", "/one/x", credential=credential))
            free = await call(gateway, request("GET", "/two/x", credential=credential))
            go.set()
            await caller.answer()

    assert (1, 3) == (shared, upstream.connections)
    assert (503, "upstream_overloaded", 200) == (full.status, full.code, free.status)


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


ORIGIN = Origin("http", "api.test", 80)


class Peer:
    """An upstream on a blocking socket: what it sends is there at once, whether the loop has looked or not."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.sockets: list[socket.socket] = []

    def pool(self) -> UpstreamPool:
        """Return a pool of connections to this peer."""
        loop = asyncio.get_running_loop()

        async def resolve() -> Addresses:
            return [(int(socket.AF_INET), self.listener.getsockname())]

        opener = direct_opener(ORIGIN, connect_seconds=5.0, resolve=resolve, tls=None, loop=loop)
        return UpstreamPool(ORIGIN, open_connection=opener, loop=loop)

    async def exchange(self, pool: UpstreamPool, fields: str = "") -> UpstreamConnection:
        """Open a connection of *pool*, and return it after one whole exchange, not yet given back."""
        connection = await pool.connect()
        accepted, _ = self.listener.accept()
        self.sockets.append(accepted)
        connection.begin(b"", "GET", Timeouts())
        accepted.sendall(answer(200, b"{}", fields))
        got = await answer_of(connection)
        assert b"{}" == got.body.read_nowait()
        return connection

    def close(self) -> None:
        """End everything."""
        for each in (*self.sockets, self.listener):
            each.close()


@pytest.fixture
def peer() -> Iterator[Peer]:
    """An upstream that the test speaks for."""
    peer = Peer()
    yield peer
    peer.close()


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", b"x", None])
async def test_connection_with_something_unread_is_not_used(peer: Peer, sent: bytes | None) -> None:
    """
    Bytes or an end that came to an idle connection are seen before it is used, also before the loop has read them.
    """
    pool = peer.pool()
    connection = await peer.exchange(pool)
    pool.release(connection)
    if sent is None:
        peer.sockets[0].shutdown(socket.SHUT_WR)
    else:
        peer.sockets[0].sendall(sent)

    assert (connection if sent == b"" else None) is pool.take_idle()
    await pool.close()


AGES: dict[str, tuple[str, float, bool]] = {
    # case: (fields, idle seconds, whether it is used)
    "young": ("", 0.0, True),
    "not so young": ("", 14.0, True),
    "old": ("", 15.1, False),
    "younger than its upstream says": ("Keep-Alive: timeout=5\r\n", 3.5, True),
    "almost as old as its upstream says": ("Keep-Alive: timeout=5\r\n", 4.1, False),
    "younger than its upstream says, and old": ("Keep-Alive: timeout=60\r\n", 15.1, False),
    "of an upstream that keeps none": ("Keep-Alive: timeout=1\r\n", 0.0, False),
}


@pytest.mark.parametrize("case", AGES)
async def test_connection_is_used_while_its_upstream_keeps_it(peer: Peer, case: str) -> None:
    """
    An idle connection is used for 15 seconds, or up to a second before the time that its upstream has named.
    """
    fields, idle_seconds, is_used = AGES[case]
    pool = peer.pool()
    connection = await peer.exchange(pool, fields)
    pool.release(connection)
    connection.fresh_until -= idle_seconds

    assert (connection if is_used else None) is pool.take_idle()
    await pool.close()


async def test_sweep_ends_what_is_too_old(peer: Peer) -> None:
    """
    Once a second idle connections that will not be used again are closed.
    """
    pool = peer.pool()
    old, young = [await peer.exchange(pool) for _ in range(2)]
    pool.release(old)
    pool.release(young)
    old.fresh_until -= 60
    pool.sweep()

    assert "<UpstreamPool http://api.test open=1 idle=1>" == repr(pool)
    assert (False, True) == (old.can_be_used, young.can_be_used)
    await pool.close()


async def test_idle_connections_are_bounded(peer: Peer) -> None:
    """
    No more than MAX_IDLE_CONNECTIONS are kept, however many were needed at once.
    """
    pool = peer.pool()
    connections = [await peer.exchange(pool) for _ in range(MAX_IDLE_CONNECTIONS + 3)]
    for connection in connections:
        pool.release(connection)

    assert f"<UpstreamPool http://api.test open={MAX_IDLE_CONNECTIONS} idle={MAX_IDLE_CONNECTIONS}>" == repr(pool)
    assert 3 == sum(not connection.can_be_used for connection in connections)
    await pool.close()


async def test_upstream_that_speaks_first_is_not_asked(peer: Peer) -> None:
    """
    An answer that came before there was a request is nobody's.
    """
    pool = peer.pool()
    connection = await pool.connect()
    accepted, _ = peer.listener.accept()
    peer.sockets.append(accepted)
    accepted.sendall(answer(200, b"evil"))
    assert await eventually(lambda: not connection.can_be_used)

    with pytest.raises(UpstreamProtocolError):
        connection.begin(b"", "GET", Timeouts())
    await pool.close()


async def test_connection_whose_answer_was_not_read_to_its_end_is_not_used(peer: Peer) -> None:
    """
    The last byte of an answer fills the buffer, and its reader goes away: nothing would be read on that connection.
    """
    pool = peer.pool()
    connection = await pool.connect()
    accepted, _ = peer.listener.accept()
    peer.sockets.append(accepted)
    connection.begin(b"", "GET", Timeouts())
    size = HIGH_BYTES + 1
    accepted.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
    got = await answer_of(connection)
    await asyncio.get_running_loop().run_in_executor(None, accepted.sendall, b"x" * size)
    assert await eventually(got.body.is_eof)
    pool.release(connection)

    assert "<UpstreamPool http://api.test open=0 idle=0>" == repr(pool)
    await pool.close()
