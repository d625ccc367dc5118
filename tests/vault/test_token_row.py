"""What a token's row says: its secrets open where they belong, and its columns are all there."""

from __future__ import annotations

import os
from typing import Any

import pytest

from gateway.store.schema import tokens as table
from gateway.vault.sealing import SealBroken, Sealer, SealingKey
from gateway.vault.stored_token import TokenDraft
from gateway.vault.token_row import SECRETS, RowSealer, carried_over, created, replaced

DRAFT = TokenDraft("contacts", "alice", scopes=("b", "a", "b"), access_token="CANARY-access", refresh_token="CANARY-r")
DEFAULT = {"sealed_spent", "failing_since", "lease_owner", "lease_until", "lease_beat"}  # null, or the schema's


@pytest.fixture
def sealer() -> RowSealer:
    """A sealer with a key of its own."""
    return RowSealer(Sealer(SealingKey.from_bytes(os.urandom(32)), os.urandom))


def row_of(sealer: RowSealer, draft: TokenDraft) -> dict[str, Any]:
    """A new row of *draft*, as the database gives it back."""
    empty = {column.name: 0 if column.name == "lease_beat" else None for column in table.columns}
    return empty | sealer.seal("t1", draft) | replaced(draft, now=10.0) | created(draft, token_id="t1", at=9.0)


def test_new_row_says_everything(sealer: RowSealer) -> None:
    """Every column is written or has the schema's default; sets are sorted; the secrets come back, and show nowhere."""
    written = {*SECRETS, *replaced(DRAFT, now=10.0), *created(DRAFT, token_id="t1", at=9.0)}
    token = sealer.open(row_of(sealer, DRAFT))

    assert {column.name for column in table.columns} == written | DEFAULT
    assert (("a", "b"), ("a", "b"), 9.0, 10.0, 1) == (
        token.requested_scopes, token.granted_scopes, token.created_at, token.updated_at, token.version
    )  # fmt: skip
    assert ("CANARY-access", "CANARY-r") == (token.access_token, token.refresh_token)
    assert "CANARY" not in repr(token) + repr(sealer.seal("t1", DRAFT))


def test_upload_over_a_row_says_of_each_column_once() -> None:
    """What is replaced, and what is carried over, are other columns; whose token it is never changes."""
    for is_same in (True, False):
        assert set() == set(carried_over(is_same=is_same)) & {*SECRETS, *replaced(DRAFT, now=10.0)}
    kept = {*created(DRAFT, token_id="t1", at=9.0)} - {*carried_over(is_same=True)}
    assert {"id", "connection_id", "user_id", "tenant_id", "account", "created_at"} <= kept


MOVED = ("id", "connection_id", "user_id", "tenant_id", "account")


@pytest.mark.parametrize("column", MOVED)
def test_moved_row_does_not_open(sealer: RowSealer, column: str) -> None:
    """A row that says it is another's is refused."""
    with pytest.raises(SealBroken):
        sealer.open(row_of(sealer, DRAFT) | {column: "other"})


def test_absent_secret_is_none(sealer: RowSealer) -> None:
    """A token without a refresh token has none, sealed or opened."""
    row = row_of(sealer, TokenDraft("contacts", "alice", access_token="x"))

    assert (None, None) == (row["sealed_refresh_token"], sealer.open(row).refresh_token)
