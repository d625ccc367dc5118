"""When a refresh that has failed may be tried again."""

from __future__ import annotations

from dataclasses import replace

from gateway.vault.backoff import BACKOFF_MAX_SECONDS, Backoffs, Wait
from gateway.vault.stored_token import StoredToken, TokenDraft, preview
from tests.vault.conftest import Clock


def no_jitter(length: int) -> bytes:
    """Zeros."""
    return bytes(length)


def token(clock: Clock) -> StoredToken:
    """A token without a failure."""
    return preview(TokenDraft("contacts", "alice", refresh_token="RT"), now=clock())


def test_waits_double_up_to_a_maximum() -> None:
    """Each failure of one version doubles the wait, up to 300 seconds."""
    clock = Clock()
    backoffs = Backoffs(clock, no_jitter)

    waits = [backoffs.failed(token(clock), error="timeout", at_least=None) for _ in range(8)]

    assert [5, 10, 20, 40, 80, 160, 300, 300] == waits


def test_another_version_begins_anew() -> None:
    """What failed for an older grant says nothing about the newer one."""
    clock = Clock()
    backoffs = Backoffs(clock, no_jitter)
    first = token(clock)
    backoffs.failed(first, error="timeout", at_least=None)

    assert Wait("timeout", 5) == backoffs.wait_for(first)
    assert backoffs.wait_for(replace(first, version=1)) is None
    backoffs.forget(first.id)
    assert backoffs.wait_for(first) is None


def test_provider_is_heard_within_bounds() -> None:
    """Retry-After lengthens the wait, and cannot stop refreshing for a day."""
    clock = Clock()
    backoffs = Backoffs(clock, no_jitter)

    assert 60 == backoffs.failed(token(clock), error="status_429", at_least=60)
    assert BACKOFF_MAX_SECONDS == backoffs.failed(token(clock), error="status_429", at_least=86_400)


def test_row_tells_of_another_process_failure() -> None:
    """A failure that another process has noted counts for five seconds."""
    clock = Clock()
    backoffs = Backoffs(clock, no_jitter)
    before = token(clock)
    noted = replace(before, last_refresh_error="timeout", updated_at=clock.now)

    assert Wait("timeout", 5) == backoffs.wait_for(noted)
    assert backoffs.is_failure_shared(noted, before)
    clock.now += 5.0
    assert backoffs.wait_for(noted) is None
    assert not backoffs.is_failure_shared(noted, before)


def test_clock_that_jumped_back_holds_nobody_up() -> None:
    """A wait further away than a back-off can be is not believed."""
    clock = Clock()
    backoffs = Backoffs(clock, no_jitter)
    failed = token(clock)
    backoffs.failed(failed, error="timeout", at_least=None)
    clock.now -= 86_400.0

    assert backoffs.wait_for(failed) is None
