"""The OpenAPI document: valid, public, made of the table, and true (schemathesis compares it with a running API)."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import string
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
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
    "negative_data_rejection",
    "positive_data_acceptance",
)
# Rules between fields, which a schema does not say and the operation's description does.
BETWEEN_FIELDS = ("One of appId and userId is required", "client secret: missing", "verifyRefresh: expected")
TABLES = ("keys", "connections", "tokens", "connect_attempts", "changes")


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


def register_formats() -> None:
    """Tell schemathesis what our formats hold, and that a URI is a web address where a pattern says so."""
    host = st.from_regex(r"\A[a-z0-9]{1,10}(\.[a-z]{2,5})?(:[1-9][0-9]{0,3})?\Z", alphabet=string.printable)
    schemes = st.sampled_from(["http", "https"])
    schemathesis.openapi.format("printable", st.text(st.characters(exclude_categories=("C", "Z")), min_size=1))
    schemathesis.openapi.format("origin", st.builds("{}://{}".format, schemes, host))
    schemathesis.openapi.format("domain", host)
    schemathesis.openapi.format("uri", st.builds("{}://{}/{}".format, schemes, host, st.sampled_from(["", "a?b=c"])))


VALID: dict[str, tuple[str, dict[str, Any], bool]] = {
    "an app without a name": ("CreateApp", {"id": "x"}, False),
    "an app with an empty name": ("CreateApp", {"name": ""}, False),
    "an app with a long name": ("CreateApp", {"name": "x" * 201}, False),
    "an app with a name": ("CreateApp", {"name": "x"}, True),
    "an app of a template without a name": ("CreateAppByTemplate", {"templateId": "github", "clientId": ""}, True),
    "an endpoint that is no URL": ("CreateApp", {"name": "x", "tokenUrl": "ftp://x"}, False),
    "an endpoint that is empty": ("CreateApp", {"name": "x", "tokenUrl": ""}, True),
    "a parameter without a key": ("CreateApp", {"name": "x", "tokenUrlParams": [{"value": "1"}]}, False),
    "a parameter with a name": ("CreateApp", {"name": "x", "tokenUrlParams": [{"name": "a", "value": "1"}]}, True),
    "an upload without a token": ("UploadUserToken", {"appId": "a", "userId": "u"}, False),
    "an upload of empty tokens": (
        "UploadUserToken", {"appId": "a", "userId": "u", "accessToken": "", "refreshToken": ""}, False,
    ),
    "an upload with an empty token beside": (
        "UploadUserToken", {"appId": "a", "userId": "u", "accessToken": "", "refreshToken": "r"}, True,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "is_valid"), VALID.values(), ids=VALID.keys())
def test_schema_says_what_the_api_takes(name: str, content: dict[str, Any], is_valid: bool) -> None:
    """Of each case the schema says what reading it does."""
    document = openapi.document(ENDPOINTS)
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    assert is_valid == Draft202012Validator(schema).is_valid(content)


def is_known_query_valid(case: Any, response: Any) -> bool:
    """Whether a query is wrong in nothing but keys that the document does not know: those are ignored."""
    described = case.operation.definition.raw.get("parameters", [])
    known = {each["name"]: Draft202012Validator(each["schema"]) for each in described if each["in"] == "query"}
    sent = parse_qsl(urlsplit(response.request.url).query, keep_blank_values=True)
    return bool(known) and all(known[name].is_valid(value) for name, value in sent if name in known)


def explore(api: Api, mode: GenerationMode) -> list[str]:
    """Send what schemathesis makes of the document, and return what the API did against it."""
    register_formats()
    schema = schemathesis.openapi.from_dict(openapi.document(ENDPOINTS))
    checks = [each for each in CHECKS.get_all() if each.__name__ in CHECKED]
    assert len(CHECKED) == len(checks)
    headers = {"Authorization": f"Bearer {PROJECT}:{api.management_key}"}
    found: list[str] = []
    database = sqlite3.connect(api.house.path)

    def stored() -> list[list[Any]]:
        return [database.execute(f"SELECT * FROM {table}").fetchall() for table in TABLES]  # noqa: S608  # our names

    def check(case: Any) -> None:
        before = stored()
        credential = {"Authorization": f"Bearer {PROJECT}:{api.access_token()}"} if "connect" in case.path else headers
        response = case.call(base_url=api.url, headers=credential)
        if response.status_code >= 500:
            code = json.loads(response.content)["errorCode"]
            assert (code, response.status_code) in DOCUMENTED_5XX, (case.path, response.status_code, code)
        is_told = json.loads(response.content).get("errorMessage", "").startswith(BETWEEN_FIELDS)
        exceptions = {
            "positive_data_acceptance": is_told,
            "negative_data_rejection": is_known_query_valid(case, response),
        }
        applied = [each for each in checks if not exceptions.get(each.__name__)]
        case.validate_response(response, checks=applied)
        assert response.status_code == 200 or before == stored(), (case.path, response.status_code)

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
    database.close()
    return found


@pytest.mark.parametrize("engine", ["sqlite"])
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["valid", "invalid"])
async def test_api_does_what_the_document_says(api: Api, mode: GenerationMode) -> None:
    """
    No undocumented status, no 5xx but the contract's, no answer that its schema does not have.

    What the document calls valid is taken; what it does not is refused, and whatever is refused changes nothing.
    """
    assert [] == await asyncio.to_thread(explore, api, mode)
