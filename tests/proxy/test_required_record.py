"""Routes with `audit: required`: nothing leaves before its line is on the disk, and nobody else waits for that."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.disk import Syncs
from tests.proxy.wire import call, calling, eventually, request
from tests.world import Issuer, Provider, Received, Running, Upstream, answer, create_connection, key_ring, settings
from tests.world import running as run_gateway

FEED_SECONDS = 1.5  # within a second the gateway hears what another process has changed


@pytest.fixture
def syncs() -> Syncs:
    """The disk of `gateway`'s record."""
    return Syncs()


@pytest.fixture
async def gateway(
    tmp_path: Path, upstream: Upstream, provider: Provider, issuer: Issuer, syncs: Syncs
) -> AsyncIterator[Running]:
    """A gateway with the routes /api, whose calls wait for the disk, and /fast; "ada" is connected with T1."""
    entry = {"name": "api", "prefix": "/api", "upstream": upstream.url, "connection": "api"}
    limits = {"replay_bytes": 1000}  # larger bodies go out with Expect
    routes = ({**entry, "audit": "required", "limits": limits}, {**entry, "name": "fast", "prefix": "/fast"})
    async with run_gateway(settings(*routes, issuers=(issuer,)), tmp_path / "data", sync=syncs) as gateway:
        await create_connection(gateway, provider)
        await gateway.connect("ada", access_token="T1", refresh_token=provider.issue())
        yield gateway
        syncs.let_go()


async def readiness(gateway: Running) -> dict[str, Any]:
    async with gateway.session.get(f"{gateway.gateway.console_url}/readyz") as response:
        found: dict[str, Any] = await response.json()
        return found


async def test_nothing_leaves_before_its_line_is_on_the_disk(
    gateway: Running, upstream: Upstream, issuer: Issuer, syncs: Syncs
) -> None:
    """
    Calls that come while the disk writes share the next sync; none has reached the upstream before.
    """
    data = request("GET", "/api/x", credential=issuer.token("ada"))
    await call(gateway, data)
    assert (1, 1) == (syncs.begun, len(upstream.received))
    syncs.hold()
    first = asyncio.create_task(call(gateway, data))
    assert await eventually(lambda: 2 == syncs.begun)
    later = [asyncio.create_task(call(gateway, data)) for _ in range(20)]
    assert await eventually(lambda: 22 == len(gateway.lines("intent")))
    assert (2, 1) == (syncs.begun, len(upstream.received))
    syncs.let_go()
    statuses = [got.status for got in await asyncio.gather(first, *later)]

    assert [200] * 21 == statuses
    assert (3, 22) == (syncs.begun, len(upstream.received))


async def test_other_routes_do_not_wait(gateway: Running, upstream: Upstream, issuer: Issuer, syncs: Syncs) -> None:
    """
    A route without the key asks for no sync, and is served while the disk does not answer.
    """
    credential = issuer.token("ada")
    before = [await call(gateway, request("GET", "/fast/x", credential=credential)) for _ in range(3)]
    begun = syncs.begun
    syncs.hold()
    waiting = asyncio.create_task(call(gateway, request("GET", "/api/x", credential=credential)))
    assert await eventually(lambda: 1 == syncs.begun)
    meanwhile = await call(gateway, request("GET", "/fast/x", credential=credential))
    syncs.let_go()

    assert 0 == begun
    assert [200] * 4 == [got.status for got in (*before, meanwhile)]
    assert 200 == (await waiting).status


async def test_second_send_waits_as_well(gateway: Running, upstream: Upstream, issuer: Issuer, syncs: Syncs) -> None:
    """
    The line of an attempt is on the disk before the call leaves once more: with a new token, or on a new connection.
    """
    received: list[int] = []
    syncs.on_sync = lambda: received.append(len(upstream.received))
    credential = issuer.token("ada")
    hung_up: list[Received] = []

    async def respond(got: Received, writer: asyncio.StreamWriter) -> None:
        if "/stale" in got.request_line and not hung_up:
            hung_up.append(got)
            writer.transport.abort()
            return
        is_fresh = got.values("Authorization") != ["Bearer T1"]
        writer.write(answer(200, b"{}") if is_fresh else answer(401))

    upstream.respond = respond
    rejected = await call(gateway, request("GET", "/api/x", credential=credential))
    stale = await call(gateway, request("GET", "/api/stale", credential=credential))

    assert (200, 200) == (rejected.status, stale.status)
    assert [0, 1, 2, 3] == received
    assert ["token_rejected", "stale_connection"] == [line["reason"] for line in gateway.lines("attempt")]


async def test_key_revoked_during_the_wait_sends_nothing(
    gateway: Running, upstream: Upstream, issuer: Issuer, syncs: Syncs
) -> None:
    """
    What was decided before the wait for the disk is decided again after it.
    """
    # A connection is kept: a new one would be a reason of its own to decide again.
    await call(gateway, request("GET", "/api/x", credential=issuer.token("ada")))
    async with key_ring(gateway.data) as ring:
        key = await ring.create_agent(
            "agent", user="ada", tenants=(), roles=(), permissions=(), scopes=(), expires_at=None
        )
        syncs.hold()
        waiting = asyncio.create_task(call(gateway, request("GET", "/api/x", credential=key.secret)))
        assert await eventually(lambda: 2 == syncs.begun)
        await ring.revoke(key.id)
        await asyncio.sleep(FEED_SECONDS)
        syncs.let_go()
        got = await waiting

    assert (401, "caller_unauthenticated", 1) == (got.status, got.code, len(upstream.received))
    assert "caller_unauthenticated" == gateway.lines("outcome")[-1]["error"]


async def test_token_replaced_during_the_wait_is_not_sent(
    gateway: Running, upstream: Upstream, provider: Provider, issuer: Issuer, syncs: Syncs
) -> None:
    """
    What is heard of a token's end counts for the call that waits, also where a later call of the caller has the next.
    """
    data = request("GET", "/api/x", credential=issuer.token("ada"))
    await call(gateway, data)
    syncs.hold()
    waiting = [asyncio.create_task(call(gateway, data))]
    assert await eventually(lambda: 2 == syncs.begun)
    await gateway.connect("ada", access_token="T2", refresh_token=provider.issue())
    await asyncio.sleep(FEED_SECONDS)
    waiting.append(asyncio.create_task(call(gateway, data)))
    assert await eventually(lambda: 3 == len(gateway.lines("intent")))
    syncs.let_go()

    assert [200, 200] == [got.status for got in await asyncio.gather(*waiting)]
    assert ["Bearer T1", "Bearer T2", "Bearer T2"] == upstream.authorizations


async def test_caller_that_goes_away_during_the_wait_sends_nothing(
    gateway: Running, upstream: Upstream, issuer: Issuer, syncs: Syncs
) -> None:
    """
    The call ends with its caller, the record says so, and those who wait for the same sync are served.
    """
    data = request("GET", "/api/x", credential=issuer.token("ada"))
    syncs.hold()
    async with calling(gateway) as caller:
        await caller.send(data)
        assert await eventually(lambda: 1 == syncs.begun)
        staying = asyncio.create_task(call(gateway, data))
        assert await eventually(lambda: 2 == len(gateway.lines("intent")))
        caller.reset()
        assert await eventually(lambda: 1 == len(gateway.lines("outcome")))
    syncs.let_go()

    assert 200 == (await staying).status
    assert 1 == len(upstream.received)
    assert ["client_aborted", None] == [line["error"] for line in gateway.lines("outcome")]


async def test_failed_disk_refuses_until_the_gateway_is_started_anew(
    gateway: Running, upstream: Upstream, issuer: Issuer, syncs: Syncs
) -> None:
    """
    After a failed sync nothing leaves on any route, and the gateway says that it is not ready.
    """
    credential = issuer.token("ada")
    await call(gateway, request("GET", "/api/x", credential=credential))
    syncs.error = OSError(errno.EIO, "EIO")
    refused = [await call(gateway, request("GET", "/api/x", credential=credential))]
    syncs.error = None
    for target in ("/api/x", "/fast/x"):
        refused.append(await call(gateway, request("GET", target, credential=credential)))

    assert [(503, "record_unavailable", ["5"])] * 3 == [
        (got.status, got.code, got.values("Retry-After")) for got in refused
    ]
    assert (2, 1) == (syncs.begun, len(upstream.received))
    assert "record_unavailable" == (await readiness(gateway))["status"]


async def test_disk_that_hangs_refuses_and_is_waited_for(
    gateway: Running, upstream: Upstream, issuer: Issuer, syncs: Syncs
) -> None:
    """
    Nobody waits without end: calls are refused, nothing leaves, and when the disk answers the next call is served.
    """
    data = request("GET", "/api/x", credential=issuer.token("ada"))
    syncs.hold()
    async with calling(gateway, wait_seconds=20) as first, calling(gateway, wait_seconds=20) as second:
        await first.send(data)
        assert await eventually(lambda: 1 == syncs.begun)
        await second.send(data)
        refused = [await first.answer(), await second.answer(), await call(gateway, data)]
    hanging = await readiness(gateway)
    syncs.let_go()

    assert [(503, "record_unavailable")] * 3 == [(got.status, got.code) for got in refused]
    assert 0 == len(upstream.received)
    assert ("record_unavailable", True) == (hanging["status"], "One that hangs is waited for" in hanging["detail"])
    for _ in range(100):
        if (await readiness(gateway))["status"] == "ready":
            break
        await asyncio.sleep(0.05)
    assert 200 == (await call(gateway, data)).status
    assert ["record_unavailable"] * 3 == [line["error"] for line in gateway.lines("outcome")][:3]
    assert 3 == len(gateway.lines("intent"))  # the one that was refused at once has none


async def test_second_send_without_expect_waits_as_well(
    gateway: Running, upstream: Upstream, issuer: Issuer, syncs: Syncs
) -> None:
    """
    A large body that an upstream did not take because of our Expect has its attempt's line on the disk first.
    """
    heads: list[bytes] = []
    received: list[int] = []
    syncs.on_sync = lambda: received.append(len(heads))

    async def early(head: bytes, writer: asyncio.StreamWriter) -> bool:
        heads.append(head)
        if b"Expect" not in head:
            return False
        writer.write(answer(417, b"{}"))
        await writer.drain()
        return True

    upstream.early = early
    got = await call(gateway, request("POST", "/api/x", credential=issuer.token("ada"), body=b"x" * 3000))

    assert 200 == got.status
    assert [0, 1] == received
    assert ["expectation_failed"] == [line["reason"] for line in gateway.lines("attempt")]
