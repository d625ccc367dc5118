"""An http proxy on loopback that does what a test tells it: pass on, refuse, hang, or lie."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.models import OutboundProxy


class ForwardProxy:
    """Takes CONNECT and passes bytes on, to loopback whatever the name. *answer* replaces what it says to CONNECT."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.answer: bytes | None = None
        self.credential: str | None = None
        self.endless = b""
        self.hangs = False
        self.port = 0

    @property
    def targets(self) -> list[str]:
        """What it was asked to connect to."""
        return [request.split(b" ")[1].decode() for request in self.requests]

    @property
    def outbound(self) -> OutboundProxy:
        """Where it is, as the gateway knows it."""
        return OutboundProxy("127.0.0.1", self.port, self.credential)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        try:
            self.requests.append(await reader.readuntil(b"\r\n\r\n"))
            if self.answer is None:
                await self._pass_on(reader, writer)
                return
            writer.write(self.answer)
            while self.endless:
                writer.write(self.endless)
                await writer.drain()
            if self.hangs:
                await reader.read()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = int(self.targets[-1].rpartition(":")[2])
        there, back = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"HTTP/1.1 200 Connection established\r\nVia: 1.1 proxy\r\n\r\n")
        await asyncio.gather(_copy(reader, back), _copy(there, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


@asynccontextmanager
async def forward_proxy() -> AsyncIterator[ForwardProxy]:
    """Run a proxy on a free port."""
    proxy = ForwardProxy()
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    yield proxy
    server.close()
