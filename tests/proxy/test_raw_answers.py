"""More than a hundred answers as upstreams send them: what the caller gets, and what becomes of the connection."""

from __future__ import annotations

import asyncio
import re
import socket
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import Refusal
from gateway.models import Timeouts
from gateway.proxy.connection import Stale, Truncated, UpstreamConnection
from tests.proxy.raw_answers import TABLES, Row
from tests.proxy.wire import call, calling, request
from tests.world import Issuer, Received, Running, Upstream, answer

_OWN = re.compile(
    rb"(?:Vary|X-Content-Type-Options|Content-Security-Policy|Cache-Control|Proxy-Status|Server-Timing|traceparent"
    rb"|Connection): [^\r]*\r\n"
)
_REFUSAL = re.compile(rb'Proxy-Status: [^\r]*; error=[^\r]*; details="([a-z_]+)"')


class Speaker:
    """Lets *upstream* answer with a row, the next request with its own request line."""

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.row: Row | None = None
        self.has_head = asyncio.Event()  # the caller's
        self.is_done = asyncio.Event()
        self.connections = 0  # there were when the row was sent
        upstream.respond = self.respond

    async def respond(self, received: Received, writer: asyncio.StreamWriter) -> None:
        row, self.row = self.row, None
        if row is None:
            writer.write(answer(200, received.request_line.encode()))
            return
        self.connections = self.upstream.connections
        for number, packet in enumerate(row.packets):
            if number:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.has_head.wait(), 0.1)
            writer.write(packet)
            with suppress(ConnectionError):
                await writer.drain()
        if row.ends:
            writer.close()
        self.is_done.set()


async def get(gateway: Running, speaker: Speaker, row: Row, credential: str) -> tuple[bytes | str, bool]:
    """Return what a caller gets of *row*, and whether its connection was reset."""
    speaker.row = row
    speaker.has_head.clear()
    speaker.is_done.clear()
    data, is_cut = b"", False
    async with calling(gateway) as caller:
        await caller.send(request(row.method, "/api/row", credential=credential, fields=("Connection: close",)))
        try:
            while part := await asyncio.wait_for(caller.reader.read(65_536), 5):
                data += part
                if b"\r\n\r\n" in data:
                    speaker.has_head.set()
        except ConnectionError:
            is_cut = True
    await asyncio.wait_for(speaker.is_done.wait(), 5)
    head, _, body = data.partition(b"\r\n\r\n")
    if (found := _REFUSAL.search(head)) is not None:
        return found[1].decode(), is_cut
    return _OWN.sub(b"", head + b"\r\n") + b"\r\n" + body, is_cut


@pytest.mark.parametrize("table", TABLES)
async def test_answer_reaches_the_caller_as_the_table_says(
    gateway: Running, upstream: Upstream, issuer: Issuer, table: str
) -> None:
    """
    Each answer arrives byte for byte as its row says, or is refused or cut; the next call gets its own answer.
    """
    credential = issuer.token("ada")
    speaker = Speaker(upstream)
    wrong: dict[str, Any] = {}
    for case, row in TABLES[table].items():
        got, is_cut = await get(gateway, speaker, row, credential)
        after = await call(gateway, request("GET", "/api/after", credential=credential))
        is_reused = upstream.connections == speaker.connections
        if (row.got, row.is_cut, row.is_reused) != (got, is_cut, is_reused):
            wrong[case] = (got, is_cut, is_reused)
        if b"GET /after HTTP/1.1" != after.body:
            wrong[f"{case}: the next call"] = after

    assert {} == wrong


ROWS = [row for table in TABLES.values() for row in table.values()]
Outcome = tuple[Any, ...]


async def outcome(row: Row, packets: list[bytes]) -> Outcome:
    """Return what a connection makes of *packets*, in words that do not depend on how they were cut."""
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    with theirs:
        _, connection = await loop.create_connection(lambda: UpstreamConnection(loop), sock=ours)
        connection.begin(method=row.method, timeouts=Timeouts())
        for packet in packets:
            connection.data_received(packet)
        if row.ends:
            connection.eof_received()
            connection.connection_lost(None)
        waiting = asyncio.ensure_future(connection.answer())
        await asyncio.sleep(0)
        try:
            if not waiting.done():
                return ("waits",)
            found = waiting.result()
            body = found.body.read_nowait(-1)
            return (found.status, found.raw_fields, body, found.body.is_eof(), connection.is_clean)
        except (Refusal, Truncated, Stale) as exc:
            return (type(exc).__name__,)
        finally:
            waiting.cancel()
            connection.fail(Truncated())


@given(st.data())
def test_packets_never_change_the_outcome(data: st.DataObject) -> None:
    """
    However the bytes of an answer are cut into packets, the same is made of it.
    """
    row = data.draw(st.sampled_from(ROWS))
    whole = b"".join(row.packets)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    packets = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True) if b > a]

    async def both() -> tuple[Outcome, Outcome]:
        return await outcome(row, [whole] if whole else []), await outcome(row, packets)

    at_once, in_packets = asyncio.run(both())
    assert at_once == in_packets
