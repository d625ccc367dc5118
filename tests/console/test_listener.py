"""What the console's listener cannot read gets a problem of its own."""

from __future__ import annotations

import asyncio
import json

from aiohttp import web

from gateway.console.health import create_app
from gateway.console.listener import ConsoleRunner
from gateway.telemetry import Metrics


async def test_unreadable_request_is_a_problem() -> None:
    """The answer is problem+json with the code of the refusal, and nothing of the request."""
    runner = ConsoleRunner(create_app(Metrics(), readiness=lambda: "ready"), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    reader, writer = await asyncio.open_connection("127.0.0.1", runner.addresses[0][1])
    writer.write(b"GET /CANARY HTTP/2.0\r\n\r\n")
    async with asyncio.timeout(5):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await runner.cleanup()

    assert head.startswith(b"HTTP/1.1 505 ")
    assert b"Content-Type: application/problem+json" in head
    assert b"Server: connection-gateway" in head
    assert "http_version_not_supported" == json.loads(body)["code"]
    assert b"CANARY" not in head + body
