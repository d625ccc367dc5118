"""Tokens while their service is away, and while clocks jump: what is cached serves on, and never for too long."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.errors import ConnectionRequired, TokenServiceUnavailable
from gateway.proxy.tokens import OUTAGE_SECONDS, REJECTED_SECONDS, ConnectionTokens
from tests.proxy.ledger import KEY, T1, Clock, Ledger, fetch, rejected

OUTAGES: dict[str, tuple[float, bool]] = {
    "within what may be cached": (59, True),
    "beyond it": (61, True),
    "at the end of the longer time": (60 + OUTAGE_SECONDS - 1, True),
    "behind it": (60 + OUTAGE_SECONDS, False),
}


@pytest.mark.parametrize(("age", "serves"), OUTAGES.values(), ids=OUTAGES.keys())
async def test_outage_of_a_service_that_decides_per_caller_is_bridged(age: float, serves: bool, clock: Clock) -> None:
    """
    While the service is away, its last answer serves OUTAGE_SECONDS longer than it may be cached, and not longer.
    """
    ledger = Ledger(shares=False, max_cache_seconds=60.0)
    ledger.stored[KEY] = replace(T1, expires_at=clock.now + 3600, refresh_at=clock.now + 3540)
    tokens = ConnectionTokens(ledger, clock=clock, monotonic=clock)
    await fetch(tokens)
    ledger.is_away = True
    clock.now += age

    if serves:
        assert "T1" == (await fetch(tokens)).access_token
        return
    with pytest.raises(TokenServiceUnavailable):
        await fetch(tokens)


async def test_expired_token_does_not_outlast_anything(ledger: Ledger, clock: Clock) -> None:
    """
    A token serves to its expiry while the service is away, past its refresh_at, and never longer.
    """
    tokens = ConnectionTokens(ledger, clock=clock, monotonic=clock)
    ledger.stored[KEY] = replace(T1, expires_at=clock.now + 100, refresh_at=clock.now + 90)
    await fetch(tokens)
    ledger.is_away = True
    clock.now += 99

    assert "T1" == (await fetch(tokens)).access_token
    clock.now += 1
    with pytest.raises(TokenServiceUnavailable):
        await fetch(tokens)


async def test_refusal_ends_what_was_cached(clock: Clock) -> None:
    """
    What the service has refused is not served from an older answer when it is away afterwards.
    """
    ledger = Ledger(shares=False, max_cache_seconds=60.0)
    ledger.stored[KEY] = T1
    tokens = ConnectionTokens(ledger, clock=clock, monotonic=clock)
    await fetch(tokens)
    clock.now += 60
    del ledger.stored[KEY]
    with pytest.raises(ConnectionRequired):
        await fetch(tokens)
    ledger.is_away = True

    with pytest.raises(TokenServiceUnavailable):
        await fetch(tokens)


DAY = 86_400.0
JUMPS: dict[str, tuple[float, float, bool]] = {
    "no jump, young": (0, 30, True),
    "no jump, old": (0, 3540, False),
    "back a day, young": (-DAY, 30, True),
    "back a day, old": (-DAY, 3540, False),
    "ahead a day": (DAY, 30, False),
    "ahead by a leap second": (1, 30, True),
}


@pytest.mark.parametrize(("jump", "age", "cached"), JUMPS.values(), ids=JUMPS.keys())
async def test_clock_that_jumps_keeps_no_token_for_longer(
    jump: float, age: float, cached: bool, ledger: Ledger, clock: Clock
) -> None:
    """
    A wall clock that jumps back lengthens nothing; one that jumps ahead only makes the service be asked.
    """
    wall = Clock()
    wall.now = 1_700_000_000.0
    tokens = ConnectionTokens(ledger, clock=wall, monotonic=clock)
    ledger.stored[KEY] = replace(T1, expires_at=wall.now + 3600, refresh_at=wall.now + 3540)
    await fetch(tokens)
    clock.now += age
    wall.now += age + jump

    assert cached is (tokens.cached(KEY, "c") is not None)
    assert "T1" == (await fetch(tokens)).access_token


async def test_clock_that_jumps_does_not_end_or_lengthen_a_trial(ledger: Ledger, clock: Clock) -> None:
    """
    The minute of an always-401 route is a minute, whatever the wall clock does.
    """
    wall = Clock()
    tokens = ConnectionTokens(ledger, clock=wall, monotonic=clock)
    fresh = await rejected(tokens, T1)
    assert fresh is not None
    for jump in (DAY, -2 * DAY):
        wall.now += jump
        assert await rejected(tokens, fresh) is None
    clock.now += REJECTED_SECONDS

    assert await rejected(tokens, fresh) is not None
