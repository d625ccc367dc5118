"""
What every message of the token API has in common: errors, fields, and how a request becomes a value.

Rules (descope-contract.md sections 2, 3 and 11):
1. Unknown keys are ignored; an explicit null is an absent field, and so is the empty string where a field is optional.
2. Ids of users, tenants and accounts are names as `access/names.py` knows them.
3. Times are strings of epoch seconds in answers, "0" where there is none; in requests numbers or such strings, and 0 is
   unknown.
4. Errors are flat: `errorCode`, `errorDescription`, `errorMessage`, on every status.
5. A secret that came in is never sent out: an app has no `clientSecret`, a token its refresh token only when asked for.
6. What a request had in a field is never repeated in an error.
7. In a query the literal `undefined` (what Node's SDK makes of a missing argument) is absent.
8. What can be read two ways is refused: a parameter or a key that is there twice, at any depth, and a query that is not
   UTF-8.

The messages themselves are in `wire_tokens.py`, `wire_apps.py` and `wire_connect.py`. A field's type also says how the
OpenAPI document describes it (`openapi.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, TypeVar
from urllib.parse import parse_qsl

import orjson
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema

from gateway.access.names import MAX_ACCOUNT_CHARS, MAX_NAME_CHARS, is_name
from gateway.access.strict_json import NotStrictJson, load_object
from gateway.vault.connection import is_connection_id, is_scope, is_storable
from gateway.vault.oauth import MAX_TOKEN_BYTES, is_token

LATEST_EXPIRY = 253_402_300_799  # the end of the year 9999: beyond it is a time in milliseconds, or nonsense
MAX_SCOPES = 200
MAX_SCOPE_CHARS = 512
MAX_TEXT_CHARS = 2048


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """One error of the token API: status, Descope's code or one in its manner, and its constant description."""

    status: int
    code: str
    description: str


# Codes in the contract's section 3 are Descope's; where it knows none, the code is ours, in the same number space.
MALFORMED = ErrorKind(400, "E011001", "Request is malformed")
MISSING = ErrorKind(400, "E011002", "Missing arguments")
FIELD_REQUIRED = ErrorKind(400, "E011003", "Request is invalid")
INVALID = ErrorKind(400, "E011004", "Invalid arguments")
UNAUTHORIZED = ErrorKind(401, "E011005", "Unauthorized")
FORBIDDEN = ErrorKind(403, "E011006", "Forbidden")
NOT_FOUND = ErrorKind(404, "E011007", "Not found")
METHOD = ErrorKind(405, "E011008", "Method not allowed")
TOO_SLOW = ErrorKind(408, "E011009", "Request did not arrive in time")
TOO_LARGE = ErrorKind(413, "E011010", "Request is too large")
RATE_LIMITED = ErrorKind(429, "E130429", "API rate limit exceeded")
INTERNAL = ErrorKind(500, "E011012", "Internal error")
UNAVAILABLE = ErrorKind(503, "E011013", "Temporarily unavailable")
FETCH_METHOD = ErrorKind(500, "E011001", "Request is malformed")  # the page documents 500 for the fetches (section 11)
TOKEN_NOT_FOUND = ErrorKind(404, "E111504", "Token not found")
APP_NOT_FOUND = ErrorKind(404, "E151002", "OAuth app not found")
APP_EXISTS = ErrorKind(409, "E151001", "failed to persist oauth app")
APP_READ_ONLY = ErrorKind(409, "E151003", "OAuth app is read-only")
TEMPLATE_NOT_FOUND = ErrorKind(404, "E151004", "OAuth app template not found")


class ApiError(Exception):
    """An answer other than 200. *message* is one sentence for whoever called."""

    def __init__(self, kind: ErrorKind, message: str = "", *, retry_after: int | None = None, allow: str = "") -> None:
        self.kind = kind
        self.message = message
        self.retry_after = retry_after
        self.allow = allow
        super().__init__(f"{kind.status} {kind.code}")

    def body(self) -> dict[str, str]:
        """The flat JSON object that answers it."""
        return {
            "errorCode": self.kind.code,
            "errorDescription": self.kind.description,
            "errorMessage": self.message or self.kind.description,
        }


# --- fields ----------------------------------------------------------------------------------------------------------


def _name(value: str) -> str:
    if not is_name(value):
        raise ValueError(f"expected 1 to {MAX_NAME_CHARS} characters without control characters")
    return value


def _app_id(value: str) -> str:
    if not is_connection_id(value):
        raise ValueError("expected 1 to 200 of A-Z a-z 0-9 . _ -")
    return value


def _account(value: str) -> str:
    if not is_name(value, MAX_ACCOUNT_CHARS):
        raise ValueError(f"expected 1 to {MAX_ACCOUNT_CHARS} characters without control characters")
    return value


def storable_text(value: str) -> str:
    """Return *value* if every database engine can hold it. Raises ValueError."""
    if not is_storable(value):
        raise ValueError("expected text without U+0000")
    return value


def empty_is_absent(value: object) -> object:
    """Return None for the empty string (rule 1), else *value*."""
    return None if value == "" else value


def _scope(value: str) -> str:
    if not is_scope(value):
        raise ValueError("expected one scope, without spaces")
    return value


def _token(value: str) -> str:
    if not is_token(value):
        raise ValueError("expected up to 16 KiB of visible ASCII")
    return value


def _seconds(value: object) -> object:
    """A digit string is a number here: answers carry strings, and what was read is what some clients send back."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 12:
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)  # 3.0 is an integer to JSON Schema, as to JavaScript
    return 0 if value == "" else value


def _text(pattern: str, max_chars: int) -> dict[str, Any]:
    return {"type": "string", "pattern": pattern, "minLength": 1, "maxLength": max_chars}


def optional(schema: dict[str, Any]) -> WithJsonSchema:
    """Describe a field that is *schema*, or absent: null and the empty string count as absent."""
    return WithJsonSchema({"anyOf": [schema, {"const": ""}, {"type": "null"}]})


NAME_SCHEMA = _text("^[^\\u0000-\\u001f\\u007f-\\u009f\\u2028\\u2029]*$", MAX_NAME_CHARS)
ACCOUNT_SCHEMA = NAME_SCHEMA | {"maxLength": MAX_ACCOUNT_CHARS}
APP_ID_SCHEMA = _text("^[A-Za-z0-9._-]*[A-Za-z0-9_-][A-Za-z0-9._-]*$", 200)
TOKEN_SCHEMA = _text("^[!-~]+$", MAX_TOKEN_BYTES)
TEXT_SCHEMA: dict[str, Any] = {"type": "string", "pattern": "^[^\\u0000]*$", "maxLength": MAX_TEXT_CHARS}
EXPIRY_SCHEMA: dict[str, Any] = {
    "description": "Epoch seconds, as a number or a string of digits; 0, empty or absent: unknown.",
    "anyOf": [
        {"type": "integer", "minimum": 0, "maximum": LATEST_EXPIRY},
        {"type": "string", "pattern": "^[0-9]{0,11}$"},
        {"type": "null"},
    ],
}

AppId = Annotated[str, AfterValidator(_app_id), WithJsonSchema(APP_ID_SCHEMA)]
OptionalAppId = Annotated[AppId | None, BeforeValidator(empty_is_absent), optional(APP_ID_SCHEMA)]
Name = Annotated[str, AfterValidator(_name), WithJsonSchema(NAME_SCHEMA)]
OptionalName = Annotated[Name | None, BeforeValidator(empty_is_absent), optional(NAME_SCHEMA)]
Account = Annotated[
    Annotated[str, AfterValidator(_account)] | None, BeforeValidator(empty_is_absent), optional(ACCOUNT_SCHEMA)
]
Scope = Annotated[str, AfterValidator(_scope), WithJsonSchema(_text("^[!-~]+$", MAX_SCOPE_CHARS))]
Scopes = Annotated[list[Scope], Field(max_length=MAX_SCOPES)]
Secret = Annotated[str, AfterValidator(_token), WithJsonSchema(TOKEN_SCHEMA)]
OptionalSecret = Annotated[Secret | None, BeforeValidator(empty_is_absent), optional(TOKEN_SCHEMA)]
Expiry = Annotated[
    Annotated[int, Field(ge=0, le=LATEST_EXPIRY)] | None, BeforeValidator(_seconds), WithJsonSchema(EXPIRY_SCHEMA)
]
Text = Annotated[str, Field(max_length=MAX_TEXT_CHARS), AfterValidator(storable_text), WithJsonSchema(TEXT_SCHEMA)]
OptionalText = Annotated[Text | None, BeforeValidator(empty_is_absent), optional(TEXT_SCHEMA)]
Url = Annotated[Text | None, BeforeValidator(empty_is_absent), optional(TEXT_SCHEMA | {"format": "uri"})]


class Message(BaseModel):
    """What all requests have in common: strict types, unknown keys ignored, nothing echoed."""

    model_config = ConfigDict(
        strict=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        field_title_generator=lambda name, _: name,
        defer_build=True,  # at the first message of a kind, 0.5 to 5 ms; all of them took 34 ms of each start
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        _OUR_NAMES.update(cls.model_fields)


_OUR_NAMES: set[str] = set()  # of every message's fields: what an error may name
AnyMessage = TypeVar("AnyMessage", bound=Message)


# --- reading ---------------------------------------------------------------------------------------------------------


def read_object(body: bytes, *, malformed: ErrorKind = MALFORMED) -> dict[str, Any]:
    """
    Return *body* as a JSON object.

    Raises:
        ApiError: *malformed*, it is not UTF-8, not JSON, or not an object; 400, it has a key twice.
    """
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise ApiError(malformed, "The body must be a JSON object.") from exc
    if not isinstance(parsed, dict):
        raise ApiError(malformed, "The body must be a JSON object.")
    try:
        # Read once more for keys that are there twice, of which orjson takes the last. On the two-core machine 4 us a
        # fetch (of some 2,000), 2 ms a batch of 500 tokens (880 KB), 45 ms for 1 MiB of nothing but short keys.
        load_object(body)
    except NotStrictJson as exc:
        raise ApiError(MALFORMED, "The body must be a JSON object that has no key twice, at any depth.") from exc
    return parsed


def read_query(text: str) -> dict[str, Any]:
    """
    Return the parameters of a query as it was received, percent-encoded, without those that count as absent (rule 7).

    Raises:
        ApiError: 400, one is there twice, or it is not UTF-8.
    """
    try:
        text.encode()  # bytes that are no UTF-8 and were not percent-encoded are lone surrogates here
        parameters = parse_qsl(text, keep_blank_values=True, errors="strict")
    except UnicodeError as exc:
        raise ApiError(INVALID, "The query must be percent-encoded UTF-8.") from exc
    found: dict[str, Any] = {}
    for name, value in parameters:
        if name in found:
            raise ApiError(INVALID, "The query has a parameter twice.")
        found[name] = value
    return {name: value for name, value in found.items() if value not in ("", "undefined")}


def read_message(kind: type[AnyMessage], content: dict[str, Any]) -> AnyMessage:
    """
    Return *content* as a message of *kind*.

    Raises:
        ApiError: 400, names the first field that is missing or wrong, not its value.
    """
    required = {name for name, field in kind.model_fields.items() if field.is_required()}
    present = {name: value for name, value in content.items() if value is not None or name in required}
    for name in kind.model_fields:
        if name in required and present.get(name) in (None, ""):
            raise ApiError(FIELD_REQUIRED, f"The {name} field is required")
    try:
        return kind.model_validate(present)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_context=False, include_input=False)[0]
        # Of the location only names that are ours: a key of the caller's own is not repeated, an index is a number.
        place = ".".join(str(part) for part in first["loc"] if isinstance(part, int) or part in _OUR_NAMES)
        raise ApiError(INVALID, f"{place}: {first['msg'].removeprefix('Value error, ')}") from exc
