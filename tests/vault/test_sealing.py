"""Sealing: what opens, what does not, and which keys are taken."""

from __future__ import annotations

import asyncio
import base64
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.vault.key_ring import SealingRing
from gateway.vault.sealing import BODY_AT, Binding, SealBroken, Sealer, SealingKey, SealingKeyError, key_id_of

PLACE = Binding("tokens", "sealed_access_token", "id1", "contacts", "alice", "acme", "work")
GOOD = base64.b64encode(bytes(range(32))).decode()


def sealer(secret: bytes = bytes(range(32))) -> Sealer:
    """A sealer with this key and real randomness."""
    return Sealer(SealingKey.from_bytes(secret), os.urandom)


def test_opens_what_it_sealed() -> None:
    """What was sealed for a place opens for that place, and no two sealed values are alike."""
    one, two = sealer().seal(b"CANARY", binding=PLACE), sealer().seal(b"CANARY", binding=PLACE)

    assert b"CANARY" == sealer().open(one, binding=PLACE) == sealer().open(two, binding=PLACE)
    assert one != two
    assert b"CANARY" not in one


ELSEWHERE = {
    "another table": replace(PLACE, table="connections"),
    "another column": replace(PLACE, column="sealed_refresh_token"),
    "another row": replace(PLACE, row_id="id2"),
    "another connection": replace(PLACE, connection="mail"),
    "another user": replace(PLACE, user="bob"),
    "another tenant": replace(PLACE, tenant=""),
    "another account": replace(PLACE, account="home"),
    "a letter moved to the neighbour": replace(PLACE, user="alicea", tenant="cme"),
}


@pytest.mark.parametrize("place", ELSEWHERE.values(), ids=ELSEWHERE.keys())
def test_does_not_open_elsewhere(place: Binding) -> None:
    """A sealed value that was moved is refused."""
    with pytest.raises(SealBroken):
        sealer().open(sealer().seal(b"CANARY", binding=PLACE), binding=place)


def test_does_not_open_changed_bytes() -> None:
    """Any changed, missing or added byte is refused."""
    sealed = sealer().seal(b"CANARY", binding=PLACE)
    changed = [sealed[:i] + bytes([sealed[i] ^ 1]) + sealed[i + 1 :] for i in range(len(sealed))]

    for broken in [*changed, b"", sealed[:-1], sealed + b"x", sealed[:20]]:
        with pytest.raises(SealBroken):
            sealer().open(broken, binding=PLACE)


class Ring:
    """Two keys, of which the one that seals changes."""

    def __init__(self) -> None:
        self.keys = [SealingKey.from_bytes(bytes(range(start, start + 32))) for start in (0, 1)]

    @property
    def current(self) -> SealingKey:
        """The first."""
        return self.keys[0]

    @property
    def key_ids(self) -> tuple[bytes, ...]:
        """All ids."""
        return tuple(key.key_id for key in self.keys)

    def find(self, key_id: bytes) -> SealingKey | None:
        """By id."""
        return next((key for key in self.keys if key.key_id == key_id), None)


def test_ring_seals_with_the_first_and_opens_with_all() -> None:
    """A change of the sealing key is seen by the next value, and values of both keys open."""
    ring = Ring()
    sealer = Sealer(ring, os.urandom)
    one = sealer.seal(b"CANARY", binding=PLACE)
    ring.keys.reverse()
    two = sealer.seal(b"CANARY", binding=PLACE)

    assert [*reversed(ring.key_ids)] == [key_id_of(one), key_id_of(two)]
    assert b"CANARY" == sealer.open(one, binding=PLACE) == sealer.open(two, binding=PLACE)
    assert all(sealer.can_open(key_id) for key_id in ring.key_ids)
    assert not sealer.can_open(b"12345678")


def test_rewrapping_changes_the_key_and_nothing_else() -> None:
    """A re-wrapped value opens with the new key alone, at its place alone, and its content was not touched."""
    ring = Ring()
    sealer = Sealer(ring, os.urandom)
    sealed = sealer.seal(b"CANARY", binding=PLACE)
    old = ring.keys[0]
    ring.keys.reverse()
    rewrapped = sealer.rewrap(sealed)

    assert sealed[BODY_AT:] == rewrapped[BODY_AT:]
    assert sealed[:BODY_AT] != rewrapped[:BODY_AT]
    assert b"CANARY" == Sealer(ring.keys[0], os.urandom).open(rewrapped, binding=PLACE)
    for broken, keys, place in ((rewrapped, old, PLACE), (rewrapped, ring, replace(PLACE, user="bob"))):
        with pytest.raises(SealBroken):
            Sealer(keys, os.urandom).open(broken, binding=place)


def test_changed_header_is_not_rewrapped() -> None:
    """Rotation makes no value whole: changed key ids and wrapped keys are refused as when opening."""
    sealed = sealer().seal(b"CANARY", binding=PLACE)
    for at in range(BODY_AT):
        with pytest.raises(SealBroken):
            sealer().rewrap(sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :])


def test_header_and_body_of_two_values_do_not_fit() -> None:
    """One value's wrapped key before another's content opens nothing, though both were sealed for the same place."""
    one, two = sealer().seal(b"old", binding=PLACE), sealer().seal(b"new", binding=PLACE)
    with pytest.raises(SealBroken):
        sealer().open(one[:BODY_AT] + two[BODY_AT:], binding=PLACE)


def test_says_which_key_is_needed() -> None:
    """Another key is told by its id, before anything is tried."""
    with pytest.raises(SealBroken, match="sealed with key"):
        sealer(b"x" * 31 + b"y").open(sealer().seal(b"CANARY", binding=PLACE), binding=PLACE)


@given(st.lists(st.text(max_size=5), min_size=7, max_size=7), st.lists(st.text(max_size=5), min_size=7, max_size=7))
def test_no_two_places_are_encoded_alike(one: list[str], two: list[str]) -> None:
    """Different places never have the same encoding, whatever separators their parts hold."""
    assert (one == two) == (Binding(*one).encode() == Binding(*two).encode())


BAD_KEYS = {
    "empty": "",
    "not base64": "not base64!",
    "too short": base64.b64encode(b"k" * 16).decode(),
    "too long": base64.b64encode(bytes(range(33))).decode(),
    "all zero": base64.b64encode(bytes(32)).decode(),
    "one byte repeated": base64.b64encode(b"a" * 32).decode(),
}


def load(data: Path, environ: dict[str, str]) -> SealingKey:
    """Return the key that seals, of *environ* or *data*, as a start finds it."""

    async def opened() -> SealingKey:
        ring = await SealingRing.open(data, environ)
        try:
            return ring.current
        finally:
            await ring.close()

    return asyncio.run(opened())


@pytest.mark.parametrize("text", BAD_KEYS.values(), ids=BAD_KEYS.keys())
def test_refuses_weak_keys(text: str, tmp_path: Path) -> None:
    """A sealing key that is no 256-bit key is refused, from the environment and from a file."""
    (tmp_path / "key").write_text(text)
    for environ in ({"GATEWAY_SEALING_KEY": text}, {"GATEWAY_SEALING_KEY_FILE": str(tmp_path / "key")}):
        with pytest.raises(SealingKeyError):
            load(tmp_path, environ)


def test_refuses_missing_ambiguous_and_public_keys(tmp_path: Path) -> None:
    """A file that is not there, two sources at once, and our own file open to others are refused."""
    with pytest.raises(SealingKeyError, match="cannot be read"):
        load(tmp_path, {"GATEWAY_SEALING_KEY_FILE": str(tmp_path / "none")})
    with pytest.raises(SealingKeyError, match="not both"):
        load(tmp_path, {"GATEWAY_SEALING_KEY": GOOD, "GATEWAY_SEALING_KEY_FILE": "x"})
    load(tmp_path, {})
    (tmp_path / "sealing.key").chmod(0o644)
    with pytest.raises(SealingKeyError, match="chmod 600"):
        load(tmp_path, {})


def test_makes_a_key_at_first_start_and_keeps_it(tmp_path: Path) -> None:
    """Without a key one is made, private, alone in its directory, and found again."""
    made = load(tmp_path / "data", {})

    assert made == load(tmp_path / "data", {})
    assert ["sealing.key"] == [path.name for path in (tmp_path / "data").iterdir()]
    assert 0o600 == (tmp_path / "data" / "sealing.key").stat().st_mode & 0o777


def test_environment_wins_over_the_data_directory(tmp_path: Path) -> None:
    """A key that is given is used, and none is made."""
    key = load(tmp_path, {"GATEWAY_SEALING_KEY": GOOD})

    assert SealingKey.from_bytes(bytes(range(32))) == key
    assert [] == list(tmp_path.iterdir())


def test_key_is_not_shown() -> None:
    """The key's repr and the errors about it hold no key."""
    secret = bytes(range(65, 97))
    key = SealingKey.from_bytes(secret)

    assert repr(key.wrapping_key) not in repr(key)
    assert str(secret) not in repr(key)
    with pytest.raises(SealingKeyError) as error:
        SealingKey.from_bytes(b"CANARY-short")
    assert "CANARY" not in str(error.value)
