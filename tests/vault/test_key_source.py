"""Where sealing keys come from: which source wins, and what a key may look like."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from gateway.vault.key_source import MAX_KEYS, WrappedKey, choose_source, parse_entries, stat_signature
from gateway.vault.sealing import SealingKey, SealingKeyError

ONE = base64.b64encode(bytes(range(32))).decode()
TWO = base64.b64encode(bytes(range(1, 33))).decode()
IDS = [SealingKey.from_bytes(base64.b64decode(text)).key_id for text in (ONE, TWO)]


def test_first_key_seals() -> None:
    """A list keeps its order, whatever separates its keys, and comments say nothing."""
    for text in (f"{ONE},{TWO}", f"{ONE} {TWO}\n", f"# new since March\n{ONE}\n\n# old\n{TWO}\n"):
        assert IDS == [entry.key_id for entry in parse_entries(text, place="here")]


def test_wrapped_key_is_read_as_it_was_written() -> None:
    """A key that a service wraps stands in a list like any other."""
    wrapped = WrappedKey("aws-kms", bytes(range(8)), "arn:aws:kms:eu-central-1:1:key/2", b"blob")

    assert wrapped == parse_entries(f"{wrapped.encode()},{ONE}", place="here")[0]


BAD_LISTS = {
    "nothing": ("", "found nothing"),
    "separators only": (" , \n", "found nothing"),
    "a key that is none": (f"{ONE},CANARY!", "key 2"),
    "a short key": (f"{ONE},{base64.b64encode(b'CANARY').decode()}", r"here \(key 2\): the sealing key must be 32"),
    "a constant key": (base64.b64encode(b"a" * 32).decode(), "one byte repeated"),
    "the same key twice": (f"{ONE},{TWO},{ONE}", f"key {IDS[0].hex()} stands there twice"),
    "more keys than anybody needs": (",".join([ONE] * (MAX_KEYS + 1)), "more than"),
    "a wrapped key without its service": ("!0001020304050607!key!YmxvYg==", "expected"),
    "a wrapped key with parts missing": ("aws-kms!CANARY", "expected"),
    "a wrapped key with an id that is none": ("aws-kms!CANARY!key!YmxvYg==", "hexadecimal"),
    "a wrapped key that is not base64": ("aws-kms!0001020304050607!key!CANARY?", "base64"),
}


@pytest.mark.parametrize(("text", "reason"), BAD_LISTS.values(), ids=BAD_LISTS.keys())
def test_refuses_list(text: str, reason: str) -> None:
    """What is not a list of good keys is refused, with its place and without its content."""
    with pytest.raises(SealingKeyError, match=reason) as error:
        parse_entries(text, place="here")
    assert "here" in str(error.value)
    assert "CANARY" not in str(error.value)


BAD_ENVIRONMENTS = {
    "one key and several": {"GATEWAY_SEALING_KEY": ONE, "GATEWAY_SEALING_KEYS": TWO},
    "keys and a file": {"GATEWAY_SEALING_KEYS": TWO, "GATEWAY_SEALING_KEY_FILE": "f"},
    "several keys where one is meant": {"GATEWAY_SEALING_KEY": f"{ONE},{TWO}"},
}


@pytest.mark.parametrize("environ", BAD_ENVIRONMENTS.values(), ids=BAD_ENVIRONMENTS.keys())
def test_refuses_environment(environ: dict[str, str]) -> None:
    """Where it is not clear which key seals, nothing starts."""
    with pytest.raises(SealingKeyError, match="GATEWAY_SEALING_KEY"):
        choose_source(environ)


def test_without_variables_the_data_directory_is_the_source() -> None:
    """No variable means no source of the environment."""
    assert choose_source({}) is None


def test_file_is_read_again_when_it_was_replaced(tmp_path: Path) -> None:
    """A mounted secret that changes has another signature, and its new keys are found."""
    path = tmp_path / "keys"
    path.write_text(ONE)
    source = choose_source({"GATEWAY_SEALING_KEY_FILE": str(path)})
    assert source is not None
    before, found = source.signature(), source.find(IDS[1])
    (tmp_path / "next").write_text(f"{TWO}\n{ONE}\n")
    (tmp_path / "next").replace(path)

    assert found is None
    assert before != source.signature() == stat_signature(path)
    assert IDS[::-1] == [entry.key_id for entry in source.read()]
    assert source.find(IDS[1]) == source.read()[0]


def test_refuses_file_that_is_too_large(tmp_path: Path) -> None:
    """A file of any size costs a bounded read."""
    (tmp_path / "keys").write_text("#" * 100_000)
    source = choose_source({"GATEWAY_SEALING_KEY_FILE": str(tmp_path / "keys")})
    assert source is not None
    with pytest.raises(SealingKeyError, match="at most"):
        source.read()
