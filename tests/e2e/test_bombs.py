"""Bodies that would be a thousand times as large unpacked: they pass as they came, and stay packed (threats G5)."""

from __future__ import annotations

import asyncio
import os
import struct
import zlib
from pathlib import Path

import pytest

from tests.e2e.gateway_process import MAX_LOOP_LAG_SECONDS, serving, witness
from tests.proxy.wire import WireAnswer, calling, request
from tests.world import Received, Upstream, answer, create_connection, settings

UNPACKED_BYTES = 1 << 30
BLOCK = bytes(1 << 20)
MAX_GROWTH_BYTES = 64 << 20
GUARDS = ("off", "record", "cut")
CODINGS = ("gzip", "deflate", "br")  # no more than names: what would unpack them is what the gateway looks for
GUARD_SECONDS = 60.0

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists() or os.geteuid() != 0,
    reason="the memory of a process is read from Linux's /proc, and that of a serving gateway is root's",
)


def bomb() -> bytes:
    """Return a gzip file of 1 MB that holds 1 GiB of zeros (RFC 1952)."""
    packing = zlib.compressobj(wbits=-15)
    block = packing.compress(BLOCK) + packing.flush(zlib.Z_FULL_FLUSH)  # which stands for itself: it can be repeated
    blocks = UNPACKED_BYTES // len(BLOCK)
    checksum = 0
    for _ in range(blocks):
        checksum = zlib.crc32(BLOCK, checksum)
    head = b"\x1f\x8b\x08" + bytes(6) + b"\xff"
    return head + block * blocks + packing.flush() + struct.pack("<II", checksum, UNPACKED_BYTES)


@needs_proc
async def test_bombs_pass_packed(tmp_path: Path, upstream: Upstream) -> None:
    """
    Bombs in requests and in answers, also in those that reject the token, with every way of looking for echoes: each
    arrives byte for byte, or is refused where answers must not be packed, and the gateway stays small.
    """
    packed = bomb()
    assert BLOCK == zlib.decompressobj(wbits=31).decompress(packed, len(BLOCK))

    async def respond(received: Received, writer: asyncio.StreamWriter) -> None:
        status, coding = received.request_line.split(" ")[1].split("/")[1:]
        writer.write(answer(int(status), packed, f"Content-Encoding: {coding}\r\n"))

    upstream.respond = respond
    routes = [
        {"name": guard, "prefix": f"/{guard}", "upstream": upstream.url, "connection": "api", "echo_guard": guard}
        for guard in GUARDS
    ]
    targets = [f"/{guard}/{status}/{coding}" for guard in GUARDS for status in (200, 401) for coding in CODINGS]
    async with (
        asyncio.timeout(GUARD_SECONDS),
        witness() as machine,
        serving(settings(*routes), tmp_path / "data") as gateway,
    ):
        await create_connection(gateway, None)
        await gateway.connect("ada", access_token="T1-of-twelve")
        key = await gateway.agent_key("ada")

        async def call(target: str, body: bytes) -> WireAnswer:
            fields = (f"Content-Encoding: {target.rpartition('/')[2]}",)
            async with calling(gateway, wait_seconds=GUARD_SECONDS) as caller:
                await caller.send(request("POST", target, credential=key, fields=fields, body=body))
                return await caller.answer()

        await call("/record/200/gzip", b"x")
        before = gateway.process.rss_bytes
        gateway.process.forget_peak()
        answers = dict(zip(targets, await asyncio.gather(*(call(each, packed) for each in targets)), strict=True))
        growth = gateway.process.peak_rss_bytes - before
        lag = await machine.lag_beyond(gateway)

    print(f"{len(targets)} bombs both ways: {growth >> 20} MiB, lag {lag * 1000:.0f} ms")
    for target, got in answers.items():
        _, guard, status, coding = target.split("/")
        if guard == "cut":
            assert (502, "answer_encoded") == (got.status, got.code), target
        else:
            assert (int(status), True, [coding]) == (got.status, got.is_whole, got.values("Content-Encoding")), target
            assert packed == got.body, target
    received = upstream.received[1:]
    assert len(targets) == len(received)
    assert {packed} == {each.body for each in received}
    assert growth < MAX_GROWTH_BYTES
    assert lag < MAX_LOOP_LAG_SECONDS
