"""The keys in the data directory: what is written, in which order, and what an interrupted step leaves."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.vault.key_directory import KeyDirectory, RotationRunning, plain_entry
from gateway.vault.key_source import Entry
from gateway.vault.sealing import SealingKey, SealingKeyError


def add(directory: KeyDirectory) -> bytes:
    """Publish a new key and return its id."""
    secret = os.urandom(32)
    key_id = SealingKey.from_bytes(secret).key_id
    directory.publish(key_id, plain_entry(secret))
    return key_id


class Raced(KeyDirectory):
    """A directory where others do something between the listing of the files and the reading of each."""

    def __init__(self, path: Path, *meanwhile: Callable[[], object]) -> None:
        super().__init__(path)
        self._meanwhile = list(meanwhile)

    def _entry(self, path: Path) -> Entry:
        if self._meanwhile:
            self._meanwhile.pop(0)()
        return super()._entry(path)


def ids(directory: KeyDirectory) -> list[bytes]:
    """The ids of the keys, the sealing one first."""
    return [entry.key_id for entry in directory.read()]


@pytest.fixture
def directory(tmp_path: Path) -> KeyDirectory:
    """A data directory with its first key."""
    directory = KeyDirectory(tmp_path)
    directory.begin(plain_entry(os.urandom(32)))
    return directory


def test_published_key_opens_and_does_not_seal(directory: KeyDirectory) -> None:
    """A new key is found at once, is pending, and leaves the order and its signature alone."""
    first, signature = ids(directory), directory.signature()
    new = add(directory)

    assert [*first, new] == ids(directory)
    assert new == directory.pending()
    assert directory.find(new) is not None
    assert signature == directory.signature()


def test_activated_key_seals(directory: KeyDirectory) -> None:
    """The activated key comes first, the others stay, nothing is pending, and the signature differs."""
    first, signature, new = ids(directory), directory.signature(), add(directory)
    directory.activate(new)

    assert [new, *first] == ids(directory)
    assert directory.pending() is None
    assert signature != directory.signature()


def test_retired_key_is_kept_aside(directory: KeyDirectory) -> None:
    """A retired key is in no ring; its file stays, and who asks for retired keys has it as the last."""
    (first,), new = ids(directory), add(directory)
    directory.activate(new)
    kept = directory.retire(first)

    assert [new] == ids(directory) == [new]
    assert directory.pending() is None
    assert [new, first] == ids(KeyDirectory(directory.path, with_retired=True))
    assert 0o600 == kept.stat().st_mode & 0o777


def test_key_that_is_retired_while_others_read(directory: KeyDirectory) -> None:
    """Who has listed a key file that is renamed before it is read, reads again, and has the keys that are left."""
    (first,), new = ids(directory), add(directory)
    directory.activate(new)

    assert [new] == ids(Raced(directory.path, lambda: directory.retire(first)))


def test_rotation_while_others_read(directory: KeyDirectory) -> None:
    """Who has listed the files before a key is published and activated has that key, though the order came later."""
    (first,) = ids(directory)

    def rotate() -> None:
        directory.activate(add(directory))

    new, *others = ids(Raced(directory.path, rotate))
    assert ([first], [new, first]) == (others, ids(directory))
    assert 4 == len(ids(Raced(directory.path, rotate, rotate)))


def test_directory_that_never_settles_is_told(directory: KeyDirectory) -> None:
    """Reading anew has an end."""
    steps = [lambda: directory.activate(add(directory))] * 100
    with pytest.raises(SealingKeyError, match="its file is missing"):
        ids(Raced(directory.path, *steps))


def test_published_key_that_is_retired_while_it_is_looked_for(directory: KeyDirectory) -> None:
    """A key whose file goes between the look and the reading is not there."""
    old = add(directory)
    directory.activate(old)
    directory.activate(add(directory))

    assert Raced(directory.path, lambda: directory.retire(old)).find(old) is None


def test_files_are_private_and_whole(directory: KeyDirectory) -> None:
    """What holds a key is 0600, and no draft stays."""
    directory.activate(add(directory))

    assert {0o600} == {path.stat().st_mode & 0o777 for path in directory.path.iterdir()}
    assert [] == list(directory.path.glob("*.draft"))


def test_second_first_key_is_not_made(directory: KeyDirectory) -> None:
    """Who comes second to an empty directory takes the key that is there."""
    before = ids(directory)
    directory.begin(plain_entry(os.urandom(32)))
    KeyDirectory(directory.path)._add("sealing.key", plain_entry(os.urandom(32)))

    assert before == ids(directory)


def test_key_that_seals_cannot_be_retired(directory: KeyDirectory) -> None:
    """The sealing key, and one that is not there, are refused; nothing changes."""
    before = ids(directory)
    for key_id in (before[0], b"12345678"):
        with pytest.raises(SealingKeyError, match="cannot be retired"):
            directory.retire(key_id)
    assert before == ids(directory)


def test_one_rotation_at_a_time(directory: KeyDirectory) -> None:
    """The second is refused while the first holds the lock, and drafts of a killed one are removed."""
    leftover = directory.path / "sealing-0001.key.1.aa.draft"
    leftover.write_text("x")
    with directory.rotating():
        assert not leftover.exists()
        with pytest.raises(RotationRunning), KeyDirectory(directory.path).rotating():
            pass
    with directory.rotating():
        pass


def test_order_that_lists_a_missing_old_key_is_harmless(directory: KeyDirectory) -> None:
    """A kill between the two steps of retiring leaves a directory that reads as if both were done."""
    (first,), new = ids(directory), add(directory)
    directory.activate(new)
    (directory.path / "sealing.key").rename(directory.path / f"retired-{first.hex()}.key")

    assert [new] == ids(directory)
    assert directory.pending() is None


def break_order(text: str) -> object:
    """A step that writes the order."""

    def write(path: Path) -> None:
        (path / "sealing.order").write_text(text)

    return write


def lose_everything(path: Path) -> None:
    """Every key file is gone, and an order is there."""
    (path / "sealing.order").write_text("00" * 8)
    (path / "sealing.key").unlink()


def misname(path: Path) -> None:
    """A key file has another key's name."""
    (path / f"sealing-{'00' * 8}.key").write_text(plain_entry(os.urandom(32)))
    (path / f"sealing-{'00' * 8}.key").chmod(0o600)


def open_to_others(path: Path) -> None:
    """Everybody reads the key."""
    (path / "sealing.key").chmod(0o640)


BROKEN = {
    "an order that is none": (break_order("CANARY"), "hexadecimal"),
    "an empty order": (break_order(""), "expected key ids"),
    "an id that is too short": (break_order("00ff"), "expected key ids"),
    "a sealing key whose file is missing": (break_order("00" * 8), "its file is missing"),
    "no key file at all": (lose_everything, "is missing"),
    "a file that holds another key than it says": (misname, "is named otherwise"),
    "a key open to others": (open_to_others, "chmod 600"),
}


@pytest.mark.parametrize(("step", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_refuses_broken_directory(directory: KeyDirectory, step: object, reason: str) -> None:
    """A directory that does not say clearly which key seals is refused with the file's name, and nothing is made."""
    assert callable(step)
    step(directory.path)
    before = sorted(path.name for path in directory.path.iterdir())
    with pytest.raises(SealingKeyError, match=reason) as error:
        directory.read()
    assert "sealing" in str(error.value)
    assert "CANARY" not in str(error.value)
    assert before == sorted(path.name for path in directory.path.iterdir())


def test_lost_keys_are_not_replaced_by_a_new_one(directory: KeyDirectory) -> None:
    """Where keys were and are no more, a start does not make one: it would hide the loss."""
    directory.activate(add(directory))
    for path in directory.path.glob("*.key"):
        path.unlink()
    with pytest.raises(SealingKeyError, match="restore"):
        directory.begin(plain_entry(os.urandom(32)))
