"""Every place where somebody can name an address for the gateway to dial: a trap listens there, and nobody comes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from gateway.config.load import parse
from gateway.config.problems import ConfigurationError
from tests.proxy.wire import call, request, respond_with
from tests.world import PROJECT, Issuer, Provider, Running, Upstream, create_connection, running, settings

ONE = {"allow_private": ["127.0.0.1/32"], "allow_http": True}  # where the test's own servers are; the trap is not


class Trap:
    """A server on 127.0.0.2, which is not allowed: it counts who comes."""

    def __init__(self) -> None:
        self.connections = 0
        self.port = 0

    async def serve(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Count and hang up."""
        self.connections += 1
        writer.close()

    def url(self, host: str = "127.0.0.2") -> str:
        """The trap's URL, with *host* as its address is spelled."""
        return f"http://{host}:{self.port}"


@pytest.fixture
async def trap() -> AsyncIterator[Trap]:
    """The trap, open for everyone who may dial it."""
    found = Trap()
    server = await asyncio.start_server(found.serve, "127.0.0.2", 0)
    found.port = server.sockets[0].getsockname()[1]
    yield found
    server.close()


SPELLINGS = {
    "plain": "127.0.0.2",
    "mapped": "[::ffff:127.0.0.2]",
    "mapped, in hexadecimal": "[::ffff:7f00:2]",
    "IPv4-compatible": "[::127.0.0.2]",
    "NAT64": "[64:ff9b::127.0.0.2]",
    "one number": "2130706434",
    "hexadecimal": "0x7f000002",
    "hexadecimal parts": "0x7f.0.0.2",
    "octal": "0177.0.0.2",
    "two parts": "127.2",
    "three parts": "127.0.2",
    "a trailing dot": "127.0.0.2.",
    "leading zeros": "127.000.000.002",
}


@pytest.mark.parametrize("host", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_upstream_in_the_file_is_judged_by_its_address(host: str, tmp_path: Path) -> None:
    """
    An address that is not allowed is refused when the file is read, however it is spelled.
    """
    route = {"name": "api", "prefix": "/api", "upstream": f"http://{host}:8080", "connection": "api"}
    text = yaml.safe_dump({**settings(route), "egress": ONE}).encode()
    with pytest.raises(ConfigurationError, match=r"routes\[0\]\.upstream"):
        parse(text, name="routes.yaml", directory=tmp_path, environ={})


@asynccontextmanager
async def gateway_on(upstream: Upstream, issuer: Issuer, folder: Path) -> AsyncIterator[Running]:
    """A gateway that may dial 127.0.0.1 and nothing else that is private."""
    route = {"name": "api", "prefix": "/api", "upstream": upstream.url, "connection": "api"}
    async with running({**settings(route, issuers=(issuer,)), "egress": ONE}, folder / "data") as gateway:
        yield gateway


@pytest.mark.parametrize("host", SPELLINGS.values(), ids=SPELLINGS.keys())
async def test_token_endpoint_is_judged_when_it_is_dialled(
    host: str, tmp_path: Path, trap: Trap, upstream: Upstream, issuer: Issuer
) -> None:
    """
    A token or revocation endpoint that leads to a denied address is refused or not dialled; the call is 503 or 403.
    """
    async with gateway_on(upstream, issuer, tmp_path) as gateway:
        endpoint = trap.url(host)
        body = {"id": "api", "name": "n", "clientId": "c", "clientSecret": "s", "tokenUrl": f"{endpoint}/token"}
        status = await posted(gateway, "/v1/mgmt/outbound/app/create", {**body, "revocationUrl": f"{endpoint}/revoke"})
        if status == 200:
            past = int(time.time()) - 10
            await gateway.connect("ada", access_token="OLD", refresh_token="r", accessTokenExpiry=past)
        got = await call(gateway, request("GET", "/api/x", credential=issuer.token("ada")))
        deleted = await gateway.session.delete(
            f"{gateway.gateway.token_api_url}/v1/mgmt/outbound/user/tokens?appId=api&userId=ada",
            headers={"Authorization": f"Bearer {PROJECT}:{gateway.management_key}"},
        )

    assert status in (200, 400)
    assert got.code == ("token_service_unavailable" if status == 200 else "connection_unknown")
    assert deleted.status < 500
    assert ([], 0) == (upstream.received, trap.connections)


async def posted(gateway: Running, path: str, body: dict[str, Any]) -> int:
    """The status of a POST to the token API."""
    headers = {"Authorization": f"Bearer {PROJECT}:{gateway.management_key}"}
    async with gateway.session.post(f"{gateway.gateway.token_api_url}{path}", json=body, headers=headers) as response:
        return response.status


Metadata = Callable[[str, str], dict[str, Any]]  # own URL, the trap's → the metadata
LEADS: dict[str, Metadata] = {
    "its token endpoint": lambda own, trap: {"token_endpoint": f"{trap}/token"},
    "its registration endpoint": lambda own, trap: {"registration_endpoint": f"{trap}/register"},
    "all of it": lambda own, trap: dict.fromkeys(("token_endpoint", "registration_endpoint", "jwks_uri"), f"{trap}/x"),
}


@pytest.mark.parametrize("lead", LEADS.values(), ids=LEADS.keys())
async def test_metadata_that_leads_inside_is_not_followed(
    lead: Metadata, tmp_path: Path, trap: Trap, upstream: Upstream, issuer: Issuer
) -> None:
    """
    A provider whose metadata names an address inside gets nobody dialled there.
    """

    async def metadata(served: web.Request) -> web.Response:
        own = f"http://{served.host}"
        endpoints = {f"{name}_endpoint": f"{own}/{name}" for name in ("authorization", "token", "registration")}
        return web.json_response({"issuer": own, **endpoints, **lead(own, trap.url())})

    app = web.Application()
    app.router.add_get("/.well-known/{name:.*}", metadata)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    provider_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with gateway_on(upstream, issuer, tmp_path) as gateway:
        body = {"id": "api", "name": "n", "discoveryUrl": provider_url, "useDcr": True}
        await posted(gateway, "/v1/mgmt/outbound/app/create", body)
        await posted(gateway, "/v1/mgmt/outbound/app/create", {**body, "useDcr": False, "clientId": "c"})
        past = int(time.time()) - 10
        upload = {"appId": "api", "userId": "ada", "accessToken": "OLD", "refreshToken": "r", "accessTokenExpiry": past}
        await posted(gateway, "/v1/mgmt/outbound/app/user/oauthtoken/upload", upload)
        got = await call(gateway, request("GET", "/api/x", credential=issuer.token("ada")))
    await runner.cleanup()

    assert got.status in (403, 503)
    assert ([], 0) == (upstream.received, trap.connections)


async def test_redirects_lead_nobody_inside(
    tmp_path: Path, trap: Trap, upstream: Upstream, provider: Provider, issuer: Issuer
) -> None:
    """
    A redirect of an upstream reaches the caller as it is; one of a token endpoint is no token. Neither is followed.
    """
    upstream.respond = respond_with(
        f"HTTP/1.1 302 Found\r\nLocation: {trap.url()}/latest/meta-data\r\nContent-Length: 0\r\n\r\n".encode()
    )
    async with gateway_on(upstream, issuer, tmp_path) as gateway:
        redirecting = await Upstream().start()
        redirecting.respond = respond_with(
            f"HTTP/1.1 307 Temporary Redirect\r\nLocation: {trap.url()}/\r\nContent-Length: 0\r\n\r\n".encode(),
            close=True,
        )
        await create_connection(gateway, None, tokenUrl=f"{redirecting.url}/token")
        await gateway.connect("ada", access_token="T1")
        past = int(time.time()) - 10
        await gateway.connect("bob", access_token="OLD", refresh_token="r", accessTokenExpiry=past)
        passed = await call(gateway, request("GET", "/api/x", credential=issuer.token("ada")))
        refused = await call(gateway, request("GET", "/api/x", credential=issuer.token("bob")))
        await redirecting.stop()

    assert (302, [f"{trap.url()}/latest/meta-data"]) == (passed.status, passed.values("Location"))
    assert (503, "token_service_unavailable") == (refused.status, refused.code)
    assert 1 == len(redirecting.received)
    assert 0 == trap.connections
