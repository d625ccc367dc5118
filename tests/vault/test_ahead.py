"""Tokens in use are refreshed before anybody has to wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from gateway.vault.ahead import MAX_AT_ONCE, RefreshAhead
from gateway.vault.lease import Timing
from gateway.vault.service import Vault
from gateway.vault.stored_token import StoredToken
from tests.vault.conftest import ANYBODY, KEY, Clock, House

NOW = 1_800_000_000.0


def token(name: str = "t", *, lifetime: float | None = 1000.0, version: int = 1, dead: bool = False) -> StoredToken:
    """A token received at NOW."""
    return StoredToken(
        id=name, connection="contacts", user="alice", tenant="", account="", requested_scopes=(), granted_scopes=(),
        access_token="CANARY-access", refresh_token="CANARY-refresh", token_type="Bearer", token_sub="", granted_by="",
        issued_at=NOW, expires_at=None if lifetime is None else NOW + lifetime, created_at=NOW, updated_at=NOW,
        last_refresh_at=None, last_refresh_error="", dead=dead, version=version, lease_owner=None, lease_until=None,
    )  # fmt: skip


class Refreshes:
    """What was refreshed; *again* is what a refresh answers, *gate* holds it up."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []
        self.again: int | None = None
        self.gate: asyncio.Event | None = None
        self.fault: Exception | None = None

    async def __call__(self, token: StoredToken) -> int | None:
        assert "CANARY" not in f"{token.access_token}{token.refresh_token}"
        self.seen.append((token.id, token.version))
        if self.gate is not None:
            await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        return self.again


def ahead(refreshes: Callable[[StoredToken], Awaitable[int | None]], clock: Clock, *, byte: int = 0) -> RefreshAhead:
    """What is tested, with a jitter of byte/255 of its largest."""
    return RefreshAhead(refreshes, clock=clock, random_bytes=lambda count: bytes([byte]) * count)


async def ticked(ahead: RefreshAhead) -> None:
    """Begin what is due and wait for it."""
    await asyncio.gather(*ahead.tick())


WHEN: dict[str, tuple[float | None, int, float | None]] = {
    "long life, no jitter: a minute before expiry": (3600.0, 0, 3540.0),
    "long life, most jitter: a quarter of that minute earlier": (3600.0, 255, 3525.0),
    "short life, no jitter: a tenth before expiry": (100.0, 0, 90.0),
    "short life, most jitter": (100.0, 255, 87.5),
    "unknown expiry: never": (None, 0, None),
}


@pytest.mark.parametrize(("lifetime", "byte", "at"), WHEN.values(), ids=WHEN.keys())
async def test_time_of_a_refresh(lifetime: float | None, byte: int, at: float | None) -> None:
    """A token in use is refreshed when it is due or a little before, once."""
    clock, refreshes = Clock(), Refreshes()
    watched = ahead(refreshes, clock, byte=byte)
    watched.used(token(lifetime=lifetime))
    clock.now = NOW + (at or 1e6) - 0.01
    await ticked(watched)
    assert [] == refreshes.seen
    clock.now += 0.02
    await ticked(watched)
    await ticked(watched)

    assert ([] if at is None else [("t", 1)]) == refreshes.seen


async def test_dead_grant_is_left_alone() -> None:
    """Nothing is asked for a grant that the provider has refused."""
    clock, refreshes = Clock(), Refreshes()
    watched = ahead(refreshes, clock)
    watched.used(token(dead=True))
    clock.now += 1e6
    await ticked(watched)

    assert [] == refreshes.seen


async def test_newer_version_has_its_own_time() -> None:
    """A token that was refreshed meanwhile is not refreshed at the old one's time; used again and again, once."""
    clock, refreshes = Clock(), Refreshes()
    watched = ahead(refreshes, clock)
    for _ in range(3):
        watched.used(token(lifetime=100.0))
    watched.used(token(lifetime=3600.0, version=2))
    clock.now += 101.0
    await ticked(watched)
    assert [] == refreshes.seen
    clock.now += 3600.0
    await ticked(watched)

    assert [("t", 2)] == refreshes.seen


async def test_failure_is_tried_again_while_the_token_is_valid() -> None:
    """What may pass is tried again after the time that the refresher says; after expiry it is the callers' turn."""
    clock, refreshes = Clock(), Refreshes()
    refreshes.again = 4
    watched = ahead(refreshes, clock)
    watched.used(token(lifetime=100.0))
    clock.now += 90.0
    for _ in range(100):
        await ticked(watched)
        clock.now += 1.0

    assert 3 == len(refreshes.seen)  # at 90, 94 and 98 seconds


async def test_broken_refresh_ends_nothing_for_others() -> None:
    """A fault in one refresh is logged, and the next token is refreshed."""
    clock, refreshes = Clock(), Refreshes()
    watched = ahead(refreshes, clock)
    refreshes.fault = ZeroDivisionError()
    watched.used(token("a"))
    watched.used(token("b"))
    clock.now += 1000.0
    await ticked(watched)

    assert [("a", 1), ("b", 1)] == sorted(refreshes.seen)


async def test_few_at_once() -> None:
    """A thousand tokens that are due together meet the provider a few at a time."""
    clock, refreshes = Clock(), Refreshes()
    refreshes.gate = asyncio.Event()
    watched = ahead(refreshes, clock)
    for number in range(100):
        watched.used(token(f"t{number}"))
    clock.now += 1000.0
    for _ in range(5):
        watched.tick()
        await asyncio.sleep(0)
    assert MAX_AT_ONCE == len(refreshes.seen)

    refreshes.gate.set()
    for _ in range(100 // MAX_AT_ONCE + 1):
        await ticked(watched)
    assert 100 == len(set(refreshes.seen))


async def test_vault_refreshes_what_is_in_use_in_the_background(house: House) -> None:
    """A token that somebody asked for is exchanged before it is due, by one of two gateways; callers never wait."""
    async with house.vault(timing=Timing(poll_seconds=0.02)) as one, house.vault() as two:
        await one.connections.create(house.connection())
        await house.grant(one, seconds=3600.0)
        await house.grant(one, seconds=3600.0, user="unused")
        for vault in (one, two):
            await vault.start()
            await vault.fetch(KEY, caller=ANYBODY, credential="")
        house.clock.now += 3540.0
        await _until(lambda: bool(house.provider.exchanges), one)
        answer = await two.fetch(KEY, caller=ANYBODY, credential="")

    assert (["RT-alice-0"], "AT-alice-1", False) == (house.provider.exchanges, answer.access_token, answer.refreshed)


async def _until(is_done: Callable[[], bool], vault: Vault) -> None:
    for _ in range(1500):
        if is_done() and (await vault.tokens.find(KEY) or token()).version > 1:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("nothing was refreshed")
