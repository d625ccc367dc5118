"""How long a lease has been seen to stand still: only what was looked at counts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.vault.discovery import ANSWER_SECONDS
from gateway.vault.lease import MAX_LOOK_SECONDS, PATIENT, Timing, Watch
from gateway.vault.refresh import PERSIST_MAX_SECONDS
from tests.vault.conftest import Clock
from tests.vault.test_ahead import token


def seen(*looks: tuple[float, str, int]) -> float:
    """How long the lease stood still after looks at (seconds since the last one, owner, beat)."""
    clock = Clock()
    watch = Watch(clock)
    still = 0.0
    for seconds, owner, beat in looks:
        clock.now += seconds
        still = watch.look(replace(token(), lease_owner=owner, lease_beat=beat, lease_until=1.0))
    return round(still, 6)


LOOKS: dict[str, tuple[list[tuple[float, str, int]], float]] = {
    "the first look tells nothing": ([(0.0, "a", 1)], 0.0),
    "time between looks adds up": ([(0.0, "a", 1), (0.1, "a", 1), (0.2, "a", 1)], 0.3),
    "a beat begins anew": ([(0.0, "a", 1), (0.4, "a", 1), (0.1, "a", 2)], 0.0),
    "another owner begins anew": ([(0.0, "a", 1), (0.4, "a", 1), (0.1, "b", 1)], 0.0),
    "a watcher that was stopped has not watched": ([(0.0, "a", 1), (3600.0, "a", 1)], MAX_LOOK_SECONDS),
    "a clock that goes back takes nothing away": ([(0.0, "a", 1), (0.2, "a", 1), (-9.0, "a", 1), (0.1, "a", 1)], 0.3),
}


@pytest.mark.parametrize(("looks", "expected"), LOOKS.values(), ids=LOOKS.keys())
def test_what_counts_as_standing_still(looks: list[tuple[float, str, int]], expected: float) -> None:
    """The table above."""
    assert expected == seen(*looks)


def test_forgotten_lease_begins_anew() -> None:
    """A lease that ended and one that follows it are two."""
    clock = Clock()
    watch = Watch(clock)
    leased = replace(token(), lease_owner="a", lease_beat=1)
    watch.look(leased)
    clock.now += 0.3
    watch.forget(leased.id)

    assert 0.0 == watch.look(leased)


def test_times_fit_together() -> None:
    """A holder may miss three renewals; a caller lives through a takeover; a stop or a command cuts nothing."""
    timing = Timing()

    assert timing.renew_seconds * 4 < timing.lease_seconds
    assert timing.lease_seconds < timing.wait_seconds
    assert 2 * ANSWER_SECONDS + timing.exchange_seconds + 1.0 + PERSIST_MAX_SECONDS < timing.close_seconds
    assert 2 * timing.close_seconds + timing.lease_seconds < PATIENT.wait_seconds
    assert timing.poll_seconds < MAX_LOOK_SECONDS
