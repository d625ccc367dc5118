"""
Which refresh tokens a row's exchanges have spent: somebody may bring one of them again.

Rules:
1. A refresh token is spent once an exchange of it brought another one. It is written down in the same statement as
   that other one, and goes with the row.
2. It is never presented again: providers that detect the reuse end the whole grant. Nor does it replace what is newer.
3. Kept are digests, sealed and bound to the row: FIRST_KEPT of its first, for those came from outside and may come
   again, and LAST_KEPT of its last. A memory that does not open is an empty one: no refresh fails for it.

No I/O.
"""

from __future__ import annotations

import hashlib

from gateway.vault.sealing import Binding, SealBroken, Sealer
from gateway.vault.stored_token import StoredToken

COLUMN = "sealed_spent"
DIGEST_BYTES = 16
FIRST_KEPT = 10
LAST_KEPT = 90


class SpentTokens:
    """Reads and adds to what rows have spent."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def has(self, token: StoredToken, refresh_token: str | None) -> bool:
        """Tell whether *token* has spent *refresh_token*, and does not hold it now."""
        if refresh_token is None or token.sealed_spent is None or token.refresh_token == refresh_token:
            return False
        return digest_of(refresh_token) in self.digests(token)

    def sealed(self, token: StoredToken, refresh_token: str) -> bytes:
        """
        Return the sealed column of *token*'s row once it has spent *refresh_token* as well.

        Raises:
            SealingKeyUnavailable: as `Sealer.seal`.
        """
        spent = digest_of(refresh_token)
        digests = [*(digest for digest in self.digests(token) if digest != spent), spent]
        kept = digests[:FIRST_KEPT] + digests[FIRST_KEPT:][-LAST_KEPT:]
        return self._sealer.seal(b"".join(kept), binding=_binding(token))

    def digests(self, token: StoredToken) -> list[bytes]:
        """Return the digests of what *token* has spent, oldest first (rule 3)."""
        if token.sealed_spent is None:
            return []
        try:
            opened = self._sealer.open(token.sealed_spent, binding=_binding(token))
        except SealBroken:
            return []
        return [opened[start : start + DIGEST_BYTES] for start in range(0, len(opened), DIGEST_BYTES)]


def _binding(token: StoredToken) -> Binding:
    return Binding("tokens", COLUMN, token.id, token.connection, token.user, token.tenant, token.account)


def digest_of(refresh_token: str) -> bytes:
    """Return the digest of a refresh token: never stored unless sealed."""
    return hashlib.sha256(refresh_token.encode()).digest()[:DIGEST_BYTES]
