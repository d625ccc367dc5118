"""Compare and refresh (DESIGN section 2, rules 1 to 4), with a token service that counts and a clock of its own."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gateway.errors import ConnectionRequired, TokenServiceUnavailable
from gateway.models import Caller, ConnectionToken, TokenKey
from gateway.proxy.tokens import OUTAGE_SECONDS, REJECTED_SECONDS, ConnectionTokens

KEY = TokenKey("api", "ada", None)
ADA = Caller("jwt", "ada")


class Ledger:
    """A token service in memory: one stored token per key, and a count of what was asked of it."""

    def __init__(self, *, shares: bool = True, max_cache_seconds: float | None = None) -> None:
        self.stored: dict[TokenKey, ConnectionToken] = {}
        self.fetches = 0
        self.exchanges = 0
        self.credentials: list[str] = []
        self.gate: asyncio.Event | None = None
        self.is_away = False
        self._shares = shares
        self._max_cache_seconds = max_cache_seconds

    @property
    def shares_tokens_between_callers(self) -> bool:
        return self._shares

    @property
    def max_cache_seconds(self) -> float | None:
        return self._max_cache_seconds

    async def fetch(self, key: TokenKey, *, caller: Caller, credential: str) -> ConnectionToken:
        self.fetches += 1
        self.credentials.append(credential)
        token = self.stored.get(key)
        if self.gate is not None:
            await self.gate.wait()
        if self.is_away:
            raise TokenServiceUnavailable
        if token is None:
            raise ConnectionRequired
        return token

    async def replace(
        self, key: TokenKey, *, rejected: ConnectionToken, caller: Caller, credential: str
    ) -> ConnectionToken:
        if self.is_away:
            raise TokenServiceUnavailable
        stored = self.stored[key]
        if stored.access_token != rejected.access_token:
            return stored
        self.exchanges += 1
        if self.gate is not None:
            await self.gate.wait()
        fresh = replace(stored, access_token=f"T{self.exchanges + 1}", refreshed=True)
        self.stored[key] = replace(fresh, refreshed=False)
        return fresh


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


T1 = ConnectionToken("grant", "T1")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger() -> Ledger:
    service = Ledger()
    service.stored[KEY] = T1
    return service


@pytest.fixture
def tokens(ledger: Ledger, clock: Clock) -> ConnectionTokens:
    return ConnectionTokens(ledger, clock=clock, monotonic=clock)


async def fetch(tokens: ConnectionTokens, key: TokenKey = KEY, credential: str = "c") -> ConnectionToken:
    return tokens.cached(key, credential) or await tokens.fetch(key, caller=ADA, credential=credential)


async def rejected(tokens: ConnectionTokens, token: ConnectionToken, route: str = "a") -> ConnectionToken | None:
    return await tokens.replace(KEY, rejected=token, route=route, caller=ADA, credential="c")


async def test_token_is_cached_until_it_wants_a_refresh(tokens: ConnectionTokens, ledger: Ledger, clock: Clock) -> None:
    """
    A token is asked for once, and again from its refresh_at.
    """
    ledger.stored[KEY] = replace(T1, refresh_at=clock.now + 10)

    await fetch(tokens)
    await fetch(tokens)
    before = ledger.fetches
    clock.now += 10
    await fetch(tokens)

    assert (1, 2) == (before, ledger.fetches)


async def test_absent_token_is_not_cached(tokens: ConnectionTokens, ledger: Ledger) -> None:
    """
    A refusal is not remembered: once the account is connected, the next call gets its token.
    """
    del ledger.stored[KEY]
    with pytest.raises(ConnectionRequired):
        await fetch(tokens)
    ledger.stored[KEY] = T1

    assert T1 == await fetch(tokens)


async def test_credentials_do_not_share_where_the_service_answers_per_caller(clock: Clock) -> None:
    """
    Where the service answers per caller, each credential has an entry of its own, at most max_cache_seconds old.
    """
    ledger = Ledger(shares=False, max_cache_seconds=60.0)
    ledger.stored[KEY] = T1
    tokens = ConnectionTokens(ledger, clock=clock, monotonic=clock)

    for credential in ("one", "two", "one"):
        await fetch(tokens, credential=credential)
    clock.now += 60
    await fetch(tokens, credential="one")

    assert ["one", "two", "one"] == ledger.credentials


LEVELS = {
    "another user": TokenKey("api", "bob", None),
    "a user within a tenant": TokenKey("api", "ada", "t"),
    "a tenant": TokenKey("api", None, "t"),
    "a tenant with the user's name": TokenKey("api", None, "ada"),
    "an account": TokenKey("api", "ada", None, None, "work"),
    "a set of scopes": TokenKey("api", "ada", None, ("s",)),
    "another connection": TokenKey("api2", "ada", None),
}


@pytest.mark.parametrize("case", LEVELS)
async def test_levels_never_stand_in_for_each_other(tokens: ConnectionTokens, case: str) -> None:
    """
    A cached token answers for its own key and for no other.
    """
    await fetch(tokens)

    assert None is tokens.cached(LEVELS[case], "c")


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
    assert not tokens.has_trials

    third = await rejected(tokens, second)

    assert third is not None
    assert ("T3", 2) == (third.access_token, ledger.exchanges)


async def test_change_drops_what_is_cached(tokens: ConnectionTokens, ledger: Ledger) -> None:
    """
    When the service says that an owner's tokens changed, they are asked for again; others' stay.
    """
    bob = TokenKey("api", "bob", None)
    ledger.stored[bob] = replace(T1, access_token="B1")
    await fetch(tokens)
    await fetch(tokens, bob)

    tokens.forget_owner(KEY.owner)

    assert (None, "B1") == (tokens.cached(KEY, "c"), (await fetch(tokens, bob)).access_token)


async def test_everything_is_dropped_when_changes_were_missed(tokens: ConnectionTokens, ledger: Ledger) -> None:
    """
    After a gap nothing is served from the cache, and what was being fetched serves its call only.
    """
    other = KEY._replace(user="bob")
    ledger.stored[other] = T1
    ledger.gate = asyncio.Event()
    flight = asyncio.create_task(fetch(tokens, other))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    tokens.forget_all()
    ledger.gate.set()
    await flight
    assert tokens.cached(other, "c") is None

    await fetch(tokens)
    tokens.forget_all()
    assert tokens.cached(KEY, "c") is None
    assert T1 == await fetch(tokens)


async def test_change_during_a_fetch_is_not_lost(tokens: ConnectionTokens, ledger: Ledger) -> None:
    """
    A token that was taken away while it was being fetched is not kept.
    """
    ledger.gate = asyncio.Event()
    flight = asyncio.create_task(fetch(tokens))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    tokens.forget_owner(KEY.owner)
    ledger.gate.set()
    await flight

    assert None is tokens.cached(KEY, "c")


async def test_cache_is_not_believed_while_changes_are_not_heard(ledger: Ledger, clock: Clock) -> None:
    """
    While nobody can tell of changes, the service is asked for each call; afterwards the cache serves again.
    """
    is_live = True
    tokens = ConnectionTokens(ledger, clock=clock, monotonic=clock, is_live=lambda: is_live)
    await fetch(tokens)
    is_live = False
    ledger.stored[KEY] = replace(T1, access_token="T2")
    seen = [(await fetch(tokens)).access_token for _ in range(2)]
    is_live = True
    asked = ledger.fetches

    assert ["T2", "T2"] == seen
    assert ("T2", asked) == ((await fetch(tokens)).access_token, ledger.fetches)

    is_live = False
    del ledger.stored[KEY]
    with pytest.raises(ConnectionRequired):
        await fetch(tokens)
    ledger.stored[KEY] = T1
    is_live = True

    assert "T1" == (await fetch(tokens)).access_token


async def test_valid_token_serves_while_its_service_is_away(ledger: Ledger, clock: Clock) -> None:
    """
    A service that does not answer, and so tells of no change either, costs nobody a token that is still valid.
    """
    tokens = ConnectionTokens(ledger, clock=clock, monotonic=clock, is_live=lambda: False)
    ledger.stored[KEY] = replace(T1, refresh_at=clock.now + 10)
    await fetch(tokens)
    ledger.is_away = True

    assert "T1" == (await fetch(tokens)).access_token
    with pytest.raises(TokenServiceUnavailable):
        await rejected(tokens, T1)
    clock.now += 10
    with pytest.raises(TokenServiceUnavailable):
        await fetch(tokens)


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


async def test_slow_service_is_not_waited_for_where_a_token_is_here(ledger: Ledger, clock: Clock) -> None:
    """
    A service that hangs costs a call PATIENCE_SECONDS where an unexpired token is here; its answer counts afterwards.
    """
    tokens = ConnectionTokens(ledger, clock=clock, monotonic=clock)
    ledger.stored[KEY] = replace(T1, expires_at=clock.now + 100, refresh_at=clock.now + 90)
    await fetch(tokens)
    clock.now += 95
    ledger.stored[KEY] = replace(T1, access_token="T2")
    ledger.gate = asyncio.Event()

    assert ["T1", "T1"] == [token.access_token for token in await asyncio.gather(fetch(tokens), fetch(tokens))]
    ledger.gate.set()
    await tokens.close()
    assert (2, "T2") == (ledger.fetches, (await fetch(tokens)).access_token)


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
    assert ("T2", 1) == (kept.access_token, ledger.exchanges)


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


async def test_slow_fetch_does_not_undo_a_refresh(clock: Clock) -> None:
    """
    A fetch that read the old token before a refresh was stored gets, and leaves in the cache, what the refresh brought.
    """
    ledger = Ledger()
    ledger.stored[KEY] = T1
    tokens = ConnectionTokens(ledger, clock=clock, monotonic=clock)
    ledger.gate = asyncio.Event()
    slow = asyncio.create_task(tokens.fetch(KEY, caller=ADA, credential="c"))
    await asyncio.sleep(0.01)
    slow_gate, ledger.gate = ledger.gate, None

    fresh = await tokens.replace(KEY, rejected=T1, route="api", caller=ADA, credential="c")
    slow_gate.set()

    assert fresh is not None
    assert "T2" == fresh.access_token == (await slow).access_token
    assert fresh == tokens.cached(KEY, "c")


@pytest.mark.parametrize("ends_first", ["the refresh", "the fetch"])
async def test_refresh_that_is_not_cached_leaves_no_older_token(clock: Clock, ends_first: str) -> None:
    """
    A change of something older is heard while a refresh and a fetch are under way: the fetch's token, which is the
    rejected one, is not in the cache when both have ended, in whatever order.
    """
    ledger = Ledger()
    ledger.stored[KEY] = T1
    tokens = ConnectionTokens(ledger, clock=clock, monotonic=clock)
    await fetch(tokens)
    refresh_gate, fetch_gate = asyncio.Event(), asyncio.Event()
    ledger.gate = refresh_gate
    refreshing = asyncio.create_task(tokens.replace(KEY, rejected=T1, route="api", caller=ADA, credential="c"))
    await asyncio.sleep(0.01)
    tokens.forget_owner(KEY.owner)
    ledger.gate = fetch_gate
    fetching = asyncio.create_task(fetch(tokens))
    await asyncio.sleep(0.01)
    gates = [refresh_gate, fetch_gate]
    for gate in gates if ends_first == "the refresh" else reversed(gates):
        gate.set()
        await asyncio.sleep(0.01)
    await asyncio.gather(refreshing, fetching)

    ledger.gate = None
    assert "T2" == (await fetch(tokens)).access_token


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
