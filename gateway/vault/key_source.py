"""
Where the sealing keys come from, and how a key is written down.

Rules:
1. One source, the first of: GATEWAY_SEALING_KEYS, GATEWAY_SEALING_KEY, GATEWAY_SEALING_KEY_FILE, the data directory
   (key_directory.py). Two of the variables at once are refused: nobody could say which key seals.
2. A source is a list: the first key seals, all open. A key that stands in it twice is refused.
3. A key is written as 32 bytes in base64, or, wrapped by a key service, as `service!key id!service's key!base64`.
4. A file is read again when it has changed; the environment never changes.
5. An error names the place and the expected form, and nothing of what stood there.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gateway.vault.sealing import KEY_BYTES, KEY_ID_BYTES, SealingKey, SealingKeyError

ENVIRONMENT_KEY = "GATEWAY_SEALING_KEY"
ENVIRONMENT_KEYS = "GATEWAY_SEALING_KEYS"
ENVIRONMENT_FILE = "GATEWAY_SEALING_KEY_FILE"
MAX_KEY_FILE_BYTES = 65_536  # 16 keys wrapped by a service at most 4 KB each, and room
MAX_KEYS = 16  # more are a rotation that nobody finishes


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A sealing key as *service* wrapped it with its own key *master*: useless without that service."""

    service: str
    key_id: bytes
    master: str
    wrapped: bytes

    def encode(self) -> str:
        """Return the entry that `parse_entry` reads."""
        return "!".join((self.service, self.key_id.hex(), self.master, base64.b64encode(self.wrapped).decode()))


Entry = SealingKey | WrappedKey


class KeySource(Protocol):
    """A list of keys that may change while the gateway runs."""

    def read(self) -> tuple[Entry, ...]:
        """Return the keys, the sealing one first. Raises SealingKeyError."""

    def signature(self) -> object:
        """Return something that differs once another key seals. Costs a stat at most: it is asked for at each seal."""

    def find(self, key_id: bytes) -> Entry | None:
        """Return the key of this id if the source has it by now. Raises SealingKeyError."""


class EnvironmentSource:
    """Keys of the environment: what the process was started with."""

    def __init__(self, text: str, *, place: str) -> None:
        self._entries = parse_entries(text, place=place)

    def read(self) -> tuple[Entry, ...]:
        """Return the keys, the sealing one first."""
        return self._entries

    def signature(self) -> object:
        """Return always the same."""
        return None

    def find(self, key_id: bytes) -> Entry | None:
        """Return the key of this id."""
        return next((entry for entry in self._entries if entry.key_id == key_id), None)


class FileSource:
    """Keys of a file that somebody else keeps, such as a mounted secret: read again when it was replaced."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> tuple[Entry, ...]:
        """Return the keys, the sealing one first. Raises SealingKeyError."""
        return parse_entries(read_key_file(self._path, is_ours=False), place=str(self._path))

    def signature(self) -> object:
        """Return what differs once the file was replaced."""
        return stat_signature(self._path)

    def find(self, key_id: bytes) -> Entry | None:
        """Return the key of this id if the file has it by now. Raises SealingKeyError."""
        return next((entry for entry in self.read() if entry.key_id == key_id), None)


def choose_source(environ: Mapping[str, str]) -> KeySource | None:
    """
    Return the source that *environ* names; None: the keys are in the data directory.

    Raises:
        SealingKeyError: two sources are named, or the keys of the environment are none.
    """
    named = [name for name in (ENVIRONMENT_KEYS, ENVIRONMENT_KEY, ENVIRONMENT_FILE) if name in environ]
    if len(named) > 1:
        raise SealingKeyError(f"set {named[0]} or {named[1]}, not both")
    if not named:
        return None
    if named[0] == ENVIRONMENT_FILE:
        return FileSource(Path(environ[ENVIRONMENT_FILE]))
    source = EnvironmentSource(environ[named[0]], place=named[0])
    if named[0] == ENVIRONMENT_KEY and len(source.read()) > 1:
        raise SealingKeyError(f"{ENVIRONMENT_KEY}: expected one key; set {ENVIRONMENT_KEYS} for several")
    return source


def parse_entries(text: str, *, place: str) -> tuple[Entry, ...]:
    """
    Return the keys that *text* lists, separated by commas, spaces or line breaks; "#" begins a comment.

    Raises:
        SealingKeyError: no key, too many, the same one twice, or one that cannot be used.
    """
    words = re.split(r"[,\s]+", re.sub(r"(?m)^\s*#.*$", "", text).strip())
    if not words[0]:
        raise SealingKeyError(f"{place}: expected {KEY_BYTES} bytes in base64, and found nothing")
    if len(words) > MAX_KEYS:
        raise SealingKeyError(f"{place}: {len(words)} keys are more than {MAX_KEYS}; retire those that seal nothing")
    several = len(words) > 1
    entries = tuple(
        parse_entry(word, place=f"{place} (key {number})" if several else place)
        for number, word in enumerate(words, start=1)
    )
    ids = [entry.key_id for entry in entries]
    for key_id in ids:
        if ids.count(key_id) > 1:
            raise SealingKeyError(f"{place}: key {key_id.hex()} stands there twice")
    return entries


def parse_entry(text: str, *, place: str) -> Entry:
    """
    Return the key that *text* is.

    Raises:
        SealingKeyError: it is none; names *place* only.
    """
    if "!" in text:
        return _parse_wrapped(text, place=place)
    try:
        return SealingKey.from_bytes(_decode(text, place=place))
    except SealingKeyError as exc:
        message = str(exc)
        raise SealingKeyError(message if message.startswith(place) else f"{place}: {message}") from exc


def read_key_file(path: Path, *, is_ours: bool) -> str:
    """
    Return the content of a file of keys.

    Raises:
        SealingKeyError: it cannot be read, is too large, or it is ours and open to others.
    """
    try:
        with path.open("rb") as file:
            # A secret mounted by an orchestrator is often group-readable by design; the one we made is not.
            if is_ours and os.fstat(file.fileno()).st_mode & 0o077:
                raise SealingKeyError(f"{path}: other users of this machine can read the sealing key; run chmod 600")
            content = file.read(MAX_KEY_FILE_BYTES + 1)
    except OSError as exc:
        raise SealingKeyError(f"{path}: the sealing key cannot be read ({exc.strerror})") from exc
    if len(content) > MAX_KEY_FILE_BYTES:
        raise SealingKeyError(f"{path}: a file of keys has at most {MAX_KEY_FILE_BYTES} bytes")
    return content.decode("ascii", "replace")


def stat_signature(path: Path) -> tuple[int, int, int] | None:
    """Return what differs once the file at *path* was replaced or written; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _parse_wrapped(text: str, *, place: str) -> WrappedKey:
    parts = text.split("!")
    expected = f'{place}: expected "service!key id!key of the service!base64"'
    if len(parts) != 4 or not all(parts):
        raise SealingKeyError(expected)
    service, key_id, master, wrapped = parts
    if not re.fullmatch(rf"[0-9a-f]{{{KEY_ID_BYTES * 2}}}", key_id):
        raise SealingKeyError(f"{expected}; a key id is {KEY_ID_BYTES} bytes in hexadecimal")
    return WrappedKey(service, bytes.fromhex(key_id), master, _decode(wrapped, place=place))


def _decode(text: str, *, place: str) -> bytes:
    try:
        return base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        # Without its cause: the text of a decoding error may quote what it met.
        raise SealingKeyError(f"{place}: expected {KEY_BYTES} bytes in base64") from None
