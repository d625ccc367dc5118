"""TLS to an upstream: who is trusted, what is told of who is not, and that nothing is sent to them."""

from __future__ import annotations

import asyncio
import json
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.net.certificates import Authority
from tests.proxy.wire import WireAnswer, call, request
from tests.world import LOOPBACK, Issuer, Running, Upstream, create_connection, running, settings

CANARY = "canary-token-88f1"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """The authority that the route's ca_file holds."""
    folder = tmp_path / "trusted"
    folder.mkdir()
    return Authority(folder)


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    """An authority that nobody trusts, with the same name."""
    folder = tmp_path / "stranger"
    folder.mkdir()
    return Authority(folder)


@asynccontextmanager
async def calling_upstream(
    port: int, ca_file: str | None, issuer: Issuer, data: Path, **route: Any
) -> AsyncIterator[Running]:
    """Run a gateway whose route leads to https://localhost:*port*; "ada" is connected."""
    egress = {**LOOPBACK, "allow_private": ["127.0.0.0/8", "::1"], "ca_file": ca_file}
    entry = {"name": "api", "prefix": "/api", "upstream": f"https://localhost:{port}", "connection": "api", **route}
    async with running(settings({**entry, "egress": egress}, issuers=(issuer,)), data) as gateway:
        await create_connection(gateway, None)
        await gateway.connect("ada", access_token=CANARY)
        yield gateway


async def one_call(port: int, ca_file: str | None, issuer: Issuer, data: Path, **route: Any) -> WireAnswer:
    """The answer to one call to the upstream on *port*."""
    async with calling_upstream(port, ca_file, issuer, data, **route) as gateway:
        return await call(gateway, request("GET", "/api/x", credential=issuer.token("ada")))


def only(context: ssl.SSLContext, version: ssl.TLSVersion) -> ssl.SSLContext:
    """Return *context* speaking *version* and nothing else."""
    context.minimum_version = context.maximum_version = version
    return context


CERTIFICATE, PROTOCOL = "tls_certificate_error", "tls_protocol_error"
SERVERS: dict[str, tuple[Callable[[Authority, Authority], ssl.SSLContext], str | None]] = {
    "trusted": (lambda ours, _: ours.server_context(name="localhost"), None),
    "trusted, TLS 1.2": (lambda ours, _: only(ours.server_context(name="localhost"), ssl.TLSVersion.TLSv1_2), None),
    "trusted, TLS 1.3": (lambda ours, _: only(ours.server_context(name="localhost"), ssl.TLSVersion.TLSv1_3), None),
    "of an unknown authority": (lambda _, theirs: theirs.server_context(name="localhost"), CERTIFICATE),
    "for another name": (lambda ours, _: ours.server_context(name="other.test"), CERTIFICATE),
    "for the address and not the name": (lambda ours, _: ours.server_context(name="127.0.0.1"), CERTIFICATE),
    "expired": (lambda ours, _: ours.server_context(name="localhost", days_valid=-1), CERTIFICATE),
}


@pytest.mark.parametrize(("make", "error"), SERVERS.values(), ids=SERVERS.keys())
async def test_only_a_trusted_upstream_gets_the_request(
    make: Callable[[Authority, Authority], ssl.SSLContext],
    error: str | None,
    authority: Authority,
    stranger: Authority,
    issuer: Issuer,
    tmp_path: Path,
) -> None:
    """
    TLS 1.2 or newer with a certificate of ca_file for the upstream's name; anything else is 502 and gets nothing.
    """
    upstream = await Upstream().start(tls=make(authority, stranger))
    port = upstream.port
    got = await one_call(port, authority.ca_file, issuer, tmp_path / "data")
    await upstream.stop()

    if error is None:
        assert (200, [f"Bearer {CANARY}"]) == (got.status, upstream.authorizations)
        assert [f"localhost:{port}"] == upstream.received[0].values("Host")
        return
    assert (502, "upstream_unreachable", []) == (got.status, got.code, upstream.received)
    assert [f'connection-gateway; error={error}; details="upstream_unreachable"'] == got.values("Proxy-Status")
    assert not json.loads(got.body)["retryable"]
    assert_tells_nothing(got)


def assert_tells_nothing(got: WireAnswer) -> None:
    """A refusal holds no word of OpenSSL's, no address, no token."""
    told = (got.head + got.body).lower()
    assert not any(word in told for word in (b"ssl", b"x509", b"127.0.0.1", b"verify", CANARY.encode()))


async def test_systems_authorities_do_not_know_a_private_one(
    authority: Authority, issuer: Issuer, tmp_path: Path
) -> None:
    """
    Without ca_file, a certificate of a private authority is not trusted.
    """
    upstream = await Upstream().start(tls=authority.server_context(name="localhost"))
    got = await one_call(upstream.port, None, issuer, tmp_path / "data")
    await upstream.stop()

    assert (502, "upstream_unreachable", []) == (got.status, got.code, upstream.received)


async def test_upstream_is_told_its_name(authority: Authority, issuer: Issuer, tmp_path: Path) -> None:
    """
    SNI is the upstream's host, whatever the caller's Host said; one connection and its TLS serve several calls.
    """
    names: list[str | None] = []
    tls = authority.server_context(name="localhost")
    tls.sni_callback = lambda _object, name, _context: names.append(name)
    upstream = await Upstream().start(tls=tls)
    async with calling_upstream(upstream.port, authority.ca_file, issuer, tmp_path / "data") as gateway:
        for _ in range(3):
            await call(gateway, request("GET", "/api/x", credential=issuer.token("ada")))
    await upstream.stop()

    assert (["localhost"], 3) == (names, len(upstream.received))


async def reset(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """End the connection with a reset in the middle of the handshake."""
    await _reader.read(100)
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(1, 13, linger)  # SOL_SOCKET, SO_LINGER: a reset, not an end
    writer.transport.abort()


async def end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """End the connection in the middle of the handshake."""
    await reader.read(100)
    writer.close()


async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take the handshake and say nothing."""
    await reader.read()
    writer.close()


async def speak_plainly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer as a server without TLS does."""
    await reader.read(100)
    writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    await reader.read()
    writer.close()


async def speak_old_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the handshake as an OpenSSL that knows nothing newer than TLS 1.1: with an alert."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")  # OpenSSL 3 has switched it off otherwise
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    incoming.write(await reader.read(4096))
    with pytest.raises(ssl.SSLError):
        context.wrap_bio(incoming, outgoing, server_side=True).do_handshake()
    writer.write(outgoing.read())
    writer.close()


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]
HANDSHAKES: dict[str, tuple[Serve, int, str, str]] = {
    "is reset": (reset, 502, "upstream_unreachable", "destination_unavailable"),
    "is ended": (end, 502, "upstream_unreachable", "destination_unavailable"),
    "is answered without TLS": (speak_plainly, 502, "upstream_unreachable", PROTOCOL),
    "is TLS 1.1": (speak_old_tls, 502, "upstream_unreachable", PROTOCOL),
    "hangs": (hang, 504, "upstream_timeout", "connection_timeout"),
}


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1:DeprecationWarning")
@pytest.mark.parametrize(("serve", "status", "code", "error"), HANDSHAKES.values(), ids=HANDSHAKES.keys())
async def test_handshake_that_goes_wrong_is_told(
    serve: Serve, status: int, code: str, error: str, authority: Authority, issuer: Issuer, tmp_path: Path
) -> None:
    """
    A handshake that breaks is 502, one that hangs 504 after connect_seconds: retryable, for nothing was sent.
    """
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    timeouts = {"connect_seconds": 0.5 if serve is hang else 10}
    got = await one_call(port, authority.ca_file, issuer, tmp_path / "data", timeouts=timeouts)
    server.close()

    assert (status, code) == (got.status, got.code)
    assert [f'connection-gateway; error={error}; details="{code}"'] == got.values("Proxy-Status")
    assert json.loads(got.body)["retryable"]
    assert_tells_nothing(got)
