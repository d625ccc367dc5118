"""Sealing: what opens, what does not, and which keys are taken."""

from __future__ import annotations

import base64
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.vault.sealing import Binding, SealBroken, Sealer, SealingKey, SealingKeyError

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


@pytest.mark.parametrize("text", BAD_KEYS.values(), ids=BAD_KEYS.keys())
def test_refuses_weak_keys(text: str, tmp_path: Path) -> None:
    """A sealing key that is no 256-bit key is refused, from the environment and from a file."""
    (tmp_path / "key").write_text(text)
    for environ in ({"GATEWAY_SEALING_KEY": text}, {"GATEWAY_SEALING_KEY_FILE": str(tmp_path / "key")}):
        with pytest.raises(SealingKeyError):
            SealingKey.load(tmp_path, environ)


def test_refuses_missing_ambiguous_and_public_keys(tmp_path: Path) -> None:
    """A file that is not there, two sources at once, and our own file open to others are refused."""
    with pytest.raises(SealingKeyError, match="cannot be read"):
        SealingKey.load(tmp_path, {"GATEWAY_SEALING_KEY_FILE": str(tmp_path / "none")})
    with pytest.raises(SealingKeyError, match="not both"):
        SealingKey.load(tmp_path, {"GATEWAY_SEALING_KEY": GOOD, "GATEWAY_SEALING_KEY_FILE": "x"})
    SealingKey.load(tmp_path, {})
    (tmp_path / "sealing.key").chmod(0o644)
    with pytest.raises(SealingKeyError, match="chmod 600"):
        SealingKey.load(tmp_path, {})


def test_makes_a_key_at_first_start_and_keeps_it(tmp_path: Path) -> None:
    """Without a key one is made, private, alone in its directory, and found again."""
    made = SealingKey.load(tmp_path / "data", {})

    assert made == SealingKey.load(tmp_path / "data", {})
    assert ["sealing.key"] == [path.name for path in (tmp_path / "data").iterdir()]
    assert 0o600 == (tmp_path / "data" / "sealing.key").stat().st_mode & 0o777


def test_environment_wins_over_the_data_directory(tmp_path: Path) -> None:
    """A key that is given is used, and none is made."""
    key = SealingKey.load(tmp_path, {"GATEWAY_SEALING_KEY": GOOD})

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
