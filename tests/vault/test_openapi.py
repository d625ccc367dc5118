"""The OpenAPI document: valid, public, made of the table, and true (schemathesis compares it with a running API)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from openapi_spec_validator import validate
from schemathesis.checks import CHECKS
from schemathesis.core.result import Err
from schemathesis.generation import GenerationMode

from gateway.vault import openapi
from gateway.vault.endpoints import ENDPOINTS
from gateway.vault.service import Vault
from gateway.vault.stored_token import TokenDraft
from tests.vault.api_server import PROJECT, Api, serve
from tests.vault.conftest import House

EXAMPLES = 12  # per operation and mode: some 600 requests in all
DOCUMENTED_5XX = {("E011001", 500)}  # the fetches' malformed JSON (contract section 11)
CHECKED = (
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
)


@pytest.fixture
async def api(house: House, vault: Vault) -> AsyncIterator[Api]:
    """A running token API with a connection and two tokens."""
    await house.grant(vault)
    await vault.tokens.put(TokenDraft("contacts", "", "acme", access_token="AT-acme"))
    async with serve(house, vault) as api:
        yield api


def test_document_is_valid_openapi() -> None:
    """The document passes OpenAPI's own schema, and names every row once."""
    document = openapi.document(ENDPOINTS)
    validate(document)
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert len(ENDPOINTS) == len(operations) == len({operation["operationId"] for operation in operations})
    assert all(operation["summary"].endswith(".") for operation in operations)


@pytest.mark.parametrize("engine", ["sqlite"])
async def test_document_is_public_and_says_nothing_of_this_gateway(api: Api) -> None:
    """It is served without a credential, and is the same everywhere."""
    async with api.session.get(f"{api.url}//openapi.json") as response:
        assert 200 == response.status
        served = await response.json()
    assert openapi.document(ENDPOINTS) == served
    assert api.management_key not in json.dumps(served)
    assert api.issuer not in json.dumps(served)


def explore(api: Api, mode: GenerationMode) -> list[str]:
    """Send what schemathesis makes of the document, and return what the API did against it."""
    schema = schemathesis.openapi.from_dict(openapi.document(ENDPOINTS))
    checks = [each for each in CHECKS.get_all() if each.__name__ in CHECKED]
    assert len(CHECKED) == len(checks)
    headers = {"Authorization": f"Bearer {PROJECT}:{api.management_key}"}
    found: list[str] = []

    def check(case: Any) -> None:
        credential = {"Authorization": f"Bearer {PROJECT}:{api.access_token()}"} if "connect" in case.path else headers
        response = case.call(base_url=api.url, headers=credential)
        if response.status_code >= 500:
            code = json.loads(response.content)["errorCode"]
            assert (code, response.status_code) in DOCUMENTED_5XX, (case.path, response.status_code, code)
        case.validate_response(response, checks=checks)

    for result in schema.get_all_operations():
        assert not isinstance(result, Err)
        operation = result.ok()
        limits = hypothesis_settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        try:
            limits(given(case=operation.as_strategy(generation_mode=mode))(check))()
        except BaseException as exc:  # every operation's finding is told, not only the first
            found.append(f"{operation.label}: {type(exc).__name__}: {exc}")
    return found


@pytest.mark.parametrize("engine", ["sqlite"])
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["valid", "invalid"])
async def test_api_does_what_the_document_says(api: Api, mode: GenerationMode) -> None:
    """No undocumented status, no 5xx but the contract's, no answer that its schema does not have."""
    assert [] == await asyncio.to_thread(explore, api, mode)
