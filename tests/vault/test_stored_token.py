"""A token as a value: when it is due, and what its repr tells."""

from __future__ import annotations

import pytest

from gateway.vault.stored_token import StoredToken, TokenDraft, preview, scopes_key

DUE = {
    "an hour's token, a minute before": (3600.0, 3540.0),
    "a short one, a tenth before": (100.0, 90.0),
    "one that never lived": (0.0, 0.0),
    "an unknown expiry: never": (None, None),
}


def token(expires_at: float | None = None) -> StoredToken:
    """A token received at the time 0."""
    draft = TokenDraft("contacts", "alice", access_token="CANARY-A", refresh_token="CANARY-R", expires_at=expires_at)
    return preview(draft, now=0.0)


@pytest.mark.parametrize(("expires_at", "refresh_at"), DUE.values(), ids=DUE.keys())
def test_refresh_at_is_ahead_of_expiry(expires_at: float | None, refresh_at: float | None) -> None:
    """A token is due min(60 s, 10 % of its lifetime) before its expiry."""
    assert refresh_at == token(expires_at).refresh_at


def test_token_is_valid_until_its_expiry() -> None:
    """The second of the expiry is not part of the lifetime; without an access token nothing is valid."""
    assert (True, False) == (token(10.0).is_valid(9.9), token(10.0).is_valid(10.0))
    assert not token(10.0).without_secrets().is_valid(1.0)


def test_repr_tells_no_secret() -> None:
    """Neither a token nor a draft prints what it holds."""
    draft = TokenDraft("contacts", access_token="CANARY-A", refresh_token="CANARY-R")

    assert "CANARY" not in repr(draft) + repr(token()) + repr(token().without_secrets())


def test_scopes_key_is_a_sets() -> None:
    """Order and duplicates do not count; where one scope ends and the next begins does."""
    assert scopes_key(("b", "a", "a")) == scopes_key(("a", "b"))
    assert 3 == len({scopes_key(("a", "bc")), scopes_key(("ab", "c")), scopes_key(("abc",))})
