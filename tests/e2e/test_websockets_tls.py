"""WebSockets where both connections are TLS, as they are in production: what holds for plain ones holds for these."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

from tests.e2e.gateway_process import RunningProcess, serving
from tests.e2e.test_bodies import needs_proc
from tests.e2e.websocket_ends import (
    ENDS,
    GUARD_SECONDS,
    MEGABYTE,
    Echo,
    at_a_stalled_end,
    echoed,
    ended_by,
    outcome_of,
    pour,
    reset,
    swallow,
    switched,
    switching,
    tunnels,
)
from tests.net.certificates import Authority
from tests.proxy.wire import eventually
from tests.world import create_connection, settings

MAX_GROWTH_BYTES = 30 << 20


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Whom everybody here trusts."""
    return Authority(tmp_path)


@pytest.fixture
def trusting(authority: Authority) -> ssl.SSLContext:
    """The callers' side of TLS."""
    return ssl.create_default_context(cafile=authority.ca_file)


@asynccontextmanager
async def gateway_between(port: int, authority: Authority, tmp_path: Path) -> AsyncIterator[RunningProcess]:
    """A gateway process that speaks TLS to callers, with the route /api to *port*, where TLS is spoken too."""
    authority.server_context()
    pem = str(tmp_path / "127.0.0.1-1.pem")
    egress = {"allow_private": ["127.0.0.0/8"], "ca_file": authority.ca_file}
    route = {"name": "api", "prefix": "/api", "upstream": f"https://127.0.0.1:{port}", "connection": "api"}
    configuration = settings({**route, "upgrade": ["websocket"], "egress": egress, "limits": {"concurrent": 1}})
    configuration["listeners"]["traffic"]["tls"] = {"cert": pem, "key": pem}
    async with asyncio.timeout(GUARD_SECONDS), serving(configuration, tmp_path / "data") as gateway:
        await create_connection(gateway, None)
        await gateway.connect("ada", access_token="T1")
        yield gateway


async def test_messages_and_close_codes_pass_both_ways(
    tmp_path: Path, authority: Authority, trusting: ssl.SSLContext
) -> None:
    """
    Messages of any kind arrive as they came, and either side's close code arrives at the other.
    """
    echo, blob = Echo(), os.urandom(MEGABYTE)
    tls = authority.server_context()
    async with serve(echo.handle, "127.0.0.1", 0, process_request=echo.judge, max_size=2 * MEGABYTE, ssl=tls) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with gateway_between(port, authority, tmp_path) as gateway:
            url = gateway.url.replace("https://", "wss://") + "/api/socket"
            fields = {"Authorization": f"Bearer {await gateway.agent_key('ada')}"}
            async with connect(url, additional_headers=fields, max_size=2 * MEGABYTE, ssl=trusting) as client:
                seen = [await echoed(client, message) for message in ("hällo", blob)]
                await client.close(4002, "done")
            await outcome_of(gateway)
            async with connect(url, additional_headers=fields, ssl=trusting) as other:
                await other.send("bye")
                await other.wait_closed()
            await outcome_of(gateway, 2)
            errors = tunnels(gateway)

    assert ["hällo", blob] == seen
    assert ((4002, "done"), 4001) == (echo.closed[0], other.close_code)
    assert ([None, None], ["T1", "T1"]) == (errors, echo.authorizations)


@needs_proc
async def test_large_frames_pass_in_small_memory(
    tmp_path: Path, authority: Authority, trusting: ssl.SSLContext
) -> None:
    """
    A frame of 128 MB passes an end that stalls for a while, either way, and the gateway keeps little of it.
    """
    ends: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    over = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends.put_nowait((reader, writer))
        await over.wait()

    async with (
        switching(handle, tls=authority.server_context()) as port,
        gateway_between(port, authority, tmp_path) as gateway,
    ):
        async with switched(gateway, await gateway.agent_key("ada"), tls=trusting) as caller:
            reader, writer = await ends.get()
            before = gateway.process.rss_bytes
            gateway.process.forget_peak()
            up = await at_a_stalled_end(pour(caller.writer, 128), swallow(reader, 128))
            down = await at_a_stalled_end(pour(writer, 128), swallow(caller.reader, 128))
            growth = gateway.process.peak_rss_bytes - before
        over.set()
        await outcome_of(gateway)

    assert up[0] == up[1]
    assert down[0] == down[1]
    assert growth < MAX_GROWTH_BYTES


async def test_end_without_a_close_frame_ends_the_other_side(
    tmp_path: Path, authority: Authority, trusting: ssl.SSLContext
) -> None:
    """
    Whichever end vanishes, the other is ended, the record says how, and the one place of the route is free again.
    """
    ends: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    over = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends.put_nowait((reader, writer))
        await over.wait()

    seen: dict[str, str | None] = {}
    async with (
        switching(handle, tls=authority.server_context()) as port,
        gateway_between(port, authority, tmp_path) as gateway,
    ):
        key = await gateway.agent_key("ada")
        for number, case in enumerate(ENDS, 1):
            async with switched(gateway, key, tls=trusting) as caller:
                reader, writer = await ends.get()
                ending, left = (caller.writer, reader) if "caller" in case else (writer, caller.reader)
                if "reset" in case:
                    reset(ending)
                else:
                    ending.close()
                await ended_by(left)
                assert await eventually(lambda: len(tunnels(gateway)) == number)  # noqa: B023  # awaited here
                seen[case] = tunnels(gateway)[-1]
        over.set()

    assert ENDS == seen
