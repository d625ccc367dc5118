"""What happens to answers that hold the token which was injected into their request."""

from __future__ import annotations

import asyncio
import base64
import gzip
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from gateway.proxy.echo import MAX_LOOKED_INTO_BYTES
from gateway.proxy.passage import SMALL_BYTES
from tests.proxy.wire import call, calling, eventually, gateway_with, request, respond_with
from tests.world import Issuer, Provider, Received, Respond, Running, Upstream, answer

TOKEN = "ya29.a0Ac~d/e+f?g=="
SPELLED: dict[str, str] = {
    "as it is": TOKEN,
    "in base64": base64.b64encode(f"user:{TOKEN}".encode()).decode(),
    "percent-encoded": quote(TOKEN, safe=""),
}
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


@asynccontextmanager
async def guarded(tmp_path: Path, upstream: Upstream, issuer: Issuer, mode: str) -> AsyncIterator[Running]:
    """Run a gateway whose route has the echo guard *mode*; "ada" is connected with TOKEN."""
    async with gateway_with(tmp_path, upstream, issuer, None, echo_guard=mode) as gateway:
        await gateway.connect("ada", access_token=TOKEN)
        yield gateway


def ask(issuer: Issuer, *fields: str, method: str = "GET") -> bytes:
    """Return ada's request."""
    return request(method, "/api/x", credential=issuer.token("ada"), fields=fields)


async def outcome(gateway: Running) -> tuple[list[str], str | None]:
    """Return what the only outcome says of an echo, and its error."""
    assert await eventually(lambda: bool(gateway.lines("outcome")))
    line = gateway.lines("outcome")[0]
    return line["echo"], line["error"]


# --- fields ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", SPELLED)
@pytest.mark.parametrize("mode", ["off", "record", "cut"])
async def test_token_in_fields_is_replaced(
    tmp_path: Path, upstream: Upstream, issuer: Issuer, mode: str, spelling: str
) -> None:
    """
    Whatever the route says of bodies, a token in a field, a redirect or a challenge is replaced, and recorded.
    """
    echoed = SPELLED[spelling]
    fields = f'X-Debug: got {echoed}!\r\nLocation: /next?token={echoed}\r\nWWW-Authenticate: Basic realm="{echoed}"\r\n'
    upstream.respond = respond_with(answer(302, b"{}", fields).replace(b"Whatever", echoed.encode()))
    async with guarded(tmp_path, upstream, issuer, mode) as gateway:
        got = await call(gateway, ask(issuer))
        assert (["field"], None) == await outcome(gateway)

    assert (302, b"{}") == (got.status, got.body)
    assert [] == [each for each in SPELLED.values() if each.encode() in got.head]
    assert "REDACTED" in got.values("X-Debug")[0]
    assert got.values("Location")[0].startswith("http://gateway.test/api/next?token=")


# --- bodies ------------------------------------------------------------------------------------------------------


async def test_guard_that_is_off_lets_bodies_be(tmp_path: Path, upstream: Upstream, issuer: Issuer) -> None:
    """
    Off: the body passes, and nothing is said.
    """
    upstream.respond = respond_with(answer(200, TOKEN.encode()))
    async with guarded(tmp_path, upstream, issuer, "off") as gateway:
        got = await call(gateway, ask(issuer))
        assert ([], None) == await outcome(gateway)

    assert TOKEN.encode() == got.body


Body = Callable[[bytes], bytes]
RECORDED: dict[str, tuple[Body, str, list[str]]] = {
    # case: (the body with this in it, further fields, what the outcome says)
    "a short one": (lambda it: b'{"token": "' + it + b'"}', "", ["body"]),
    "a longer one": (lambda it: b" " * (SMALL_BYTES - 5) + it, "", ["body"]),
    "at the end of what is looked into": (lambda it: b" " * (MAX_LOOKED_INTO_BYTES - len(it)) + it, "", ["body"]),
    "one byte later": (lambda it: b" " * (MAX_LOOKED_INTO_BYTES - len(it) + 1) + it, "", ["unread"]),
    "in gzip": (gzip.compress, "Content-Encoding: GZIP\r\n", ["body"]),
    "in brotli": (lambda it: b"\x8b" + it[::-1], "Content-Encoding: br\r\n", ["unread"]),
    "in no coding, by name": (bytes, "Content-Encoding: identity\r\n", ["body"]),
    "not there": (lambda it: it[1:], "", []),
}


@pytest.mark.parametrize("case", RECORDED)
async def test_recorded_body_passes_unchanged(tmp_path: Path, upstream: Upstream, issuer: Issuer, case: str) -> None:
    """
    Record, the default: the caller gets what came; the outcome says where the token was, or that it was not looked for.
    """
    make, fields, said = RECORDED[case]
    body = make(TOKEN.encode())
    upstream.respond = respond_with(answer(200, body, fields))
    async with gateway_with(tmp_path, upstream, issuer, None) as gateway:
        await gateway.connect("ada", access_token=TOKEN)
        got = await call(gateway, ask(issuer))
        assert (said, None) == await outcome(gateway)

    assert (200, True) == (got.status, got.is_whole)
    assert body == got.body


async def test_recorded_stream_passes_at_its_pace(tmp_path: Path, upstream: Upstream, issuer: Issuer) -> None:
    """
    A token in two halves of a stream is recorded, and the first half does not wait for the second.
    """
    go_on = asyncio.Event()
    upstream.respond = in_pieces(TOKEN[:10].encode(), TOKEN[10:].encode(), go_on=go_on)
    async with guarded(tmp_path, upstream, issuer, "record") as gateway, calling(gateway) as caller:
        await caller.send(ask(issuer))
        await caller.head()
        assert TOKEN[:10].encode() in await asyncio.wait_for(caller.reader.readuntil(TOKEN[:10].encode()), 5)
        go_on.set()
        await asyncio.wait_for(caller.reader.readuntil(b"\r\n0\r\n\r\n"), 5)
        assert (["body"], None) == await outcome(gateway)


@pytest.mark.parametrize("spelling", SPELLED)
async def test_cut_refuses_what_has_not_begun(
    tmp_path: Path, upstream: Upstream, issuer: Issuer, spelling: str
) -> None:
    """
    Cut: an answer that is here with its token is refused, and the caller's connection goes on.
    """
    upstream.respond = respond_with(answer(200, b'{"token": "' + SPELLED[spelling].encode() + b'"}'))
    async with guarded(tmp_path, upstream, issuer, "cut") as gateway, calling(gateway) as caller:
        await caller.send(ask(issuer))
        got = await caller.answer()
        assert (["cut"], "token_echoed") == await outcome(gateway)
        upstream.respond = respond_with(answer(200, b"{}"))
        await caller.send(ask(issuer))
        assert b"{}" == (await caller.answer()).body

    assert (502, "token_echoed") == (got.status, got.code)
    assert SPELLED[spelling].encode() not in got.head + got.body


LATE: dict[str, tuple[bytes, bytes]] = {
    "a whole token": (b"data: 1\n\n", b"data: " + TOKEN.encode()),
    "the end of one": (b"data: " + TOKEN[:-1].encode(), TOKEN[-1:].encode()),
    "the most of one": (b"data: " + TOKEN[:5].encode(), TOKEN[5:].encode()),
    "far behind": (b" " * 1_000_000, b" " * 1_000_000 + TOKEN.encode() + b" " * 1_000_000),
}


@pytest.mark.parametrize("case", LATE)
async def test_cut_stream_never_shows_a_token(tmp_path: Path, upstream: Upstream, issuer: Issuer, case: str) -> None:
    """
    Cut: a stream with the token, in one piece or in two, is reset before the token's last byte leaves.
    """
    first, second = LATE[case]
    upstream.respond = in_pieces(first, second)
    async with guarded(tmp_path, upstream, issuer, "cut") as gateway:
        got = await call(gateway, ask(issuer))
        assert (["cut"], "token_echoed") == await outcome(gateway)

    assert (200, False) == (got.status, got.is_whole)
    assert TOKEN.encode() not in got.body
    # Of two pieces the beginning of a token is held back, or was too short to be one.
    assert TOKEN[:8].encode() not in got.body


@pytest.mark.parametrize("framing", ["chunked", "a length", "the end of the connection"])
async def test_cut_lets_what_only_begins_like_a_token_pass(
    tmp_path: Path, upstream: Upstream, issuer: Issuer, framing: str
) -> None:
    """
    Cut: a body that ends with the beginning of a token arrives whole, however it is framed.
    """
    pieces = (b"one " + TOKEN[:12].encode(), b", two " + TOKEN[:-1].encode())
    body = b"".join(pieces)
    upstream.respond = in_pieces(*pieces, framing=framing)
    async with guarded(tmp_path, upstream, issuer, "cut") as gateway:
        got = await call(gateway, ask(issuer))
        assert ([], None) == await outcome(gateway)
        assert len(body) == gateway.lines("outcome")[0]["bytes_sent"]

    assert (body, True) == (got.body, got.is_whole)


async def test_cut_lets_events_pass_at_once(tmp_path: Path, upstream: Upstream, issuer: Issuer) -> None:
    """
    Cut: an event that ends in a line break does not wait for the next one, though it has the most of a token.
    """
    go_on = asyncio.Event()
    event = b"data: " + TOKEN[:-1].encode() + b"\n\n"
    upstream.respond = in_pieces(event, b"data: 2\n\n", go_on=go_on)
    async with guarded(tmp_path, upstream, issuer, "cut") as gateway, calling(gateway) as caller:
        await caller.send(ask(issuer))
        await caller.head()
        assert event in await asyncio.wait_for(caller.reader.readuntil(b"\n\n"), 5)
        go_on.set()
        await asyncio.wait_for(caller.reader.readuntil(b"\r\n0\r\n\r\n"), 5)


@pytest.mark.parametrize("shown", [0, 1])
async def test_cut_knows_both_tokens_of_a_call(
    tmp_path: Path, upstream: Upstream, provider: Provider, issuer: Issuer, shown: int
) -> None:
    """
    After a rejection the answer may show the token that was sent first or the second: neither reaches the caller.
    """
    sent: list[str] = []

    async def respond(received: Received, writer: asyncio.StreamWriter) -> None:
        sent.append(received.values("Authorization")[0].removeprefix("Bearer "))
        status, token = (401, "") if len(sent) == 1 else (200, sent[shown])
        writer.write(answer(status, b'{"token":"%b"}' % token.encode()))

    upstream.respond = respond
    async with gateway_with(tmp_path, upstream, issuer, provider, echo_guard="cut") as gateway:
        await gateway.connect("ada", access_token=TOKEN, refresh_token=provider.issue())
        got = await call(gateway, ask(issuer))

    assert 2 == len(set(sent))
    assert (502, "token_echoed") == (got.status, got.code)


async def test_cut_asks_for_plain_answers(tmp_path: Path, upstream: Upstream, issuer: Issuer) -> None:
    """
    Cut: the upstream is asked for no coding; an answer in one is refused, a HEAD's is not, having no body.
    """
    upstream.respond = respond_with(answer(200, gzip.compress(b"{}"), "Content-Encoding: gzip\r\n"))
    async with guarded(tmp_path, upstream, issuer, "cut") as gateway:
        got = await call(gateway, ask(issuer, "Accept-Encoding: gzip, br"))
        assert (["unread"], "answer_encoded") == await outcome(gateway)
        upstream.respond = respond_with(answer(200, b"", "Content-Encoding: gzip\r\n"))
        head = await call(gateway, ask(issuer, method="HEAD"), "HEAD")

    assert (502, "answer_encoded") == (got.status, got.code)
    assert ["identity"] * 2 == [value for each in upstream.received for value in each.values("Accept-Encoding")]
    assert 200 == head.status


async def test_other_modes_leave_the_coding_to_the_caller(gateway: Running, upstream: Upstream, issuer: Issuer) -> None:
    """
    A route that does not cut passes Accept-Encoding on, and adds none.
    """
    await call(gateway, ask(issuer, "Accept-Encoding: br"))
    await call(gateway, ask(issuer))

    assert [["br"], []] == [each.values("Accept-Encoding") for each in upstream.received]


async def test_echoes_are_counted(tmp_path: Path, upstream: Upstream, issuer: Issuer) -> None:
    """
    /metrics tells by route where tokens were.
    """
    upstream.respond = respond_with(answer(200, TOKEN.encode(), f"X-Debug: {TOKEN}\r\n"))
    async with guarded(tmp_path, upstream, issuer, "record") as gateway:
        await call(gateway, ask(issuer))
        assert (["field", "body"], None) == await outcome(gateway)
        async with gateway.session.get(f"{gateway.gateway.console_url}/metrics") as response:
            metrics = await response.text()

    assert 'gateway_token_echoes_total{route="api",where="field"} 1.0' in metrics
    assert 'gateway_token_echoes_total{route="api",where="body"} 1.0' in metrics
    assert TOKEN not in metrics


async def test_scopes_that_hold_the_token_are_not_told(tmp_path: Path, upstream: Upstream, issuer: Issuer) -> None:
    """
    A challenge that names the token as a missing scope does not have it told in the refusal, nor kept for a link.
    """
    challenge = f'WWW-Authenticate: Bearer error="insufficient_scope", scope="read {TOKEN.replace("=", "")}"\r\n'
    upstream.respond = respond_with(answer(403, b"{}", challenge))
    async with gateway_with(tmp_path, upstream, issuer, None) as gateway:
        await gateway.connect("ada", access_token=TOKEN.replace("=", ""))
        got = await call(gateway, ask(issuer))
        assert (["field"], "connection_scope_missing") == await outcome(gateway)

    assert TOKEN[:12].encode() not in got.head + got.body
    assert b'"missing_scopes":["read"]' in got.body


def in_pieces(*pieces: bytes, go_on: asyncio.Event | None = None, framing: str = "chunked") -> Respond:
    """Return what answers with *pieces*, each on its own, after the first of which *go_on* is waited for."""

    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        length = b"Content-Length: %d\r\n" % sum(map(len, pieces)) if framing == "a length" else b""
        writer.write(CHUNKED if framing == "chunked" else b"HTTP/1.1 200 OK\r\n%b\r\n" % length)
        for piece in pieces:
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if framing == "chunked" else piece)
            await writer.drain()
            if go_on is None:
                await asyncio.sleep(0.05)
            else:
                await go_on.wait()
        if framing == "chunked":
            writer.write(b"0\r\n\r\n")
        elif framing != "a length":
            writer.close()

    return respond
