"""What is not HTTP gets a flat error as well."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from yarl import URL

from gateway.vault.service import Vault
from tests.vault.api_server import Api, serve
from tests.vault.conftest import House

pytestmark = pytest.mark.parametrize("engine", ["sqlite"])  # the rules are the wire's


@pytest.fixture
async def api(house: House, vault: Vault) -> AsyncIterator[Api]:
    """A running token API."""
    async with serve(house, vault) as api:
        yield api


async def raw(api: Api, request: bytes) -> tuple[int, dict[str, str]]:
    """Send bytes and return the status and the JSON body of the answer."""
    url = URL(api.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    body = await reader.readexactly(length)
    writer.close()
    return int(head.split()[1]), json.loads(body)


NOT_HTTP = {
    "no request line": b"CANARY\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "a header field without a colon": b"GET / HTTP/1.1\r\nHost: x\r\nCANARY\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "a length in words": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: CANARY\r\n\r\n",
}


@pytest.mark.parametrize("request_bytes", NOT_HTTP.values(), ids=NOT_HTTP.keys())
async def test_what_cannot_be_parsed_is_a_flat_error(
    api: Api, request_bytes: bytes, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """400 with the flat JSON error; nothing of what was sent is repeated or logged."""
    status, body = await raw(api, request_bytes)

    assert (400, "E011001") == (status, body["errorCode"])
    captured = capsys.readouterr()
    assert "CANARY" not in str(body) + captured.out + captured.err + caplog.text
