"""A disk that fills up while the gateway serves: readiness first, then refusals, and all is well when there is room."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from tests.disk import fill, release, small_disk
from tests.e2e.gateway_process import RunningProcess, serving
from tests.proxy.wire import call, request
from tests.world import Issuer, Upstream, create_connection, settings

MIB = 1 << 20
WAIT_SECONDS = 10.0


async def test_gateway_on_a_disk_that_fills_up(tmp_path: Path, upstream: Upstream, issuer: Issuer) -> None:
    """
    Almost full, it is not ready and serves; full, it refuses and nothing leaves; with room again it is as before.
    """
    entry = {"name": "api", "prefix": "/api", "upstream": upstream.url, "connection": "api"}
    with small_disk(tmp_path / "data", mebibytes=32) as disk:
        async with serving(settings(entry, issuers=(issuer,)), disk) as gateway:
            await create_connection(gateway, None)
            await gateway.connect("ada", access_token="T1")
            asked = request("GET", "/api/x", credential=issuer.token("ada"))

            async def step() -> tuple[str, str | None]:
                """Return the readiness, once it has changed, and what a call gets."""
                return (await _readiness(gateway))["status"], (await call(gateway, asked)).code

            seen = [await step()]
            fill(disk, leaving_bytes=MIB)
            await _become(gateway, "disk_low")
            low = await _readiness(gateway)
            seen.append(await step())
            fill(disk, leaving_bytes=0)
            for _ in range(10):  # what is left of the file's last page is filled first
                received = len(upstream.received)
                refused = await step()
                if refused[1] is not None:
                    break
            seen.append(refused)
            assert received == len(upstream.received)
            async with gateway.session.get(f"{gateway.process.console_url}/metrics") as response:
                metrics = await response.text()
            release(disk)
            await _become(gateway, "ready")
            seen.append(await step())
            lines = [json.loads(line) for line in gateway.process.record_path.read_text().splitlines()]
        logged = gateway.process.stderr

    assert [("ready", None), ("disk_low", None), ("disk_low", "record_unavailable"), ("ready", None)] == seen
    assert "record.min_free_bytes" in low["detail"]
    assert 'gateway_disk_free_bytes{place="record"}' in metrics
    assert len(upstream.received) == len([line for line in lines if line["event"] == "intent"])
    assert (1, 1) == (logged.count('"disk_low"'), logged.count('"disk_low_ended"'))


async def _readiness(gateway: RunningProcess) -> dict[str, Any]:
    async with gateway.session.get(f"{gateway.process.console_url}/readyz") as response:
        found: dict[str, Any] = await response.json()
        assert (200 if found["status"] == "ready" else 503) == response.status
        return found


async def _become(gateway: RunningProcess, status: str) -> None:
    """Return once the gateway says *status*; it looks at the disk each second."""
    for _ in range(int(WAIT_SECONDS * 10)):
        if status == (await _readiness(gateway))["status"]:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"the gateway did not become {status}")
