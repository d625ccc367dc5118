"""The HTTP calls of the gateway itself, against servers that lie, stall and leak."""

from __future__ import annotations

import asyncio
import traceback
from ipaddress import ip_network
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from gateway.models import Egress
from gateway.net.client import Answer, OutboundClient, OutboundError

from .certificates import Authority
from .conftest import StartServer

SECRET = "canary-7f3a9c"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


async def reason_of(client: OutboundClient, url: str, *, timeout_seconds: float = 5, max_bytes: int = 10_000) -> str:
    """The reason for which a call that carries SECRET fails; the error must not tell it."""
    with pytest.raises(OutboundError) as caught:
        await client.request(
            "POST",
            url,
            headers={"Authorization": f"Bearer {SECRET}"},
            body=SECRET.encode(),
            timeout_seconds=timeout_seconds,
            max_bytes=max_bytes,
        )
    told = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert SECRET not in told
    return caught.value.reason


async def test_sends_what_it_is_given_and_nothing_else(start_server: StartServer, loopback: Egress) -> None:
    """
    The target goes out byte for byte; aiohttp's own field lines do not.
    """
    server = await start_server(OK)
    async with OutboundClient(loopback) as client:
        await client.request("POST", f"{server.url}a%2Fb?x=%2c&y=a+b", headers={"X-One": "1"}, body=b"")

    head = server.requests[0].decode().split("\r\n")
    assert "POST /a%2Fb?x=%2c&y=a+b HTTP/1.1" == head[0]
    assert [
        "Accept-Encoding: identity",
        "Connection: close",
        "Content-Length: 0",
        f"Host: 127.0.0.1:{server.port}",
        "X-One: 1",
    ] == sorted(line for line in head[1:] if line)


async def test_returns_the_answer(start_server: StartServer, loopback: Egress) -> None:
    """
    Status, fields in any case, body; the body is not in its repr.
    """
    server = await start_server(b'HTTP/1.1 404 Nope\r\nX-Who: me\r\nContent-Length: 9\r\n\r\n{"a": 42}')
    async with OutboundClient(loopback) as client:
        answer = await client.request("GET", server.url)

    assert (404, "me", {"a": 42}) == (answer.status, answer.headers["x-who"], answer.json())
    assert "42" not in repr(answer)


NOT_JSON = {
    "nothing": b"",
    "HTML": b"<html>",
    "cut off": b'{"a": ',
    "two values": b"{}{}",
    "NaN": b'{"a": NaN}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "broken UTF-8": b'{"a": "\xff"}',
    "depth without end": b"[" * 100_000,
}


@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON.keys())
def test_json_is_read_strictly(body: bytes) -> None:
    """
    What is not JSON is a protocol error, and the error does not quote it.
    """
    with pytest.raises(OutboundError, match="protocol") as caught:
        Answer(200, {}, body).json()

    assert caught.value.__cause__ is None


HOSTILE: dict[str, tuple[bytes, str]] = {
    "closes at once": (b"", "reset"),
    "closes in the head": (b"HTTP/1.1 200 OK\r\nContent-", "reset"),
    "is an SSH server": (b"SSH-2.0-OpenSSH_9.2\r\n", "protocol"),
    "status 000": (b"HTTP/1.1 000 X\r\nContent-Length: 0\r\n\r\n", "protocol"),
    "status 700": (b"HTTP/1.1 700 X\r\nContent-Length: 0\r\n\r\n", "protocol"),
    "HTTP/2.0": (b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n", "protocol"),
    "an upgrade that nobody asked for": (
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        "protocol",
    ),
    "closes in the body": (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}", "protocol"),
    "closes in a chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "protocol"),
    "a broken chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nab", "protocol"),
    "two lengths": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", "protocol"),
    "a length and chunks": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "protocol",
    ),
    "a NUL in a field": (b"HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 0\r\n\r\n", "protocol"),
    "gzip, unasked": (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}", "protocol"),
    "a large body, told": (b"HTTP/1.1 200 OK\r\nContent-Length: 10001\r\n\r\n", "too_large"),
    "a field of 100 KB": (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", "protocol"),
    "a thousand fields": (b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 1000 + b"\r\n", "protocol"),
}


@pytest.mark.parametrize(("answer", "reason"), HOSTILE.values(), ids=HOSTILE.keys())
async def test_refuses_a_hostile_answer(
    answer: bytes, reason: str, start_server: StartServer, loopback: Egress
) -> None:
    """
    An answer that is not plainly complete and readable has one of the six reasons, and the server is asked once.
    """
    server = await start_server(answer)
    async with OutboundClient(loopback) as client:
        assert reason == await reason_of(client, server.url)

    assert 1 == server.connections


ENDLESS = {
    "a body until the connection closes": (b"HTTP/1.1 200 OK\r\n\r\n", b"a" * 4096, "too_large"),
    "chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"4\r\nabcd\r\n" * 500, "too_large"),
    "a head": (b"HTTP/1.1 200 OK\r\n", b"X-Field: value\r\n" * 100, "protocol"),
}


@pytest.mark.parametrize(("begin", "endless", "reason"), ENDLESS.values(), ids=ENDLESS.keys())
async def test_stops_reading_what_does_not_end(
    begin: bytes, endless: bytes, reason: str, start_server: StartServer, loopback: Egress
) -> None:
    """
    An answer without end is left when the limit is reached.
    """
    server = await start_server(begin, endless=endless)
    async with OutboundClient(loopback) as client:
        assert reason == await reason_of(client, server.url)


SILENT = {
    "no answer": b"",
    "half a head": b"HTTP/1.1 200 OK\r\n",
    "half a body": b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{",
    "interim answers only": b"HTTP/1.1 102 Processing\r\n\r\n" * 5,
}


@pytest.mark.parametrize("answer", SILENT.values(), ids=SILENT.keys())
async def test_gives_up_in_time(answer: bytes, start_server: StartServer, loopback: Egress) -> None:
    """
    The time limit holds for the whole answer, wherever the server falls silent.
    """
    server = await start_server(answer, holds=True)
    async with OutboundClient(loopback) as client:
        assert "timeout" == await reason_of(client, server.url, timeout_seconds=0.1)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST"])
async def test_sends_nothing_twice(method: str, start_server: StartServer, loopback: Egress) -> None:
    """
    A request whose connection breaks is not repeated, idempotent or not.
    """
    server = await start_server(b"")
    async with OutboundClient(loopback) as client:
        for _ in range(2):
            with pytest.raises(OutboundError, match="reset"):
                await client.request(method, server.url)

    assert 2 == server.connections


async def test_never_uses_a_connection_again(start_server: StartServer, loopback: Egress) -> None:
    """
    Bytes that follow an answer are lost with their connection; the next request gets its own answer.
    """
    server = await start_server(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen", holds=True)
    async with OutboundClient(loopback) as client:
        for _ in range(3):
            assert b"{}" == (await client.request("GET", server.url)).body

    assert 3 == server.connections


async def test_follows_no_redirect_and_keeps_no_cookie(start_server: StartServer, loopback: Egress) -> None:
    """
    A redirect is an answer, and a cookie of one answer is in no later request.
    """
    server = await start_server(b"HTTP/1.1 302 Found\r\nLocation: /x\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n")
    async with OutboundClient(loopback) as client:
        assert 302 == (await client.request("GET", server.url)).status
        assert 302 == (await client.request("GET", server.url)).status

    assert [b"GET / HTTP/1.1"] * 2 == [request.split(b"\r\n")[0] for request in server.requests]
    assert b"cookie" not in b"".join(server.requests).lower()


async def test_ignores_the_environment(
    start_server: StartServer, loopback: Egress, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """
    A proxy and a netrc of the environment change neither where a request goes nor what it carries.
    """
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login ada password x\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    server = await start_server(OK)
    async with OutboundClient(loopback) as client:
        assert 200 == (await client.request("GET", server.url)).status

    assert b"authorization" not in server.requests[0].lower()


URLS = {
    "nothing": "",
    "no scheme": "127.0.0.1/",
    "a file": "file:///etc/passwd",
    "ftp": "ftp://api.example.com/",
    "a websocket": "wss://api.example.com/",
    "no host": "https:///x",
    "userinfo": f"https://{SECRET}@api.example.com/",
    "an empty userinfo": "https://@api.example.com/",
    "a fragment": "https://api.example.com/#x",
    "a backslash": "https://api.example.com\\@127.0.0.1/",
    "a space": "https://api.example.com/a b",
    "a line break": "https://api.example.com/\r\nX: y",
    "a letter outside of ASCII": "https://\u24d0pi.example.com/",
    "an escape in the host": "https://api%2eexample.com/",
    "port 0": "https://api.example.com:0/",
    "a port too large": "https://api.example.com:99999/",
    "a port of letters": "https://api.example.com:https/",
    "half a bracket": "https://[::1/",
    "a zone": "https://[fe80::1%25lo]/",
    "metadata": "http://169.254.169.254/latest/meta-data/",
    "loopback in IPv6": "http://[::1]:80/",
    "loopback, mapped": "http://[::ffff:127.0.0.1]:80/",
    "loopback, short": "http://127.1/",
    "loopback, one number": "http://2130706433/",
    "loopback, hexadecimal": "http://0x7f.0.0.1/",
    "unspecified": "http://0.0.0.0/",
    "a name of loopback": "http://localhost/",
}


@pytest.mark.parametrize("url", URLS.values(), ids=URLS.keys())
async def test_blocks_what_it_does_not_dial(url: str) -> None:
    """
    An URL that leads inside, or that could be read in two ways, is blocked before anything is sent.
    """
    async with OutboundClient(Egress(allow_private=(ip_network("10.0.0.0/8"),), allow_http=True)) as client:
        assert "blocked" == await reason_of(client, url)


async def test_plain_http_must_be_allowed(start_server: StartServer, loopback: Egress) -> None:
    """
    Without `allow_http`, plain http is blocked, to an allowed address too.
    """
    server = await start_server(OK)
    async with OutboundClient(Egress(allow_private=loopback.allow_private)) as client:
        assert "blocked" == await reason_of(client, server.url)

    assert 0 == server.connections


FIELDS = {
    "a line break in a value": {"X": f"{SECRET}\r\nY: z"},
    "a NUL in a value": {"X": f"{SECRET}\x00"},
    "a space in a name": {f"X {SECRET}": "y"},
}


@pytest.mark.parametrize("headers", FIELDS.values(), ids=FIELDS.keys())
async def test_sends_no_broken_field(headers: dict[str, str], start_server: StartServer, loopback: Egress) -> None:
    """
    A field that would break the head is an error that does not quote it.
    """
    server = await start_server(OK)
    async with OutboundClient(loopback) as client:
        with pytest.raises(OutboundError, match="protocol") as caught:
            await client.request("GET", server.url, headers=headers)

    assert SECRET not in repr(caught.value)
    assert not any(b"Y: z" in request for request in server.requests)


async def test_a_port_that_nobody_listens_on_is_unreachable(start_server: StartServer, loopback: Egress) -> None:
    """
    A refused connection is "unreachable", and so is a client that is closed.
    """
    server = await start_server(OK)
    client = OutboundClient(loopback)
    assert "unreachable" == await reason_of(client, "http://127.0.0.1:1/")
    await client.close()
    assert "unreachable" == await reason_of(client, server.url)


async def test_cancelling_a_call_closes_its_connection(start_server: StartServer, loopback: Egress) -> None:
    """
    A call that nobody waits for any more ends, and the client works on.
    """
    server = await start_server(b"", holds=True)
    async with OutboundClient(loopback) as client:
        call = asyncio.create_task(client.request("GET", server.url))
        await server.was_asked.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        server.answer = OK
        server.holds = False
        assert 200 == (await client.request("GET", server.url)).status


TLS = {
    "a certificate of the CA file": ("127.0.0.1", 1, True, None),
    "another name's certificate": ("api.example.com", 1, True, "tls"),
    "an expired certificate": ("127.0.0.1", -1, True, "tls"),
    "a certificate of an unknown authority": ("127.0.0.1", 1, False, "tls"),
}


@pytest.mark.parametrize(("name", "days", "trusted", "reason"), TLS.values(), ids=TLS.keys())
async def test_verifies_the_server(
    name: str,
    days: int,
    trusted: bool,
    reason: str | None,
    start_server: StartServer,
    loopback: Egress,
    authority: Authority,
) -> None:
    """
    https goes to whom the certificate names, while it is valid, as the CA file says; else nothing is sent.
    """
    server = await start_server(OK, tls=authority.server_context(name=name, days_valid=days))
    egress = Egress(loopback.allow_private, ca_file=authority.ca_file if trusted else None)
    url = f"https://127.0.0.1:{server.port}/"
    async with OutboundClient(egress) as client:
        if reason is None:
            assert 200 == (await client.request("GET", url)).status
        else:
            assert reason == await reason_of(client, url)
            assert [] == server.requests


async def test_speaks_no_tls_to_a_plain_server(start_server: StartServer, loopback: Egress) -> None:
    """
    A server that does not speak TLS gets nothing.
    """
    server = await start_server(OK)
    async with OutboundClient(loopback) as client:
        assert (await reason_of(client, f"https://127.0.0.1:{server.port}/", timeout_seconds=1)) in ("tls", "timeout")


async def test_survives_a_hundred_calls_at_once(loopback: Egress) -> None:
    """
    Calls side by side get each their own answer.
    """

    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    app = web.Application()
    app.router.add_post("/", echo)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    async with OutboundClient(loopback) as client:
        answers = await asyncio.gather(
            *(client.request("POST", url, body=str(number).encode()) for number in range(100))
        )
    await runner.cleanup()

    assert [str(number).encode() for number in range(100)] == [answer.body for answer in answers]


async def test_aiohttp_still_has_what_we_lean_on() -> None:
    """
    The switch that turns aiohttp's own retry off and the place for another way to connect are semi-private: this fails
    when one has gone.
    """
    assert hasattr(aiohttp.TCPConnector, "_create_connection")
    assert {"_factory", "_loop"} <= vars(aiohttp.TCPConnector()).keys()
    assert "_retry_connection" in aiohttp.ClientSession.ATTRS
    async with aiohttp.ClientSession() as session:
        assert True is session._retry_connection
