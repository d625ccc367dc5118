"""A door that says what it was asked for, and a raw caller of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from gateway.errors import Refusal
from gateway.listen.acceptor import Acceptor
from gateway.listen.connection import StrictServer
from gateway.listen.runner import StrictRunner

WAIT_SECONDS = 5.0


def said(refusal: Refusal) -> web.Response:
    """A refusal as this door says it: its code."""
    return web.Response(status=refusal.status, text=refusal.code, headers={"Server": "test"})


@dataclass
class Door:
    """A running door: what the application was asked for, what was refused before it, and the time that it believes."""

    runner: StrictRunner
    port: int
    asked: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    async def call(self, *packets: bytes) -> bytes:
        """Send *packets*, one after another, and return what came until the other side ended."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            for packet in packets:
                writer.write(packet)
                await asyncio.sleep(0.01)
            async with asyncio.timeout(WAIT_SECONDS):
                return await reader.read()
        finally:
            writer.close()


@asynccontextmanager
async def open_door() -> AsyncIterator[Door]:
    """Run a door on a free port."""
    asked: list[str] = []
    refused: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.raw_path)
        if request.path == "/break":
            raise RuntimeError("CANARY")
        body = await request.read() if request.path != "/unread" else b""
        return web.Response(body=body or b"ok")

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", answer)
    runner = StrictRunner(
        app, name="test", answer=said, on_refused=lambda refusal: refused.append(refusal.code), shutdown_timeout=0.1
    )
    await runner.setup()
    assert isinstance(runner.server, StrictServer)
    acceptor = await Acceptor.listen(runner.server, "127.0.0.1", 0)
    try:
        yield Door(runner, acceptor.port, asked, refused)
    finally:
        await acceptor.end()
        await runner.cleanup()
