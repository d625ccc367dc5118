"""A connection's fields on the wire: null and the empty string are absent, and types are strict."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.vault import wire
from gateway.vault.wire_app_fields import AppFields

EMPTY_IS_ABSENT = (
    "clientSecret", "discoveryUrl", "authorizationUrl", "tokenUrl", "revocationUrl", "defaultRedirectUrl",
    "callbackDomain", "accessType", "appType", "dcrUrl", "tokenEndpointAuthMethod", "grantType", "installationId",
    "issuer", "audience", "subject", "keyId",
)  # fmt: skip


def test_null_is_absent_everywhere() -> None:
    """Python's SDK sends null for whatever it was not told."""
    app = wire.read_message(AppFields, dict.fromkeys(AppFields.model_fields))
    assert {None} == {getattr(app, name) for name in AppFields.model_fields}


def test_empty_text_is_absent() -> None:
    """An empty text where none makes no sense is no value."""
    app = wire.read_message(AppFields, dict.fromkeys(EMPTY_IS_ABSENT, ""))
    assert {None} == {getattr(app, name) for name in EMPTY_IS_ABSENT}


WRONG: dict[str, dict[str, Any]] = {
    "a number for a text": {"description": 7},
    "a text for a list": {"prompt": "login"},
    "too many prompts": {"prompt": ["login"] * 11},
    "a text for a flag": {"useDcr": "true"},
    "a parameter without a value": {"tokenUrlParams": [{"key": "a"}]},
    "a scope with a space": {"defaultScopes": ["a b"]},
    "a secret of a megabyte": {"clientSecret": "CANARY" * 200_000},
}


@pytest.mark.parametrize("content", WRONG.values(), ids=WRONG.keys())
def test_refuses_another_type(content: dict[str, Any]) -> None:
    """The field is named, its value is not."""
    with pytest.raises(wire.ApiError) as error:
        wire.read_message(AppFields, content)

    assert 400 == error.value.kind.status
    assert next(iter(content)) in str(error.value.body())
    assert "CANARY" not in str(error.value.body())
