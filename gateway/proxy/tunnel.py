"""
What passes after an upstream has switched protocols: bytes, both ways, until either side ends (RFC 6455).

Rules:
1. Nothing is read of what passes: frames, pings and close codes are the two ends' own. So the echo guard does not look
   into it.
2. Each side is read only as fast as the other takes it.
3. A side that ends by itself ends the other, after what was under way to it; where the other does not take that in
   CLOSING_SECONDS, it has broken. One that breaks, a tunnel in which nothing moves for the route's idle time, and a
   caller that may not call any more break both. That it cannot be decided at the moment breaks nothing.
4. A refreshed token changes nothing of a tunnel that is open.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from gateway.errors import Refusal

DECIDE_SECONDS = 30.0  # how long a revoked key may go on in a tunnel that it had opened
CLOSING_SECONDS = 5.0  # for what is under way when one side has ended


class TunnelBroken(Exception):
    """The tunnel was cut; *reason* is what its outcome says."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Tunnel:
    """Joins the two transports of a request that has switched protocols. *decide_again* raises Refusal."""

    def __init__(
        self,
        caller: asyncio.Transport,
        upstream: asyncio.Transport,
        *,
        idle_seconds: float,
        decide_again: Callable[[], Awaitable[None]],
    ) -> None:
        self._loop = loop = asyncio.get_running_loop()
        self._idle_seconds = idle_seconds
        self._decide_again = decide_again
        self._ended: asyncio.Future[str | None] = loop.create_future()
        self._caller = _Side(self, caller, "client_aborted")
        self._upstream = _Side(self, upstream, "upstream_cut")
        self._caller.other, self._upstream.other = self._upstream, self._caller
        self.moved_at = loop.time()

    @property
    def received_bytes(self) -> int:
        """What has come from the caller."""
        return self._caller.bytes

    @property
    def sent_bytes(self) -> int:
        """What has come from the upstream."""
        return self._upstream.bytes

    async def run(self, first: bytes = b"") -> None:
        """
        Pass bytes until the tunnel ends; *first* is what the upstream has sent already.

        Both transports are ended then, and belong again to whom they belonged before.

        Raises:
            TunnelBroken: it did not end by itself.
        """
        sides = (self._caller, self._upstream)
        try:
            for side in sides:
                side.take()
            if first:
                self._upstream.data_received(first)
            broken = await self._end()
            await asyncio.wait([side.gone for side in sides], timeout=CLOSING_SECONDS)
            if broken is None:
                broken = next((side.when_broken for side in sides if side.has_left), None)
        finally:
            for side in sides:
                side.transport.abort()  # nothing where it has ended
                side.give_back()
        if broken is not None:
            raise TunnelBroken(broken)

    async def _end(self) -> str | None:
        """Wait for the end; return None, or what broke it."""
        decided_at = self._loop.time()
        while True:
            now = self._loop.time()
            left = min(self.moved_at + self._idle_seconds, decided_at + DECIDE_SECONDS) - now
            if left > 0:
                await asyncio.wait((self._ended,), timeout=left)
            if self._ended.done():
                return self._ended.result()
            now = self._loop.time()
            if now >= self.moved_at + self._idle_seconds:
                return self._break("tunnel_idle")
            if now >= decided_at + DECIDE_SECONDS:
                decided_at = now
                try:
                    await self._decide_again()
                except Refusal as refusal:
                    if not refusal.retryable:  # what passes by itself is asked again the next time
                        return self._break(refusal.code)

    def _break(self, reason: str) -> str:
        for side in (self._caller, self._upstream):
            side.transport.abort()
        return reason

    @property
    def has_ended(self) -> bool:
        """Whether one side has ended, and with it the other."""
        return self._ended.done()

    def side_ended(self, broken: str | None) -> None:
        """One side has ended: by itself (None), or it broke."""
        if not self._ended.done():
            self._ended.set_result(broken)


class _Side(asyncio.Protocol):
    """One side of a tunnel: what comes from its transport goes to the other's."""

    other: _Side

    def __init__(self, tunnel: Tunnel, transport: asyncio.Transport, when_broken: str) -> None:
        self._tunnel = tunnel
        self._before = transport.get_protocol()
        self._lost_with: Exception | None = None
        self.transport = transport
        self.when_broken = when_broken
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.bytes = 0
        self._has_said_all = False

    @property
    def has_left(self) -> bool:
        """Whether something is still under way to it."""
        return not self.gone.done() and self.transport.get_write_buffer_size() > 0

    def take(self) -> None:
        """Read from now on what comes."""
        self.transport.set_protocol(self)
        if not self.transport.is_reading():
            self.transport.resume_reading()

    def give_back(self) -> None:
        """Let whom the transport belonged to before see its end."""
        if self.gone.done():
            if isinstance(self._before, asyncio.Protocol):
                self._before.connection_lost(self._lost_with)
        else:
            self.transport.set_protocol(self._before)

    def data_received(self, data: bytes) -> None:
        """Pass *data* on."""
        self.bytes += len(data)
        self._tunnel.moved_at = self._tunnel._loop.time()
        self.other.transport.write(data)

    def pause_writing(self) -> None:
        """The transport does not take more: the other side is not read."""
        self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        """It takes more."""
        if not self.other.transport.is_closing():
            self.other.transport.resume_reading()

    def eof_received(self) -> bool:
        """The side has said all: both are closed, once what was under way has been written."""
        self._has_said_all = True
        self.other.transport.close()
        self._tunnel.side_ended(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The side is gone."""
        self._lost_with = exc
        self.gone.set_result(None)
        # Without an end of its own it has been reset while nothing was read of it, unless the other side ended it.
        is_broken = exc is not None or not (self._has_said_all or self._tunnel.has_ended)
        if is_broken:
            self.other.transport.abort()
        else:
            self.other.transport.close()
        self._tunnel.side_ended(self.when_broken if is_broken else None)
