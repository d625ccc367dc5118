"""What does not answer is waited for once, not by every caller: the database and a provider that fall silent."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from urllib.parse import urlsplit

from gateway.breaker import FAILURES
from tests.e2e.gateway_process import serving
from tests.fault_proxy import Fault, fault_proxy
from tests.postgres import PostgresServer
from tests.proxy.wire import WireAnswer, calling, request
from tests.world import Issuer, Provider, Running, Upstream, create_connection, running, settings

ROUTE = {"name": "api", "prefix": "/api", "connection": "api"}
FIRST_SECONDS = 8.0  # a lookup takes 4 s at most; each of psycopg's cancels would take 5 s more
CALLS = 30  # more than a minute's worth, were each to wait for a time-out of its own
CALLS_SECONDS = 40.0
RECOVERY_SECONDS = 30.0


async def call(gateway: Running, credential: str, *, wait_seconds: float = CALLS_SECONDS) -> WireAnswer:
    """One call, whose answer is there in time."""
    async with calling(gateway, wait_seconds=wait_seconds) as caller:
        await caller.send(request("GET", "/api/x", credential=credential))
        return await caller.answer()


async def until_served(gateway: Running, credential: str) -> WireAnswer:
    """Return the first answer that is no 503, or the last one within RECOVERY_SECONDS."""
    until = time.monotonic() + RECOVERY_SECONDS
    while True:
        answer = await call(gateway, credential)
        if answer.status != 503 or time.monotonic() > until:
            return answer
        await asyncio.sleep(0.2)


def refusals(answers: list[WireAnswer]) -> set[tuple[int, str | None, bool]]:
    """What was answered, and whether with a time to wait."""
    return {(each.status, each.code, each.values("Retry-After") != []) for each in answers}


async def test_silent_database_is_waited_for_once(
    tmp_path: Path, postgres: PostgresServer, upstream: Upstream, issuer: Issuer
) -> None:
    """
    The first calls that need the database are refused within seconds, the next ones at once, keys and tokens alike;
    when it answers again everybody is served.
    """
    url = postgres.new_database()
    async with fault_proxy(path=postgres.socket_path) as proxy:
        through = f"postgresql+psycopg://gateway@127.0.0.1:{proxy.port}{urlsplit(url).path}"
        configuration = settings({**ROUTE, "upstream": upstream.url}, issuers=(issuer,))
        async with serving(configuration, tmp_path / "data", environ={"GATEWAY_DATABASE_URL": through}) as gateway:
            await create_connection(gateway, None)
            await gateway.connect("ada", access_token="token-of-ada")
            user, agent = issuer.token("ada"), await gateway.agent_key("ada")
            proxy.fault = Fault("request", "hang")
            first = await asyncio.gather(*(call(gateway, each, wait_seconds=FIRST_SECONDS) for each in (user, agent)))
            async with asyncio.timeout(CALLS_SECONDS):
                later = [[await call(gateway, each) for each in (user, agent)] for _ in range(CALLS)]
            proxy.fault = Fault()
            proxy.cut()
            after = [(await until_served(gateway, each)).status for each in (user, agent)]
            log = gateway.process.stderr
    postgres.give_back(url)

    tokens, keys = (503, "token_service_unavailable", True), (503, "keys_unavailable", True)
    assert [{tokens}, {keys}] == [refusals([each]) for each in first]
    assert [{tokens}, {keys}] == [refusals(list(each)) for each in zip(*later, strict=True)]
    assert [200, 200] == after
    assert log.count("vault_database_failed") < CALLS  # nor does every refusal write a line


async def test_provider_that_is_away_is_asked_once_in_a_while(
    tmp_path: Path, upstream: Upstream, provider: Provider, issuer: Issuer
) -> None:
    """
    After some users' exchanges have failed, the others' calls are refused at once and their grants left alone; when the
    provider answers again, they are served without anybody acting.
    """
    first, later = ([f"{which}{number}" for number in range(FAILURES)] for which in ("first", "later"))
    async with fault_proxy(port=urlsplit(provider.url).port) as proxy:
        configuration = settings({**ROUTE, "upstream": upstream.url}, issuers=(issuer,))
        async with running(configuration, tmp_path / "data") as gateway:
            await create_connection(gateway, None, tokenUrl=f"{proxy.url}/token")
            for user in (*first, *later):
                await gateway.connect(
                    user, access_token="T1", refresh_token=provider.issue(), accessTokenExpiry=1_700_000_000
                )
            proxy.fault = Fault("request")
            failed = [await call(gateway, issuer.token(user)) for user in first]
            asked = proxy.connections
            refused = [await call(gateway, issuer.token(user)) for user in later]
            seen = proxy.connections
            lines = gateway.lines("exchange_intent")
            proxy.fault = Fault()
            after = [(await until_served(gateway, issuer.token(user))).status for user in later]
            async with gateway.session.get(f"{gateway.gateway.console_url}/metrics") as response:
                metrics = await response.text()

    unavailable = {(503, "token_service_unavailable", True)}
    assert (unavailable, unavailable) == (refusals(failed), refusals(refused))
    assert (asked, FAILURES) == (seen, len(lines))
    assert [200] * FAILURES == after
    assert (FAILURES, 0) == (provider.exchanges, provider.reused)
    assert 'gateway_token_refresh_faults_total{fault="endpoint_paused"}' in metrics
