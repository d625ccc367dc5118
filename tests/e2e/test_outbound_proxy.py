"""A gateway as a process of its own and the proxies around it: the environment's never, its configuration's always."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.gateway_process import RunningProcess, serving
from tests.net.certificates import Authority
from tests.net.proxies import ForwardProxy, forward_proxy
from tests.proxy.wire import call, request
from tests.world import LOOPBACK, Issuer, Provider, Upstream, create_connection, settings

PASSWORD = "canary-proxy-31c8"
ENCODED = "YWRhOmNhbmFyeS1wcm94eS0zMWM4"


@pytest.fixture
async def decoy() -> AsyncIterator[ForwardProxy]:
    """The proxy that the environment names."""
    async with forward_proxy() as running:
        yield running


@pytest.fixture
async def sealed(tmp_path: Path) -> AsyncIterator[tuple[Upstream, str]]:
    """An upstream that speaks TLS as api.invalid, and the file of its authority."""
    authority = Authority(tmp_path)
    server = await Upstream().start(tls=authority.server_context(name="api.invalid"))
    yield server, authority.ca_file
    await server.stop()


def environment(decoy: ForwardProxy, folder: Path) -> dict[str, str]:
    """Every way in which an environment can name a proxy or a password."""
    netrc = folder / "netrc"
    netrc.write_text("default login ada password canary-netrc\n")
    netrc.chmod(0o600)
    url = f"http://127.0.0.1:{decoy.port}"
    names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
    return {**dict.fromkeys(names, url), "NO_PROXY": "", "no_proxy": "", "NETRC": str(netrc), "HOME": str(folder)}


async def used(gateway: RunningProcess, provider: Provider, issuer: Issuer) -> tuple[int, str | None]:
    """Create a connection whose token needs a refresh, and call with it: every kind of server is dialled."""
    await create_connection(gateway, provider)
    await gateway.connect("ada", access_token="OLD", refresh_token=provider.issue(), accessTokenExpiry=1)
    got = await call(gateway, request("GET", "/api/x", credential=issuer.token("ada")))
    return got.status, got.code


async def test_proxies_of_the_environment_are_not_used(
    tmp_path: Path, decoy: ForwardProxy, upstream: Upstream, provider: Provider, issuer: Issuer
) -> None:
    """
    With a proxy and a netrc in every variable, upstream, provider and key set are dialled directly, without either.
    """
    route = {"name": "api", "prefix": "/api", "upstream": upstream.url, "connection": "api"}
    environ = environment(decoy, tmp_path)
    async with serving(settings(route, issuers=(issuer,)), tmp_path / "data", environ=environ) as gateway:
        assert (200, None) == await used(gateway, provider, issuer)

    assert (1, 1, 1) == (len(upstream.received), provider.exchanges, issuer.hits)
    assert [] == decoy.requests
    assert b"canary" not in upstream.received[0].head


async def test_everything_goes_through_the_configured_proxy(
    tmp_path: Path, decoy: ForwardProxy, sealed: tuple[Upstream, str], provider: Provider, issuer: Issuer
) -> None:
    """
    Upstream, provider and key set are reached by CONNECT, TLS end to end, by a name that only the proxy knows; its
    password reaches nobody else and no sink.
    """
    upstream, ca_file = sealed
    route = {"name": "api", "prefix": "/api", "upstream": f"https://api.invalid:{upstream.port}", "connection": "api"}
    async with forward_proxy() as proxy:
        egress: dict[str, Any] = {
            **LOOPBACK,
            "ca_file": ca_file,
            "proxy": f"http://ada:${{PROXY_PASSWORD}}@127.0.0.1:{proxy.port}",
        }
        environ = {**environment(decoy, tmp_path), "PROXY_PASSWORD": PASSWORD}
        configuration = settings(route, issuers=(issuer,), egress=egress)
        async with serving(configuration, tmp_path / "data", environ=environ) as gateway:
            assert (200, None) == await used(gateway, provider, issuer)
            again = await call(gateway, request("GET", "/api/y", credential=issuer.token("ada")))
            proxy.answer = b"HTTP/1.1 407 No\r\n\r\n"
            await upstream.stop()
            refused = await call(gateway, request("GET", "/api/z", credential=issuer.token("ada")))
            record = gateway.process.record_path.read_text()
        told = gateway.process.stdout + gateway.process.stderr + record + refused.body.decode()

    ports = [url.rpartition(":")[2] for url in (issuer.url, provider.url)]
    named = route["upstream"].removeprefix("https://")
    assert {*(f"127.0.0.1:{port}" for port in ports), named} == set(proxy.targets)
    assert all(f"Proxy-Authorization: Basic {ENCODED}".encode() in each for each in proxy.requests)
    assert (200, 2, [named]) == (
        again.status,
        len(upstream.received),
        upstream.received[0].values("Host"),
    )
    assert (502, "upstream_unreachable") == (refused.status, refused.code)
    assert b"does not take this gateway's credential" in refused.body
    assert b"roxy" not in upstream.received[0].head
    assert not any(secret in told for secret in (PASSWORD, ENCODED, "canary-netrc"))
    assert [] == decoy.requests
