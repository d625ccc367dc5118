"""A token endpoint that does not answer is left alone: nothing begins there or is lost, and a probe finds it again."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
from structlog.testing import capture_logs

from gateway.breaker import FAILURES, PAUSE_SECONDS
from gateway.errors import ConnectionRequired, TokenServiceUnavailable
from gateway.models import TokenKey
from gateway.vault.backoff import RefreshFailed
from gateway.vault.lease import Timing
from gateway.vault.oauth import BEARER, ExchangeFailed, Granted, GrantRefused, Outcome
from gateway.vault.service import Vault
from gateway.vault.stored_token import TokenDraft
from gateway.vault.token_endpoint import (
    ENDPOINT_BUSY,
    ENDPOINT_PAUSED,
    MAX_UNDER_WAY,
    TokenEndpoint,
    TokenEndpoints,
    is_answer,
)
from tests.fault_proxy import Fault, fault_proxy
from tests.vault.conftest import KEY, QUICK, Clock, House

URL = "https://user:canary-51@idp.example.com:8443/tenant/token?key=canary-52"
GRANTED = Granted("AT", "RT", BEARER, None, None)
SILENCE = ExchangeFailed("timeout", is_outcome_unknown=True)
PAUSED_SECONDS = PAUSE_SECONDS * 1.25  # the longest pause

OUTCOMES: dict[str, tuple[Outcome, bool | None]] = {
    "tokens": (GRANTED, True),
    "a dead grant": (GrantRefused(), True),
    "a client that is refused": (ExchangeFailed("invalid_client", is_outcome_unknown=False), True),
    "a server error that the provider sends with 4xx": (ExchangeFailed("server_error", is_outcome_unknown=False), True),
    "too many requests": (ExchangeFailed("status_429", is_outcome_unknown=False), True),
    "a page that is not there": (ExchangeFailed("status_404", is_outcome_unknown=False), True),
    "nobody listens": (ExchangeFailed("unreachable", is_outcome_unknown=False), False),
    "a certificate that nobody trusts": (ExchangeFailed("tls", is_outcome_unknown=False), False),
    "a reset": (ExchangeFailed("reset", is_outcome_unknown=True), False),
    "silence": (SILENCE, False),
    "bytes that are no HTTP": (ExchangeFailed("protocol", is_outcome_unknown=True), False),
    "an answer without an end": (ExchangeFailed("too_large", is_outcome_unknown=True), False),
    "a page with 200": (ExchangeFailed("malformed_answer", is_outcome_unknown=True), False),
    "an error of the server": (ExchangeFailed("status_500", is_outcome_unknown=True), False),
    "an error of its proxy": (ExchangeFailed("status_502", is_outcome_unknown=True), False),
    "a record that is full": (ExchangeFailed("record_unavailable", is_outcome_unknown=False), None),
    "a key that cannot be read": (ExchangeFailed("client_key_unusable", is_outcome_unknown=False), None),
    "an address that is not dialled": (ExchangeFailed("blocked", is_outcome_unknown=False), None),
    "metadata of another issuer": (ExchangeFailed("issuer_mismatch", is_outcome_unknown=False), None),
}


@pytest.mark.parametrize(("outcome", "expected"), OUTCOMES.values(), ids=OUTCOMES)
def test_outcome_tells_whether_the_endpoint_is_there(outcome: Outcome, expected: bool | None) -> None:
    """
    Silence and what cannot be read count against an endpoint; what it says about a grant or a client never does.
    """
    assert expected is is_answer(outcome)


@pytest.fixture
def clock() -> Clock:
    """Monotonic seconds that a test moves."""
    return Clock()


@pytest.fixture
def endpoint(clock: Clock) -> TokenEndpoint:
    """An endpoint that has not failed yet."""
    return TokenEndpoint("https://idp.example.com:443", monotonic=clock, random_bytes=os.urandom)


async def ask(endpoint: TokenEndpoint, outcome: Outcome | None, *, whose: str) -> None:
    """One exchange of the token *whose*, which brings *outcome*."""
    with await endpoint.turn(whose, wait_seconds=0) as turn:
        turn.end(outcome)


async def fail(endpoint: TokenEndpoint, times: int = FAILURES) -> None:
    """Let the exchanges of *times* tokens fail."""
    for number in range(times):
        await ask(endpoint, SILENCE, whose=f"token-{number}")


async def refusal(endpoint: TokenEndpoint) -> str | None:
    """Return why there is no turn now; None: there is one."""
    try:
        (await endpoint.turn("another", wait_seconds=0)).end()
    except RefreshFailed as exc:
        assert 1 <= exc.retry_after <= PAUSED_SECONDS
        return exc.error
    return None


async def test_tokens_that_fail_in_a_row_pause_the_endpoint(endpoint: TokenEndpoint) -> None:
    """
    The endpoint is asked until the exchanges of several tokens have failed in a row; then nobody has a turn.
    """
    await fail(endpoint, FAILURES - 1)
    assert await refusal(endpoint) is None
    await ask(endpoint, SILENCE, whose="one more")

    assert ENDPOINT_PAUSED == await refusal(endpoint)


async def test_token_that_fails_alone_pauses_nothing(endpoint: TokenEndpoint) -> None:
    """
    A grant that its provider cannot digest counts once, however often it is tried.
    """
    for _ in range(3 * FAILURES):
        await ask(endpoint, SILENCE, whose="alice's")

    assert await refusal(endpoint) is None


@pytest.mark.parametrize("answer", [GRANTED, GrantRefused()], ids=["tokens", "a refusal"])
async def test_answer_forgets_the_failures(endpoint: TokenEndpoint, answer: Outcome) -> None:
    """
    Any answer in between says that the endpoint is there.
    """
    for _ in range(3):
        await fail(endpoint, FAILURES - 1)
        await ask(endpoint, answer, whose="bob's")

    assert await refusal(endpoint) is None


async def test_failure_that_began_before_an_answer_does_not_count(endpoint: TokenEndpoint) -> None:
    """
    Exchanges that hung while the endpoint was away do not pause it again once it has answered somebody.
    """
    hanging = [await endpoint.turn(f"token-{number}", wait_seconds=0) for number in range(2 * FAILURES)]
    await ask(endpoint, GRANTED, whose="bob's")
    for turn in hanging:
        turn.end(SILENCE)

    assert await refusal(endpoint) is None


async def test_one_probe_finds_the_endpoint_again(endpoint: TokenEndpoint, clock: Clock) -> None:
    """
    After the pause one exchange is made while the others are refused; its answer lets everybody through.
    """
    await fail(endpoint)
    clock.now += PAUSED_SECONDS
    probe = await endpoint.turn("alice's", wait_seconds=0)
    assert ENDPOINT_PAUSED == await refusal(endpoint)
    with capture_logs() as logs:
        probe.end(GRANTED)

    assert await refusal(endpoint) is None
    assert ["token_endpoint_answers"] == [line["event"] for line in logs]


async def test_probe_that_fails_begins_the_next_pause(endpoint: TokenEndpoint, clock: Clock) -> None:
    """
    Round after round one exchange is risked, whoever's it is, and no more.
    """
    await fail(endpoint)
    for _ in range(3):
        clock.now += PAUSED_SECONDS
        await ask(endpoint, SILENCE, whose="token-0")
        assert ENDPOINT_PAUSED == await refusal(endpoint)


async def test_probe_that_was_not_made_is_the_next_one_s(endpoint: TokenEndpoint, clock: Clock) -> None:
    """
    A turn that ends before anything was asked (another process had the lease) leaves the probe to the next.
    """
    await fail(endpoint)
    clock.now += PAUSED_SECONDS
    for _ in range(3):
        await ask(endpoint, None, whose="alice's")
    await ask(endpoint, GRANTED, whose="alice's")

    assert await refusal(endpoint) is None


async def test_lease_that_is_not_had_ends_the_turn(endpoint: TokenEndpoint) -> None:
    """
    Where the lease is another's, or the database fails, the turn is given back.
    """

    async def lease(is_had: bool | None) -> bool:
        if is_had is None:
            raise OSError
        return is_had

    for _ in range(MAX_UNDER_WAY):
        assert await (await endpoint.turn("x", wait_seconds=0)).if_taken(lease(False)) is None
        with pytest.raises(OSError):
            await (await endpoint.turn("x", wait_seconds=0)).if_taken(lease(None))
        turn = await endpoint.turn("x", wait_seconds=0)
        assert turn is await turn.if_taken(lease(True))

    assert ENDPOINT_BUSY == await refusal(endpoint)


async def test_turns_are_waited_for_and_refused_when_the_endpoint_pauses(endpoint: TokenEndpoint) -> None:
    """
    Whoever waits for a turn has begun nothing when those before get no answer: all of them are refused at once.
    """
    hanging = [await endpoint.turn(f"token-{number}", wait_seconds=0) for number in range(MAX_UNDER_WAY)]
    waiting = [asyncio.create_task(endpoint.turn(f"waits-{number}", wait_seconds=60)) for number in range(200)]
    await asyncio.sleep(0)
    for turn in hanging:
        turn.end(SILENCE)
    refused = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 10)

    assert [ENDPOINT_PAUSED] * 200 == [exc.error for exc in refused if isinstance(exc, RefreshFailed)]


async def test_known_endpoints_are_told_apart_by_their_origin(clock: Clock) -> None:
    """
    Paths of one server share what is known of it, servers do not; what cannot be dialled is nobody's; no secret is
    told.
    """
    endpoints = TokenEndpoints(monotonic=clock, random_bytes=os.urandom)
    with capture_logs() as logs:
        for number in range(FAILURES):
            (await endpoints.turn(URL, f"token-{number}", wait_seconds=0)).end(SILENCE)
    with pytest.raises(RefreshFailed):
        await endpoints.turn("https://IDP.example.com:8443/other", "x", wait_seconds=0)
    for other in ("https://idp.example.com/token", "http://idp.example.com:8443/token", "", "https://[", "http://a:x/"):
        (await endpoints.turn(other, "x", wait_seconds=0)).end(SILENCE)

    assert [("token_endpoint_paused", "https://idp.example.com:8443")] == [(x["event"], x["endpoint"]) for x in logs]
    assert "canary" not in repr(logs) + repr(endpoints._known)


# --- in the vault ----------------------------------------------------------------------------------------------------

USERS = [f"user{number}" for number in range(FAILURES + 3)]
AWAY: dict[str, tuple[Fault, int | str | None]] = {
    "connections that are reset at once": (Fault("accept"), None),
    "silence": (Fault("request", "hang"), None),
    "a reset in the middle of the answer": (Fault("answer", "reset", 20), None),
    "bytes that are no HTTP": (Fault(rewrite=lambda _: b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), None),
    "server errors": (Fault(), 503),
    "pages": (Fault(), "garbage"),
}
HASTY = replace(QUICK, exchange_seconds=2.0)


def key(user: str) -> TokenKey:
    """The key of *user*'s token."""
    return KEY._replace(user=user)


async def refused(vault: Vault, user: str) -> TokenServiceUnavailable:
    """Fetch *user*'s token, which must be refused as not to be had for now."""
    with pytest.raises(TokenServiceUnavailable) as info:
        await vault.fetch_stored(key(user))
    return info.value


@asynccontextmanager
async def paused(
    house: House, clock: Clock, *, seconds: float = -1.0, timing: Timing = HASTY
) -> AsyncIterator[tuple[Vault, list[str]]]:
    """Yield a vault whose provider has failed until it was left alone, and the users nobody has asked for yet."""
    async with house.vault(timing=timing, monotonic=clock) as vault:
        await vault.connections.create(house.connection())
        for user in USERS:
            await house.grant(vault, user=user, seconds=-1.0 if user in USERS[:FAILURES] else seconds)
        house.provider.fault = 503
        for user in USERS[:FAILURES]:
            await refused(vault, user)
        house.provider.fault = None
        yield vault, USERS[FAILURES:]


@pytest.mark.parametrize(("fault", "own"), AWAY.values(), ids=AWAY)
async def test_provider_that_is_away_is_left_alone_and_found_again(
    house: House, clock: Clock, fault: Fault, own: int | str | None
) -> None:
    """
    Once some tokens' exchanges have met a fault, the others' are refused at once without a lease, a line in the record
    or a doubt; after the fault one probe is made, and everybody is served.
    """
    async with (
        fault_proxy(port=urlsplit(house.provider.url).port) as proxy,
        house.vault(timing=HASTY, monotonic=clock) as vault,
    ):
        await vault.connections.create(house.connection(token_url=f"{proxy.url}/token"))
        stored = {user: await house.grant(vault, user=user, seconds=-1.0) for user in USERS}
        proxy.fault, house.provider.fault = fault, own
        await asyncio.gather(*(refused(vault, user) for user in USERS[:FAILURES]))
        asked, lines = proxy.connections, len(house.recorded)
        refusals = [await refused(vault, user) for user in USERS[FAILURES:]]
        untouched = [await vault.tokens.find(key(user)) for user in USERS[FAILURES:]]
        seen = (proxy.connections - asked, len(house.recorded) - lines, vault.exchange_counts[ENDPOINT_PAUSED])
        proxy.fault, house.provider.fault = Fault(), None
        proxy.cut()
        clock.now += PAUSED_SECONDS
        served = [(await vault.fetch_stored(key(user)))[0].access_token for user in USERS[FAILURES:]]

    assert (0, 0, 3) == seen
    assert all(1 <= (each.retry_after or 0) <= PAUSED_SECONDS for each in refusals)
    assert [stored[user] for user in USERS[FAILURES:]] == untouched
    assert [f"AT-{user}-1" for user in USERS[FAILURES:]] == served
    assert 0 == house.provider.reuses


async def test_provider_that_refuses_grants_is_asked_on(house: House, clock: Clock) -> None:
    """
    However many grants a provider calls dead, and however often it asks for patience, others are exchanged.
    """
    async with house.vault(monotonic=clock) as vault:
        await vault.connections.create(house.connection())
        for user in USERS:
            await house.grant(vault, user=user, seconds=-1.0)
        for user in USERS[: FAILURES + 1]:
            house.provider.revoke(user)
            with pytest.raises(ConnectionRequired):
                await vault.fetch_stored(key(user))
        house.provider.fault = 429
        await refused(vault, USERS[-2])
        house.provider.fault = None

        assert f"AT-{USERS[-1]}-1" == (await vault.fetch_stored(key(USERS[-1])))[0].access_token


async def test_valid_token_is_served_while_the_endpoint_is_left_alone(house: House, clock: Clock) -> None:
    """
    A token that is due and still valid is the answer, at once, and says why it is no newer one.
    """
    async with paused(house, clock, seconds=30.0) as (vault, others):
        asked = len(house.provider.exchanges)
        house.clock.now += 28
        served, _ = await vault.fetch_stored(key(others[0]))

    assert (f"AT-{others[0]}-0", ENDPOINT_PAUSED) == (served.access_token, served.last_refresh_error)
    assert asked == len(house.provider.exchanges)


async def test_newer_token_of_another_process_is_used_while_the_endpoint_is_left_alone(
    house: House, clock: Clock
) -> None:
    """
    What another process has got meanwhile is found, whatever this one knows of the endpoint.
    """
    async with paused(house, clock) as (vault, others), house.vault() as other:
        await other.fetch_stored(key(others[0]))

        assert f"AT-{others[0]}-1" == (await vault.fetch_stored(key(others[0])))[0].access_token


async def test_refresh_ahead_waits_until_the_endpoint_may_be_asked(house: House, clock: Clock) -> None:
    """
    Tokens in use that are due come back later, without a lease; nobody hammers.
    """
    async with paused(house, clock, seconds=3600.0) as (vault, others):
        asked = len(house.provider.exchanges)
        token = await vault.tokens.find(key(others[0]))
        assert token is not None
        again = [await vault._refresh_ahead(token) for _ in range(3)]
        after = await vault.tokens.get(token.id)

    assert all(1 <= (seconds or 0) <= PAUSED_SECONDS for seconds in again)
    assert (asked, token) == (len(house.provider.exchanges), after)


async def test_upload_is_not_verified_while_the_endpoint_is_left_alone(house: House, clock: Clock) -> None:
    """
    A refresh token that is brought to be verified is not presented, and nothing is stored of it.
    """
    async with paused(house, clock) as (vault, _):
        asked, lines = len(house.provider.exchanges), len(house.recorded)
        _, refresh_token = house.provider.grant("dave")
        with pytest.raises(RefreshFailed) as info:
            await vault.upload(TokenDraft("contacts", "dave", refresh_token=refresh_token), verify_refresh=True)
        stored = await vault.tokens.find(key("dave"))
        claims = house.execute("SELECT count(*) FROM connect_attempts")

    assert (ENDPOINT_PAUSED, None, 0) == (info.value.error, stored, claims[0][0])
    assert (asked, lines) == (len(house.provider.exchanges), len(house.recorded))


async def test_lease_of_a_dead_process_is_left_until_the_endpoint_may_be_asked(house: House, clock: Clock) -> None:
    """
    Nobody takes over an exchange that cannot be made: who finds the endpoint again takes it over.
    """
    async with paused(house, clock) as (vault, others):
        token = await vault.tokens.find(key(others[0]))
        assert token is not None
        house.lease_to("a process that died", token.id)

        caller = asyncio.create_task(refused(vault, others[0]))
        until = clock.now + PAUSE_SECONDS - 1.0  # the lease runs out before, and the pause has not
        while not caller.done():
            await asyncio.sleep(QUICK.poll_seconds)
            clock.now = min(clock.now + 0.02, until)
        refusal = caller.result()
        left = await vault.tokens.get(token.id)
        clock.now += PAUSED_SECONDS
        served = await vault.fetch_stored(key(others[0]))

    assert (refusal.retry_after or 0) >= 1
    assert left is not None
    assert (True, "") == (left.is_leased, left.last_refresh_error)
    assert f"AT-{others[0]}-1" == served[0].access_token


async def test_hanging_provider_costs_few_grants_their_certainty(house: House, clock: Clock) -> None:
    """
    Of sixty tokens that are asked for at once while the provider hangs, those that were under way are in doubt; the
    others were never presented, and are exchanged when it answers again.
    """
    users = [f"user{number}" for number in range(60)]
    async with house.vault(timing=HASTY, monotonic=clock) as vault:
        await vault.connections.create(house.connection())
        for user in users:
            await house.grant(vault, user=user, seconds=-1.0)
        house.provider.fault = "hang"
        await asyncio.wait_for(asyncio.gather(*(refused(vault, user) for user in users)), 60)
        doubts = len(house.execute("SELECT id FROM tokens WHERE last_refresh_error = 'answer_lost'"))
        leased = house.execute("SELECT id FROM tokens WHERE lease_until IS NOT NULL")
        house.provider.fault = None
        clock.now += PAUSED_SECONDS
        house.clock.now += 600  # and every back-off is over
        served = [(await vault.fetch_stored(key(user)))[0].access_token for user in users]

    assert MAX_UNDER_WAY <= doubts < 2 * MAX_UNDER_WAY
    assert [] == leased
    assert {f"AT-{user}-1" for user in users} == set(served)
