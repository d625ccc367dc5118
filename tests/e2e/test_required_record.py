"""A gateway that records on the disk first, killed while it serves."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import suppress
from pathlib import Path

from tests.e2e.gateway_process import RunningProcess, serving
from tests.proxy.wire import calling, eventually, request
from tests.world import Issuer, Upstream, create_connection, settings


async def test_killed_gateway_has_recorded_all_that_left(tmp_path: Path, upstream: Upstream, issuer: Issuer) -> None:
    """
    After kill -9 each call that the upstream saw has its line, every line is whole, and a new gateway goes on there.
    """
    entry = {"name": "api", "prefix": "/api", "upstream": upstream.url, "connection": "api", "audit": "required"}
    configuration = settings(entry, issuers=(issuer,))
    async with serving(configuration, tmp_path / "data") as gateway:
        await create_connection(gateway, None)
        await gateway.connect("ada", access_token="T1")
        callers = [asyncio.create_task(_call_on(gateway, number, issuer.token("ada"))) for number in range(16)]
        assert await eventually(lambda: len(upstream.received) >= 50)
        os.kill(gateway.process.pid, signal.SIGKILL)
        await asyncio.gather(*callers)
        content = gateway.process.record_path.read_text()
    seen = {each.request_line.split(" ")[1] for each in upstream.received}
    lines = [json.loads(line) for line in content.splitlines()]
    async with serving(configuration, tmp_path / "data") as gateway:
        await _call_once(gateway, "/api/after", issuer.token("ada"))
        assert gateway.process.record_path.read_text().startswith(content)
        assert "/after" in [line["path"] for line in gateway.lines("intent")]

    assert content.endswith("\n")
    assert seen <= {line["path"] for line in lines if line["event"] == "intent"}


async def _call_on(gateway: RunningProcess, caller: int, credential: str) -> None:
    """Call until the gateway is gone."""
    with suppress(ConnectionError, asyncio.IncompleteReadError):
        for number in range(100_000):
            await _call_once(gateway, f"/api/{caller}-{number}", credential)


async def _call_once(gateway: RunningProcess, target: str, credential: str) -> None:
    async with calling(gateway) as connection:
        await connection.send(request("GET", target, credential=credential))
        assert 200 == (await connection.answer()).status
