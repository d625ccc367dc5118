"""The one retry: which answers lead to it, with which token, and what it never does."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from tests.proxy.wire import call, request, respond_with
from tests.world import Issuer, Provider, Received, Running, Upstream, answer, create_connection, running, settings


async def test_retries_once_when_upstream_answers_401(
    gateway: Running, upstream: Upstream, provider: Provider, issuer: Issuer
) -> None:
    """
    A 401 leads to one refresh and one more attempt with the new token.
    """
    upstream.live = set()
    provider.on_exchange = upstream.live.add

    async with gateway.session.get(
        f"{gateway.url}/api/v1/me", headers={"Authorization": f"Bearer {issuer.token('ada')}"}
    ) as response:
        await response.read()

    assert 200 == response.status
    assert 1 == provider.exchanges
    assert ["Bearer T1", f"Bearer {next(iter(upstream.live))}"] == upstream.authorizations
    assert 'token;desc="refreshed"' in response.headers["Server-Timing"]
    assert ["intent", "attempt", "outcome"] == [line["event"] for line in gateway.lines()]
    outcome = gateway.lines("outcome")[0]
    assert (200, 2, True, None) == (outcome["status"], outcome["attempts"], outcome["refreshed"], outcome["error"])


async def test_refreshes_once_for_200_callers(
    gateway: Running, upstream: Upstream, provider: Provider, issuer: Issuer
) -> None:
    """
    200 concurrent callers whose token was revoked cause exactly one exchange, and 200 answers of 200.
    """
    upstream.live = set()
    provider.on_exchange = upstream.live.add
    provider.delay_seconds = 0.05
    headers = {"Authorization": f"Bearer {issuer.token('ada')}"}

    async def call() -> int:
        async with gateway.session.get(f"{gateway.url}/api/v1/me", headers=headers) as response:
            await response.read()
            return response.status

    statuses = await asyncio.gather(*(call() for _ in range(200)))

    assert [200] * 200 == statuses
    assert 1 == provider.exchanges
    assert 0 == provider.reused


async def test_always_401_upstream_causes_one_exchange(
    gateway: Running, upstream: Upstream, provider: Provider, issuer: Issuer
) -> None:
    """
    A route that always answers 401 passes it on, and is refreshed for once, not again within the minute.
    """
    upstream.live = set()
    headers = {"Authorization": f"Bearer {issuer.token('ada')}"}

    seen = []
    for _ in range(5):
        async with gateway.session.get(f"{gateway.url}/api/v1/me", headers=headers) as response:
            await response.read()
            seen.append((response.status, response.headers["WWW-Authenticate"]))

    assert [(401, 'Upstream realm="api"')] * 5 == seen
    assert 1 == provider.exchanges
    assert "received-status=401" in response.headers["Proxy-Status"]


async def test_insufficient_scope_is_no_reason_to_refresh(
    gateway: Running, upstream: Upstream, provider: Provider, issuer: Issuer
) -> None:
    """
    insufficient_scope becomes connection_scope_missing with the scopes, for 401 and 403; nothing is refreshed.
    """
    seen = []
    for status in (401, 403):
        fields = 'WWW-Authenticate: Bearer error="insufficient_scope", scope="contacts.read mail"\r\n'
        upstream.respond = respond_with(answer(status, b'{"secret":"of the provider"}', fields))
        got = await call(gateway, request("GET", "/api/x", credential=issuer.token("ada")))
        seen.append((got.status, got.code, json.loads(got.body)["missing_scopes"], json.loads(got.body)["connection"]))

    assert [(403, "connection_scope_missing", ["contacts.read", "mail"], "api")] * 2 == seen
    assert 0 == provider.exchanges
    assert 2 == len(upstream.received)


async def test_wider_token_stored_meanwhile_is_sent_once(
    gateway: Running, upstream: Upstream, provider: Provider, issuer: Issuer
) -> None:
    """
    Where a token with more scopes has been stored since the one in use was cached, it is sent, and its answer stands.
    """
    lacking = 'WWW-Authenticate: Bearer error="insufficient_scope", scope="mail"\r\n'

    async def respond(received: Received, writer: asyncio.StreamWriter) -> None:
        is_wide = received.values("Authorization") == ["Bearer T2"]
        if not is_wide:
            await gateway.connect("ada", access_token="T2", scopes=["mail"])
        writer.write(answer(200, b"{}") if is_wide else answer(403, b"{}", lacking))

    upstream.respond = respond
    got = await call(gateway, request("GET", "/api/x", credential=issuer.token("ada")))

    assert (200, ["Bearer T1", "Bearer T2"]) == (got.status, upstream.authorizations)
    assert ["scope_missing"] == [line["reason"] for line in gateway.lines("attempt")]
    assert "lacked a scope" in got.values("Proxy-Status")[0]
    assert 0 == provider.exchanges


async def test_wider_token_that_lacks_a_scope_too_is_refused(
    gateway: Running, upstream: Upstream, issuer: Issuer
) -> None:
    """
    There is one more send, no third.
    """

    async def respond(received: Received, writer: asyncio.StreamWriter) -> None:
        await gateway.connect("ada", access_token=f"T{len(upstream.received) + 1}", scopes=["mail"])
        writer.write(answer(403, b"{}", 'WWW-Authenticate: Bearer error="insufficient_scope", scope="a mail"\r\n'))

    upstream.respond = respond
    got = await call(gateway, request("GET", "/api/x", credential=issuer.token("ada")))

    assert (403, "connection_scope_missing", 2) == (got.status, got.code, len(upstream.received))
    assert ["a"] == json.loads(got.body)["missing_scopes"]


async def test_scope_that_the_route_does_not_use_is_the_operators(
    tmp_path: Path, upstream: Upstream, provider: Provider, issuer: Issuer
) -> None:
    """
    A route with `scopes` finds no other token, whatever a user consents to: no link, and the operator is named.
    """
    upstream.respond = respond_with(
        answer(403, b"{}", 'WWW-Authenticate: Bearer error="insufficient_scope", scope="mail"\r\n')
    )
    entry = {"name": "api", "prefix": "/api", "upstream": upstream.url, "connection": "api", "scopes": ["a"]}
    async with running(settings(entry, issuers=(issuer,)), tmp_path / "data") as gateway:
        await create_connection(gateway, provider, authorizationUrl=f"{provider.url}/authorize")
        await gateway.connect("ada", access_token="T1", scopes=["a"])
        got = await call(gateway, request("GET", "/api/x", credential=issuer.token("ada")))

    body = json.loads(got.body)
    assert ("connection_scope_missing", ["mail"]) == (got.code, body["missing_scopes"])
    assert "connect_url" not in body
    assert "operator must add them to the route's scopes" in body["detail"]


async def test_token_replaced_meanwhile_costs_no_exchange(
    gateway: Running, upstream: Upstream, provider: Provider, issuer: Issuer
) -> None:
    """
    Where somebody else has stored another token than the rejected one, that one is sent, without a refresh.
    """
    upstream.live = {"T2"}

    async def replace_then_reject(received: Received, writer: asyncio.StreamWriter) -> None:
        if "Bearer T1" in received.values("Authorization"):
            await gateway.connect("ada", access_token="T2", refresh_token=provider.issue())
        await upstream._respond(received, writer)

    upstream.respond = replace_then_reject
    got = await call(gateway, request("GET", "/api/x", credential=issuer.token("ada")))

    assert 200 == got.status
    assert ["Bearer T1", "Bearer T2"] == upstream.authorizations
    assert 0 == provider.exchanges


async def test_bare_401_never_destroys_the_grant(
    gateway: Running, upstream: Upstream, provider: Provider, issuer: Issuer
) -> None:
    """
    After any number of bare 401 answers the token is still there, and works once the upstream takes it.
    """
    upstream.live = set()
    data = request("GET", "/api/x", credential=issuer.token("ada"))
    rejected = [(await call(gateway, data)).status for _ in range(3)]
    upstream.live = None

    assert [401, 401, 401] == rejected
    assert 200 == (await call(gateway, data)).status


async def test_other_route_of_the_connection_is_unaffected_by_an_always_401_route(
    tmp_path: Path, upstream: Upstream, provider: Provider, issuer: Issuer
) -> None:
    """
    While one route always answers 401, another route of the same connection works and is refreshed when it needs it.
    """
    healthy = await Upstream().start()
    upstream.live = set()
    routes = [
        {"name": name, "prefix": f"/{name}", "upstream": server.url, "connection": "api"}
        for name, server in (("broken", upstream), ("healthy", healthy))
    ]
    async with running(settings(*routes, issuers=(issuer,)), tmp_path / "data") as gateway:
        await create_connection(gateway, provider)
        await gateway.connect("ada", access_token="T1", refresh_token=provider.issue())
        credential = issuer.token("ada")
        statuses = [(await call(gateway, request("GET", "/broken/x", credential=credential))).status for _ in range(3)]
        healthy.live = set()
        provider.on_exchange = healthy.live.add
        statuses.append((await call(gateway, request("GET", "/healthy/x", credential=credential))).status)
        statuses.append((await call(gateway, request("GET", "/broken/x", credential=credential))).status)
    await healthy.stop()

    assert [401, 401, 401, 200, 401] == statuses
    assert 2 == provider.exchanges
