"""
The sealing keys in the data directory: one file a key, and the order they stand in.

Rules:
1. `sealing.key` is made at first start; a rotation adds `sealing-<key id>.key`. A file that holds a key is never
   written to again. It is 0600, and appears under its name whole or not at all (draft, fsync, link, fsync of both).
2. `sealing.order` lists key ids, the one that seals first; without it `sealing.key` seals. It is replaced atomically.
3. A key file that the order does not list opens and does not seal: it was published by a rotation that has not come
   further yet. That one goes on with it.
4. Retiring renames a key's file to `retired-<key id>.key`: it is in no ring any more, and nothing is lost. Whoever
   has no backup left that was sealed with it deletes it.
5. Whoever reads holds no lock: a rotation may rename a file between the listing and the reading, or replace the order
   between the two. A reading that failed is begun anew where the directory is another one by then; else it is told.
6. One rotation at a time: the lock is the kernel's (flock), so it ends with the process that held it.
"""

from __future__ import annotations

import base64
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from gateway.vault.key_source import Entry, parse_entries, read_key_file, stat_signature
from gateway.vault.sealing import KEY_BYTES, KEY_ID_BYTES, SealingKeyError

FIRST_KEY = "sealing.key"
ORDER = "sealing.order"
LOCK = "sealing.lock"
DRAFT = ".draft"
MAX_ORDER_BYTES = 4096
READ_ATTEMPTS = 5  # a rotation makes three changes: it publishes, activates, retires

T = TypeVar("T")


class RotationRunning(Exception):
    """Another process rotates the keys of this directory."""


class KeyDirectory:
    """The keys of one data directory. A `KeySource`, and what a rotation does to it."""

    def __init__(self, path: Path, *, with_retired: bool = False) -> None:
        self.path = path
        self._with_retired = with_retired

    # --- reading ---------------------------------------------------------------------------------------------------

    def read(self) -> tuple[Entry, ...]:
        """
        Return the keys: those of the order, then published ones, then (only if asked for) retired ones.

        Raises:
            SealingKeyError: a file cannot be read, or the key that seals is missing.
        """
        return self._settled(self._read)

    def _read(self) -> tuple[Entry, ...]:
        keys = {entry.key_id: entry for entry in map(self._entry, self._files())}
        order = self._order(keys)
        if self._with_retired:
            for path in sorted(self.path.glob("retired-*.key")):
                keys.setdefault((entry := self._entry(path)).key_id, entry)
        listed = [keys[key_id] for key_id in order if key_id in keys]
        return (*listed, *(entry for key_id, entry in keys.items() if key_id not in order))

    def signature(self) -> object:
        """Return what differs once the order was replaced."""
        return stat_signature(self.path / ORDER)

    def find(self, key_id: bytes) -> Entry | None:
        """Return the key of this id if it was published by now. Raises SealingKeyError."""
        path = self.path / f"sealing-{key_id.hex()}.key"
        return self._settled(lambda: self._entry(path) if path.exists() else None)

    def pending(self) -> bytes | None:
        """Return the id of a key that was published and never sealed, as an interrupted rotation leaves it."""
        keys = {entry.key_id: entry for entry in map(self._entry, self._files())}
        order = self._order(keys)
        return next((key_id for key_id in keys if key_id not in order), None)

    def sealed_since(self) -> float:
        """Return when the order was last replaced, in POSIX seconds: nothing was sealed in another order after it."""
        try:
            return (self.path / ORDER).stat().st_mtime
        except OSError:
            return 0.0

    # --- changing --------------------------------------------------------------------------------------------------

    def is_empty(self) -> bool:
        """Whether no key was ever made here. Raises SealingKeyError where keys were, and are no more."""
        if self._files():
            return False
        leftovers = [path.name for path in (self.path / ORDER, *self.path.glob("retired-*.key")) if path.exists()]
        if leftovers:
            # A new key would hide that the old one is lost.
            raise SealingKeyError(f"{self.path}: there is {leftovers[0]}, and no sealing key: restore its file")
        return True

    def begin(self, text: str) -> None:
        """Make *text* the first key, if there is none: of two processes that start at once, one wins."""
        if self.is_empty():
            self._add(FIRST_KEY, text)

    def publish(self, key_id: bytes, text: str) -> None:
        """Add *text* as a key that opens and does not seal yet (rule 3)."""
        self._add(f"sealing-{key_id.hex()}.key", text)

    def activate(self, key_id: bytes) -> None:
        """Make the published key of this id the one that seals, in every process at once (`signature`)."""
        order = [entry.key_id for entry in KeyDirectory(self.path).read()]
        self._write_order([key_id, *(other for other in order if other != key_id)])

    def retire(self, key_id: bytes) -> Path:
        """
        Take the key of this id out of the ring and return where it is kept. The caller has made sure that it may go.

        Raises:
            SealingKeyError: there is none, or it seals.
        """
        entries = KeyDirectory(self.path).read()
        order = [entry.key_id for entry in entries]
        if key_id not in order or order[0] == key_id:
            raise SealingKeyError(f"key {key_id.hex()} cannot be retired: it is not in the ring, or it seals")
        path = next(path for path in self._files() if self._entry(path).key_id == key_id)
        retired = self.path / f"retired-{key_id.hex()}.key"
        # The file goes first: an order that lists a missing key is harmless, an unlisted key looks published (rule 3).
        with _told(path):
            path.rename(retired)
            _sync(self.path)
        self._write_order([other for other in order if other != key_id])
        return retired

    @contextmanager
    def rotating(self) -> Iterator[None]:
        """
        Hold this directory's lock, and remove the drafts that a killed process left.

        Raises:
            RotationRunning: another process holds it.
        """
        with _told(self.path / LOCK):
            descriptor = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                raise RotationRunning("another rotation of these keys is running") from exc
            for draft in self.path.glob(f"sealing*{DRAFT}"):
                draft.unlink(missing_ok=True)
            yield
        finally:
            os.close(descriptor)

    # --- files -----------------------------------------------------------------------------------------------------

    def _settled(self, read: Callable[[], T]) -> T:
        """Return what *read* returns, begun anew where it failed and files have come or gone meanwhile (rule 5)."""
        for _ in range(READ_ATTEMPTS - 1):
            before = self._files(), self.signature()
            try:
                return read()
            except SealingKeyError:
                if before == (self._files(), self.signature()):
                    raise
        return read()

    def _files(self) -> list[Path]:
        first = self.path / FIRST_KEY
        return [*([first] if first.exists() else []), *sorted(self.path.glob("sealing-*.key"))]

    def _entry(self, path: Path) -> Entry:
        entries = parse_entries(read_key_file(path, is_ours=True), place=str(path))
        if len(entries) != 1:
            raise SealingKeyError(f"{path}: expected one key, found {len(entries)}")
        named = path.stem.rpartition("-")[2] if "-" in path.stem else None
        if named is not None and named != entries[0].key_id.hex():
            raise SealingKeyError(f"{path}: this file holds key {entries[0].key_id.hex()}, and is named otherwise")
        return entries[0]

    def _order(self, keys: dict[bytes, Entry]) -> list[bytes]:
        """The ids that the order lists; without one, the first key's."""
        path = self.path / ORDER
        if not path.exists():
            first = self.path / FIRST_KEY
            if not first.exists():
                raise SealingKeyError(f"{first}: the sealing key is missing")
            return [self._entry(first).key_id]
        text = read_key_file(path, is_ours=False)
        try:
            order = [bytes.fromhex(line) for line in text.split()]
        except ValueError as exc:
            raise SealingKeyError(f"{path}: expected key ids in hexadecimal, one a line") from exc
        if not order or any(len(key_id) != KEY_ID_BYTES for key_id in order):
            raise SealingKeyError(f"{path}: expected key ids of {KEY_ID_BYTES} bytes in hexadecimal, one a line")
        if order[0] not in keys:
            raise SealingKeyError(f"{path}: key {order[0].hex()} seals, and its file is missing")
        return order

    def _write_order(self, order: list[bytes]) -> None:
        draft = self._draft(ORDER, "".join(f"{key_id.hex()}\n" for key_id in order))
        with _told(self.path / ORDER):
            draft.replace(self.path / ORDER)
            _sync(self.path)

    def _add(self, name: str, text: str) -> None:
        with _told(self.path):
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = self._draft(name, f"{text}\n")
        with _told(self.path / name):
            try:
                os.link(draft, self.path / name)
            except FileExistsError:
                return
            finally:
                draft.unlink()
            # What is sealed from now on is lost with the key: its name must survive a power cut as well.
            _sync(self.path)

    def _draft(self, name: str, content: str) -> Path:
        path = self.path / f"{name}.{os.getpid()}.{os.urandom(4).hex()}{DRAFT}"
        with _told(path):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        return path


def plain_entry(secret: bytes) -> str:
    """Return the entry of a key that no service wraps."""
    if len(secret) != KEY_BYTES:
        raise ValueError(f"a sealing key has {KEY_BYTES} bytes")
    return base64.b64encode(secret).decode()


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn a failing file system into a sentence."""
    try:
        yield
    except OSError as exc:
        raise SealingKeyError(f"{path}: the sealing key cannot be written ({exc.strerror})") from exc


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
