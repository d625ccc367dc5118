"""A key service in memory: it wraps and unwraps like a real one, counts, and fails when it is told to."""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.vault.sealing import SealingKeyError, SealingKeyUnavailable

ENVIRON = {"GATEWAY_SEALING_KMS": "aws-kms:key-1"}  # it stands in for the one service that is known by name


class KeyService:
    """*is_away*: it does not answer. *unwraps* counts the questions."""

    service = "aws-kms"

    def __init__(self) -> None:
        self.is_away = False
        self.unwraps = 0
        self._cipher = AESGCM(os.urandom(32))

    async def wrap(self, secret: bytes, *, master: str, key_id: bytes) -> bytes:
        """Return *secret* encrypted, bound to *master* and *key_id*."""
        self._answer()
        nonce = os.urandom(12)
        return nonce + self._cipher.encrypt(nonce, secret, master.encode() + key_id)

    async def unwrap(self, wrapped: bytes, *, master: str, key_id: bytes) -> bytes:
        """Return what `wrap` was given."""
        self._answer()
        self.unwraps += 1
        try:
            return self._cipher.decrypt(wrapped[:12], wrapped[12:], master.encode() + key_id)
        except InvalidTag as exc:
            raise SealingKeyError("the service does not accept the wrapped key") from exc

    async def close(self) -> None:
        """Nothing is open."""

    def _answer(self) -> None:
        if self.is_away:
            raise SealingKeyUnavailable("the service does not answer")
