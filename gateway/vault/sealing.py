"""
How secrets are kept in the database: sealed with AES-256-GCM, bound to the row they belong to.

Rules:
1. Every value has its own random data key, wrapped by a sealing key: rotation re-wraps 48 bytes and never touches what
   was sealed; the sealing key never meets a caller's bytes.
2. The header names the sealing key by its id and is authenticated with the wrapped key. A value is opened with
   exactly that key: nothing is tried.
3. What is sealed is bound to its place (`Binding`): in another row, column, user or connection it does not open.
4. The sealing key's uses are separated with HKDF (RFC 5869); a short or constant key is refused.
5. Which keys there are, and which of them seals, is the ring's to say (`Keys`; key_ring.py): nothing here does I/O.

Layout: version (1) | key id (8) | wrap nonce (12) | wrapped data key (48) | nonce (12) | ciphertext and tag.
Source: NIST SP 800-38D (random 96-bit nonces, one data key a value); threats.md H1-H7.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

VERSION = 1
KEY_BYTES = 32
KEY_ID_BYTES = 8
NONCE_BYTES = 12
WRAPPED_BYTES = KEY_BYTES + 16  # the data key and its tag
HEADER_BYTES = 1 + KEY_ID_BYTES
BODY_AT = HEADER_BYTES + NONCE_BYTES + WRAPPED_BYTES  # from here on a rotation changes nothing
MINIMUM_BYTES = BODY_AT + NONCE_BYTES + 16


class SealBroken(Exception):
    """A sealed value cannot be opened: it was changed, moved, or sealed with another key. Holds no secret."""


class SealingKeyError(Exception):
    """A sealing key is missing, unreadable, too weak, or not one that this database was sealed with."""


class SealingKeyUnavailable(OSError):
    """
    A sealing key exists and cannot be had for now: the key service that keeps it does not answer.

    An OSError, as a failing disk is: whoever waits for the database, or repeats a write, does so for this as well.
    """


@dataclass(frozen=True, slots=True)
class Binding:
    """The place a sealed value belongs to. An absent user, tenant or account is the empty string."""

    table: str
    column: str
    row_id: str
    connection: str
    user: str = ""
    tenant: str = ""
    account: str = ""

    def encode(self) -> bytes:
        """Return the additional authenticated data: every part behind its length, so that no two bindings are alike."""
        parts = (self.table, self.column, self.row_id, self.connection, self.user, self.tenant, self.account)
        encoded = [part.encode("utf-8", "surrogatepass") for part in parts]
        return bytes([VERSION]) + b"".join(len(part).to_bytes(4, "big") + part for part in encoded)


@dataclass(frozen=True, slots=True)
class SealingKey:
    """A 256-bit key and its public *key_id* (8 bytes, derived: it tells nothing about the key)."""

    key_id: bytes
    wrapping_key: bytes = field(repr=False)

    @classmethod
    def from_bytes(cls, secret: bytes) -> SealingKey:
        """
        Derive the key's id and its wrapping key from 32 secret bytes.

        Raises:
            SealingKeyError: not 32 bytes, or one byte repeated.
        """
        if len(secret) != KEY_BYTES:
            raise SealingKeyError(f"the sealing key must be {KEY_BYTES} bytes in base64; it has {len(secret)} bytes")
        if len(set(secret)) == 1:
            raise SealingKeyError(
                "the sealing key is one byte repeated: make one with head -c 32 /dev/urandom | base64"
            )
        return cls(
            key_id=_derive(secret, b"gateway sealing key id", KEY_ID_BYTES),
            wrapping_key=_derive(secret, b"gateway sealing wrap", KEY_BYTES),
        )

    @property
    def current(self) -> SealingKey:
        """This key: one key is a ring of one."""
        return self

    def find(self, key_id: bytes) -> SealingKey | None:
        """Return this key if it has this id."""
        return self if key_id == self.key_id else None

    @property
    def key_ids(self) -> tuple[bytes, ...]:
        """The ids of all keys: its own."""
        return (self.key_id,)


class Keys(Protocol):
    """The sealing keys as a sealer sees them."""

    @property
    def current(self) -> SealingKey:
        """The key that seals. Raises SealingKeyUnavailable."""

    def find(self, key_id: bytes) -> SealingKey | None:
        """Return the key of this id, or None where there is none. Raises SealingKeyUnavailable."""

    @property
    def key_ids(self) -> tuple[bytes, ...]:
        """The ids of all keys, the sealing one first."""


class Sealer:
    """Seals values with the current key of a ring and opens them with the one each names. A `SealingKey` is a ring."""

    def __init__(self, keys: Keys, random_bytes: Callable[[int], bytes]) -> None:
        self._keys = keys
        self._random_bytes = random_bytes

    @property
    def key_id(self) -> bytes:
        """The id that this sealer writes into headers."""
        return self._keys.current.key_id

    @property
    def key_ids(self) -> tuple[bytes, ...]:
        """The ids of the keys that this sealer has, the sealing one first."""
        return self._keys.key_ids

    def can_open(self, key_id: bytes) -> bool:
        """Tell whether the ring has the key of this id."""
        try:
            return self._keys.find(key_id) is not None
        except SealingKeyUnavailable:
            return True

    def seal(self, plain: bytes, *, binding: Binding) -> bytes:
        """
        Return *plain* sealed for its place. Two calls never return the same bytes.

        Raises:
            SealingKeyUnavailable: the current key cannot be had for now.
        """
        data_key = self._random_bytes(KEY_BYTES)
        nonce = self._random_bytes(NONCE_BYTES)
        return self._wrap(data_key) + nonce + AESGCM(data_key).encrypt(nonce, plain, binding.encode())

    def open(self, sealed: bytes, *, binding: Binding) -> bytes:
        """
        Return what was sealed for this place.

        Raises:
            SealBroken: another key, another place, or other bytes than were sealed.
            SealingKeyUnavailable: its key cannot be had for now.
        """
        data_key = self._unwrap(sealed)
        nonce = sealed[BODY_AT : BODY_AT + NONCE_BYTES]
        try:
            return AESGCM(data_key).decrypt(nonce, sealed[BODY_AT + NONCE_BYTES :], binding.encode())
        except InvalidTag as exc:
            raise SealBroken("the value was changed, or belongs to another place") from exc

    def rewrap(self, sealed: bytes) -> bytes:
        """
        Return *sealed* with its data key wrapped by the current key; what was sealed, and its place, stay unread.

        Raises:
            SealBroken: another key, or a header or wrapped key other than was sealed.
            SealingKeyUnavailable: one of the two keys cannot be had for now.
        """
        return self._wrap(self._unwrap(sealed)) + sealed[BODY_AT:]

    def _wrap(self, data_key: bytes) -> bytes:
        key = self._keys.current
        header = bytes([VERSION]) + key.key_id
        nonce = self._random_bytes(NONCE_BYTES)
        return header + nonce + AESGCM(key.wrapping_key).encrypt(nonce, data_key, header)

    def _unwrap(self, sealed: bytes) -> bytes:
        key = self._keys.find(key_id_of(sealed))
        if key is None:
            known = ", ".join(key_id.hex() for key_id in self._keys.key_ids)
            raise SealBroken(f"sealed with key {key_id_of(sealed).hex()}, this process has {known}")
        wrap_nonce, wrapped = (
            sealed[HEADER_BYTES : HEADER_BYTES + NONCE_BYTES],
            sealed[BODY_AT - WRAPPED_BYTES : BODY_AT],
        )
        try:
            return AESGCM(key.wrapping_key).decrypt(wrap_nonce, wrapped, sealed[:HEADER_BYTES])
        except InvalidTag as exc:
            raise SealBroken("the value's header was changed, or it is no value of this key") from exc


def key_id_of(sealed: bytes) -> bytes:
    """
    Return the id of the key that *sealed* names.

    Raises:
        SealBroken: these bytes are no sealed value.
    """
    if len(sealed) < MINIMUM_BYTES or sealed[0] != VERSION:
        raise SealBroken("not a sealed value of this format")
    return sealed[1:HEADER_BYTES]


def _derive(secret: bytes, label: bytes, length: int) -> bytes:
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=label).derive(secret)
