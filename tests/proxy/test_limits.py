"""How many requests a minute a caller may send."""

from __future__ import annotations

import pytest

from gateway.proxy import limits
from gateway.proxy.limits import ConcurrencyLimit, RateLimit


def test_minutes_worth_comes_at_once_then_one_per_interval() -> None:
    """
    A burst of a minute's worth passes; the next one waits for an interval.
    """
    limit = RateLimit(6)

    burst = [limit.take("ada", now=0.0) for _ in range(7)]

    assert [None] * 6 + [10] == burst
    assert (1, None, 10) == (
        limit.take("ada", now=9.5),
        limit.take("ada", now=10.0),
        limit.take("ada", now=10.0),
    )


def test_refused_requests_do_not_count() -> None:
    """
    Asking again while waiting does not make the wait longer.
    """
    limit = RateLimit(1)
    limit.take("ada", now=0.0)
    for second in range(60):
        assert 60 - second == limit.take("ada", now=float(second))

    assert None is limit.take("ada", now=60.0)


def test_callers_do_not_share() -> None:
    """
    One caller's burst does not cost another.
    """
    limit = RateLimit(1)
    limit.take("ada", now=0.0)

    assert None is limit.take("bob", now=0.0)


def test_state_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The caller seen longest ago is forgotten first.
    """
    monkeypatch.setattr(limits, "MAX_CALLERS", 2)
    limit = RateLimit(1)
    for caller in ("ada", "bob", "ada", "eve"):
        limit.take(caller, now=0.0)

    assert ["ada", "eve"] == list(limit._full_at)


def test_calls_under_way_are_counted_per_caller() -> None:
    """
    One caller's calls do not cost another; what is over makes room, and nothing is kept of who has none.
    """
    limit = ConcurrencyLimit(2)

    assert [True, True, False, True] == [limit.enter(caller) for caller in ("ada", "ada", "ada", "bob")]
    limit.leave("ada")
    assert limit.enter("ada")
    for caller in ("ada", "ada", "bob"):
        limit.leave(caller)
    assert {} == limit._under_way
