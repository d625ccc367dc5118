"""Servers that say exactly what a test tells them to say, and note what they were told."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from ipaddress import ip_network
from pathlib import Path

import pytest

from gateway.models import Egress

from .certificates import Authority


class RawServer:
    """Answers each connection with *answer*, byte for byte, then closes, or holds the line when told to."""

    def __init__(self, answer: bytes, *, holds: bool = False, endless: bytes = b"") -> None:
        self.answer = answer
        self.holds = holds
        self.endless = endless
        self.requests: list[bytes] = []
        self.connections = 0
        self.port = 0
        self.was_asked = asyncio.Event()
        self._writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read one request head, answer it."""
        self.connections += 1
        self._writers.append(writer)
        try:
            self.requests.append(await reader.readuntil(b"\r\n\r\n"))
            self.was_asked.set()
            writer.write(self.answer)
            while self.endless:
                writer.write(self.endless)
                await writer.drain()
            if self.holds:
                await reader.read()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client has gone: what the test wants to see
        finally:
            writer.close()

    def hang_up(self) -> None:
        """Close every connection."""
        for writer in self._writers:
            writer.close()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}/"


StartServer = Callable[..., Awaitable[RawServer]]


@pytest.fixture
def loopback() -> Egress:
    """An egress that dials plain http on 127.0.0.0/8."""
    return Egress(allow_private=(ip_network("127.0.0.0/8"),), allow_http=True)


@pytest.fixture
async def start_server() -> AsyncIterator[StartServer]:
    """A function that starts a RawServer, with TLS where a context is given."""
    running: list[tuple[RawServer, asyncio.Server]] = []

    async def start(
        answer: bytes, *, holds: bool = False, endless: bytes = b"", tls: ssl.SSLContext | None = None
    ) -> RawServer:
        raw = RawServer(answer, holds=holds, endless=endless)
        server = await asyncio.start_server(raw.serve, "127.0.0.1", 0, ssl=tls)
        raw.port = server.sockets[0].getsockname()[1]
        running.append((raw, server))
        return raw

    yield start
    for raw, server in running:
        raw.hang_up()
        server.close()
        await server.wait_closed()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """A certificate authority of this test."""
    return Authority(tmp_path)
