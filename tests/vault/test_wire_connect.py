"""What a request to connect may say."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.vault import wire
from gateway.vault.wire_connect import Connect

CASES: dict[str, tuple[dict[str, Any], str | None]] = {
    "no app": ({}, "E011003"),
    "nothing but the app": ({"appId": "a"}, None),
    "nulls": ({"appId": "a", "tenantId": None, "tenantLevel": None, "options": None}, None),
    "unknown options": ({"appId": "a", "options": {"prompt": "x", "redirectUrl": ""}}, None),
    "a level that is text": ({"appId": "a", "tenantLevel": "true"}, "E011004"),
    "scopes in one string": ({"appId": "a", "options": {"scopes": "a b"}}, "E011004"),
    "an account too long": ({"appId": "a", "externalIdentifier": "x" * 201}, "E011004"),
}


@pytest.mark.parametrize(("content", "code"), CASES.values(), ids=CASES.keys())
def test_reads_what_it_can(content: dict[str, Any], code: str | None) -> None:
    """Absent and unknown is fine, wrong is refused."""
    try:
        wire.read_message(Connect, content)
        found = None
    except wire.ApiError as error:
        found = error.kind.code
    assert code == found
