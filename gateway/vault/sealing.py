"""
How secrets are kept in the database: sealed with AES-256-GCM, bound to the row they belong to.

Rules:
1. Every value has its own random data key, wrapped by the sealing key: rotation re-wraps 48 bytes and never
   touches what was sealed; the sealing key never meets a caller's bytes.
2. The header names the sealing key by its id and is authenticated with the wrapped key. A value is opened with
   exactly that key: nothing is tried.
3. What is sealed is bound to its place (`Binding`): in another row, column, user or connection it does not open.
4. The sealing key's uses are separated with HKDF (RFC 5869); a short, constant or unreadable key is refused.

Layout: version (1) | key id (8) | wrap nonce (12) | wrapped data key (48) | nonce (12) | ciphertext and tag.
Source: NIST SP 800-38D (random 96-bit nonces, one data key a value); threats.md H1-H7.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

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
MINIMUM_BYTES = HEADER_BYTES + NONCE_BYTES + WRAPPED_BYTES + NONCE_BYTES + 16
MAX_KEY_FILE_BYTES = 4096
KEY_FILE_NAME = "sealing.key"
ENVIRONMENT_KEY = "GATEWAY_SEALING_KEY"
ENVIRONMENT_FILE = "GATEWAY_SEALING_KEY_FILE"


class SealBroken(Exception):
    """A sealed value cannot be opened: it was changed, moved, or sealed with another key. Holds no secret."""


class SealingKeyError(Exception):
    """The sealing key is missing, unreadable, too weak, or not the one that this database was sealed with."""


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

    @classmethod
    def load(
        cls, data_dir: Path, environ: Mapping[str, str], *, random_bytes: Callable[[int], bytes] = os.urandom
    ) -> SealingKey:
        """
        Return the sealing key of GATEWAY_SEALING_KEY (base64), of GATEWAY_SEALING_KEY_FILE, or of the data directory.

        The last one is made at first start as `sealing.key`, mode 0600.

        Raises:
            SealingKeyError: both variables are set, or the key is unreadable, too weak, or open to other users.
        """
        if ENVIRONMENT_KEY in environ and ENVIRONMENT_FILE in environ:
            raise SealingKeyError(f"set {ENVIRONMENT_KEY} or {ENVIRONMENT_FILE}, not both")
        if ENVIRONMENT_KEY in environ:
            return cls.from_bytes(_decode(environ[ENVIRONMENT_KEY], place=ENVIRONMENT_KEY))
        if ENVIRONMENT_FILE in environ:
            return cls._from_file(Path(environ[ENVIRONMENT_FILE]), is_ours=False)
        path = data_dir / KEY_FILE_NAME
        if not path.exists():
            _make_key_file(path, random_bytes)
        return cls._from_file(path, is_ours=True)

    @classmethod
    def _from_file(cls, path: Path, *, is_ours: bool) -> SealingKey:
        try:
            with path.open("rb") as file:
                # A secret mounted by an orchestrator is often group-readable by design; the one we made is not.
                if is_ours and os.fstat(file.fileno()).st_mode & 0o077:
                    raise SealingKeyError(
                        f"{path}: other users of this machine can read the sealing key; run chmod 600"
                    )
                content = file.read(MAX_KEY_FILE_BYTES + 1)
        except OSError as exc:
            raise SealingKeyError(f"{path}: the sealing key cannot be read ({exc.strerror})") from exc
        return cls.from_bytes(_decode(content.decode("ascii", "replace"), place=str(path)))


class Sealer:
    """Seals and opens values with one sealing key."""

    def __init__(self, key: SealingKey, random_bytes: Callable[[int], bytes]) -> None:
        self._header = bytes([VERSION]) + key.key_id
        self._wrapper = AESGCM(key.wrapping_key)
        self._random_bytes = random_bytes

    @property
    def key_id(self) -> bytes:
        """The id that this sealer's key writes into headers."""
        return self._header[1:]

    def seal(self, plain: bytes, *, binding: Binding) -> bytes:
        """Return *plain* sealed for its place. Two calls never return the same bytes."""
        data_key = self._random_bytes(KEY_BYTES)
        wrap_nonce = self._random_bytes(NONCE_BYTES)
        nonce = self._random_bytes(NONCE_BYTES)
        wrapped = self._wrapper.encrypt(wrap_nonce, data_key, self._header)
        return self._header + wrap_nonce + wrapped + nonce + AESGCM(data_key).encrypt(nonce, plain, binding.encode())

    def open(self, sealed: bytes, *, binding: Binding) -> bytes:
        """
        Return what was sealed for this place.

        Raises:
            SealBroken: another key, another place, or other bytes than were sealed.
        """
        if len(sealed) < MINIMUM_BYTES or sealed[0] != VERSION:
            raise SealBroken("not a sealed value of this format")
        if sealed[:HEADER_BYTES] != self._header:
            raise SealBroken(f"sealed with key {sealed[1:HEADER_BYTES].hex()}, this process has {self.key_id.hex()}")
        at = HEADER_BYTES
        wrap_nonce, at = sealed[at : at + NONCE_BYTES], at + NONCE_BYTES
        wrapped, at = sealed[at : at + WRAPPED_BYTES], at + WRAPPED_BYTES
        nonce, at = sealed[at : at + NONCE_BYTES], at + NONCE_BYTES
        try:
            data_key = self._wrapper.decrypt(wrap_nonce, wrapped, self._header)
            return AESGCM(data_key).decrypt(nonce, sealed[at:], binding.encode())
        except InvalidTag as exc:
            raise SealBroken("the value was changed, or belongs to another place") from exc


def _derive(secret: bytes, label: bytes, length: int) -> bytes:
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=label).derive(secret)


def _decode(text: str, *, place: str) -> bytes:
    try:
        return base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError) as exc:
        raise SealingKeyError(f"{place}: expected {KEY_BYTES} bytes in base64") from exc


def _make_key_file(path: Path, random_bytes: Callable[[int], bytes]) -> None:
    """Write a new key next to its name and link it into place: of two processes that start at once, one wins."""
    draft = path.with_name(f"{KEY_FILE_NAME}.{os.getpid()}.{random_bytes(8).hex()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(base64.b64encode(random_bytes(KEY_BYTES)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return
        finally:
            draft.unlink()
        # What is sealed from now on is lost with the key: its name must survive a power cut as well.
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as exc:
        raise SealingKeyError(f"{path}: the sealing key cannot be written ({exc.strerror})") from exc
