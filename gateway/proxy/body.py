"""
A request's body: passed on as it arrives, and kept only as far as it may have to be sent again.

Rules:
1. No body is collected. Chunks go on as they come; up to *replay_bytes* of them are kept beside, and let go of as
   soon as the body turns out to be larger or the upstream has accepted the token.
2. A body that is larger than the limit, or of unknown length and still on its way, goes out with
   `Expect: 100-continue`, so that a 401 comes before it is spent (RFC 9110 section 10.1.1).
3. A body that was begun and is not kept cannot be sent again (`can_replay`).
4. More than *max_bytes* is refused, whatever Content-Length said.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.errors import BodyTooLarge
from gateway.net.body_stream import Body


class RequestBody:
    """
    The body of one request, readable once from the caller and again from what was kept.

    *length* is the Content-Length, None for a chunked body. *expects*: it is sent with `Expect: 100-continue`.
    *invite* is called before the first byte is read where the
    caller waits for `100 Continue`. *incoming* is what still comes of it.
    """

    __slots__ = ("_invite", "_kept", "_max_bytes", "_replay_bytes", "expects", "incoming", "length", "received_bytes")

    def __init__(
        self,
        incoming: Body,
        *,
        length: int | None,
        replay_bytes: int,
        max_bytes: int,
        invite: Callable[[], None] | None = None,
    ) -> None:
        if length is not None and length > max_bytes:
            raise BodyTooLarge
        self.incoming = incoming
        self._replay_bytes = replay_bytes
        self._max_bytes = max_bytes
        self._invite = invite
        self._kept: list[bytes] | None = []
        self.length = length
        self.expects = not self.fits_replay
        self.received_bytes = 0

    @property
    def fits_replay(self) -> bool:
        """Whether the body is known to fit what may be kept."""
        return self.length is not None and self.length <= self._replay_bytes

    @property
    def can_replay(self) -> bool:
        """Whether the body can be sent from its first byte: nothing was read yet, or all that was read is kept."""
        return self._kept is not None

    @property
    def is_buffered(self) -> bool:
        """Whether the whole body has arrived, so that it can leave in one write with the head."""
        return self.fits_replay and self.is_whole_here

    @property
    def is_whole_here(self) -> bool:
        """Whether all of the body has arrived, and may be kept."""
        return self._invite is None and self.incoming.is_eof() and self.incoming.total_bytes <= self._replay_bytes

    def settle_length(self) -> None:
        """Give a chunked body that has arrived whole its length: it needs no chunks and no Expect upstream."""
        if self.length is None and self.is_whole_here:
            self.length = len(self.take_buffered())
            self.expects = False

    def let_go(self) -> None:
        """Forget what was kept: the token was accepted, nothing will be sent again."""
        if self.received_bytes:
            self._kept = None

    async def pass_on(self, take: Callable[[bytes], None]) -> None:
        """
        Give *take* the body from its first byte: what was kept, then what still comes; return at its end.

        Raises:
            BodyTooLarge: the caller sent more than the route allows.
            aiohttp.web_protocol.RequestPayloadError: the caller's framing broke.
        """
        for piece in self._kept or ():  # at most *replay_bytes*, which are held here anyway
            take(piece)
        if self._invite is not None:
            self._invite()
            self._invite = None

        def take_next(data: bytes) -> None:
            self._keep(data)
            take(data)

        await self.incoming.pass_on(take_next)

    def take_buffered(self) -> bytes:
        """Return the whole body of which `is_buffered` is true."""
        if unread := self.incoming.read_nowait():
            self._keep(unread)
        return b"".join(self._kept or ())

    def _keep(self, chunk: bytes) -> None:
        self.received_bytes += len(chunk)
        if self.received_bytes > self._max_bytes:
            raise BodyTooLarge
        if self._kept is not None:
            if self.received_bytes > self._replay_bytes:
                self._kept = None
            else:
                self._kept.append(chunk)
