"""Sending once: framing, what is repeated and what never is, Expect, and bodies on their way."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.proxy.wire import call, calling, chunked, eventually, gateway_with, request, respond_with
from tests.world import Issuer, Provider, Received, Running, Upstream, answer

BIG = bytes(range(256)) * 8192  # 2 MiB: above the default replay limit


async def test_head_is_written_anew(gateway: Running, upstream: Upstream, issuer: Issuer) -> None:
    """
    The upstream sees its own Host, our Via last, one token, one framing, and the caller's trace with another parent.
    """
    trace = "0af7651916cd43dd8448eb211c80319c"
    fields = (f"traceparent: 00-{trace}-b7ad6b7169203331-01", "X-Mine: 1", "Via: 1.1 before")
    got = await call(
        gateway, request("POST", "/api/x?y=%2F", credential=issuer.token("ada"), fields=fields, body=b"hi")
    )

    received = upstream.received[0]
    assert "POST /x?y=%2F HTTP/1.1" == received.request_line
    assert [f"127.0.0.1:{upstream.port}"] == received.values("Host")
    installation = (gateway.data / "instance-id").read_text().strip()
    assert ["1.1 before", f"1.1 connection-gateway-{installation}"] == received.values("Via")
    assert (["Bearer T1"], ["2"], ["1"]) == (
        received.values("Authorization"),
        received.values("Content-Length"),
        received.values("X-Mine"),
    )
    assert [] == received.values("Expect") + received.values("Connection") + received.values("Transfer-Encoding")
    sent = received.values("traceparent")[0].split("-")
    assert (trace, True) == (sent[1], sent[2] != "b7ad6b7169203331")
    assert trace in got.values("traceparent")[0]


async def test_via_names_the_version_that_was_received(gateway: Running, upstream: Upstream, issuer: Issuer) -> None:
    """
    A request of HTTP/1.0 leaves as HTTP/1.1, and Via tells what it was.
    """
    await call(gateway, request("GET", "/api/x", credential=issuer.token("ada"), version="1.0"))

    (received,) = upstream.received
    assert received.request_line.endswith("HTTP/1.1")
    assert received.values("Via")[0].startswith("1.0 connection-gateway-")


async def test_empty_post_says_that_it_is_empty(gateway: Running, upstream: Upstream, issuer: Issuer) -> None:
    """
    A caller's Content-Length of 0 is told to the upstream; a GET without one gets none.
    """
    credential = issuer.token("ada")
    await call(gateway, request("POST", "/api/x", credential=credential, fields=("Content-Length: 0",)))
    await call(gateway, request("GET", "/api/x", credential=credential))

    assert [["0"], []] == [each.values("Content-Length") for each in upstream.received]


async def test_basic_injection_and_own_credential_field(
    tmp_path: Path, upstream: Upstream, provider: Provider, issuer: Issuer
) -> None:
    """
    A route may take the caller's credential from a field of its own, and inject the token as HTTP Basic.
    """
    route = {"credential": {"header": "X-Caller"}, "inject": {"basic": "user:{token}"}}
    async with gateway_with(tmp_path, upstream, issuer, provider, **route) as gateway:
        got = await call(gateway, request("GET", "/api/x", fields=(f"X-Caller: {issuer.token('ada')}",)))

    assert 200 == got.status
    assert ["Basic dXNlcjpUMQ=="] == upstream.authorizations
    assert [] == upstream.received[0].values("X-Caller")


async def test_caller_cannot_have_the_token_removed(gateway: Running, upstream: Upstream, issuer: Issuer) -> None:
    """
    Connection: Authorization takes away the caller's field, never the injected one.
    """
    fields = ("Connection: close, Authorization, Host2",)
    got = await call(gateway, request("GET", "/api/x", credential=issuer.token("ada"), fields=fields))

    assert (200, ["Bearer T1"]) == (got.status, upstream.authorizations)


# --- bodies and the second send ------------------------------------------------------------------------------------

SMALL = {
    "with a length": request("POST", "/api/x", body=b"{}" * 5000)[-10_000:],
    "binary": bytes(range(256)) * 100,
}


@pytest.mark.parametrize("case", SMALL)
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_small_body_is_sent_again_byte_for_byte(
    gateway: Running, upstream: Upstream, provider: Provider, issuer: Issuer, case: str, framing: str
) -> None:
    """
    After a rejected token the whole body is sent again, the same bytes, whatever its framing.
    """
    upstream.live = set()
    provider.on_exchange = upstream.live.add
    body = SMALL[case]
    fields = ("Transfer-Encoding: chunked",) if framing == "chunked" else ()
    data = chunked(body[:1000], body[1000:]) if fields else body
    got = await call(gateway, request("POST", "/api/x", credential=issuer.token("ada"), fields=fields, body=data))

    assert 200 == got.status
    assert [body, body] == [each.body for each in upstream.received]
    assert 2 == len(set(upstream.authorizations))


async def test_large_body_is_not_spent_on_an_early_401(
    gateway: Running, upstream: Upstream, provider: Provider, issuer: Issuer
) -> None:
    """
    A body above the replay limit goes out with Expect; after an early 401 the body is sent once, on another
    connection: the one that was answered early still waits for a body.
    """
    upstream.live = set()
    provider.on_exchange = upstream.live.add
    heads: list[bytes] = []

    async def early(head: bytes, writer: asyncio.StreamWriter) -> bool:
        heads.append(head)
        token = head.split(b"Bearer ")[1].split(b"\r\n")[0].decode()
        if token in (upstream.live or ()):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return False
        writer.write(answer(401, b"{}"))  # and keeps the connection open
        await writer.drain()
        await asyncio.sleep(3)
        return True

    upstream.early = early
    got = await call(gateway, request("POST", "/api/x", credential=issuer.token("ada"), body=BIG))

    assert 200 == got.status
    assert [b"100-continue"] * 2 == [
        line.split(b": ")[1] for head in heads for line in head.split(b"\r\n") if line.startswith(b"Expect")
    ]
    assert [BIG] == [each.body for each in upstream.received]
    assert 2 == upstream.connections


async def test_large_body_reaches_an_upstream_that_ignores_expect(
    gateway: Running, upstream: Upstream, issuer: Issuer
) -> None:
    """
    An upstream that never says 100 Continue gets the body after a bounded wait.
    """
    got = await call(gateway, request("POST", "/api/x", credential=issuer.token("ada"), body=BIG))

    assert 200 == got.status
    assert [BIG] == [each.body for each in upstream.received]


async def test_spent_large_body_lets_the_401_through(
    gateway: Running, upstream: Upstream, provider: Provider, issuer: Issuer
) -> None:
    """
    A large body that was spent lets the 401 through, with a reason in Proxy-Status; the next call has the new token.
    """
    upstream.live = set()
    provider.on_exchange = upstream.live.add
    data = request("POST", "/api/x", credential=issuer.token("ada"), body=BIG)
    first = await call(gateway, data)
    second = await call(gateway, data)

    assert (401, 200) == (first.status, second.status)
    assert "could not be sent again" in first.values("Proxy-Status")[0]
    assert 2 == len(upstream.received)


async def test_body_larger_than_the_route_allows_is_refused(
    tmp_path: Path, upstream: Upstream, provider: Provider, issuer: Issuer
) -> None:
    """
    413 comes by Content-Length before anything leaves, and while streaming where no length was said.
    """
    async with gateway_with(tmp_path, upstream, issuer, provider, limits={"max_body_bytes": 1000}) as gateway:
        credential = issuer.token("ada")
        announced = await call(gateway, request("POST", "/api/x", credential=credential, body=b"x" * 1001))
        before = upstream.connections
        fields = ("Transfer-Encoding: chunked",)
        async with calling(gateway) as caller:
            await caller.send(request("POST", "/api/x", credential=credential, fields=fields))
            for _ in range(3):
                await caller.send(b"1f4\r\n" + b"x" * 500 + b"\r\n")
                await asyncio.sleep(0.02)
            streamed = await caller.answer()
        fits = await call(gateway, request("POST", "/api/x", credential=credential, body=b"x" * 1000))

    assert (413, "body_too_large", 0) == (announced.status, announced.code, before)
    assert (413, "body_too_large") == (streamed.status, streamed.code)
    assert 200 == fits.status
    assert [b"x" * 1000] == [each.body for each in upstream.received]


async def test_expect_is_answered_only_for_those_who_may_send(
    gateway: Running, upstream: Upstream, issuer: Issuer
) -> None:
    """
    100 Continue comes after the caller is known and allowed; a stranger gets 401 instead of it.
    """
    fields = ("Expect: 100-continue", "Content-Length: 5")
    async with calling(gateway) as caller:
        await caller.send(request("POST", "/api/x", fields=fields))
        stranger = await caller.answer()
    async with calling(gateway) as caller:
        await caller.send(request("POST", "/api/x", credential=issuer.token("ada"), fields=fields))
        invitation = await caller.head()
        await caller.send(b"hello")
        got = await caller.answer()

    assert (401, b"HTTP/1.1 100 Continue", 200) == (stranger.status, invitation, got.status)
    assert [b"hello"] == [each.body for each in upstream.received]


async def test_caller_that_stops_sending_is_told_408(
    tmp_path: Path, upstream: Upstream, provider: Provider, issuer: Issuer
) -> None:
    """
    When the rest of a body does not come in time, that is the caller's fault: 408, not 504.
    """
    timeouts = {"response_seconds": 1}
    async with (
        gateway_with(tmp_path, upstream, issuer, provider, timeouts=timeouts) as gateway,
        calling(gateway) as caller,
    ):
        await caller.send(request("POST", "/api/x", credential=issuer.token("ada"), fields=("Content-Length: 9",)))
        await caller.send(b"half")
        got = await caller.answer()

    assert (408, "request_timeout") == (got.status, got.code)


async def test_caller_that_dribbles_is_told_408(
    tmp_path: Path, upstream: Upstream, provider: Provider, issuer: Issuer
) -> None:
    """
    A body of which a byte comes now and then, each within the response time, is not waited for without end.
    """
    timeouts = {"response_seconds": 1}
    async with (
        gateway_with(tmp_path, upstream, issuer, provider, timeouts=timeouts) as gateway,
        calling(gateway) as caller,
    ):
        await caller.send(request("POST", "/api/x", credential=issuer.token("ada"), fields=("Content-Length: 99",)))
        answering = asyncio.create_task(caller.answer())
        sent = 0
        while not answering.done() and sent < 90:
            await caller.send(b"x")
            sent += 1
            await asyncio.sleep(0.2)
        got = await answering

    assert (408, "request_timeout") == (got.status, got.code)
    assert sent < 25


async def test_early_answer_to_an_upload_is_seen_at_once(gateway: Running, upstream: Upstream, issuer: Issuer) -> None:
    """
    An upstream may answer before it has the whole body: the caller sees it, and the connection is not used again.
    """

    async def early(head: bytes, writer: asyncio.StreamWriter) -> bool:
        if b"POST" not in head.split(b" ", 1)[0]:
            return False
        writer.write(answer(403, b"{}"))
        await writer.drain()
        await asyncio.sleep(1)
        return True

    upstream.early = early
    credential = issuer.token("ada")
    async with calling(gateway) as caller:
        await caller.send(request("POST", "/api/x", credential=credential, fields=("Content-Length: 500000",)))
        await caller.send(b"x" * 1000)
        got = await caller.answer()
    after = await call(gateway, request("GET", "/api/x", credential=credential))

    assert (403, 200) == (got.status, after.status)
    assert 2 == upstream.connections


EXPECTED = {
    "a body that is not kept": ({"replay_bytes": 10}, ("Expect: 100-continue", "Content-Length: 400")),
    "a body of unknown length": ({}, ("Expect: 100-continue", "Transfer-Encoding: chunked")),
}


@pytest.mark.parametrize("case", EXPECTED)
async def test_answer_before_an_expected_body_is_the_last(
    tmp_path: Path, upstream: Upstream, provider: Provider, issuer: Issuer, case: str
) -> None:
    """
    A caller that waits for 100 and gets an answer may send its body or not: the connection is closed, so that nobody
    takes what comes next for a body, or for a request.
    """

    async def early(head: bytes, writer: asyncio.StreamWriter) -> bool:
        if b"POST" not in head:
            return False
        writer.write(answer(403, b"{}"))
        await writer.drain()
        return True

    upstream.early = early
    limits, fields = EXPECTED[case]
    credential = issuer.token("ada")
    async with (
        gateway_with(tmp_path, upstream, issuer, provider, limits=limits) as gateway,
        calling(gateway) as caller,
    ):
        await caller.send(request("POST", "/api/x", credential=credential, fields=fields))
        head = await caller.head()
        await caller.send(request("GET", "/api/next", credential=credential))
        assert await caller.ended()

    assert head.startswith(b"HTTP/1.1 403 ")
    assert b"Connection: close" in head
    assert not [each for each in upstream.received if "/next" in each.request_line]


@pytest.mark.parametrize("chunks", [False, True])
async def test_upstream_that_takes_no_expect_gets_the_body_without_it(
    tmp_path: Path, upstream: Upstream, provider: Provider, issuer: Issuer, *, chunks: bool
) -> None:
    """
    The Expect of a large body is the gateway's own: an upstream's 417 is for the gateway, which sends once more.
    """

    async def early(head: bytes, writer: asyncio.StreamWriter) -> bool:
        if b"Expect" in head:
            writer.write(answer(417, b"{}"))
            await writer.drain()
            return True
        return False

    upstream.early = early
    body = b"x" * 3000
    fields = ("Transfer-Encoding: chunked",) if chunks else ()
    async with gateway_with(tmp_path, upstream, issuer, provider, limits={"replay_bytes": 1000}) as gateway:
        sent = chunked(body) if chunks else body
        got = await call(gateway, request("POST", "/api/x", credential=issuer.token("ada"), body=sent, fields=fields))
        attempts = gateway.lines("attempt")

    assert (200, [body]) == (got.status, [each.body for each in upstream.received])
    assert ["expectation_failed"] == [line["reason"] for line in attempts]


# --- what is repeated by itself --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "status"), [("GET", 200), ("HEAD", 200), ("POST", 502), ("DELETE", 502), ("PUT", 502)]
)
async def test_stale_connection_costs_a_repetition_only_for_safe_methods(
    gateway: Running, upstream: Upstream, issuer: Issuer, method: str, status: int
) -> None:
    """
    A kept connection that is lost before an answer: GET and HEAD are repeated, everything else is told, never repeated.
    """
    credential = issuer.token("ada")
    await call(gateway, request("GET", "/api/warm", credential=credential))
    seen = len(upstream.received)
    hung_up: list[Received] = []

    async def hang_up_once(received: Received, writer: asyncio.StreamWriter) -> None:
        if hung_up:
            writer.write(answer(200, b"" if method == "HEAD" else b"{}"))
            return
        hung_up.append(received)
        writer.transport.abort()

    upstream.respond = hang_up_once
    fields = ("Content-Length: 0",) if method in ("POST", "PUT") else ()
    got = await call(gateway, request(method, "/api/x", credential=credential, fields=fields), method)

    assert status == got.status
    assert (2 if status == 200 else 1) == len(upstream.received) - seen


async def test_repetition_happens_once(gateway: Running, upstream: Upstream, issuer: Issuer) -> None:
    """
    An upstream that hangs up on every connection gets a GET twice, however many connections were kept.
    """
    credential = issuer.token("ada")
    data = request("GET", "/api/x", credential=credential)
    go = asyncio.Event()

    async def hold(received: Received, writer: asyncio.StreamWriter) -> None:
        await go.wait()
        await upstream._respond(received, writer)

    upstream.respond = hold
    warm = [asyncio.create_task(call(gateway, data)) for _ in range(8)]
    assert await eventually(lambda: 8 == len(upstream.received))
    go.set()
    await asyncio.gather(*warm)

    async def hang_up(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    upstream.respond = hang_up
    got = await call(gateway, data)

    assert (502, "upstream_unreachable", 10) == (got.status, got.code, len(upstream.received))


async def test_begun_answer_is_not_asked_for_again(gateway: Running, upstream: Upstream, issuer: Issuer) -> None:
    """
    A kept connection that is lost after the first bytes of an answer is no stale one: nothing is repeated.
    """
    data = request("GET", "/api/x", credential=issuer.token("ada"))
    await call(gateway, data)
    upstream.respond = respond_with(b"HTTP/1.1 200 OK\r\nX-Ha", close=True)
    got = await call(gateway, data)

    assert (502, 2) == (got.status, len(upstream.received))
