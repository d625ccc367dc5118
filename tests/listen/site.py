"""A listener behind an acceptor, on either loop, and what came of its connections."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvloop

from gateway.listen.acceptor import Acceptor
from gateway.listen.head import RequestHead
from gateway.models import TrafficLimits
from gateway.net.body_stream import Body
from gateway.proxy.listener import CallerConnection
from gateway.proxy.traffic import TrafficServer
from tests.net.certificates import Authority

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
DONE = b"HTTP/1.1 204 No Content\r\n\r\n"
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
NEVER_SECONDS = 600.0
GUARD_SECONDS = 30.0  # 500 handshakes take 8 seconds on a slow machine


class Site:
    """A traffic listener whose every request is answered with DONE, and what its loop complained of."""

    def __init__(self, limits: TrafficLimits | None, *, is_shared: Callable[[str], bool]) -> None:
        self.loop = asyncio.get_running_loop()
        self.complaints: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.complaints.append(context))
        self.refused: list[str] = []
        self.served: list[CallerConnection] = []
        self.server = TrafficServer(
            self._serve,
            on_refused=lambda refusal: self.refused.append(refusal.code),
            loop=self.loop,
            limits=limits,
            is_shared=is_shared,
        )
        self.acceptor: Acceptor

    async def _serve(self, _: RequestHead, __: Body, client: CallerConnection) -> bool:
        self.served.append(client)
        client.send(DONE)
        return True

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.acceptor.port

    @property
    def counted(self) -> int:
        """How many connections count."""
        return len(self.server._open)

    async def call(self, tls: ssl.SSLContext | None = None) -> bytes:
        """Return the beginning of what a caller is answered."""
        reader, writer = await asyncio.open_connection(*self.address, ssl=tls)
        writer.write(REQUEST)
        try:
            return await reader.readuntil(b"\r\n\r\n")
        finally:
            writer.transport.abort()

    async def counts(self, number: int) -> None:
        """Return once *number* connections count."""
        while self.counted != number:  # noqa: ASYNC110  # the guard of the test bounds it
            await asyncio.sleep(0.01)


@asynccontextmanager
async def listening(
    limits: TrafficLimits | None = None,
    *,
    tls: ssl.SSLContext | None = None,
    handshake_seconds: float = NEVER_SECONDS,
    is_shared: Callable[[str], bool] = lambda _: False,
) -> AsyncIterator[Site]:
    """Run a listener on a free port, and end all of it."""
    site = Site(limits, is_shared=is_shared)
    site.acceptor = await Acceptor.listen(site.server, "127.0.0.1", 0, tls=tls, handshake_seconds=handshake_seconds)
    try:
        async with asyncio.timeout(GUARD_SECONDS):
            yield site
    finally:
        await site.acceptor.end()
        await site.server.shutdown(1.0)
        await site.counts(0)
        assert [] == site.complaints


def run(loop: str, scenario: Coroutine[Any, Any, None]) -> None:
    """Run *scenario* on the loop of this name."""
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(scenario)


def contexts(directory: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return what a listener on loopback shows, and what trusts it."""
    authority = Authority(directory)
    return authority.server_context(), ssl.create_default_context(cafile=authority.ca_file)
