"""How an API says that it does not take a token, beside a 401; and what follows from it."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.models import Rejected
from gateway.net.whole_body import WholeBody
from gateway.proxy.answer_head import Answer, read_head
from gateway.proxy.rejection import MAX_BODY_BYTES, rejects_token
from tests.proxy.wire import call, calling, eventually, request, respond_with
from tests.world import Issuer, Provider, Received, Running, Upstream, answer, running, settings

EXPIRED = b'{"ok":false,"error":"token_expired"}'
RULES = (
    Rejected(200, "/error", ("token_expired", "invalid_auth")),
    Rejected(403, "/errors/0/a~1b~0c", ("dead",)),
    Rejected(498),
)
JSON = (b"Content-Type", b"application/json; charset=utf-8")
PADDING = b'"x":"' + b"x" * MAX_BODY_BYTES + b'",'

SAID: dict[str, tuple[int, bytes, tuple[tuple[bytes, bytes], ...], bool]] = {
    # case: (status, body, fields, whether it rejects the token)
    "the word": (200, EXPIRED, (JSON,), True),
    "the other word": (200, b'{"error":"invalid_auth"}', (JSON,), True),
    "another word": (200, b'{"error":"ratelimited"}', (JSON,), False),
    "no word": (200, b'{"ok":true}', (JSON,), False),
    "the word elsewhere": (200, b'{"message":{"error":"token_expired"}}', (JSON,), False),
    "a list instead of a word": (200, b'{"error":["token_expired"]}', (JSON,), False),
    "a list as a whole": (200, b'["token_expired"]', (JSON,), False),
    "a number as a whole": (200, b"1", (JSON,), False),
    "another status": (201, EXPIRED, (JSON,), False),
    "a path with a list and escapes": (403, b'{"errors":[{"a/b~c":"dead"}]}', (JSON,), True),
    "a path into an empty list": (403, b'{"errors":[]}', (JSON,), False),
    "the status alone": (498, b"whatever", (), True),
    "no JSON": (200, b"token_expired", (JSON,), False),
    "nothing": (200, b"", (JSON,), False),
    "another type": (200, EXPIRED, ((b"Content-Type", b"text/plain"),), False),
    "no type": (200, EXPIRED, (), False),
    "a type of its own with JSON in it": (200, EXPIRED, ((b"content-type", b"application/problem+JSON"),), True),
    "in gzip": (200, gzip.compress(EXPIRED), (JSON, (b"Content-Encoding", b"gzip")), True),
    "gzip that is none": (200, EXPIRED, (JSON, (b"Content-Encoding", b"gzip")), False),
    "gzip that is cut": (200, gzip.compress(EXPIRED)[:-9], (JSON, (b"Content-Encoding", b"gzip")), False),
    "gzip that grows": (
        200,
        gzip.compress(b"{" + PADDING * 100 + EXPIRED[1:]),
        (JSON, (b"Content-Encoding", b"gzip")),
        False,
    ),
    "in another coding": (200, EXPIRED, (JSON, (b"Content-Encoding", b"br")), False),
    "larger than is looked at": (200, b"{" + PADDING + EXPIRED[1:], (JSON,), False),
}


def answer_with(status: int, fields: tuple[tuple[bytes, bytes], ...], body: bytes) -> Answer:
    lines = (b"HTTP/1.1 %d " % status, *map(b": ".join, fields), b"Content-Length: %d" % len(body))
    answer = read_head(b"\r\n".join(lines))
    answer.body = WholeBody(body)
    return answer


@pytest.mark.parametrize("case", SAID)
async def test_answer_rejects_a_token_as_the_catalogue_says(case: str) -> None:
    """
    Status, type and the word at its place decide; whatever they say, the body is passed on as it came.
    """
    status, body, fields, rejects = SAID[case]
    answered = answer_with(status, fields, body)

    assert rejects == await rejects_token(answered, RULES)
    assert body == await answered.body.readany()


async def test_nothing_is_read_where_no_rule_fits() -> None:
    """
    Without rules, or with rules for other statuses, an answer passes untouched.
    """
    answered = answer_with(200, (JSON,), EXPIRED)
    body = answered.body

    assert not await rejects_token(answered, ())
    assert not await rejects_token(answered, RULES[1:])
    assert body is answered.body
    assert EXPIRED == await body.readany()


@pytest.fixture
async def slack(tmp_path: Path, upstream: Upstream, provider: Provider, issuer: Issuer) -> AsyncIterator[Running]:
    """A gateway with a connection made from the catalogue's Slack, on loopback; "ada" is connected with T1."""
    connection = {
        "id": "api",
        "template": "slack",
        "client_id": "client",
        "client_secret": "s3cret",
        "token_url": f"{provider.url}/token",
        "origins": [upstream.url],
    }
    route = {"name": "api", "prefix": "/api", "upstream": upstream.url, "connection": "api"}
    configuration = settings(route, issuers=(issuer,), connections=[connection])
    async with running(configuration, tmp_path / "data") as gateway:
        await gateway.connect("ada", access_token="T1", refresh_token=provider.issue())
        yield gateway


def like_slack(upstream: Upstream, *, packets: int = 1) -> None:
    """Let *upstream* answer as Slack does: 200, whether it takes the token or not; in so many packets."""

    async def respond(received: Received, writer: asyncio.StreamWriter) -> None:
        token = received.values("Authorization")[0].removeprefix("Bearer ")
        is_live = upstream.live is None or token in upstream.live
        data = answer(200, b'{"ok":true}' if is_live else EXPIRED)
        for part in range(packets):
            writer.write(data[part * len(data) // packets : (part + 1) * len(data) // packets])
            await writer.drain()
            await asyncio.sleep(0.02)

    upstream.respond = respond


@pytest.mark.parametrize("packets", [1, 7])
async def test_expired_token_of_slack_is_refreshed_once(
    slack: Running, upstream: Upstream, provider: Provider, issuer: Issuer, packets: int
) -> None:
    """
    200 with `token_expired` leads to one refresh and one more send, and so says the record.
    """
    like_slack(upstream, packets=packets)
    upstream.live = set()
    provider.on_exchange = upstream.live.add
    data = request("POST", "/api/chat.postMessage", credential=issuer.token("ada"), body=b"text=hi")
    got = await call(slack, data)

    assert (200, b'{"ok":true}') == (got.status, got.body)
    assert (1, 2) == (provider.exchanges, len(upstream.received))
    assert [b"text=hi"] * 2 == [received.body for received in upstream.received]
    assert "was replaced, the request was sent again" in got.values("Proxy-Status")[0]
    assert [("token_rejected", 200)] == [(line["reason"], line["status"]) for line in slack.lines("attempt")]


async def test_token_that_slack_never_takes_causes_one_exchange(
    slack: Running, upstream: Upstream, provider: Provider, issuer: Issuer
) -> None:
    """
    The second answer passes through, and the route is not refreshed for again within the minute.
    """
    like_slack(upstream)
    upstream.live = set()
    data = request("GET", "/api/auth.test", credential=issuer.token("ada"))
    bodies = [(await call(slack, data)).body for _ in range(4)]

    assert ([EXPIRED] * 4, 1) == (bodies, provider.exchanges)
    assert 5 == len(upstream.received)


async def test_accepted_token_of_slack_costs_nothing(
    slack: Running, upstream: Upstream, provider: Provider, issuer: Issuer
) -> None:
    """
    An answer without the word passes as it is, on one connection.
    """
    like_slack(upstream)
    data = request("GET", "/api/auth.test", credential=issuer.token("ada"))
    bodies = [(await call(slack, data)).body for _ in range(3)]

    assert ([b'{"ok":true}'] * 3, 0, 1) == (bodies, provider.exchanges, upstream.connections)


STREAMS: dict[str, bytes] = {
    "of unknown length": b"Transfer-Encoding: chunked\r\n\r\n10\r\n" + b"x" * 16 + b"\r\n",
    "until the end of the connection": b"\r\n" + b"x" * 16,
    "larger than is looked at": b"Content-Length: 16385\r\n\r\n" + b"x" * 16,
}


@pytest.mark.parametrize("case", STREAMS)
async def test_stream_is_never_held_up(slack: Running, upstream: Upstream, issuer: Issuer, case: str) -> None:
    """
    What may go on for long reaches the caller as it comes, though status and type would fit.
    """
    go_on = asyncio.Event()

    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n" + STREAMS[case])
        await writer.drain()
        await go_on.wait()
        writer.close()

    upstream.respond = respond
    async with calling(slack) as caller:
        await caller.send(request("GET", "/api/x", credential=issuer.token("ada")))
        assert b"200" in await caller.head()
        assert b"x" * 16 in await asyncio.wait_for(caller.reader.readuntil(b"x" * 16), 5)
        go_on.set()


async def test_short_answer_that_is_cut_is_told(slack: Running, upstream: Upstream, issuer: Issuer) -> None:
    """
    An answer that is cut while it is held back is 502: nothing of it was sent.
    """
    data = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 30\r\n\r\n"

    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(data + b'{"ok":')
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.close()

    upstream.respond = respond
    got = await call(slack, request("GET", "/api/x", credential=issuer.token("ada")))

    assert (502, "upstream_protocol_error") == (got.status, got.code)


async def test_caller_that_leaves_while_its_answer_is_held_back_takes_the_connection_along(
    slack: Running, upstream: Upstream, issuer: Issuer
) -> None:
    """
    The call ends at once, as one whose caller has gone.
    """
    respond = respond_with(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 30\r\n\r\n{")
    upstream.respond = respond
    async with calling(slack) as caller:
        await caller.send(request("GET", "/api/x", credential=issuer.token("ada")))
        assert await eventually(lambda: 1 == len(upstream.received))
        await asyncio.sleep(0.05)
    assert await eventually(lambda: bool(slack.lines("outcome")))

    assert ["client_aborted"] == [line["error"] for line in slack.lines("outcome")]
