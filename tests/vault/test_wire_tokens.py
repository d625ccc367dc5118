"""Tokens on the wire: how they are uploaded, and how they are shown."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gateway.vault import wire, wire_tokens
from gateway.vault.stored_token import StoredToken

FETCH: dict[str, Any] = {"appId": "contacts", "userId": "alice"}

EXPIRIES: dict[str, tuple[Any, float | None]] = {
    "a number": (1_800_000_000, 1_800_000_000.0),
    "a string": ("1800000000", 1_800_000_000.0),
    "zero": (0, None),
    "the string zero": ("0", None),
    "the empty string": ("", None),
    "null": (None, None),
}


@pytest.mark.parametrize(("value", "expected"), EXPIRIES.values(), ids=EXPIRIES.keys())
def test_reads_expiries(value: Any, expected: float | None) -> None:
    """Seconds as a number or a string; 0 and absence are unknown."""
    message = wire.read_message(wire_tokens.UploadUserToken, FETCH | {"accessToken": "a", "accessTokenExpiry": value})
    assert expected == wire_tokens.draft_of(message).expires_at


def test_upload_needs_a_token() -> None:
    """One of access token and refresh token must be there."""
    with pytest.raises(wire.ApiError) as error:
        wire_tokens.draft_of(wire.read_message(wire_tokens.UploadUserToken, FETCH | {"accessToken": ""}))
    assert "E011002" == error.value.kind.code


STORED = StoredToken(
    id="t1", connection="contacts", user="", tenant="acme", account="", requested_scopes=("a",), granted_scopes=("a",),
    access_token="AT", refresh_token="RT", token_type="Bearer", token_sub="", granted_by="", issued_at=1.0,
    expires_at=1_800_000_000.9, created_at=1.0, updated_at=1.0, last_refresh_at=None, last_refresh_error="", dead=False,
    version=1, lease_owner=None, lease_until=None,
)  # fmt: skip


def test_token_on_the_wire() -> None:
    """Times are strings of epoch seconds; the refresh token is there only when asked for, hasRefreshToken always."""
    token = wire_tokens.token_of(STORED, kind="oauth", with_refresh_token=False)

    assert ("1800000000", "0", True, "") == tuple(
        token[name] for name in ("accessTokenExpiry", "lastRefreshTime", "hasRefreshToken", "userId")
    )
    assert "refreshToken" not in token
    assert "RT" == wire_tokens.token_of(STORED, kind="oauth", with_refresh_token=True)["refreshToken"]
    key = wire_tokens.token_of(replace(STORED, expires_at=None), kind="apikey", with_refresh_token=False)
    assert ("ApiKey", "0") == (key["accessTokenType"], key["accessTokenExpiry"])


def test_batch_holds_no_token_twice() -> None:
    """The second of one identity is a failure; another account or other scopes are another token."""
    token = FETCH | {"accessToken": "a"}
    drafts, failures = wire_tokens.read_batch(
        wire_tokens.BatchUserToken, [token, token | {"externalIdentifier": "work"}, token | {"scopes": ["x"]}, token]
    )
    assert (3, ["alice"]) == (len(drafts), [failure["userId"] for failure in failures])


def test_api_key_is_kept_as_a_token_of_its_own_type() -> None:
    """An API key has no scopes, no expiry and no refresh token."""
    message = wire.read_message(wire_tokens.UploadUserApiKey, FETCH | {"apiKey": "K"})
    draft = wire_tokens.api_key_of(message)
    assert ("K", "ApiKey", (), None, None) == (
        draft.access_token, draft.token_type, draft.scopes, draft.expires_at, draft.refresh_token,
    )  # fmt: skip
