"""Which tokens the data path keeps in memory: for how long, for whom, and until somebody changes them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

import pytest

from gateway.errors import ConnectionRequired, TokenServiceUnavailable
from gateway.models import TokenKey
from gateway.proxy.tokens import ConnectionTokens
from tests.proxy.ledger import ADA, KEY, T1, Clock, Ledger, fetch, rejected


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


@pytest.mark.parametrize(
    "how", ["its owner's changed", "its connection changed", "changes missed", "refused", "refreshed", "pushed out"]
)
async def test_what_leaves_the_cache_ends_for_whoever_holds_it(
    tokens: ConnectionTokens, ledger: Ledger, clock: Clock, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """
    A caller's next call need not look into the cache to find out.
    """
    await fetch(tokens)
    held = tokens.cached(KEY, "c")
    assert held is not None
    assert tokens.may_use(held, clock.now)

    if how == "its owner's changed":
        tokens.forget_owner(KEY.owner)
    elif how == "its connection changed":
        tokens.forget_connection(KEY.connection)
    elif how == "changes missed":
        tokens.forget_all()
    elif how == "refused":
        del ledger.stored[KEY]
        with pytest.raises(ConnectionRequired):
            await tokens.fetch(KEY, caller=ADA, credential="c")
    elif how == "refreshed":
        await rejected(tokens, T1)
    else:
        monkeypatch.setattr("gateway.proxy.tokens.MAX_CACHED_TOKENS", 1)
        ledger.stored[LEVELS["another user"]] = T1
        await fetch(tokens, LEVELS["another user"])

    assert not tokens.may_use(held, clock.now)


async def test_nothing_stays_of_who_was_served_and_then_refused(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Nor of who was pushed out by others: what is found by its owner ends with what is cached.
    """
    monkeypatch.setattr("gateway.proxy.tokens.MAX_CACHED_TOKENS", 2)
    ledger = Ledger(shares=False, max_cache_seconds=60.0)
    tokens = ConnectionTokens(ledger, clock=clock, monotonic=clock)
    for number in range(5):
        ledger.stored[KEY._replace(user=f"u{number}")] = ledger.stored[KEY] = T1
        await fetch(tokens, KEY._replace(user=f"u{number}"))
        await fetch(tokens, credential=f"jwt-{number}")
    ledger.stored.clear()
    for number in range(5):
        for key, credential in ((KEY, f"jwt-{number}"), (KEY._replace(user=f"u{number}"), "c")):
            with pytest.raises(ConnectionRequired):
                await tokens.fetch(key, caller=ADA, credential=credential)

    assert ({}, {}) == (tokens._cached, tokens._owned)


@dataclass
class Heard:
    """A feed that a test holds."""

    live_until: float


async def test_cache_is_not_believed_while_changes_are_not_heard(ledger: Ledger, clock: Clock) -> None:
    """
    While nobody can tell of changes, the service is asked for each call; afterwards the cache serves again.
    """
    feed = Heard(float("inf"))
    tokens = ConnectionTokens(ledger, clock=clock, monotonic=clock, feed=feed)
    await fetch(tokens)
    feed.live_until = clock.now
    ledger.stored[KEY] = replace(T1, access_token="T2")
    seen = [(await fetch(tokens)).access_token for _ in range(2)]
    feed.live_until = float("inf")
    asked = ledger.fetches

    assert ["T2", "T2"] == seen
    assert ("T2", asked) == ((await fetch(tokens)).access_token, ledger.fetches)

    feed.live_until = clock.now
    del ledger.stored[KEY]
    with pytest.raises(ConnectionRequired):
        await fetch(tokens)
    ledger.stored[KEY] = T1
    feed.live_until = float("inf")

    assert "T1" == (await fetch(tokens)).access_token


async def test_valid_token_serves_while_its_service_is_away(ledger: Ledger, clock: Clock) -> None:
    """
    A service that does not answer, and so tells of no change either, costs nobody a token that is still valid.
    """
    tokens = ConnectionTokens(ledger, clock=clock, monotonic=clock, feed=Heard(float("-inf")))
    ledger.stored[KEY] = replace(T1, refresh_at=clock.now + 10)
    await fetch(tokens)
    ledger.is_away = True

    assert "T1" == (await fetch(tokens)).access_token
    with pytest.raises(TokenServiceUnavailable):
        await rejected(tokens, T1)
    clock.now += 10
    with pytest.raises(TokenServiceUnavailable):
        await fetch(tokens)


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
    kept = tokens.cached(KEY, "c")
    assert kept is not None
    assert fresh == kept.token


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
