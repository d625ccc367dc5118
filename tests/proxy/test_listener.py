"""The callers' connections: order, malformed bytes, unread bodies, callers that go away or do not read."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.proxy.wire import call, calling, chunked, eventually, gateway_with, request
from tests.world import Issuer, Provider, Received, Running, Upstream, answer, running, settings

SECRET = "zz-secret-9f31"

MALFORMED = {
    "no HTTP at all": b"\x16\x03\x01\x02\x00\x01\x00" + SECRET.encode() + b"\r\n\r\n",
    "space before the colon": b"GET /api HTTP/1.1\r\nHost: x\r\nAuthorization : " + SECRET.encode() + b"\r\n\r\n",
    "a folded line": b"GET /api HTTP/1.1\r\nHost: x\r\nAuthorization: a\r\n " + SECRET.encode() + b"\r\n\r\n",
    "NUL in a value": b"GET /api HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + SECRET.encode() + b"\x00\r\n\r\n",
    "bare CR in a value": b"GET /api HTTP/1.1\r\nHost: x\r\nAuthorization: " + SECRET.encode() + b"\rX: y\r\n\r\n",
    "no colon": b"GET /api HTTP/1.1\r\nHost: x\r\n" + SECRET.encode() + b"\r\n\r\n",
    "Content-Length and Transfer-Encoding": (
        b"POST /api HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "two lengths": b"POST /api HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "a length with a sign": b"POST /api HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\nhello",
    "no Host": b"GET /api HTTP/1.1\r\nX-Secret: " + SECRET.encode() + b"\r\n\r\n",
    "two Hosts": b"GET /api HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    "a Host that is none": b'GET /api HTTP/1.1\r\nHost: x"y<zz-secret-9f31>\r\n\r\n',
    "a Host outside of ASCII": b"GET /api HTTP/1.1\r\nHost: \xff\xfezz-secret-9f31\r\n\r\n",
    "a target with a space": b"GET /api/" + SECRET.encode() + b" x HTTP/1.1\r\nHost: x\r\n\r\n",
    "absolute form without a host": b"GET http://[::1 HTTP/1.1\r\nHost: x\r\n\r\n",
    "gzip, chunked": b"POST /api HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "identity": b"POST /api HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: identity\r\n\r\n",
    "another expectation": b"POST /api HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nExpect: 200-ok\r\n\r\nx",
}


@pytest.mark.parametrize("case", MALFORMED)
async def test_malformed_bytes_get_a_constant_answer(
    gateway: Running, upstream: Upstream, capfd: pytest.CaptureFixture[str], case: str
) -> None:
    """
    What cannot be read as one request is answered with 400 and closed; its bytes are neither echoed nor logged.
    """
    async with calling(gateway) as caller:
        await caller.send(MALFORMED[case])
        got = await caller.answer()
        assert await caller.ended()

    out, err = capfd.readouterr()
    assert (400, "invalid_request") == (got.status, got.code)
    assert SECRET.encode() not in got.head + got.body
    assert SECRET not in out + err
    assert "never retrieved" not in err
    assert [] == upstream.received


async def test_pipelined_requests_are_answered_in_order(gateway: Running, upstream: Upstream, issuer: Issuer) -> None:
    """
    Requests sent together are answered one after another in their order, also where the first is the slower one.
    """

    async def respond(received: Received, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.1 if "/first" in received.request_line else 0)
        writer.write(answer(200, received.request_line.encode()))

    upstream.respond = respond
    credential = issuer.token("ada")

    async with calling(gateway) as caller:
        targets = ["first", *map(str, range(40))]
        await caller.send(b"".join(request("GET", f"/api/{name}", credential=credential) for name in targets))
        bodies = [(await caller.answer()).body.decode() for _ in targets]

    assert [f"GET /{name} HTTP/1.1" for name in targets] == bodies


async def test_malformed_request_after_a_good_one_is_answered_second(gateway: Running, issuer: Issuer) -> None:
    """
    A good request is answered although what follows it on the connection cannot be read.
    """
    async with calling(gateway) as caller:
        await caller.send(request("GET", "/api/x", credential=issuer.token("ada")))
        first = await caller.answer()
        await caller.send(b"\x00\x01garbage\r\n\r\n")
        second = await caller.answer()
        assert await caller.ended()

    assert (200, 400) == (first.status, second.status)


@pytest.mark.parametrize("size", [1000, 3_000_000])
async def test_refusal_reaches_a_caller_that_is_still_sending(gateway: Running, upstream: Upstream, size: int) -> None:
    """
    A refused upload is answered so that a caller in the middle of its body can read the answer.
    """
    async with calling(gateway) as caller:
        caller.writer.write(request("POST", "/api/x", body=b"b" * size))
        await asyncio.sleep(0.05)
        got = await caller.answer()

    assert (401, "caller_unauthenticated", True) == (got.status, got.code, got.is_whole)
    assert [] == upstream.received


async def test_unread_body_is_never_taken_for_a_request(gateway: Running, upstream: Upstream, issuer: Issuer) -> None:
    """
    A refused body that holds a request is thrown away, whole or with its connection.
    """
    inner = request("GET", "/api/inner", credential=issuer.token("ada"))
    async with calling(gateway) as caller:
        await caller.send(request("POST", "/api/outer", body=inner) + request("GET", "/api/next"))
        answers = [await caller.answer(), await caller.answer()]

    assert [401, 401] == [got.status for got in answers]
    assert [] == upstream.received


async def test_nothing_after_connection_close_is_served(gateway: Running, upstream: Upstream, issuer: Issuer) -> None:
    """
    After a request with Connection: close the connection ends, whatever was sent behind it.
    """
    credential = issuer.token("ada")
    async with calling(gateway) as caller:
        await caller.send(request("GET", "/api/1", credential=credential, fields=("Connection: close",)))
        await asyncio.sleep(0.01)
        caller.writer.write(request("GET", "/api/2", credential=credential))
        got = await caller.answer()
        assert await caller.ended()

    assert ["close"] == got.values("Connection")
    assert ["GET /1 HTTP/1.1"] == [each.request_line for each in upstream.received]


async def test_connections_over_the_limit_are_told_so(
    tmp_path: Path, upstream: Upstream, issuer: Issuer, provider: Provider
) -> None:
    """
    As many connections as routes.yaml allows are served; the next one is told 503, and counted.
    """
    route = {"name": "api", "prefix": "/api", "upstream": upstream.url, "connection": "api"}
    configuration = settings(route, issuers=(issuer,))
    configuration["listeners"]["traffic"]["limits"] = {"connections_per_address": 2}
    async with running(configuration, tmp_path / "data") as gateway:
        async with calling(gateway) as first, calling(gateway) as second:
            for caller in (first, second):
                await caller.send(request("GET", "/api/x"))
                assert 401 == (await caller.answer()).status
            third = await call(gateway, request("GET", "/api/x"))
        metrics = await text_of(gateway, "/metrics")

    assert (503, "too_many_connections", ["5"]) == (third.status, third.code, third.values("Retry-After"))
    assert 'gateway_unread_requests_total{code="too_many_connections",listener="traffic"} 1.0' in metrics


async def test_proxies_are_not_limited_as_one_caller(
    tmp_path: Path, upstream: Upstream, issuer: Issuer, provider: Provider
) -> None:
    """
    Many callers stand behind a trusted proxy: the limit per address is not its; the one in all is.
    """
    route = {"name": "api", "prefix": "/api", "upstream": upstream.url, "connection": "api"}
    configuration = settings(route, issuers=(issuer,))
    configuration["listeners"]["traffic"] |= {
        "limits": {"connections": 3, "connections_per_address": 1},
        "trusted_proxies": ["127.0.0.0/8"],
    }
    async with running(configuration, tmp_path / "data") as gateway, AsyncExitStack() as opened:
        statuses = []
        for _ in range(4):
            caller = await opened.enter_async_context(calling(gateway))
            await caller.send(request("GET", "/api/x"))
            statuses.append((await caller.answer()).status)

    assert [401, 401, 401, 503] == statuses


async def text_of(gateway: Running, path: str) -> str:
    async with gateway.session.get(f"{gateway.gateway.console_url}{path}") as response:
        return await response.text()


async def test_upgrade_is_not_done(gateway: Running, upstream: Upstream, issuer: Issuer) -> None:
    """
    A caller's upgrade is not passed on, and what follows it is not served.
    """
    fields = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: abc")
    async with calling(gateway) as caller:
        await caller.send(
            request("GET", "/api/1", credential=issuer.token("ada"), fields=fields) + b"GET /api/2 HTTP/1.1\r\n"
        )
        got = await caller.answer()
        assert await caller.ended()

    assert 200 == got.status
    assert [] == upstream.received[0].values("Upgrade") + upstream.received[0].values("Connection")
    assert 1 == len(upstream.received)


async def test_upgrade_with_a_body_passes_the_body(gateway: Running, upstream: Upstream, issuer: Issuer) -> None:
    """
    A body beside an Upgrade field is framed and passed like any other.
    """
    got = await call(
        gateway,
        request(
            "POST",
            "/api/1",
            credential=issuer.token("ada"),
            fields=("Connection: Upgrade", "Upgrade: websocket"),
            body=b"hello",
        ),
    )

    assert 200 == got.status
    assert b"hello" == upstream.received[0].body


async def test_caller_that_does_not_read_is_not_served_on(gateway: Running, upstream: Upstream, issuer: Issuer) -> None:
    """
    A caller that sends and never reads stops being served once some of its answers wait.
    """

    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(200, b"x" * 60_000))

    upstream.respond = respond
    data = request("GET", "/api/x", credential=issuer.token("ada")) * 600
    async with calling(gateway) as caller:
        caller.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's transport can
        caller.writer.write(data)
        before = -1
        while before != len(upstream.received):
            before = len(upstream.received)
            await asyncio.sleep(0.5)

    assert 0 < len(upstream.received) < 300


async def test_http_1_0_caller_gets_what_it_can_read(gateway: Running, upstream: Upstream, issuer: Issuer) -> None:
    """
    A caller of HTTP/1.0 gets no chunked coding and no 100 Continue: the end of a stream is the end of the connection.
    """

    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in (b"one", b"two"):
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
            await asyncio.sleep(0.02)
        writer.write(b"0\r\n\r\n")

    upstream.respond = respond
    async with calling(gateway) as caller:
        await caller.send(
            request(
                "POST",
                "/api/x",
                credential=issuer.token("ada"),
                body=b"hi",
                version="1.0",
                fields=("Expect: 100-continue", "Connection: keep-alive"),
            )
        )
        got = await caller.answer()
        assert await caller.ended()

    assert (200, b"onetwo") == (got.status, got.body)
    assert [] == got.values("Transfer-Encoding")
    assert ["close"] == got.values("Connection")


async def test_http_1_0_caller_may_keep_its_connection(gateway: Running, issuer: Issuer) -> None:
    """
    A caller of HTTP/1.0 that asks for it keeps its connection, and is told so.
    """
    data = request("GET", "/api/x", credential=issuer.token("ada"), version="1.0", fields=("Connection: keep-alive",))
    async with calling(gateway) as caller:
        await caller.send(data)
        first = await caller.answer()
        await caller.send(data)
        second = await caller.answer()

    assert (200, 200, ["keep-alive"]) == (first.status, second.status, first.values("Connection"))


async def test_caller_that_goes_away_ends_the_upstreams_call(
    gateway: Running, upstream: Upstream, issuer: Issuer
) -> None:
    """
    When the caller goes away the upstream's connection is closed, and the record says client_aborted.
    """
    closed = asyncio.Event()

    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        await writer.drain()
        try:
            while True:
                await asyncio.sleep(0.02)
                writer.write(b"data: more\n\n")
                await writer.drain()
        except ConnectionError:
            closed.set()
            raise

    upstream.respond = respond
    async with calling(gateway) as caller:
        await caller.send(request("GET", "/api/events", credential=issuer.token("ada")))
        assert b" 200 " in await caller.head()
        caller.reset()
        async with asyncio.timeout(10):
            await closed.wait()

    assert await eventually(lambda: bool(gateway.lines("outcome")))
    outcome = gateway.lines("outcome")[0]
    assert (200, "client_aborted") == (outcome["status"], outcome["error"])


BROKEN_BODIES: dict[str, bytes] = {
    "a size that is no number": b"5\r\nhello\r\nzz\r\nx\r\n0\r\n\r\n",
    "a chunk longer than its size": b"5\r\nhello!!\r\n0\r\n\r\n",
    "a size with a sign": b"5\r\nhello\r\n+1\r\nx\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("case", BROKEN_BODIES)
async def test_body_whose_framing_breaks_is_refused(
    gateway: Running, upstream: Upstream, issuer: Issuer, case: str
) -> None:
    """
    A chunked body that breaks midway is answered with 400 at once, and the upstream never sees its end.
    """
    async with calling(gateway) as caller:
        await caller.send(
            request("POST", "/api/x", credential=issuer.token("ada"), fields=("Transfer-Encoding: chunked",))
        )
        await asyncio.sleep(0.02)
        await caller.send(BROKEN_BODIES[case])
        got = await caller.answer()

    assert (400, "invalid_request") == (got.status, got.code)
    assert [] == upstream.received


async def test_trailers_and_extensions_of_chunks_end_here(gateway: Running, upstream: Upstream, issuer: Issuer) -> None:
    """
    Of a chunked body only its bytes go on: no extension, no trailer field.
    """
    body = b"5;name=value\r\nhello\r\n0\r\nX-Trailer: 1\r\nAuthorization: Bearer evil\r\n\r\n"
    got = await call(
        gateway,
        request("POST", "/api/x", credential=issuer.token("ada"), fields=("Transfer-Encoding: chunked",)) + body,
    )

    assert 200 == got.status
    assert b"hello" == upstream.received[0].body
    assert ["Bearer T1"] == upstream.authorizations


async def test_many_callers_who_go_away_never_mix_answers(
    tmp_path: Path, upstream: Upstream, issuer: Issuer, provider: Provider
) -> None:
    """
    300 requests of 20 users, each cut off at another moment: nobody reads another's answer, and nothing is left behind.
    """

    async def respond(received: Received, writer: asyncio.StreamWriter) -> None:
        token = received.values("Authorization")[0].encode()
        data = answer(200, token * 50)
        for at in range(0, len(data), 300):
            writer.write(data[at : at + 300])
            await writer.drain()
            await asyncio.sleep(0.001)

    upstream.respond = respond
    tasks_before = len(asyncio.all_tasks())
    async with gateway_with(tmp_path, upstream, issuer, provider) as gateway:
        users = [f"user{number:02}" for number in range(20)]
        for user in users:
            await gateway.connect(user, access_token=f"token-of-{user}")
        credentials = {user: issuer.token(user) for user in users}

        async def one(number: int) -> Any:
            user = users[number % 20]
            data = request("GET", f"/api/{number}", credential=credentials[user])
            async with calling(gateway) as caller:
                await caller.send(data)
                if number % 3:
                    await asyncio.sleep((number * 7 % 30) / 1000)
                    caller.reset()
                    return None
                got = await caller.answer()
                return got.status, got.body == f"Bearer token-of-{user}".encode() * 50

        for start in range(0, 300, 50):
            seen = await asyncio.gather(*(one(number) for number in range(start, start + 50)))
            assert {(200, True), None} == set(seen)

        def ids(event: str) -> list[str]:
            return [line["id"] for line in gateway.lines(event)]

        # A caller who goes away before its request leaves has an outcome only.
        assert await eventually(lambda: set(ids("intent")) <= set(ids("outcome")))
        assert len(ids("outcome")) == len(set(ids("outcome")))
    await asyncio.sleep(0.05)
    assert await eventually(lambda: len(asyncio.all_tasks()) <= tasks_before + len(upstream._writers))


async def test_chunked_body_in_pieces_arrives_whole(gateway: Running, upstream: Upstream, issuer: Issuer) -> None:
    """
    A chunked body goes on chunk by chunk and arrives byte for byte.
    """
    pieces = [bytes([65 + number]) * (number * 37 + 1) for number in range(20)]
    async with calling(gateway) as caller:
        await caller.send(
            request("PUT", "/api/x", credential=issuer.token("ada"), fields=("Transfer-Encoding: chunked",))
        )
        for piece in pieces:
            await caller.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            await asyncio.sleep(0)
        await caller.send(b"0\r\n\r\n")
        got = await caller.answer()

    assert 200 == got.status
    assert b"".join(pieces) == upstream.received[0].body
    assert chunked(b"x") == b"1\r\nx\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("target_bytes", "fields_bytes", "expected"),
    [
        (8_000, (), (200, None)),
        (12_000, (), (414, "target_too_long")),
        (20_000, (), (414, "target_too_long")),
        (10, (12_000,), (200, None)),
        (10, (20_000,), (431, "fields_too_large")),
        (10, (12_000, 12_000, 12_000), (431, "fields_too_large")),
    ],
)
async def test_what_is_too_long_is_told_so(
    gateway: Running, issuer: Issuer, target_bytes: int, fields_bytes: tuple[int, ...], expected: tuple[int, str | None]
) -> None:
    """
    A target, a field, or all fields together beyond what the gateway reads have codes of their own.
    """
    target = "/api/" + "a" * (target_bytes - 5)
    fields = tuple(f"X-Long-{number}: {'b' * size}" for number, size in enumerate(fields_bytes))

    answer = await call(gateway, request("GET", target, credential=issuer.token("ada"), fields=fields))

    assert expected == (answer.status, answer.code)


@pytest.mark.parametrize("field", ["X_User: 1", "X-HTTP-Method-Override: DELETE"])
async def test_field_that_is_not_passed_is_named_to_known_callers(
    gateway: Running, upstream: Upstream, issuer: Issuer, field: str
) -> None:
    """
    A field that servers behind may obey is refused, with what kind of field it is; nothing reaches the upstream.
    """
    answer = await call(gateway, request("GET", "/api/x", credential=issuer.token("ada"), fields=(field,)))

    assert (400, "invalid_request") == (answer.status, answer.code)
    assert b"method override" in answer.body
    assert [] == upstream.received
