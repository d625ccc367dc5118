"""From a refused call to an answered one: the link, our pages, the provider's, and the same call again."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.tools import own_port
from tests.vault.authority import Authority, authority
from tests.vault.connecting import Browser
from tests.world import PROJECT, Issuer, Received, Running, Upstream, answer, running, settings

ROUTE = {"name": "api", "prefix": "/api", "connection": "api"}


@pytest.fixture
async def provider() -> AsyncIterator[Authority]:
    """A provider that can be discovered, and registers clients."""
    async with authority(registration={"client_id": "client"}) as provider:
        yield provider


@pytest.fixture
async def gateway(tmp_path: Path, upstream: Upstream, provider: Authority, issuer: Issuer) -> AsyncIterator[Running]:
    """A gateway whose connection knows nothing of its provider but where it can be discovered."""
    async with running(settings(ROUTE | {"upstream": upstream.url}, issuers=(issuer,)), tmp_path / "data") as gateway:
        await gateway.api(
            "/v1/mgmt/outbound/app/create",
            {
                "id": "api", "name": "The API", "useDcr": True, "discoveryUrl": provider.url,
                "defaultScopes": ["mail.read"],
            },
        )  # fmt: skip
        yield gateway


async def call(gateway: Running, issuer: Issuer) -> tuple[int, dict[str, Any]]:
    """Call the API as ada's agent."""
    headers = {"Authorization": f"Bearer {issuer.token('ada')}"}
    async with gateway.session.get(f"{gateway.url}/api/me", headers=headers) as response:
        return response.status, json.loads(await response.read())


async def test_refused_call_leads_to_a_connection(
    gateway: Running, provider: Authority, upstream: Upstream, issuer: Issuer
) -> None:
    """
    The client was registered at creation; the link of a refusal leads over our page and the provider's to a token with
    which the same call is answered, and the wait address says so.
    """
    status, refused = await call(gateway, issuer)
    async with Browser() as browser:
        page = await browser.get(refused["connect_url"])
        done = await browser.answer(page)
    async with gateway.session.get(refused["wait_url"]) as response:
        waited = await response.json()
    again, _ = await call(gateway, issuer)

    assert [f"{gateway.url}/v1/outbound/oauth/callback"] == provider.registered[0]["redirect_uris"]
    assert (403, "connection_required") == (status, refused["code"])
    assert "ada" in page.text
    assert 200 == done.status
    assert "connected" == waited["status"]
    assert (200, ["Bearer AT-1"]) == (again, upstream.authorizations)
    assert "code=" not in done.url


async def test_connection_of_the_file_is_registered_once(
    tmp_path: Path, provider: Authority, upstream: Upstream, issuer: Issuer
) -> None:
    """
    A connection of routes.yaml without a client gets one from its provider once the gateway serves; after a restart
    the same client connects a user, and nothing more was registered.
    """
    port = own_port()
    entry = {"id": "api", "discovery_url": provider.url, "use_dcr": True, "scopes": ["mail.read"]}
    configuration = settings(ROUTE | {"upstream": upstream.url}, issuers=(issuer,), connections=[entry])
    configuration["listeners"]["traffic"] = {"bind": f"127.0.0.1:{port}", "public_url": f"http://127.0.0.1:{port}"}

    async with running(configuration, tmp_path / "data") as gateway:
        first = await linked(gateway, issuer)
    async with running(configuration, tmp_path / "data") as gateway:
        again = await linked(gateway, issuer)
        connected = await connect(gateway, again)
        status, _ = await call(gateway, issuer)

    assert first != again
    assert ("connected", 200) == (connected, status)
    assert [[f"http://127.0.0.1:{port}/v1/outbound/oauth/callback"]] == [
        registered["redirect_uris"] for registered in provider.registered
    ]


async def linked(gateway: Running, issuer: Issuer) -> str:
    """Call until the refusal has a link: the connection's client has been registered."""
    for _ in range(500):
        _, refused = await call(gateway, issuer)
        if "connect_url" in refused:
            return str(refused["connect_url"])
        await asyncio.sleep(0.01)
    raise AssertionError(refused)


async def test_client_that_cannot_be_kept_is_told_of(gateway: Running, provider: Authority) -> None:
    """
    A client secret that expires is refused with what an operator can do; an id that is taken costs no second client.
    """
    provider.registration = {"client_secret_expires_at": int(time.time()) + 86_400}
    answers = []
    for body in ({"id": "api", "name": "Another"}, {"id": "other", "name": "The API"}, {"id": "new", "name": "New"}):
        async with gateway.session.post(
            f"{gateway.gateway.token_api_url}/v1/mgmt/outbound/app/create",
            json=body | {"useDcr": True, "discoveryUrl": provider.url},
            headers={"Authorization": f"Bearer {PROJECT}:{gateway.management_key}"},
        ) as response:
            answers.append((response.status, (await response.json())["errorMessage"]))

    assert [409, 409, 400] == [status for status, _ in answers]
    assert "set tokenEndpointAuthMethod (token_auth) to none" in answers[2][1]
    assert 2 == len(provider.registered)


async def test_session_jwt_connects_and_gets_nothing_else(
    gateway: Running, provider: Authority, upstream: Upstream, issuer: Issuer
) -> None:
    """
    A JWT without the issuer's required scope begins to connect its user's account by both rows; it fetches no token,
    calls no route, and has connected nobody else's.
    """
    session = issuer.token("ada", scope=None)
    headers = {"Authorization": f"Bearer {PROJECT}:{session}"}

    async def post(path: str, **body: Any) -> tuple[int, dict[str, Any]]:
        url = f"{gateway.gateway.token_api_url}{path}"
        async with gateway.session.post(url, json={"appId": "api", **body}, headers=headers) as response:
            return response.status, await response.json()

    links = [await post(path) for path in ("/v1/mgmt/outbound/app/connect", "/v1/outbound/oauth/connect")]
    connected = [await connect(gateway, link["url"]) for _, link in links]
    fetched = [
        await post(f"/v1/mgmt/outbound/app/{path}", userId="ada", tenantId="acme", scopes=["mail.read"])
        for path in ("user/token/latest", "user/token", "tenant/token/latest", "tenant/token")
    ]
    async with gateway.session.get(f"{gateway.url}/api/me", headers=headers) as response:
        called = (response.status, (await response.json(content_type=None))["code"])
    async with gateway.session.get(f"{gateway.gateway.token_api_url}/nowhere", headers=headers) as response:
        elsewhere = response.status
    with_scope, _ = await call(gateway, issuer)

    assert ([200, 200], ["connected", "connected"]) == ([status for status, _ in links], connected)
    assert [(403, "E011006")] * 4 == [(status, error["errorCode"]) for status, error in fetched]
    assert (403, "caller_scope_missing") == called
    assert 403 == elsewhere
    assert (200, ["Bearer AT-2"]) == (with_scope, upstream.authorizations)


async def test_discovered_endpoint_refreshes(
    gateway: Running, provider: Authority, upstream: Upstream, issuer: Issuer
) -> None:
    """
    A connection without a token URL of its own is refreshed at the one that its provider's metadata names.
    """
    await gateway.connect("ada", access_token="OLD", refresh_token="RT-0", accessTokenExpiry=int(time.time()) - 10)

    status, _ = await call(gateway, issuer)

    assert (200, ["Bearer AT-1"]) == (status, upstream.authorizations)
    assert ["RT-0"] == [form["refresh_token"] for form in provider.exchanged]


def wants(upstream: Upstream, provider: Authority, scope: str) -> None:
    """Let the API want *scope*, which the provider's own tokens have whose consent was asked for it, and no others."""

    async def respond(received: Received, writer: asyncio.StreamWriter) -> None:
        _, own, number = received.values("Authorization")[0].partition("AT-")
        if own and scope in provider.asked[int(number) - 1]["scope"].split():
            writer.write(answer(200, b"{}"))
        else:
            challenge = f'Bearer realm="api", error="insufficient_scope", scope="{scope}"'
            writer.write(answer(403, b"{}", f"WWW-Authenticate: {challenge}\r\n"))

    upstream.respond = respond


async def connect(gateway: Running, url: str) -> str:
    """Follow the link of a refusal to its end, and return what its wait address says then."""
    async with Browser() as browser:
        await browser.answer(await browser.get(url))
    async with gateway.session.get(f"{url}/wait") as response:
        return str((await response.json())["status"])


async def test_missing_scope_leads_to_a_wider_grant(
    gateway: Running, provider: Authority, upstream: Upstream, issuer: Issuer
) -> None:
    """
    A call whose token lacks a scope is refused with a link that asks for it beside what was asked before; once that is
    connected, the same call is answered, at once.
    """
    wants(upstream, provider, "mail.send")
    _, unconnected = await call(gateway, issuer)
    await connect(gateway, unconnected["connect_url"])

    status, refused = await call(gateway, issuer)
    same, again = await call(gateway, issuer)
    waited = await connect(gateway, refused["connect_url"])
    answered, _ = await call(gateway, issuer)

    assert (403, "connection_scope_missing", "api", ["mail.send"]) == (
        status, refused["code"], refused["connection"], refused["missing_scopes"]
    )  # fmt: skip
    assert (403, refused["connect_url"]) == (same, again["connect_url"])
    assert f"{refused['connect_url']}/wait" == refused["wait_url"]
    assert "connected" == waited
    assert ["mail.read", "mail.read mail.send"] == [asked["scope"] for asked in provider.asked]
    assert 200 == answered
    assert "Bearer AT-2" == upstream.authorizations[-1]


async def test_wider_grant_of_before_is_asked_for_anew(
    gateway: Running, provider: Authority, upstream: Upstream, issuer: Issuer
) -> None:
    """
    A token of the wider scopes that is older than the one in use is replaced, and is the newest from then on.
    """
    await gateway.connect("ada", access_token="OLDER", scopes=["mail.read", "mail.send"])
    await gateway.connect("ada", access_token="NEWER", scopes=["mail.read"])
    wants(upstream, provider, "mail.send")
    _, refused = await call(gateway, issuer)
    await connect(gateway, refused["connect_url"])
    status, _ = await call(gateway, issuer)

    assert 200 == status
    assert "Bearer NEWER" == upstream.authorizations[0]
    assert "Bearer AT-1" == upstream.authorizations[-1]
