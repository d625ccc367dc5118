"""
A connection token as a value: as somebody hands it in, and as the vault keeps it. No I/O.

Rules (contract section 11):
1. A token is due from min(60 s, 10 % of its lifetime) before its expiry; with an unknown expiry never.
2. A set of scopes is compared by its digest: the same for every order, and for duplicates.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from gateway.vault.oauth import BEARER

REFRESH_AHEAD_SECONDS = 60.0  # contract section 11: min(60 s, 10 % of the lifetime) before expiry
REFRESH_AHEAD_SHARE = 0.1
ANSWER_LOST = "answer_lost"  # an exchange was begun and its answer never stored: the refresh token may be spent
ROTATION_INTERRUPTED = "rotation_interrupted"


@dataclass(frozen=True, slots=True)
class TokenDraft:
    """
    A connection token as somebody hands it in. One of the two secrets is there.

    *expires_at* None: unknown. *granted_scopes* None: those that were asked for. *spent*: the refresh token
    that was exchanged for these.
    """

    connection: str
    user: str = ""
    tenant: str = ""
    account: str = ""
    scopes: tuple[str, ...] = ()
    access_token: str | None = field(default=None, repr=False)
    refresh_token: str | None = field(default=None, repr=False)
    token_type: str = BEARER
    expires_at: float | None = None
    token_sub: str = ""
    granted_by: str = ""
    granted_scopes: tuple[str, ...] | None = None
    spent: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class StoredToken:
    """One row, opened. An absent user, tenant or account is "". Times are POSIX seconds."""

    id: str
    connection: str
    user: str
    tenant: str
    account: str
    requested_scopes: tuple[str, ...]
    granted_scopes: tuple[str, ...]
    access_token: str | None = field(repr=False)
    refresh_token: str | None = field(repr=False)
    token_type: str
    token_sub: str
    granted_by: str
    issued_at: float | None
    expires_at: float | None
    created_at: float
    updated_at: float
    last_refresh_at: float | None
    last_refresh_error: str
    dead: bool
    version: int
    lease_owner: str | None
    lease_until: float | None
    lease_beat: int = 0
    sealed_spent: bytes | None = field(default=None, repr=False)  # `spent_tokens.py`

    @property
    def is_leased(self) -> bool:
        """Whether an exchange of this grant is under way, or its holder has died (`lease.py` tells them apart)."""
        return self.lease_until is not None

    @property
    def refresh_at(self) -> float | None:
        """When to refresh ahead of expiry; None where the expiry is unknown."""
        if self.expires_at is None:
            return None
        lifetime = max(0.0, self.expires_at - (self.issued_at if self.issued_at is not None else self.created_at))
        return self.expires_at - min(REFRESH_AHEAD_SECONDS, REFRESH_AHEAD_SHARE * lifetime)

    def without_secrets(self) -> StoredToken:
        """Return the same token for those who need to know of it, and not to have it."""
        return replace(self, access_token=None, refresh_token=None)

    def is_valid(self, now: float) -> bool:
        """Whether there is an access token that has not expired by the clock."""
        return self.access_token is not None and (self.expires_at is None or now < self.expires_at)


def scopes_key(scopes: Iterable[str]) -> str:
    """Return the digest of a set of scopes: the same for every order and for duplicates."""
    digest = hashlib.sha256()
    for scope in sorted(set(scopes)):
        encoded = scope.encode()
        digest.update(len(encoded).to_bytes(4, "big") + encoded)
    return digest.hexdigest()


def preview(draft: TokenDraft, *, now: float) -> StoredToken:
    """Return *draft* as it would be stored as a new token, under no id."""
    scopes = tuple(sorted(set(draft.scopes)))
    return StoredToken(
        id="", connection=draft.connection, user=draft.user, tenant=draft.tenant, account=draft.account,
        requested_scopes=scopes, granted_scopes=scopes, access_token=draft.access_token,
        refresh_token=draft.refresh_token, token_type=draft.token_type, token_sub=draft.token_sub,
        granted_by=draft.granted_by, issued_at=now, expires_at=draft.expires_at, created_at=now, updated_at=now,
        last_refresh_at=None, last_refresh_error="", dead=False, version=0, lease_owner=None, lease_until=None,
    )  # fmt: skip


def token_of_row(row: Any, *, access_token: str | None, refresh_token: str | None) -> StoredToken:
    """Return *row* of the table as a value, with its secrets opened; None where they are absent or not wanted."""
    return StoredToken(
        id=row["id"],
        connection=row["connection_id"],
        user=row["user_id"],
        tenant=row["tenant_id"],
        account=row["account"],
        requested_scopes=tuple(row["requested_scopes"]),
        granted_scopes=tuple(row["granted_scopes"]),
        access_token=access_token,
        refresh_token=refresh_token,
        token_type=row["token_type"],
        token_sub=row["token_sub"],
        granted_by=row["granted_by"],
        issued_at=row["issued_at"],
        expires_at=row["expires_at"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        last_refresh_at=row["last_refresh_at"],
        last_refresh_error=row["last_refresh_error"],
        dead=row["dead"],
        version=row["version"],
        lease_owner=row["lease_owner"],
        lease_until=row["lease_until"],
        lease_beat=row["lease_beat"],
        sealed_spent=None if row["sealed_spent"] is None else bytes(row["sealed_spent"]),
    )
