"""
What a row of the table of tokens says: the values that are written for a draft, and its secrets sealed and opened.

Rules:
1. Secrets are bound to the row and to whose it is: a row that was moved or exchanged in the database does not open.
2. What is known of a refresh token stays with it: uploading the same one again neither hides that an answer was lost,
   nor discards the answer of an exchange under way. Another one ends the lease: that exchange is not about it.
   The database decides, as it writes: on PostgreSQL a lease may be taken between a read and the write after it.

No I/O.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, case, literal, null

from gateway.store.schema import tokens as table
from gateway.vault.sealing import Binding, Sealer
from gateway.vault.stored_token import ANSWER_LOST, StoredToken, TokenDraft, scopes_key, token_of_row

SECRETS = ("sealed_access_token", "sealed_refresh_token")


class RowSealer:
    """Seals a draft's secrets for its row, and opens rows."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def seal(self, token_id: str, draft: TokenDraft) -> dict[str, object]:
        """Return the sealed columns of the row *token_id* that is to hold *draft*."""
        sealed: dict[str, object] = {}
        for column, secret in zip(SECRETS, (draft.access_token, draft.refresh_token), strict=True):
            binding = Binding("tokens", column, token_id, draft.connection, draft.user, draft.tenant, draft.account)
            sealed[column] = None if secret is None else self._sealer.seal(secret.encode(), binding=binding)
        return sealed

    def open(self, row: Any) -> StoredToken:
        """
        Return *row* with its secrets.

        Raises:
            SealBroken, SealingKeyUnavailable: as `Sealer.open`.
        """
        secrets: dict[str, str | None] = {}
        identity = (row["connection_id"], row["user_id"], row["tenant_id"], row["account"])
        for column in SECRETS:
            sealed = row[column]
            binding = Binding("tokens", column, row["id"], *identity)
            secrets[column] = None if sealed is None else self._sealer.open(bytes(sealed), binding=binding).decode()
        return token_of_row(
            row, access_token=secrets["sealed_access_token"], refresh_token=secrets["sealed_refresh_token"]
        )


def replaced(draft: TokenDraft, *, now: float) -> dict[str, object]:
    """Return what a row says of *draft*, whether it is new or was there; its secrets and rule 2 apart."""
    granted = draft.scopes if draft.granted_scopes is None else draft.granted_scopes
    return {
        "granted_scopes": sorted(set(granted)),
        "token_type": draft.token_type,
        "token_sub": draft.token_sub,
        "granted_by": draft.granted_by,
        "issued_at": now,
        "expires_at": draft.expires_at,
        "updated_at": now,
        "last_refresh_at": None,
        "dead": False,
    }


def created(draft: TokenDraft, *, token_id: str, at: float) -> dict[str, object]:
    """Return what a new row says beside `replaced`."""
    return {
        "id": token_id,
        "connection_id": draft.connection,
        "user_id": draft.user,
        "tenant_id": draft.tenant,
        "account": draft.account,
        "requested_scopes": sorted(set(draft.scopes)),
        "requested_scopes_key": scopes_key(draft.scopes),
        "created_at": at,
        "last_refresh_error": "",
        "failing_since": None,
        "version": 1,
    }


def carried_over(*, is_same: bool) -> dict[str, ColumnElement[Any]]:
    """Return what an upload over a row keeps and ends of it (rule 2). *is_same*: of its refresh token."""
    if not is_same:
        return {
            "version": table.c.version + 1,
            "lease_owner": null(),
            "lease_until": null(),
            "last_refresh_error": literal(""),
            "failing_since": null(),
        }
    is_lost = table.c.last_refresh_error == ANSWER_LOST
    return {
        "version": table.c.version + case((table.c.lease_until.is_(None), 1), else_=0),
        "last_refresh_error": case((is_lost, table.c.last_refresh_error), else_=""),
        "failing_since": case((is_lost, table.c.failing_since), else_=null()),
    }
