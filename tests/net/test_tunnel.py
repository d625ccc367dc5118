"""The way out through a proxy, with proxies that refuse, hang and lie."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncIterator
from ipaddress import ip_network

import pytest

from gateway.errors import EgressBlocked, Refusal, UpstreamUnreachable
from gateway.models import Egress, OutboundProxy
from gateway.net.client import OutboundClient, OutboundError
from gateway.net.tunnel import MAX_HEAD_BYTES, connect_request, open_tunnel

from .certificates import Authority
from .conftest import StartServer
from .proxies import ForwardProxy, forward_proxy

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
SECRET = "ada:canary-9d2f7b"
ENCODED = "YWRhOmNhbmFyeS05ZDJmN2I="
NAMES = Egress(allow_http=True)


@pytest.fixture
async def proxy() -> AsyncIterator[ForwardProxy]:
    """A proxy that passes on until told otherwise."""
    async with forward_proxy() as running:
        yield running


REQUESTS: dict[str, tuple[OutboundProxy, str, bytes]] = {
    "a name": (OutboundProxy("p", 1), "api.test", b"CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\n\r\n"),
    "an IPv6 address": (OutboundProxy("p", 1), "::1", b"CONNECT [::1]:443 HTTP/1.1\r\nHost: [::1]:443\r\n\r\n"),
    "a credential": (
        OutboundProxy("p", 1, SECRET),
        "a.b",
        b"CONNECT a.b:443 HTTP/1.1\r\nHost: a.b:443\r\nProxy-Authorization: Basic " + ENCODED.encode() + b"\r\n\r\n",
    ),
}


@pytest.mark.parametrize(("server", "host", "expected"), REQUESTS.values(), ids=REQUESTS.keys())
def test_asks_for_a_host_and_a_port(server: OutboundProxy, host: str, expected: bytes) -> None:
    """
    The proxy gets the authority, its own credential, and nothing else; the credential is in no repr.
    """
    assert expected == connect_request(server, host, 443)
    assert SECRET not in repr(server)


ANSWERS: dict[str, tuple[bytes, type[Refusal] | None]] = {
    "nothing": (b"", UpstreamUnreachable),
    "200": (b"HTTP/1.1 200 OK\r\n\r\n", None),
    "200 without a reason": (b"HTTP/1.1 200\r\n\r\n", None),
    "200 of HTTP/1.0": (b"HTTP/1.0 200 Connection established\r\n\r\n", None),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", None),
    "a length that means nothing (RFC 9110 9.3.6)": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", None),
    "one byte behind the head": (b"HTTP/1.1 200 OK\r\n\r\nx", UpstreamUnreachable),
    "a body": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", UpstreamUnreachable),
    "an answer of the upstream's, invented": (b"HTTP/1.1 200 OK\r\n\r\n" + OK, UpstreamUnreachable),
    "an empty line behind the head": (b"HTTP/1.1 200 OK\r\n\r\n\r\n", UpstreamUnreachable),
    "half a head": (b"HTTP/1.1 200 OK\r\n", UpstreamUnreachable),
    "a head of bare line feeds": (b"HTTP/1.1 200 OK\n\n", UpstreamUnreachable),
    "100": (b"HTTP/1.1 100 Continue\r\n\r\n", UpstreamUnreachable),
    "a redirect": (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\n\r\n", UpstreamUnreachable),
    "403": (b"HTTP/1.1 403 Forbidden\r\n\r\n", EgressBlocked),
    "407": (b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n\r\n", UpstreamUnreachable),
    "502": (b"HTTP/1.1 502 Bad Gateway\r\n\r\n<html>", UpstreamUnreachable),
    "status 000": (b"HTTP/1.1 000 X\r\n\r\n", UpstreamUnreachable),
    "HTTP/2.0": (b"HTTP/2.0 200 OK\r\n\r\n", UpstreamUnreachable),
    "a SOCKS answer": (b"\x05\x00", UpstreamUnreachable),
    "an SSH banner": (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", UpstreamUnreachable),
    "a head of 20 KB": (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", UpstreamUnreachable),
}


@pytest.mark.parametrize(("answer", "refusal"), ANSWERS.values(), ids=ANSWERS.keys())
async def test_reads_the_proxys_answer_strictly(
    answer: bytes, refusal: type[Refusal] | None, proxy: ForwardProxy
) -> None:
    """
    One whole head of a success, and not one byte more; what is told of anything else holds nothing of it.
    """
    proxy.answer, proxy.credential = answer, SECRET
    if refusal is None:
        (await open_tunnel(proxy.outbound, "8.8.8.8", 443, NAMES)).close()
        return
    with pytest.raises(refusal) as caught:
        await open_tunnel(proxy.outbound, "8.8.8.8", 443, NAMES)

    told = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert "canary" not in told
    assert ENCODED not in told


async def test_stops_reading_an_answer_that_does_not_end(proxy: ForwardProxy) -> None:
    """
    A head without end is left at its limit.
    """
    proxy.answer, proxy.endless = b"HTTP/1.1 200 OK\r\n", b"X-Field: value\r\n" * 100
    with pytest.raises(UpstreamUnreachable):
        await open_tunnel(proxy.outbound, "8.8.8.8", 443, NAMES)

    assert MAX_HEAD_BYTES < 20_000


async def test_proxy_that_is_not_there_is_told() -> None:
    """
    A proxy where nobody listens, or whose name is not known, is an unreachable upstream.
    """
    for host in ("127.0.0.1", "proxy.invalid", "127.1"):
        with pytest.raises(UpstreamUnreachable, match="outbound proxy"):
            await open_tunnel(OutboundProxy(host, 1), "8.8.8.8", 443, NAMES)


JUDGED: dict[str, tuple[str, bool]] = {
    "a public address": ("8.8.8.8", True),
    "a name that only the proxy knows": ("api.invalid", True),
    "loopback": ("127.0.0.1", False),
    "metadata": ("169.254.169.254", False),
    "metadata, mapped": ("::ffff:169.254.169.254", False),
    "one number": ("2130706433", False),
    "hexadecimal": ("0x7f.1", False),
    "a name that is private for us": ("localhost", False),
}


@pytest.mark.parametrize(("host", "passes"), JUDGED.values(), ids=JUDGED.keys())
async def test_judges_before_it_asks(host: str, passes: bool, proxy: ForwardProxy) -> None:
    """
    Literals are judged, and names by what they lead to here; a name that nobody here knows is the proxy's to resolve.
    """
    proxy.answer = b"HTTP/1.1 200 OK\r\n\r\n"
    if passes:
        (await open_tunnel(proxy.outbound, host, 443, NAMES)).close()
        assert [f"{host}:443"] == proxy.targets
        return
    with pytest.raises(EgressBlocked):
        await open_tunnel(proxy.outbound, host, 443, NAMES)
    assert [] == proxy.requests


async def test_calls_of_the_gateway_go_through_the_proxy(
    proxy: ForwardProxy, start_server: StartServer, authority: Authority
) -> None:
    """
    Plain http and https go through CONNECT by name; the server sees no credential of the proxy, TLS is end to end.
    """
    proxy.credential = SECRET
    plain = await start_server(OK)
    sealed = await start_server(OK, tls=authority.server_context(name="api.invalid"))
    async with OutboundClient(Egress(allow_http=True, ca_file=authority.ca_file, proxy=proxy.outbound)) as client:
        assert 200 == (await client.request("GET", f"http://api.invalid:{plain.port}/x")).status
        assert 200 == (await client.request("GET", f"https://api.invalid:{sealed.port}/x")).status

    assert [f"api.invalid:{plain.port}", f"api.invalid:{sealed.port}"] == proxy.targets
    assert all(f"Basic {ENCODED}".encode() in request for request in proxy.requests)
    assert [b"GET /x HTTP/1.1"] * 2 == [each.requests[0].split(b"\r\n")[0] for each in (plain, sealed)]
    assert not any(b"proxy" in request.lower() for request in (*plain.requests, *sealed.requests))


CALLS: dict[str, tuple[bytes, bool, str]] = {
    "hangs": (b"", True, "timeout"),
    "closes": (b"", False, "unreachable"),
    "wants a credential": (b"HTTP/1.1 407 No\r\n\r\n", False, "unreachable"),
    "forbids": (b"HTTP/1.1 403 No\r\n\r\n", False, "blocked"),
    "ends the connection in the handshake": (b"HTTP/1.1 200 OK\r\n\r\n", False, "unreachable"),
}


@pytest.mark.parametrize(("answer", "hangs", "reason"), CALLS.values(), ids=CALLS.keys())
async def test_calls_fail_by_their_reasons(answer: bytes, hangs: bool, reason: str, proxy: ForwardProxy) -> None:
    """
    What a proxy does wrong has one of the client's reasons, and no secret in it.
    """
    proxy.answer, proxy.hangs, proxy.credential = answer, hangs, SECRET
    async with OutboundClient(Egress(proxy=proxy.outbound)) as client:
        with pytest.raises(OutboundError) as caught:
            await client.request("GET", "https://8.8.8.8/", timeout_seconds=0.5 if hangs else 5)

    assert reason == caught.value.reason
    assert "canary" not in "".join(traceback.format_exception(caught.value))


async def test_call_to_an_untrusted_server_behind_the_proxy_is_not_sent(
    proxy: ForwardProxy, start_server: StartServer, authority: Authority
) -> None:
    """
    TLS is verified through the tunnel, too.
    """
    server = await start_server(OK, tls=authority.server_context(name="other.invalid"))
    async with OutboundClient(Egress(ca_file=authority.ca_file, proxy=proxy.outbound)) as client:
        with pytest.raises(OutboundError, match="tls"):
            await client.request("GET", f"https://api.invalid:{server.port}/")

    assert [] == server.requests


async def test_a_private_upstream_is_reached_where_it_is_listed(proxy: ForwardProxy, start_server: StartServer) -> None:
    """
    `allow_private` holds for what is asked of the proxy as for what is dialled.
    """
    server = await start_server(OK)
    egress = Egress(allow_private=(ip_network("127.0.0.0/8"),), allow_http=True, proxy=proxy.outbound)
    async with OutboundClient(egress) as client:
        assert 200 == (await client.request("GET", server.url)).status
    await asyncio.sleep(0)

    assert [f"127.0.0.1:{server.port}"] == proxy.targets
