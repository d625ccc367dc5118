# ruff: noqa: N815  # names of the wire are not ours to choose, and an alias for each would hide them
"""
The token API's messages about connections, which the contract calls apps (rows 14 to 19).

Rules (descope-contract.md, App; section 11):
1. An update overrides: what it leaves out becomes empty. It keeps what its caller could not have said: the client
   secret, and the fields that not every official SDK can send (`KEPT`); the type of a connection never changes.
2. A client that the provider registered is kept without being named, with what it was registered for
   (`REGISTERED_WITH`). Where an update says otherwise, nothing of that client stays, and another one is registered.

`wire_app_fields.py` has the fields, `wire.py` the rules that all messages follow, `connection.py` says what is valid.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal, NotRequired

from pydantic import BeforeValidator, Field
from typing_extensions import TypedDict  # pydantic takes this one only, before Python 3.12

from gateway.vault.connection import (
    KINDS,
    TOKEN_AUTHS,
    Connection,
    ConnectionInvalid,
    canonical_origin,
    with_client_of,
)
from gateway.vault.templates import ENDPOINTS
from gateway.vault.wire import INVALID, ApiError, AppId, Message, OptionalAppId, OptionalText, empty_is_absent, optional
from gateway.vault.wire_app_fields import NAME_SCHEMA, AppFields, AppName, ClientSecret, UrlParam


class CreateApp(AppFields):
    """Row 14: the fields stand at top level."""

    name: AppName
    id: OptionalAppId = None


class ChangedApp(AppFields):
    """The connection of row 16 as it shall be."""

    name: AppName
    id: AppId


class UpdateApp(Message):
    """Row 16: the fields stand in `app`."""

    app: ChangedApp


class DeleteApp(Message):
    """Row 17."""

    id: AppId


class Overrides(AppFields):
    """`overrides` of row 15: what differs from the template."""

    name: Annotated[AppName | None, BeforeValidator(empty_is_absent), optional(NAME_SCHEMA)] = None


class CreateAppByTemplate(Message):
    """Row 15. `variables` fill the template's placeholders, such as a shop's subdomain."""

    templateId: AppId
    id: OptionalAppId = None
    clientId: OptionalText = None
    clientSecret: ClientSecret = None
    tenantId: OptionalText = None
    variables: Annotated[dict[str, Annotated[str, Field(max_length=200)]], Field(max_length=20)] | None = None
    overrides: Overrides | None = None


# App fields that are kept under their own names, and given back as they came.
EXTRA_FIELDS = (
    "logo", "discoveryUrl", "defaultRedirectUrl", "callbackDomain", "accessType", "prompt", "useDcr", "dcrUrl",
    "tenantId", "templateId", "grantType", "installationId", "issuer", "audience", "subject", "keyId",
)  # fmt: skip
# Python's SDK has no parameter for these, and none for appType, origins and tokenEndpointAuthMethod.
KEPT = (
    "useDcr", "dcrUrl", "tenantId", "templateId", "grantType", "installationId", "issuer", "audience", "subject",
    "keyId",
)  # fmt: skip
REGISTERED_WITH = ("discoveryUrl", "callbackDomain")  # kept as well, while `useDcr` stays


# --- answers ---------------------------------------------------------------------------------------------------------


class Param(TypedDict):
    """One additional parameter of an authorization or token request."""

    key: str
    value: str


class App(TypedDict):
    """A connection, without its client secret. The fields from `logo` on are there where they were set."""

    id: str
    name: str
    description: str
    appType: Literal["oauth", "apikey"]
    clientId: str
    authorizationUrl: str
    authorizationUrlParams: list[Param]
    tokenUrl: str
    tokenUrlParams: list[Param]
    revocationUrl: str
    defaultScopes: list[str]
    pkce: bool
    tokenEndpointAuthMethod: str
    origins: NotRequired[list[str]]
    logo: NotRequired[str]
    discoveryUrl: NotRequired[str]
    defaultRedirectUrl: NotRequired[str]
    callbackDomain: NotRequired[str]
    accessType: NotRequired[str]
    prompt: NotRequired[list[str]]
    useDcr: NotRequired[bool]
    dcrUrl: NotRequired[str]
    tenantId: NotRequired[str]
    templateId: NotRequired[str]
    grantType: NotRequired[str]
    installationId: NotRequired[str]
    issuer: NotRequired[str]
    audience: NotRequired[str]
    subject: NotRequired[str]
    keyId: NotRequired[str]


class AppAnswer(TypedDict):
    """One connection."""

    app: App


class AppsAnswer(TypedDict):
    """All connections, by id."""

    apps: list[App]


def read_connection(app: CreateApp, *, new_id: str) -> Connection:
    """
    Return the connection that *app* describes; *new_id* is its id where it brings none.

    Raises:
        ApiError: 400, names the field.
    """
    kind: Literal["oauth", "apikey"] = "apikey" if _kind_of(app) == "apikey" else "oauth"
    empty = Connection(id=app.id or new_id, name=app.name, kind=kind)
    return replace(
        _overridden(empty, app),
        extra={name: value for name in EXTRA_FIELDS if (value := getattr(app, name)) is not None},
    )


def change_connection(stored: Connection, app: ChangedApp) -> Connection:
    """
    Return *stored* as the update *app* leaves it (rule 2).

    Raises:
        ApiError: 400, names the field.
    """
    if _kind_of(app) not in (None, stored.kind):
        raise ApiError(INVALID, "appType: a connection's type cannot be changed")
    extra = {name: value for name, value in stored.extra.items() if name in KEPT or name not in EXTRA_FIELDS}
    extra |= {name: value for name in EXTRA_FIELDS if (value := getattr(app, name)) is not None}
    if extra.get("useDcr") is True:
        # What the provider registered the client for: left out, it is not another client that is wanted.
        extra = {name: stored.extra[name] for name in REGISTERED_WITH if name in stored.extra} | extra
    changed = replace(_overridden(stored, app), name=app.name, extra=extra)
    kept = with_client_of(changed, stored)
    if kept.awaits_registration and stored.client_id:
        return replace(kept, client_secret=None, token_auth=app.tokenEndpointAuthMethod or None)  # type: ignore[arg-type]  # checked in `_overridden`
    # Secret and authentication are the stored ones already, or what *app* says.
    return replace(changed, client_id=kept.client_id)


def override_connection(made: Connection, app: Overrides) -> Connection:
    """
    Return *made*, which came from a template, with the fields that *app* has.

    Raises:
        ApiError: 400, names the field.
    """
    if _kind_of(app) not in (None, made.kind):
        raise ApiError(INVALID, "appType: the template says which type it is")
    whole = _overridden(made, app)
    said = {_FIELDS[name] for name in _FIELDS if getattr(app, name) is not None}
    changes: dict[str, Any] = {name: getattr(whole, name) for name in said}
    if app.name is not None:
        changes["name"] = app.name
    extra = dict(made.extra)
    if not ENDPOINTS.isdisjoint(said):  # templates.py, rule 2
        extra.pop("discoveryUrl", None)
    extra |= {name: value for name in EXTRA_FIELDS if (value := getattr(app, name)) is not None}
    return replace(made, **changes, extra=extra)


# The App field that each of these attributes of a connection comes from.
_FIELDS = {
    "description": "description",
    "clientId": "client_id",
    "clientSecret": "client_secret",
    "authorizationUrl": "authorization_url",
    "tokenUrl": "token_url",
    "revocationUrl": "revocation_url",
    "defaultScopes": "default_scopes",
    "origins": "origins",
    "pkce": "pkce",
    "tokenEndpointAuthMethod": "token_auth",
    "authorizationUrlParams": "authorization_params",
    "tokenUrlParams": "token_params",
}


def _overridden(connection: Connection, app: AppFields) -> Connection:
    """Return *connection* with the fields of *app*; absent ones are empty, but secret, origins and authentication."""
    try:
        origins = (
            connection.origins
            if app.origins is None
            else tuple(dict.fromkeys(canonical_origin(text) for text in app.origins))
        )
    except ConnectionInvalid as exc:
        raise ApiError(INVALID, str(exc)) from exc
    if app.tokenEndpointAuthMethod is not None and app.tokenEndpointAuthMethod not in TOKEN_AUTHS:
        raise ApiError(INVALID, f"tokenEndpointAuthMethod: expected one of {', '.join(sorted(TOKEN_AUTHS))}")
    return replace(
        connection,
        description=app.description or "",
        client_id=app.clientId or "",
        client_secret=app.clientSecret if app.clientSecret is not None else connection.client_secret,
        authorization_url=app.authorizationUrl or "",
        token_url=app.tokenUrl or "",
        revocation_url=app.revocationUrl or "",
        default_scopes=tuple(dict.fromkeys(app.defaultScopes or ())),
        origins=origins,
        pkce=app.pkce is not False,
        token_auth=app.tokenEndpointAuthMethod or connection.token_auth,  # type: ignore[arg-type]  # checked above
        authorization_params=_params(app.authorizationUrlParams, "authorizationUrlParams"),
        token_params=_params(app.tokenUrlParams, "tokenUrlParams"),
    )


def _kind_of(app: AppFields) -> str | None:
    if app.appType is not None and app.appType not in KINDS:
        raise ApiError(INVALID, "appType: expected oauth or apikey")
    return app.appType


def app_of(connection: Connection) -> App:
    """Return *connection* as an App, without its client secret."""
    app: App = {
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
    extra = {name: connection.extra[name] for name in EXTRA_FIELDS if name in connection.extra}
    if connection.template is not None:
        extra["templateId"] = connection.template
    return app | extra  # type: ignore[return-value]  # the types that `AppFields` has checked


def _params(params: list[UrlParam] | None, field: str) -> tuple[tuple[str, str], ...]:
    pairs = []
    for param in params or ():
        key = param.key or param.name
        if not key:
            raise ApiError(INVALID, f"{field}: expected a list of objects with key and value")
        pairs.append((key, param.value))
    return tuple(pairs)
