# ruff: noqa: N815  # names of the wire are not ours to choose, and an alias for each would hide them
"""
The token API's types as they are on the wire: requests into values, values into answers, errors.

Rules (descope-contract.md sections 2, 3 and 11):
1. Unknown keys are ignored; an explicit null is an absent field; `{"name", "value"}` stands for `{"key", "value"}`.
2. Ids of users, tenants and accounts are names as `access/names.py` knows them.
3. Times are strings of epoch seconds in answers, "0" where there is none; in requests numbers or such strings, and 0 is
   unknown.
4. Errors are flat: `errorCode`, `errorDescription`, `errorMessage`, on every status.
5. A secret that came in is never sent out: an app has no `clientSecret`, a token its refresh token only when asked for.
6. What a request had in a field is never repeated in an error.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, TypeVar

import orjson
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from gateway.access.names import MAX_ACCOUNT_CHARS, is_name
from gateway.vault.connection import (
    KINDS,
    TOKEN_AUTHS,
    Connection,
    ConnectionInvalid,
    canonical_origin,
    is_connection_id,
    is_scope,
)
from gateway.vault.oauth import is_token
from gateway.vault.tokens import StoredToken, TokenDraft

LATEST_EXPIRY = 253_402_300_799  # the end of the year 9999: beyond it is a time in milliseconds, or nonsense
MAX_SCOPES = 200
API_KEY_TYPE = "ApiKey"


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
EXPECTATION = ErrorKind(417, "E011011", "Expectation failed")
INTERNAL = ErrorKind(500, "E011012", "Internal error")
UNAVAILABLE = ErrorKind(503, "E011013", "Temporarily unavailable")
FETCH_METHOD = ErrorKind(500, "E011001", "Request is malformed")  # the page documents 500 for the fetches (section 11)
TOKEN_NOT_FOUND = ErrorKind(404, "E111504", "Token not found")
APP_NOT_FOUND = ErrorKind(404, "E151002", "OAuth app not found")
APP_EXISTS = ErrorKind(409, "E151001", "failed to persist oauth app")


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


def _name(value: str) -> str:
    if not is_name(value):
        raise ValueError("expected 1 to 512 characters without control characters")
    return value


def _app_id(value: str) -> str:
    if not is_connection_id(value):
        raise ValueError("expected 1 to 200 of A-Z a-z 0-9 . _ -")
    return value


def _account(value: str) -> str:
    if not is_name(value, MAX_ACCOUNT_CHARS):
        raise ValueError(f"expected 1 to {MAX_ACCOUNT_CHARS} characters without control characters")
    return value


def _empty_is_absent(value: object) -> object:
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
    return 0 if value == "" else value


AppId = Annotated[str, AfterValidator(_app_id)]
Name = Annotated[str, AfterValidator(_name)]
OptionalName = Annotated[Annotated[str, AfterValidator(_name)] | None, BeforeValidator(_empty_is_absent)]
Account = Annotated[Annotated[str, AfterValidator(_account)] | None, BeforeValidator(_empty_is_absent)]
Scopes = Annotated[list[Annotated[str, AfterValidator(_scope)]], Field(max_length=MAX_SCOPES)]
Secret = Annotated[Annotated[str, AfterValidator(_token)] | None, BeforeValidator(_empty_is_absent)]
Expiry = Annotated[Annotated[int, Field(ge=0, le=LATEST_EXPIRY)] | None, BeforeValidator(_seconds)]
Text = Annotated[str, Field(max_length=2048)]


class Message(BaseModel):
    """What all bodies have in common: strict types, unknown keys ignored, nothing echoed."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, hide_input_in_errors=True)


class Options(Message):
    """`options` of a fetch."""

    withRefreshToken: bool | None = None
    forceRefresh: bool | None = None


class FetchUser(Message):
    """Row 1."""

    appId: AppId
    userId: Name
    tenantId: OptionalName = None
    externalIdentifier: Account = None
    options: Options | None = None


class FetchUserByScopes(FetchUser):
    """Row 2."""

    scopes: Scopes


class FetchTenant(Message):
    """Row 3."""

    appId: AppId
    tenantId: Name
    externalIdentifier: Account = None
    options: Options | None = None


class FetchTenantByScopes(FetchTenant):
    """Row 4."""

    scopes: Scopes


class UploadToken(Message):
    """What rows 8 and 9 share."""

    appId: AppId
    accessToken: Secret = None
    refreshToken: Secret = None
    accessTokenExpiry: Expiry = None
    accessTokenType: Annotated[str | None, Field(max_length=32, pattern=r"^[A-Za-z0-9._-]*$")] = None
    scopes: Scopes | None = None
    externalIdentifier: Account = None
    grantedBy: OptionalName = None
    verifyRefresh: bool | None = None


class UploadUserToken(UploadToken):
    """Row 8."""

    userId: Name
    tenantId: OptionalName = None


class UploadTenantToken(UploadToken):
    """Row 9."""

    tenantId: Name


class UrlParam(Message):
    """One additional parameter. Python's SDK says `name` where the others say `key`."""

    key: Text | None = None
    name: Text | None = None
    value: Text


class CreateApp(Message):
    """Row 14: App fields at top level. `origins` and `tokenEndpointAuthMethod` (after RFC 7591) are our own."""

    name: Text
    id: Annotated[AppId | None, BeforeValidator(_empty_is_absent)] = None
    description: Text | None = None
    logo: Annotated[str, Field(max_length=65_536)] | None = None
    clientId: Text | None = None
    clientSecret: Annotated[Text | None, BeforeValidator(_empty_is_absent)] = None
    discoveryUrl: Text | None = None
    authorizationUrl: Text | None = None
    authorizationUrlParams: Annotated[list[UrlParam], Field(max_length=200)] | None = None
    tokenUrl: Text | None = None
    tokenUrlParams: Annotated[list[UrlParam], Field(max_length=200)] | None = None
    revocationUrl: Text | None = None
    defaultScopes: Scopes | None = None
    defaultRedirectUrl: Text | None = None
    callbackDomain: Text | None = None
    pkce: bool | None = None
    accessType: Text | None = None
    prompt: Annotated[list[Text], Field(max_length=10)] | None = None
    appType: Annotated[Text | None, BeforeValidator(_empty_is_absent)] = None
    useDcr: bool | None = None
    dcrUrl: Text | None = None
    tenantId: Text | None = None
    templateId: Text | None = None
    origins: Annotated[list[Text], Field(max_length=200)] | None = None
    tokenEndpointAuthMethod: Annotated[Text | None, BeforeValidator(_empty_is_absent)] = None


# App fields that nothing reads yet: kept, and given back as they came.
EXTRA_FIELDS = (
    "logo", "discoveryUrl", "defaultRedirectUrl", "callbackDomain", "accessType", "prompt", "useDcr", "dcrUrl",
    "tenantId", "templateId",
)  # fmt: skip

AnyMessage = TypeVar("AnyMessage", bound=Message)


def read_object(body: bytes, *, malformed: ErrorKind = MALFORMED) -> dict[str, Any]:
    """
    Return *body* as a JSON object.

    Raises:
        ApiError: *malformed*, it is not UTF-8, not JSON, or not an object.
    """
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise ApiError(malformed, "The body must be a JSON object.") from exc
    if not isinstance(parsed, dict):
        raise ApiError(malformed, "The body must be a JSON object.")
    return parsed


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
        # Of the location only names that are ours: an unknown key never gets here, an index is a number.
        place = ".".join(str(part) for part in first["loc"] if isinstance(part, int) or part in _OUR_NAMES)
        raise ApiError(INVALID, f"{place}: {first['msg'].removeprefix('Value error, ')}") from exc


def read_connection(app: CreateApp, *, new_id: str) -> Connection:
    """
    Return the connection that *app* describes; *new_id* is its id where it brings none.

    Raises:
        ApiError: 400, names the field.
    """
    if app.appType is not None and app.appType not in KINDS:
        raise ApiError(INVALID, "appType: expected oauth or apikey")
    if app.tokenEndpointAuthMethod is not None and app.tokenEndpointAuthMethod not in TOKEN_AUTHS:
        raise ApiError(INVALID, f"tokenEndpointAuthMethod: expected one of {', '.join(sorted(TOKEN_AUTHS))}")
    try:
        origins = None if app.origins is None else tuple(dict.fromkeys(canonical_origin(text) for text in app.origins))
    except ConnectionInvalid as exc:
        raise ApiError(INVALID, str(exc)) from exc
    extra = {name: value for name in EXTRA_FIELDS if (value := getattr(app, name)) is not None}
    return Connection(
        id=app.id or new_id,
        name=app.name,
        description=app.description or "",
        kind="apikey" if app.appType == "apikey" else "oauth",
        client_id=app.clientId or "",
        client_secret=app.clientSecret,
        authorization_url=app.authorizationUrl or "",
        token_url=app.tokenUrl or "",
        revocation_url=app.revocationUrl or "",
        default_scopes=tuple(dict.fromkeys(app.defaultScopes or ())),
        origins=origins,
        pkce=app.pkce is not False,
        token_auth=app.tokenEndpointAuthMethod,  # type: ignore[arg-type]  # one of TOKEN_AUTHS, checked above
        authorization_params=_params(app.authorizationUrlParams, "authorizationUrlParams"),
        token_params=_params(app.tokenUrlParams, "tokenUrlParams"),
        extra=extra,
    )


def app_of(connection: Connection) -> dict[str, object]:
    """Return *connection* as an App, without its client secret."""
    app: dict[str, object] = {
        "id": connection.id,
        "name": connection.name,
        "description": connection.description,
        "appType": connection.kind,
        "clientId": connection.client_id,
        "authorizationUrl": connection.authorization_url,
        "authorizationUrlParams": [{"key": key, "value": value} for key, value in connection.authorization_params],
        "tokenUrl": connection.token_url,
        "tokenUrlParams": [{"key": key, "value": value} for key, value in connection.token_params],
        "revocationUrl": connection.revocation_url,
        "defaultScopes": list(connection.default_scopes),
        "pkce": connection.pkce,
        "tokenEndpointAuthMethod": connection.client_authentication,
    }
    if connection.origins is not None:
        app["origins"] = list(connection.origins)
    return app | {name: connection.extra[name] for name in EXTRA_FIELDS if name in connection.extra}


def token_of(token: StoredToken, *, kind: str, with_refresh_token: bool) -> dict[str, object]:
    """Return *token* as a Token. *kind* is its connection's."""
    answer: dict[str, object] = {
        "id": token.id,
        "appId": token.connection,
        "userId": token.user,
        "tokenSub": token.token_sub,
        "accessToken": token.access_token or "",
        "accessTokenType": API_KEY_TYPE if kind == "apikey" else token.token_type,
        "accessTokenExpiry": _epoch(token.expires_at),
        "hasRefreshToken": token.refresh_token is not None,
        "lastRefreshTime": _epoch(token.last_refresh_at),
        "lastRefreshError": token.last_refresh_error,
        "scopes": list(token.granted_scopes),
        "tenantId": token.tenant,
        "grantedBy": token.granted_by,
        "externalIdentifier": token.account,
    }
    if with_refresh_token and token.refresh_token is not None:
        answer["refreshToken"] = token.refresh_token
    return answer


def draft_of(message: UploadUserToken | UploadTenantToken) -> TokenDraft:
    """
    Return the token that *message* uploads.

    Raises:
        ApiError: 400, it has neither an access token nor a refresh token.
    """
    if message.accessToken is None and message.refreshToken is None:
        raise ApiError(MISSING, "One of accessToken and refreshToken is required")
    draft = TokenDraft(
        connection=message.appId,
        tenant=message.tenantId or "",
        account=message.externalIdentifier or "",
        scopes=tuple(sorted(set(message.scopes or ()))),
        access_token=message.accessToken,
        refresh_token=message.refreshToken,
        token_type=message.accessTokenType or "Bearer",
        expires_at=float(message.accessTokenExpiry) if message.accessTokenExpiry else None,
        granted_by=message.grantedBy or "",
    )
    return replace(draft, user=message.userId) if isinstance(message, UploadUserToken) else draft


def _params(params: list[UrlParam] | None, field: str) -> tuple[tuple[str, str], ...]:
    pairs = []
    for param in params or ():
        key = param.key or param.name
        if not key:
            raise ApiError(INVALID, f"{field}: expected a list of objects with key and value")
        pairs.append((key, param.value))
    return tuple(pairs)


def _epoch(seconds: float | None) -> str:
    return "0" if seconds is None else str(int(seconds))


_OUR_NAMES = frozenset(
    name
    for kind in (
        Options, FetchUserByScopes, FetchTenantByScopes, UploadUserToken, UploadTenantToken, UrlParam, CreateApp,
    )
    for name in kind.model_fields
)  # fmt: skip
