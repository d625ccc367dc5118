"""Whoever reads the logs may stand still or go away: the gateway serves on, and its deadlines hold (threats R46)."""

from __future__ import annotations

import asyncio
import os
import re
import time
from pathlib import Path

import pytest

from tests.e2e.gateway_process import RunningProcess, serving
from tests.proxy.wire import call, calling, request
from tests.world import Provider, Received, Upstream, answer, create_connection, settings

USERS = 20
GUARD_SECONDS = 60.0

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/fd").exists() or os.geteuid() != 0,
    reason="the pipe of a serving gateway is reached through Linux's /proc, where it is root's",
)


@needs_proc
@pytest.mark.parametrize("reader", ["stands still", "has gone"])
async def test_log_holds_nobody_up(tmp_path: Path, upstream: Upstream, provider: Provider, reader: str) -> None:
    """
    Without room for a line tokens are refreshed, calls are served, strangers are refused, an upstream that hangs runs
    into its deadline, and SIGTERM ends the process as always; what is lost for good is counted.
    """

    async def respond(received: Received, writer: asyncio.StreamWriter) -> None:
        if "hang" not in received.request_line:
            writer.write(answer(200))

    upstream.respond = respond
    route = {"name": "api", "prefix": "/api", "upstream": upstream.url, "connection": "api"}
    configuration = settings({**route, "timeouts": {"response_seconds": 1}})
    async with asyncio.timeout(GUARD_SECONDS), serving(configuration, tmp_path / "data") as gateway:
        await create_connection(gateway, provider)
        users = [f"user-{number}" for number in range(USERS)]
        for user in users:
            token = {"access_token": "old", "refresh_token": provider.issue()}
            await gateway.connect(user, **token, accessTokenExpiry=int(time.time()) - 60)
        keys = [await gateway.agent_key(user) for user in users]
        if reader == "has gone":
            gateway.process.leave_log()
        else:
            gateway.process.stall_log()
        refused = (await call(gateway, b"NONSENSE\r\n\r\n")).status
        served = [(await call(gateway, request("GET", "/api/x", credential=key))).status for key in keys]
        async with calling(gateway, wait_seconds=GUARD_SECONDS) as caller:
            await caller.send(request("GET", "/api/hang", credential=keys[0]))
            late = (await caller.answer()).status
        lost = await lost_lines(gateway)

    assert [200] * USERS == served
    assert USERS == provider.exchanges
    assert (400, 504) == (refused, late)
    assert 0 == gateway.process.exit_code
    assert (lost >= USERS) is (reader == "has gone")


async def lost_lines(gateway: RunningProcess) -> float:
    async with gateway.session.get(f"{gateway.process.console_url}/metrics") as response:
        found = re.search(r"^gateway_log_lines_lost_total (\S+)$", await response.text(), re.M)
    assert found is not None
    return float(found[1])
