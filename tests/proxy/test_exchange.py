"""The order of the stages, the one retry, and the record, over real sockets."""

from __future__ import annotations

import asyncio

from tests.world import Issuer, Provider, Running, Upstream


async def test_injects_the_users_token(gateway: Running, upstream: Upstream, issuer: Issuer) -> None:
    """
    A call of a known caller reaches the upstream with the user's connection token and without the caller's own.
    """
    credential = issuer.token("ada")
    headers = {"Authorization": f"Bearer {credential}", "Cookie": "session=1"}

    async with gateway.session.get(f"{gateway.url}/api/v1/me?fields=name", headers=headers) as response:
        body = await response.json()

    assert 200 == response.status
    assert {"path": "/v1/me?fields=name"} == body
    assert ["Bearer T1"] == upstream.authorizations
    assert credential.encode() not in upstream.received[0].head
    assert [] == upstream.received[0].values("Cookie")


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
