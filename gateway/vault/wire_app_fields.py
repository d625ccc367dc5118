# ruff: noqa: N815  # names of the wire are not ours to choose, and an alias for each would hide them
"""
What a connection is in the token API's messages: its fields, their types, and how the OpenAPI document tells them.

Rules (descope-contract.md, App; section 11):
1. `{"name", "value"}` stands for `{"key", "value"}`: Python's SDK sends the one, the others the other.
2. `origins`, `tokenEndpointAuthMethod` (after RFC 7591), `variables` and the fields from `grantType` on are our own.
3. Types and lengths are checked here, what a value means in `connection.py`: alike for every way in.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, WithJsonSchema

from gateway.vault.connection import ACCESS_TYPES, GRANT_TYPES, KINDS, MAX_DOMAIN_LENGTH, PROMPTS, TOKEN_AUTHS
from gateway.vault.wire import (
    MAX_TEXT_CHARS,
    TEXT_SCHEMA,
    Message,
    OptionalText,
    Scopes,
    Text,
    empty_is_absent,
    optional,
    storable_text,
)

MAX_PARAMS = 200
MAX_LOGO_CHARS = 65_536
MAX_SECRET_CHARS = 8192  # a private key of 4096 bits, as PEM or JWK


# What JSON Schema has no words for is a format of ours with a description.
NAME_SCHEMA: dict[str, Any] = {
    "description": "Printable, as Unicode says: no controls, no format characters, of spaces U+0020; not only spaces.",
    "type": "string",
    "format": "printable",
    "minLength": 1,
    "maxLength": 200,
}
ENDPOINT_SCHEMA: dict[str, Any] = {
    "description": "An absolute https (or http) URL without credentials and fragment.",
    "type": "string",
    "format": "uri",
    "pattern": "^[Hh][Tt][Tt][Pp][Ss]?://[!-~]+$",
    "maxLength": MAX_TEXT_CHARS,
}
ORIGIN_SCHEMA: dict[str, Any] = {
    "description": "https://host[:port], or http.",
    "type": "string",
    "format": "origin",
    "maxLength": MAX_TEXT_CHARS,
}
DOMAIN_SCHEMA: dict[str, Any] = {
    "description": "host[:port], or https://host[:port].",
    "type": "string",
    "format": "domain",
    "maxLength": MAX_DOMAIN_LENGTH,
}
VISIBLE_SCHEMA: dict[str, Any] = {
    "type": "string",
    "pattern": "^[^\\u0000-\\u001f\\u007f]*$",
    "maxLength": MAX_TEXT_CHARS,
}


def _kind_text(values: frozenset[str]) -> WithJsonSchema:
    return optional({"type": "string", "enum": sorted(values)})


Visible = Annotated[Text, WithJsonSchema(VISIBLE_SCHEMA)]


class UrlParam(Message):
    """One additional parameter. Python's SDK says `name` where the others say `key`."""

    model_config = ConfigDict(
        json_schema_extra={
            "description": "Key (or name) and value have 2048 characters together. Not what the gateway sets itself.",
            "anyOf": [
                {"required": [name], "properties": {name: VISIBLE_SCHEMA | {"minLength": 1}}}
                for name in ("key", "name")
            ],
        }
    )

    key: Visible | None = None
    name: Visible | None = None
    value: Visible


AppName = Annotated[Text, WithJsonSchema(NAME_SCHEMA)]
Endpoint = Annotated[Text | None, BeforeValidator(empty_is_absent), optional(ENDPOINT_SCHEMA)]
Origin = Annotated[Text, WithJsonSchema(ORIGIN_SCHEMA)]
PromptValue = Annotated[Text, WithJsonSchema({"type": "string", "enum": sorted(PROMPTS)})]
ClientSecret = Annotated[
    Annotated[str, Field(max_length=MAX_SECRET_CHARS)] | None,
    BeforeValidator(empty_is_absent),
    optional(VISIBLE_SCHEMA | {"maxLength": MAX_SECRET_CHARS}),
]
Logo = Annotated[
    str,
    Field(max_length=MAX_LOGO_CHARS),
    AfterValidator(storable_text),
    WithJsonSchema(TEXT_SCHEMA | {"maxLength": MAX_LOGO_CHARS}),
]
UrlParams = Annotated[list[UrlParam], Field(max_length=MAX_PARAMS)] | None


class AppFields(Message):
    """What a connection is, but its id and name."""

    description: Text | None = None
    logo: Logo | None = None
    clientId: Visible | None = None
    clientSecret: ClientSecret = None
    discoveryUrl: Endpoint = None
    authorizationUrl: Endpoint = None
    authorizationUrlParams: UrlParams = None
    tokenUrl: Endpoint = None
    tokenUrlParams: UrlParams = None
    revocationUrl: Endpoint = None
    defaultScopes: Scopes | None = None
    defaultRedirectUrl: Endpoint = None
    callbackDomain: Annotated[OptionalText, optional(DOMAIN_SCHEMA)] = None
    pkce: bool | None = None
    accessType: Annotated[OptionalText, _kind_text(ACCESS_TYPES)] = None
    prompt: Annotated[list[PromptValue], Field(max_length=10)] | None = None
    appType: Annotated[Text | None, BeforeValidator(empty_is_absent), _kind_text(KINDS)] = None
    useDcr: bool | None = None
    dcrUrl: Endpoint = None
    tenantId: Text | None = None
    templateId: Text | None = None
    origins: Annotated[list[Origin], Field(max_length=200)] | None = None
    tokenEndpointAuthMethod: Annotated[Text | None, BeforeValidator(empty_is_absent), _kind_text(TOKEN_AUTHS)] = None
    # What `grants.py` reads for tokens that need no browser.
    grantType: Annotated[OptionalText, _kind_text(GRANT_TYPES)] = None
    installationId: OptionalText = None
    issuer: OptionalText = None
    audience: OptionalText = None
    subject: OptionalText = None
    keyId: OptionalText = None
