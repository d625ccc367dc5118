"""A dependency that fails is left alone for a while, and found again by one probe."""

from __future__ import annotations

import pytest

from gateway.breaker import FAILURES, PAUSE_SECONDS, PROBE_SECONDS, Breaker


class Clock:
    """Monotonic seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """The breaker's clock."""
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    """A breaker of a dependency that has not failed yet."""
    return Breaker(monotonic=clock)


def fail(breaker: Breaker, times: int) -> None:
    """Fail *times* in a row."""
    for _ in range(times):
        breaker.failed()


def test_lets_everyone_through_until_the_last_failure(breaker: Breaker) -> None:
    """
    The dependency is asked until it has failed often enough in a row; the pause begins once.
    """
    fail(breaker, FAILURES - 1)
    assert breaker.wait_seconds() is None

    assert breaker.failed()
    assert not breaker.failed()
    assert int(PAUSE_SECONDS) == breaker.wait_seconds()


def test_success_in_between_forgets(breaker: Breaker) -> None:
    """
    Failures count only in a row.
    """
    for _ in range(5):
        fail(breaker, FAILURES - 1)
        breaker.succeeded()

    assert breaker.wait_seconds() is None


def test_failure_that_began_before_an_answer_does_not_count(breaker: Breaker) -> None:
    """
    What hung while the dependency was away is no news once somebody has been answered.
    """
    began = breaker.answers
    breaker.succeeded()
    for _ in range(2 * FAILURES):
        assert not breaker.failed(answers_before=began)
    assert breaker.is_closed()

    for _ in range(FAILURES):
        breaker.failed(answers_before=breaker.answers)
    assert not breaker.is_closed()


def test_one_probe_after_the_pause(breaker: Breaker, clock: Clock) -> None:
    """
    After the pause one caller asks and the others wait; its success lets all through.
    """
    fail(breaker, FAILURES)
    clock.now += PAUSE_SECONDS

    assert [None, 5, 5] == [breaker.wait_seconds() for _ in range(3)]
    breaker.succeeded()
    assert [None, None] == [breaker.wait_seconds() for _ in range(2)]


def test_probe_that_fails_begins_the_next_pause(breaker: Breaker, clock: Clock) -> None:
    """
    One failure of the probe is enough for the next pause.
    """
    fail(breaker, FAILURES)
    for _ in range(3):
        clock.now += PAUSE_SECONDS
        assert breaker.wait_seconds() is None
        breaker.failed()
        assert breaker.wait_seconds() is not None


def test_probe_that_is_lost_is_replaced(breaker: Breaker, clock: Clock) -> None:
    """
    A probe that never tells how it ended does not close the dependency for ever.
    """
    fail(breaker, FAILURES)
    clock.now += PAUSE_SECONDS
    assert breaker.wait_seconds() is None
    clock.now += PROBE_SECONDS

    assert breaker.wait_seconds() is None


def test_probe_that_was_not_made_is_made_by_the_next(breaker: Breaker, clock: Clock) -> None:
    """
    Whoever was let through to probe and did not ask leaves it to the next caller, not to the end of its time.
    """
    fail(breaker, FAILURES)
    clock.now += PAUSE_SECONDS
    assert breaker.wait_seconds() is None
    breaker.withdrawn()

    assert breaker.wait_seconds() is None
    assert breaker.wait_seconds() is not None


def test_pauses_differ_by_chance(clock: Clock) -> None:
    """
    With a source of chance a pause is up to a quarter longer, and whoever is refused is never told to wait longer.
    """
    for byte, seconds in ((0, PAUSE_SECONDS), (255, PAUSE_SECONDS * 1.249)):
        breaker = Breaker(monotonic=clock, random_bytes=bytes([byte]).__mul__)
        fail(breaker, FAILURES)
        assert int(PAUSE_SECONDS) == breaker.wait_seconds()
        clock.now += seconds - 0.01
        assert not breaker.is_closed()
        assert breaker.wait_seconds() is not None
        clock.now += 0.02
        assert breaker.wait_seconds() is None
