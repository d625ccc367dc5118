"""The ring: which key seals, which open, and what a key service that is away changes."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.errors import TokenServiceUnavailable
from gateway.models import Caller, Egress, TokenKey
from gateway.net.client import OutboundClient
from gateway.store.engine import Store, sqlite_url
from gateway.vault import key_ring
from gateway.vault.connection import Connection
from gateway.vault.key_attendance import attendants
from gateway.vault.key_directory import KeyDirectory
from gateway.vault.key_ring import MAX_AGE_SECONDS, RENEW_SECONDS, SealingRing
from gateway.vault.key_source import WrappedKey
from gateway.vault.sealing import Binding, SealBroken, Sealer, SealingKey, SealingKeyError, SealingKeyUnavailable
from gateway.vault.service import Vault
from gateway.vault.stored_token import TokenDraft
from tests.vault.key_service import ENVIRON, KeyService

PLACE = Binding("tokens", "sealed_access_token", "id1", "contacts", "alice")
ONE, TWO = (base64.b64encode(bytes(range(start, start + 32))).decode() for start in (0, 1))


@asynccontextmanager
async def opened(
    path: Path,
    environ: dict[str, str] | None = None,
    *,
    service: KeyService | None = None,
    monotonic: Callable[[], float] = lambda: 0.0,
) -> AsyncIterator[SealingRing]:
    """A ring, closed at the end."""
    providers = {} if service is None else {service.service: service}
    ring = await SealingRing.open(path, environ or {}, monotonic=monotonic, providers=providers)
    try:
        yield ring
    finally:
        await ring.close()


async def publish(ring: SealingRing) -> bytes:
    """Publish a new key in the ring's directory, as a rotation in another process does."""
    key_id, text = await ring.new_key(os.urandom)
    KeyDirectory(directory_of(ring)).publish(key_id, text)
    return key_id


def names(path: Path) -> list[str]:
    """What is in a directory."""
    return [found.name for found in path.iterdir()]


async def until(is_so: Callable[[], bool]) -> None:
    """Wait for what another task brings about, 10 s at most."""
    for _ in range(500):
        if is_so():
            return
        await asyncio.sleep(0.02)
    pytest.fail("it did not come about")


def directory_of(ring: SealingRing) -> Path:
    """Where the ring's keys are."""
    assert ring.directory is not None
    return ring.directory.path


async def test_first_start_makes_a_key_and_the_second_finds_it(tmp_path: Path) -> None:
    """The first key is made once, and what it sealed opens after a restart."""
    async with opened(tmp_path / "data") as ring:
        sealed = Sealer(ring, os.urandom).seal(b"CANARY", binding=PLACE)
    async with opened(tmp_path / "data") as again:
        assert b"CANARY" == Sealer(again, os.urandom).open(sealed, binding=PLACE)
        assert ring.key_ids == again.key_ids


async def test_first_key_of_the_environment_seals_and_all_open(tmp_path: Path) -> None:
    """A list whose order is turned around goes on opening, and nothing is made in the data directory."""
    async with opened(tmp_path, {"GATEWAY_SEALING_KEYS": f"{ONE},{TWO}"}) as ring:
        sealed = Sealer(ring, os.urandom).seal(b"CANARY", binding=PLACE)
    async with opened(tmp_path, {"GATEWAY_SEALING_KEYS": f"{TWO},{ONE}"}) as turned:
        assert ring.key_ids == turned.key_ids[::-1]
        assert b"CANARY" == Sealer(turned, os.urandom).open(sealed, binding=PLACE)
        assert turned.directory is None
    assert [] == names(tmp_path)


async def test_published_key_opens_at_once_and_seals_when_activated(tmp_path: Path) -> None:
    """Two processes with one directory: neither ever meets a value that it cannot open."""
    async with opened(tmp_path) as one, opened(tmp_path) as other:
        old = one.current.key_id
        new = await publish(one)
        assert new == (other.find(new) or one.current).key_id
        assert old == other.current.key_id
        KeyDirectory(tmp_path).activate(new)
        sealed = Sealer(one, os.urandom).seal(b"CANARY", binding=PLACE)

        assert new == one.current.key_id == other.current.key_id
        assert b"CANARY" == Sealer(other, os.urandom).open(sealed, binding=PLACE)


async def test_replaced_file_changes_the_key_that_seals(tmp_path: Path) -> None:
    """A mounted secret that was replaced counts from the next seal on; a broken one changes nothing."""
    path = tmp_path / "keys"
    path.write_text(ONE)
    async with opened(tmp_path, {"GATEWAY_SEALING_KEY_FILE": str(path)}) as ring:
        before = ring.current.key_id
        path.write_text("broken")
        during = ring.current.key_id
        path.write_text(f"{TWO},{ONE}")

        assert before == during
        assert SealingKey.from_bytes(base64.b64decode(TWO)).key_id == ring.current.key_id
        assert ring.find(before) is not None


async def test_unknown_key_is_told_with_those_that_are_there(tmp_path: Path) -> None:
    """An id that no source has is refused by name, and costs no more than looking."""
    stranger = Sealer(SealingKey.from_bytes(os.urandom(32)), os.urandom)
    async with opened(tmp_path) as ring:
        with pytest.raises(SealBroken, match=ring.current.key_id.hex()):
            Sealer(ring, os.urandom).open(stranger.seal(b"CANARY", binding=PLACE), binding=PLACE)


async def test_service_keeps_the_key(tmp_path: Path) -> None:
    """With a key service the file holds a wrapped key only, and sealing and opening ask it nothing."""
    service = KeyService()
    async with opened(tmp_path, ENVIRON, service=service) as ring:
        sealer = Sealer(ring, os.urandom)
        for _ in range(20):
            assert b"CANARY" == sealer.open(sealer.seal(b"CANARY", binding=PLACE), binding=PLACE)
        entry = KeyDirectory(tmp_path).read()[0]

    assert 1 == service.unwraps
    assert isinstance(entry, WrappedKey)
    assert ("aws-kms", "key-1") == (entry.service, entry.master)


async def test_service_that_is_away_is_bridged_for_an_hour(tmp_path: Path) -> None:
    """An open ring serves without its service until MAX_AGE_SECONDS, then not; and again when the service is back."""
    service, now = KeyService(), [0.0]
    async with opened(tmp_path, ENVIRON, service=service, monotonic=lambda: now[0]) as ring:
        sealer = Sealer(ring, os.urandom)
        sealed = sealer.seal(b"CANARY", binding=PLACE)
        service.is_away = True
        now[0] = RENEW_SECONDS + 1
        await ring.refresh()
        now[0] = MAX_AGE_SECONDS - 1
        assert b"CANARY" == sealer.open(sealed, binding=PLACE)
        now[0] = MAX_AGE_SECONDS + 1
        with pytest.raises(SealingKeyUnavailable):
            sealer.open(sealed, binding=PLACE)
        with pytest.raises(SealingKeyUnavailable):
            sealer.seal(b"CANARY", binding=PLACE)
        service.is_away = False
        await ring.refresh()
        assert b"CANARY" == sealer.open(sealed, binding=PLACE)


async def test_key_that_cannot_be_unwrapped_does_not_begin_to_seal(tmp_path: Path) -> None:
    """A new key whose service is away here is unavailable to open, and the old one goes on sealing."""
    service, away = KeyService(), KeyService()
    away._cipher = service._cipher
    async with (
        opened(tmp_path, ENVIRON, service=service) as one,
        opened(tmp_path, ENVIRON, service=away) as other,
    ):
        old = other.current.key_id
        away.is_away = True
        new = await publish(one)
        with pytest.raises(SealingKeyUnavailable):
            other.find(new)
        KeyDirectory(tmp_path).activate(new)
        await other.refresh()
        assert old == other.current.key_id
        away.is_away = False
        await other.refresh()
        assert new == other.current.key_id


async def test_start_without_the_service_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that its service does not give ends the start with its id, after a few attempts."""
    monkeypatch.setattr(key_ring, "OPEN_PAUSE_SECONDS", 0.0)
    service = KeyService()
    async with opened(tmp_path, ENVIRON, service=service) as ring:
        key_id = ring.current.key_id.hex()
    service.is_away = True
    with pytest.raises(SealingKeyError, match=key_id):
        async with opened(tmp_path, ENVIRON, service=service):
            pass


async def test_another_services_key_is_refused(tmp_path: Path) -> None:
    """What the service cannot unwrap, and a name that is no service, are refused at the start."""
    async with opened(tmp_path, ENVIRON, service=KeyService()):
        pass
    with pytest.raises(SealingKeyError, match="does not accept"):
        async with opened(tmp_path, ENVIRON, service=KeyService()):
            pass
    with pytest.raises(SealingKeyError, match="GATEWAY_SEALING_KMS"):
        async with opened(tmp_path / "other", {"GATEWAY_SEALING_KMS": "vault"}):
            pass


async def test_swapped_wrapped_key_is_refused(tmp_path: Path) -> None:
    """A wrapped key under another key's id is not taken, whatever the service would do."""
    service = KeyService()
    async with opened(tmp_path, ENVIRON, service=service) as ring:
        entry = KeyDirectory(tmp_path).read()[0]
        assert isinstance(entry, WrappedKey)
        wrapped = await service.wrap(os.urandom(32), master="key-1", key_id=entry.key_id)
        with pytest.raises(SealingKeyError, match="another key"):
            await ring._unwrap(WrappedKey("aws-kms", entry.key_id, "key-1", wrapped))


async def test_watching_finds_keys_and_attends(tmp_path: Path) -> None:
    """A process that serves says within a moment that it opens a new key, and leaves no trace."""
    service = KeyService()
    async with opened(tmp_path, ENVIRON, service=service) as ring:
        ring.watch()
        new = await publish(ring)
        await until(lambda: all(new in one.opens for one in attendants(tmp_path)))
        KeyDirectory(tmp_path).activate(new)
        await until(lambda: {new} == {one.seals for one in attendants(tmp_path)})
    assert [] == attendants(tmp_path)


async def test_fetch_without_the_service_is_worth_repeating(tmp_path: Path) -> None:
    """A vault whose key cannot be had for now answers token_service_unavailable, and serves again when it can."""
    service, now = KeyService(), [0.0]
    key = TokenKey("contacts", "alice", None)
    caller = Caller(kind="management", user=None, key_id="tests")
    store = await Store.open(sqlite_url(tmp_path / "gateway.db"))
    async with (
        opened(tmp_path, ENVIRON, service=service, monotonic=lambda: now[0]) as ring,
        OutboundClient(Egress()) as client,
    ):
        vault = Vault(store, Sealer(ring, os.urandom), client, clock=lambda: 1.0, random_bytes=os.urandom)
        await vault.connections.create(Connection(id="contacts", name="Contacts", client_id="me"))
        await vault.tokens.put(TokenDraft("contacts", user="alice", access_token="CANARY"))
        service.is_away, now[0] = True, MAX_AGE_SECONDS + 1
        with pytest.raises(TokenServiceUnavailable) as refusal:
            await vault.fetch(key, caller=caller, credential="")
        service.is_away = False
        await ring.refresh()
        token = await vault.fetch(key, caller=caller, credential="")
        await vault.close()
    await store.close()

    assert refusal.value.retryable
    assert "CANARY" == token.access_token


async def test_ring_shows_no_key(tmp_path: Path) -> None:
    """Neither the ring nor its parts tell a key."""
    async with opened(tmp_path, {"GATEWAY_SEALING_KEYS": ONE}) as ring:
        shown = f"{ring!r} {ring.current!r} {vars(ring)!r}"
    assert ONE not in shown
    assert repr(ring.current.wrapping_key) not in shown
