"""
A TCP proxy that does to a connection what networks and broken servers do: the fault is chosen while it runs.

It knows nothing of what passes: faults are of connections and bytes. Toxiproxy's names are used where it has one.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

CLOSE_SECONDS = 10.0  # how long a side that was told the end may take to go
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, for no time: close(2) sends a reset


@dataclass(frozen=True, slots=True)
class Fault:
    """
    What happens to a connection.

    *at* "accept": as soon as it is there. "request": when bytes for the target have come, which do not reach it.
    "answer": after *after_bytes* of what the target answers; below zero: so many before the end of what it says at
    once; None: after that. The target has had the request then. *at* None: nothing.
    *how* it goes on from there: "reset", "close" (FIN, as if all were said) or "hang" (nothing passes any more).
    *drip_seconds*: the answer comes in pieces of *drip_bytes*, each after that time. *rewrite* changes what the target
    answered.
    """

    at: str | None = None
    how: str = "reset"
    after_bytes: int | None = None
    drip_seconds: float = 0.0
    drip_bytes: int = 1
    rewrite: Callable[[bytes], bytes] | None = None


@dataclass(slots=True)
class FaultProxy:
    """A running proxy. Made by `fault_proxy`; *fault* holds for what passes from now on."""

    port: int
    fault: Fault = field(default_factory=Fault)
    connections: int = 0
    held: int = 0  # connections that a fault holds up: it lasts until the caller lets go, whatever *fault* is by then
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """End every connection that is open."""
        for writer in tuple(self._writers):
            _reset(writer)


@asynccontextmanager
async def fault_proxy(*, port: int | None = None, path: str | None = None) -> AsyncIterator[FaultProxy]:
    """Yield a proxy in front of the server on *port* of loopback, or on the unix socket *path*."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        proxy.connections += 1
        proxy._writers.add(writer)
        try:
            with suppress(ConnectionError, asyncio.CancelledError):
                await _serve(proxy, reader, writer, port, path)
        finally:
            tasks.discard(task)
            proxy._writers.discard(writer)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    proxy = FaultProxy(server.sockets[0].getsockname()[1])
    try:
        yield proxy
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _serve(
    proxy: FaultProxy,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    port: int | None,
    path: str | None,
) -> None:
    if proxy.fault.at == "accept":
        await _end(proxy, proxy.fault, reader, writer)
        return
    first = await reader.read(65_536)
    if proxy.fault.at == "request":
        await _end(proxy, proxy.fault, reader, writer)
        return
    if path is not None:
        target_reader, target = await asyncio.open_unix_connection(path)
    else:
        target_reader, target = await asyncio.open_connection("127.0.0.1", port)
    try:
        target.write(first)
        async with asyncio.TaskGroup() as group:
            group.create_task(_requests(proxy, reader, writer, target))
            group.create_task(_answers(proxy, target_reader, writer))
    except* ConnectionError:
        _reset(writer)
    finally:
        target.close()


async def _requests(
    proxy: FaultProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: asyncio.StreamWriter
) -> None:
    while data := await reader.read(65_536):
        if proxy.fault.at == "request":
            await _end(proxy, proxy.fault, reader, writer)
            break
        target.write(data)
        await target.drain()
    raise ConnectionResetError  # the caller has gone, or is to go


async def _answers(proxy: FaultProxy, target: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    passed = 0
    while data := await target.read(65_536):
        fault = proxy.fault
        if fault.rewrite is not None:
            data = fault.rewrite(data)
        left = _left(fault, len(data), passed)
        is_end = left is not None and left <= len(data)
        data = data[:left]
        step = fault.drip_bytes if fault.drip_seconds else len(data)
        for start in range(0, len(data), max(1, step)):
            await asyncio.sleep(fault.drip_seconds)
            writer.write(data[start : start + step])
            await writer.drain()
        passed += len(data)
        if is_end:
            await _end(proxy, fault, None, writer)
            break
    raise ConnectionResetError  # the target has ended it, or the fault has


def _left(fault: Fault, size: int, passed: int) -> int | None:
    """How many of *size* bytes pass before *fault* ends the answer, after *passed*; None: it does not."""
    if fault.at != "answer":
        return None
    if fault.after_bytes is None:
        return size
    return max(0, size + fault.after_bytes if fault.after_bytes < 0 else fault.after_bytes - passed)


async def _end(
    proxy: FaultProxy, fault: Fault, reader: asyncio.StreamReader | None, writer: asyncio.StreamWriter
) -> None:
    """End the connection as *fault* says. Without *reader* it is `_requests` that sees the caller go."""
    if fault.how == "hang":
        proxy.held += 1
        try:
            await _gone(reader)
        finally:
            proxy.held -= 1
    elif fault.how == "close":
        writer.write_eof()
        with suppress(TimeoutError):  # what was passed on may lie in the kernel still, and a reset throws it away
            async with asyncio.timeout(CLOSE_SECONDS):
                await _gone(reader)
    else:
        await asyncio.sleep(0.05)  # so that what was passed on arrives: a reset overtakes it
        _reset(writer)


async def _gone(reader: asyncio.StreamReader | None) -> None:
    """Return when the caller has gone; without *reader* it is cancelled then, for `_requests` ends the group."""
    if reader is None:
        await asyncio.Event().wait()
    else:
        await reader.read()


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
