"""The API behind the peers, from a real nginx; skipped where nginx with LuaJIT is not installed."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Iterator, Sequence
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection

import pytest

from bench.contestants import make_issuer
from bench.peers import TlsFiles, make_tls_files, upstream_nginx
from bench.peers.upstream_nginx import NginxUpstream
from bench.upstream import BODY_BYTES

TOKEN = "the-injected-token"
RIGHT = ("Authorization", f"Bearer {TOKEN}")


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "TLS"])
def tls(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TlsFiles | None:
    """The server's certificate, or None."""
    return make_tls_files(tmp_path_factory.mktemp("tls")) if request.param else None


@pytest.fixture(scope="module")
def upstream(tls: TlsFiles | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NginxUpstream]:
    """The API, running."""
    if reason := upstream_nginx.missing():
        pytest.skip(f"not installed: {reason}")
    directory = tmp_path_factory.mktemp("upstream")
    with upstream_nginx.running(make_issuer(directory), token=TOKEN, directory=directory, tls=tls) as running:
        yield running


@pytest.fixture
def connection(upstream: NginxUpstream, tls: TlsFiles | None) -> Iterator[HTTPConnection]:
    """A connection to the port that proxies call."""
    context = ssl.create_default_context(cafile=tls.ca) if tls else None
    opened = (
        HTTPSConnection("127.0.0.1", upstream.port, timeout=30, context=context)
        if context
        else HTTPConnection("127.0.0.1", upstream.port, timeout=30)
    )
    yield opened
    opened.close()


def ask(
    connection: HTTPConnection, path: str, *fields: tuple[str, str], method: str = "GET", body: bytes = b""
) -> HTTPResponse:
    """Send a request with these header fields, a field twice where it is named twice."""
    connection.putrequest(method, path)
    for name, value in fields:
        connection.putheader(name, value)
    if body:
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body or None)
    return connection.getresponse()


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        pytest.param([], 403, id="no credential"),
        pytest.param([("Authorization", "Bearer another")], 403, id="another token"),
        pytest.param([("Authorization", f"Bearer {TOKEN}-a")], 403, id="one that begins as it does"),
        pytest.param([("Authorization", f"Bearer {TOKEN.upper()}")], 403, id="the token in capitals"),
        pytest.param([RIGHT, ("Authorization", "Bearer another")], 400, id="a second credential beside it"),
    ],
)
def test_request_without_the_token_alone_is_counted_as_refused(
    upstream: NginxUpstream, connection: HTTPConnection, fields: Sequence[tuple[str, str]], status: int
) -> None:
    """
    Only the injected token is let in, and no second credential beside it.
    """
    accepted, refused = upstream.seen()

    response = ask(connection, "/people", *fields)
    response.read()

    assert status == response.status
    assert (accepted, refused + 1) == upstream.seen()


@pytest.mark.parametrize(
    ("path", "size"), [("/people", BODY_BYTES), ("/people/7?x=1", BODY_BYTES), ("/bytes/65536", 65_536)]
)
@pytest.mark.parametrize("behind", ["", "-7"], ids=["the token", "a user's own"])
def test_request_with_the_token_is_served_and_counted(
    upstream: NginxUpstream, connection: HTTPConnection, path: str, size: int, behind: str
) -> None:
    """
    A body has its length announced, and each answer counts one.
    """
    accepted, refused = upstream.seen()

    response = ask(connection, path, ("Authorization", f"Bearer {TOKEN}{behind}"))

    assert 200 == response.status
    assert str(size) == response.headers["Content-Length"]
    assert size == len(response.read())
    assert (accepted + 1, refused) == upstream.seen()


@pytest.mark.parametrize("size", [1024, 3_000_000])
def test_body_is_read_to_its_end_before_the_answer(
    upstream: NginxUpstream, connection: HTTPConnection, size: int
) -> None:
    """
    A POST is answered with the same 1 KB, and the bytes of its body are counted; the connection stays usable.
    """
    received = upstream.received_bytes()

    for _ in range(2):
        response = ask(connection, "/people", RIGHT, method="POST", body=b"x" * size)
        assert 200 == response.status
        assert BODY_BYTES == len(json.dumps(json.loads(response.read())))

    assert received + 2 * size == upstream.received_bytes()


def test_events_tell_the_time_of_their_sending(connection: HTTPConnection) -> None:
    """
    A stream starts with an event at once.
    """
    before = time.time()

    response = ask(connection, "/events", RIGHT)
    line = response.readline()

    assert "text/event-stream" == response.headers["Content-Type"]
    assert before - 0.001 <= float(line.removeprefix(b"data: ")) <= time.time()


def test_path_that_is_not_there_is_refused(upstream: NginxUpstream, connection: HTTPConnection) -> None:
    """
    A proxy that leaves "/api" in the path is found out by the count.
    """
    accepted, refused = upstream.seen()

    response = ask(connection, "/api/people", RIGHT)
    response.read()

    assert 404 == response.status
    assert (accepted, refused + 1) == upstream.seen()
