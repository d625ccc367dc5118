"""TLS of the traffic listener: who begins a handshake and does not end it."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from urllib.parse import urlsplit

from tests.e2e.gateway_process import serving
from tests.net.certificates import Authority
from tests.proxy.wire import request
from tests.world import settings

GUARD_SECONDS = 40.0  # asyncio's own patience with a handshake is 60
PLACES = 20


async def test_handshake_that_does_not_end_is_closed(tmp_path: Path) -> None:
    """
    Connections that say nothing, or half of a greeting, are closed; who shakes hands is served meanwhile and after it.
    """
    authority = Authority(tmp_path)
    authority.server_context()
    pem = str(tmp_path / "127.0.0.1-1.pem")
    configuration = settings()
    configuration["listeners"]["traffic"]["tls"] = {"cert": pem, "key": pem}
    trusting = ssl.create_default_context(cafile=authority.ca_file)
    async with asyncio.timeout(GUARD_SECONDS), serving(configuration, tmp_path / "data") as gateway:
        parts = urlsplit(gateway.url)
        silent = [await asyncio.open_connection(parts.hostname, parts.port) for _ in range(20)]
        for _, writer in silent[10:]:
            writer.write(b"\x16\x03\x01\x02\x00\x01")
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, ssl=trusting)
        ends = await asyncio.gather(*(each.read() for each, _ in silent), return_exceptions=True)
        writer.write(request("GET", "/nowhere"))
        got = await reader.readuntil(b"\r\n\r\n")
        for _, each in (*silent, (reader, writer)):
            each.close()

    assert [True] * len(silent) == [end == b"" or isinstance(end, ConnectionError) for end in ends]
    assert got.startswith(b"HTTP/1.1 4")


async def test_handshakes_that_do_not_end_have_a_limit(tmp_path: Path) -> None:
    """
    Silent connections hold as many places as one address has, and no more; the next caller is told so, and served
    once their time is over.
    """
    authority = Authority(tmp_path)
    authority.server_context()
    pem = str(tmp_path / "127.0.0.1-1.pem")
    configuration = settings()
    configuration["listeners"]["traffic"] |= {
        "tls": {"cert": pem, "key": pem},
        "limits": {"connections_per_address": PLACES},
    }
    trusting = ssl.create_default_context(cafile=authority.ca_file)
    async with asyncio.timeout(GUARD_SECONDS), serving(configuration, tmp_path / "data") as gateway:
        parts = urlsplit(gateway.url)
        silent = [await asyncio.open_connection(parts.hostname, parts.port) for _ in range(PLACES)]
        answers = []
        for _ in range(2):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port, ssl=trusting)
            writer.write(request("GET", "/nowhere"))
            answers.append(await reader.readuntil(b"\r\n\r\n"))
            writer.close()
            await asyncio.gather(*(each.read() for each, _ in silent), return_exceptions=True)
        for _, each in silent:
            each.close()
        await gateway.process.stop()

    assert [b"HTTP/1.1 503", b"HTTP/1.1 4"] == [answers[0][:12], answers[1][:10]]
    assert "Traceback" not in gateway.process.stderr
