"""Compare and refresh (DESIGN section 2, rules 1 to 4), with a token service that counts and a clock of its own."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from gateway.errors import ConnectionRequired
from gateway.proxy.tokens import REJECTED_SECONDS, ConnectionTokens
from tests.proxy.ledger import ADA, KEY, T1, Clock, Ledger, fetch, rejected


async def test_stored_token_that_differs_is_used_without_a_refresh(tokens: ConnectionTokens, ledger: Ledger) -> None:
    """
    Rule 1: where somebody has replaced the token meanwhile, the stored one is used.
    """
    first = await fetch(tokens)
    ledger.stored[KEY] = replace(T1, access_token="uploaded")

    fresh = await rejected(tokens, first)

    assert fresh is not None
    assert ("uploaded", 0) == (fresh.access_token, ledger.exchanges)


async def test_200_rejections_of_one_token_are_one_exchange(tokens: ConnectionTokens, ledger: Ledger) -> None:
    """
    Rule 2: callers who meet a rejection together share one exchange; a late one finds its result.
    """
    first = await fetch(tokens)

    together = await asyncio.gather(*(rejected(tokens, first) for _ in range(200)))
    late = await rejected(tokens, first)

    assert {"T2"} == {token.access_token for token in (*together, late) if token is not None}
    assert 1 == ledger.exchanges


async def test_rejected_fresh_token_is_not_refreshed_for_a_minute(
    tokens: ConnectionTokens, ledger: Ledger, clock: Clock
) -> None:
    """
    Rule 4: a route that always answers 401 costs one exchange a minute.
    """
    exchanges = []
    for _ in range(4):
        for _ in range(5):
            token = await fetch(tokens)
            fresh = await rejected(tokens, token)
            if fresh is not None:
                assert None is await rejected(tokens, fresh)
        exchanges.append(ledger.exchanges)
        clock.now += REJECTED_SECONDS
        tokens.sweep()

    assert [1, 2, 3, 4] == exchanges


async def test_trial_holds_for_the_family_not_for_one_token(tokens: ConnectionTokens, ledger: Ledger) -> None:
    """
    Rule 4: within the minute the route is not refreshed for again, also when another route's refresh renewed the token.
    """
    first = await fetch(tokens)
    second = await rejected(tokens, first, "always-401")
    assert second is not None
    third = await rejected(tokens, second, "healthy")
    assert third is not None
    tokens.accepted(third, "healthy")

    assert None is await rejected(tokens, third, "always-401")
    assert None is await rejected(tokens, third, "always-401")
    assert 2 == ledger.exchanges


async def test_other_route_of_the_connection_is_still_refreshed(tokens: ConnectionTokens, ledger: Ledger) -> None:
    """
    Rule 4 binds one route: another one that uses the same connection gets its refresh.
    """
    first = await fetch(tokens)
    second = await rejected(tokens, first, "always-401")
    assert second is not None

    third = await rejected(tokens, second, "other")

    assert third is not None
    assert ("T3", 2) == (third.access_token, ledger.exchanges)


async def test_stored_token_is_used_while_the_family_is_on_trial(tokens: ConnectionTokens, ledger: Ledger) -> None:
    """
    Rules 1 and 4: on trial, a token that somebody stored meanwhile is used, and found without an exchange.
    """
    first = await fetch(tokens)
    second = await rejected(tokens, first)
    assert second is not None
    third = await rejected(tokens, second, "other")
    assert third is not None
    ledger.stored[KEY] = replace(T1, access_token="uploaded")
    tokens.forget_owner(KEY.owner)

    fresh = await rejected(tokens, third)

    assert fresh is not None
    assert ("uploaded", 2) == (fresh.access_token, ledger.exchanges)


async def test_accepted_token_ends_the_trial(tokens: ConnectionTokens, ledger: Ledger) -> None:
    """
    Once the route has accepted a token of the family, the next rejection is refreshed at once.
    """
    second = await rejected(tokens, await fetch(tokens))
    assert second is not None
    tokens.accepted(second, "a")
    assert not tokens.on_trial

    third = await rejected(tokens, second)

    assert third is not None
    assert ("T3", 2) == (third.access_token, ledger.exchanges)


async def test_refresh_survives_its_caller(tokens: ConnectionTokens, ledger: Ledger) -> None:
    """
    A caller who goes away does not end the exchange: it is finished, once, and its result kept.
    """
    first = await fetch(tokens)
    ledger.gate = asyncio.Event()
    caller = asyncio.create_task(rejected(tokens, first))
    await asyncio.sleep(0.01)
    caller.cancel()
    await asyncio.wait((caller,))
    ledger.gate.set()
    await tokens.close()

    assert caller.cancelled()
    kept = tokens.cached(KEY, "c")
    assert kept is not None
    assert ("T2", 1) == (kept.token.access_token, ledger.exchanges)


async def test_failed_flight_is_over(tokens: ConnectionTokens, ledger: Ledger) -> None:
    """
    A failed fetch tells each of those who wait, and the next one asks anew.
    """
    token = ledger.stored.pop(KEY)
    seen = await asyncio.gather(*(fetch(tokens) for _ in range(5)), return_exceptions=True)
    ledger.stored[KEY] = token

    assert [ConnectionRequired] * 5 == [type(each) for each in seen]
    assert token == await fetch(tokens)


async def test_repr_holds_no_token(tokens: ConnectionTokens) -> None:
    """
    Neither the cache nor a token shows its secret.
    """
    token = await fetch(tokens)

    assert "T1" not in repr(tokens) + repr(token)


async def test_trial_that_ended_in_the_meantime_is_not_reopened(clock: Clock) -> None:
    """
    Acquitted while a straggler's rejection was being looked into, the family is refreshed when it dies again.
    """
    ledger = Ledger()
    ledger.stored[KEY] = T1
    tokens = ConnectionTokens(ledger, clock=clock, monotonic=clock)
    fresh = await tokens.replace(KEY, rejected=T1, route="api", caller=ADA, credential="c")
    assert fresh is not None
    tokens.forget_owner(KEY.owner)
    stale = replace(fresh, access_token="T0")
    ledger.stored[KEY] = stale
    ledger.gate = asyncio.Event()
    straggler = asyncio.create_task(tokens.replace(KEY, rejected=stale, route="api", caller=ADA, credential="c"))
    await asyncio.sleep(0.01)

    tokens.accepted(fresh, "api")
    ledger.gate.set()
    ended = await straggler

    assert ended is not None
    assert 2 == ledger.exchanges
