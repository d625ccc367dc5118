"""New connections to an upstream: which address, how long, and what each failure is told as."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from gateway.errors import ConnectTimeout, NameLookupTimeout, UpstreamNotTrusted, UpstreamUnreachable
from gateway.models import Egress, Origin
from gateway.net.dial import resolve, tls_context
from gateway.net.lookups import Lookups
from gateway.proxy.opener import Addresses, Opener, direct_opener, tunnel_opener
from tests.net.certificates import Authority
from tests.proxy.wire import call, request
from tests.world import Issuer, Upstream, create_connection, running, settings

ORIGIN = Origin("http", "api.test", 80)
CONNECT_SECONDS = 0.4
AMPLE_SECONDS = 4.0  # for what is to be connected


def opener(*rounds: Addresses, connect_seconds: float = CONNECT_SECONDS) -> Opener:
    """What opens connections when the name leads to *rounds*, one after another."""
    left = list(rounds)

    async def resolve() -> Addresses:
        return left.pop(0)

    return direct_opener(
        ORIGIN, connect_seconds=connect_seconds, resolve=resolve, tls=None, loop=asyncio.get_running_loop()
    )


def at(port: int) -> tuple[int, tuple[object, ...]]:
    """A port of loopback as an address to dial."""
    return int(socket.AF_INET), ("127.0.0.1", port)


@contextmanager
def refusing() -> Iterator[int]:
    """A port that is bound and not listening: it refuses."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        yield closed.getsockname()[1]


@contextmanager
def swallowing() -> Iterator[int]:
    """A port whose queue of connections is full: the kernel drops what comes, as a firewall does."""
    with ExitStack() as opened:
        full = opened.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):
            waiting = opened.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        yield full.getsockname()[1]


async def test_new_connection_goes_to_the_first_address_that_accepts(upstream: Upstream) -> None:
    """
    The addresses are asked for at each connection and tried in their order; where none accepts, that is told.
    """
    with refusing() as closed:
        open_connection = opener([at(closed), at(upstream.port)], [at(closed)], [], connect_seconds=AMPLE_SECONDS)
        connection = await open_connection()
        for _ in range(2):
            with pytest.raises(UpstreamUnreachable):
                await open_connection()
        connection.fail(UpstreamUnreachable())

    assert f"127.0.0.1:{upstream.port}" == connection.address


async def test_address_that_swallows_everything_leaves_the_next_its_turn(upstream: Upstream) -> None:
    """
    A first address that never answers takes half of the time; with no other, the time limit is told, as retryable.
    """
    with swallowing() as silent:
        connection = await opener([at(silent), at(upstream.port)], connect_seconds=AMPLE_SECONDS)()
        open_connection = opener([at(silent)], [at(silent), at(silent)])
        for _ in range(2):
            with pytest.raises(ConnectTimeout) as caught:
                await open_connection()
        connection.fail(UpstreamUnreachable())

    assert f"127.0.0.1:{upstream.port}" == connection.address
    assert ("upstream_timeout", True, "connection_timeout") == (
        caught.value.code,
        caught.value.retryable,
        caught.value.proxy_error,
    )


async def test_look_up_does_not_take_the_connections_time(upstream: Upstream) -> None:
    """
    A name server that takes longer than connect_seconds costs the upstream nothing of them.
    """

    async def slowly() -> Addresses:
        await asyncio.sleep(CONNECT_SECONDS * 1.5)
        return [at(upstream.port)]

    open_connection = direct_opener(
        ORIGIN, connect_seconds=CONNECT_SECONDS, resolve=slowly, tls=None, loop=asyncio.get_running_loop()
    )
    connection = await open_connection()
    connection.fail(UpstreamUnreachable())

    assert f"127.0.0.1:{upstream.port}" == connection.address


async def test_look_up_that_takes_too_long_is_told_as_that() -> None:
    """
    A name server that does not answer is no time-out of the upstream.
    """
    hangs = Lookups(lambda _host, _port: asyncio.run(asyncio.sleep(1)) or [])

    async def hanging() -> Addresses:
        await resolve("api.test", 80, Egress(), timeout_seconds=0.05, lookups=hangs)
        return []

    with pytest.raises(NameLookupTimeout) as caught:
        await direct_opener(
            ORIGIN, connect_seconds=CONNECT_SECONDS, resolve=hanging, tls=None, loop=asyncio.get_running_loop()
        )()

    assert ("name_not_resolved", 502, True, "dns_timeout") == (
        caught.value.code,
        caught.value.status,
        caught.value.retryable,
        caught.value.proxy_error,
    )


async def test_upstream_whose_name_does_not_exist_is_told(tmp_path: Path, issuer: Issuer) -> None:
    """
    A name that nobody knows (RFC 2606: .invalid) is 502 with a code of its own; nothing of the resolver's is told.
    """
    route = {"name": "api", "prefix": "/api", "upstream": "https://api.invalid", "connection": "api"}
    async with running(settings(route, issuers=(issuer,)), tmp_path / "data") as gateway:
        await create_connection(gateway, None)
        await gateway.connect("ada", access_token="T1")
        got = await call(gateway, request("GET", "/api/x", credential=issuer.token("ada")))
        outcome = gateway.lines("outcome")[0]

    assert (502, "name_not_resolved") == (got.status, got.code)
    assert ['connection-gateway; error=dns_error; details="name_not_resolved"'] == got.values("Proxy-Status")
    assert json.loads(got.body)["retryable"]
    assert (502, "name_not_resolved") == (outcome["status"], outcome["error"])


async def hanging_tunnel() -> socket.socket:
    """A proxy that never answers."""
    await asyncio.Event().wait()
    raise AssertionError


async def test_proxy_that_hangs_ends_with_the_connections_time() -> None:
    """
    The way through a proxy is within connect_seconds, and told as the upstream's time-out that it is for the caller.
    """
    with pytest.raises(ConnectTimeout):
        await tunnel_opener(
            ORIGIN, connect_seconds=CONNECT_SECONDS, tunnel=hanging_tunnel, tls=None, loop=asyncio.get_running_loop()
        )()


BEHIND: dict[str, tuple[str, type[UpstreamUnreachable] | None]] = {
    "a trusted upstream": ("api.test", None),
    "another one": ("other.test", UpstreamNotTrusted),
}


@pytest.mark.parametrize(("name", "refusal"), BEHIND.values(), ids=BEHIND.keys())
async def test_tls_is_verified_behind_a_proxy(
    name: str, refusal: type[UpstreamUnreachable] | None, tmp_path: Path
) -> None:
    """
    The upstream behind the proxy proves its name to the gateway; the connection is known by that name.
    """
    authority = Authority(tmp_path)
    upstream = await Upstream().start(tls=authority.server_context(name=name))
    loop = asyncio.get_running_loop()

    async def tunnel() -> socket.socket:
        opened = socket.socket()
        opened.setblocking(False)
        await loop.sock_connect(opened, ("127.0.0.1", upstream.port))
        return opened

    origin = Origin("https", "api.test", 443)
    tls = tls_context(Egress(ca_file=authority.ca_file))
    open_connection = tunnel_opener(origin, connect_seconds=AMPLE_SECONDS, tunnel=tunnel, tls=tls, loop=loop)
    if refusal is None:
        connection = await open_connection()
        assert "api.test:443" == connection.address
        connection.fail(UpstreamUnreachable())
    else:
        with pytest.raises(refusal):
            await open_connection()
    await upstream.stop()
