"""A caller on a raw socket: sends any bytes, and reads answers as strictly as they were framed."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson

from gateway.proxy.answer_head import Answer
from gateway.proxy.connection import UpstreamConnection
from tests.world import Issuer, Provider, Running, Upstream, create_connection, running, settings

WAIT_SECONDS = 30.0  # a test that waits longer has failed


@dataclass(frozen=True, slots=True)
class WireAnswer:
    """One answer as it came. *is_whole* is false where the connection ended before the end of the body."""

    status: int
    head: bytes
    body: bytes
    is_whole: bool

    @property
    def fields(self) -> list[tuple[str, str]]:
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        return [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines if line)]

    def values(self, name: str) -> list[str]:
        """Return the values of every field *name*, in order."""
        return [value for field_name, value in self.fields if field_name.lower() == name.lower()]

    @property
    def code(self) -> str | None:
        """The code of a refusal; None for an upstream's answer."""
        if ["application/problem+json"] != self.values("Content-Type"):
            return None
        return str(orjson.loads(self.body)["code"])


class RawCaller:
    """A connection to a gateway's traffic listener. Made by `calling`."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, wait_seconds: float = WAIT_SECONDS
    ) -> None:
        self.reader = reader
        self.writer = writer
        self._wait_seconds = wait_seconds

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """Go away at once, with whatever is under way."""
        self.writer.transport.abort()

    async def ended(self) -> bool:
        """Read what still comes, and return true once the other side has ended the connection."""
        async with asyncio.timeout(self._wait_seconds):
            try:
                while await self.reader.read(65_536):
                    pass
            except ConnectionError:
                pass
        return True

    async def head(self) -> bytes:
        """Read one header section, without the empty line that ends it."""
        async with asyncio.timeout(self._wait_seconds):
            return (await self.reader.readuntil(b"\r\n\r\n"))[:-4]

    async def answer(self, method: str = "GET") -> WireAnswer:
        """Read one whole answer to a request with *method*."""
        head = await self.head()
        status = int(head.split(b" ", 2)[1])
        answer = WireAnswer(status, head, b"", True)
        if method == "HEAD" or status in (204, 304) or status < 200:
            return answer
        parts: list[bytes] = []
        is_whole = True
        async with asyncio.timeout(self._wait_seconds):
            try:
                await self._body(answer, parts)
            except (asyncio.IncompleteReadError, ConnectionError) as exc:
                parts.append(getattr(exc, "partial", b""))
                is_whole = False
        return WireAnswer(status, head, b"".join(parts), is_whole)

    async def _body(self, answer: WireAnswer, parts: list[bytes]) -> None:
        lengths, codings = answer.values("Content-Length"), answer.values("Transfer-Encoding")
        assert 1 >= len(lengths) + len(codings), "an answer is framed in one way"
        if codings:
            assert ["chunked"] == codings
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                parts.append((await self.reader.readexactly(size + 2))[:-2])
            assert b"\r\n" == await self.reader.readexactly(2)
        elif lengths:
            parts.append(await self.reader.readexactly(int(lengths[0])))
        else:
            parts.append(await self.reader.read())


@asynccontextmanager
async def calling(
    gateway: Running,
    url: str | None = None,
    *,
    wait_seconds: float = WAIT_SECONDS,
    tls: ssl.SSLContext | None = None,
    address: str | None = None,
) -> AsyncIterator[RawCaller]:
    """
    Open a connection to *gateway*'s traffic listener, or to the one at *url*; wait for answers *wait_seconds*.

    *address* is whose it is, of 127.0.0.0/8.
    """
    parts = urlsplit(url or gateway.url)
    own = (address, 0) if address is not None else None
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 20, ssl=tls, local_addr=own)
    try:
        yield RawCaller(reader, writer, wait_seconds=wait_seconds)
    finally:
        writer.transport.abort()


def request(
    method: str,
    target: str,
    *,
    credential: str | None = None,
    fields: tuple[str, ...] = (),
    body: bytes = b"",
    version: str = "1.1",
) -> bytes:
    """Return a request; *body* is framed with Content-Length unless *fields* frame it."""
    lines = [f"{method} {target} HTTP/{version}", "Host: gateway.test"]
    if credential is not None:
        lines.append(f"Authorization: Bearer {credential}")
    lines += fields
    if body and not any(line.lower().startswith(("content-length:", "transfer-encoding:")) for line in fields):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "surrogateescape") + body


def chunked(*chunks: bytes) -> bytes:
    """Return *chunks* in the chunked coding, with the last chunk."""
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))


async def call(gateway: Running, data: bytes, method: str = "GET") -> WireAnswer:
    """Send *data* on a new connection and return the answer."""
    async with calling(gateway) as caller:
        await caller.send(data)
        return await caller.answer(method)


@asynccontextmanager
async def gateway_with(
    tmp_path: Path, upstream: Upstream, issuer: Issuer, provider: Provider | None, **route: Any
) -> AsyncIterator[Running]:
    """Run a gateway whose route /api has further keys; user "ada" is connected with the token T1."""
    entry = {"name": "api", "prefix": "/api", "upstream": upstream.url, "connection": "api", **route}
    async with running(settings(entry, issuers=(issuer,)), tmp_path / "data") as gateway:
        await create_connection(gateway, provider)
        await gateway.connect("ada", access_token="T1", refresh_token=provider.issue() if provider else None)
        yield gateway


async def eventually(holds: Callable[[], bool]) -> bool:
    """Wait until *holds* is true, at most WAIT_SECONDS; return whether it is."""
    for _ in range(int(WAIT_SECONDS * 100)):
        if holds():
            return True
        await asyncio.sleep(0.01)
    return False


def respond_with(data: bytes, *, close: bool = False) -> Callable[[Any, asyncio.StreamWriter], Awaitable[None]]:
    """Return what answers each request with *data*, and then ends the connection where *close* says so."""

    async def respond(_: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        if close:
            writer.close()

    return respond


async def answer_of(connection: UpstreamConnection) -> Answer:
    """Return the answer on *connection* once its head has come; raise its failure."""
    if connection.is_waiting:
        await connection.answered
    if connection.failure is not None:
        raise connection.failure
    assert connection.answer is not None
    return connection.answer
