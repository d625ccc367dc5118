"""
The token API as an OpenAPI 3.1 document, made of the table that routes its requests.

Rules:
1. Nothing is described by hand that the code knows: paths, methods and credentials come from `ENDPOINTS`, schemas from
   the messages and answers, statuses and codes from the errors of a row and from what every row can answer. What a
   schema cannot say (a rule between two fields) stands in the docstring of whoever answers.
2. The document holds nothing of this gateway's configuration: it is public, and the same everywhere.
3. What the document says, the API does: tests/vault/test_openapi.py lets schemathesis compare the two.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Literal

from pydantic import TypeAdapter

from gateway import __version__
from gateway.vault import wire
from gateway.vault.calls import Endpoint
from gateway.vault.wire_connect import ErrorAnswer

PATH = "/openapi.json"
SCHEMAS = "#/components/schemas/{model}"
DESCRIPTION = """\
Descope's outbound-application API, answered by the Connection Gateway's vault.

Every answer is a JSON object; every error is flat: `errorCode`, `errorDescription`, `errorMessage`. Unknown keys are
ignored, an explicit null is an absent field. The four fetches answer 500 (E011001) to malformed JSON and to any other
method than POST, as Descope's page documents it; everything else answers 400 and 405. A key that is there twice in an
object, a parameter twice, and a query that is not UTF-8 are answered with 400 everywhere."""
BEARER = (
    "`Bearer <project>:<credential>`, the credential being a management key or an access token of a trusted issuer "
    "with the scope outbound.token.fetch. A third part, which SDKs append, is ignored."
)
TAGS = {
    "fetch": "Connection tokens, handed out",
    "tokens": "Connection tokens, managed",
    "connections": "Connections (apps)",
    "connect": "Connecting an account",
    "service": "What needs no connection",
}


def document(endpoints: Iterable[Endpoint]) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of *endpoints*."""
    rows = tuple(endpoints)
    references, components = _schemas(rows)
    paths: dict[str, dict[str, Any]] = {}
    for row in rows:
        paths.setdefault(row.path, {})[row.method.lower()] = _operation(row, references, components)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Connection Gateway: token API", "version": __version__, "description": DESCRIPTION},
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "description": BEARER}},
        },
    }


def _schemas(rows: tuple[Endpoint, ...]) -> tuple[dict[type[Any], dict[str, Any]], dict[str, Any]]:
    """Return for each message and answer the reference to its schema, and all schemas by name."""
    kinds: dict[type[Any], None] = {ErrorAnswer: None}
    for row in rows:
        kinds |= dict.fromkeys(kind for kind in (row.request, row.query, row.answer) if kind is not None)
    mode: Literal["validation"] = "validation"
    adapters = [(kind.__name__, mode, TypeAdapter[Any](kind)) for kind in kinds]
    made, definitions = TypeAdapter.json_schemas(adapters, ref_template=SCHEMAS)
    components = definitions.get("$defs", {})
    references: dict[type[Any], dict[str, Any]] = {}
    for kind in kinds:
        schema = made[(kind.__name__, mode)]
        if "$ref" not in schema:
            components[kind.__name__] = schema
            schema = {"$ref": SCHEMAS.format(model=kind.__name__)}
        references[kind] = schema
    return references, dict(sorted(components.items()))


def _operation(
    row: Endpoint, references: dict[type[Any], dict[str, Any]], components: dict[str, Any]
) -> dict[str, Any]:
    summary, _, more = inspect.cleandoc(row.handle.__doc__ or "").partition("\n")
    operation: dict[str, Any] = {
        "operationId": _operation_id(row),
        "summary": summary,
        "description": " ".join([f"Row {row.row} of the contract. {_who(row)}", *more.split()]),
        "tags": [_tag(row)],
        "security": [] if row.credential == "public" else [{"bearer": []}],
        "responses": _responses(row, references),
    }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": wire.APP_ID_SCHEMA}
        for name in re.findall(r"\{(\w+)\}", row.path)
    ]
    if row.query is not None:
        query = components[row.query.__name__]
        required = set(query.get("required", ()))
        parameters += [
            {"name": name, "in": "query", "required": name in required, "schema": _of_query(schema)}
            for name, schema in query["properties"].items()
        ]
    if parameters:
        operation["parameters"] = parameters
    if row.request is not None:
        content = {"application/json": {"schema": references[row.request]}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _of_query(schema: dict[str, Any]) -> dict[str, Any]:
    """Return *schema* as a query has it: there is no null in a query, and absence is the parameter's own."""
    found = [each for each in schema.get("anyOf", [schema]) if each.get("type") != "null"]
    return found[0] if len(found) == 1 else {"anyOf": found}


def _operation_id(row: Endpoint) -> str:
    first, *rest = row.handle.__name__.split("_")
    name = first + "".join(map(str.title, rest))
    return name if row.row != 21 else f"{name}BySession"


def _tag(row: Endpoint) -> str:
    if row.is_fetch:
        return "fetch"
    if row.row <= 13:
        return "tokens"
    if row.row <= 19:
        return "connections"
    return "connect" if row.row <= 21 else "service"


def _who(row: Endpoint) -> str:
    return {
        "management": "Takes a management key.",
        "either": "Takes a management key, or an access token for its own user or tenant where a policy allows it.",
        "caller": "Takes an access token or a session JWT, not a management key.",
        "public": "Takes no credential.",
    }[row.credential]


def errors_of(row: Endpoint) -> tuple[wire.ErrorKind, ...]:
    """Return every error that *row* may answer: its own, and what comes before and around it."""
    kinds = list(row.errors)
    if row.credential != "public":
        kinds.append(wire.FORBIDDEN)
    if row.request is not None:
        body = [wire.FETCH_METHOD] if row.is_fetch else [wire.MALFORMED]
        kinds += [*body, wire.FIELD_REQUIRED, wire.INVALID, wire.TOO_SLOW, wire.TOO_LARGE]
    if row.query is not None:
        kinds += [wire.FIELD_REQUIRED, wire.INVALID]
    # A request that is not HTTP, an expectation that nobody meets, and what must not happen and may.
    kinds += [wire.MALFORMED, wire.UNAUTHORIZED, wire.INTERNAL, wire.UNAVAILABLE]
    return tuple(dict.fromkeys(kinds))


def _responses(row: Endpoint, references: dict[type[Any], dict[str, Any]]) -> dict[str, Any]:
    def of(schema: dict[str, Any], description: str) -> dict[str, Any]:
        return {"description": description, "content": {"application/json": {"schema": schema}}}

    responses: dict[str, Any] = {"200": of(references[row.answer], "Done.")}
    by_status: dict[int, list[wire.ErrorKind]] = {}
    for kind in errors_of(row):
        by_status.setdefault(kind.status, []).append(kind)
    for status, kinds in sorted(by_status.items()):
        texts = "; ".join(f"{kind.code}: {kind.description}" for kind in kinds)
        responses[str(status)] = of(references[ErrorAnswer], f"{HTTPStatus(status).phrase}. {texts}.")
    responses["503"]["headers"] = {
        "Retry-After": {"description": "Seconds.", "required": True, "schema": {"type": "integer", "minimum": 1}}
    }
    return responses
