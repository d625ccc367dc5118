"""
The shape of a provider's YAML file: its keys, and the form of each value.

What values must be to each other, and how an error names its place, is in `entry.py`; what each key means is in
docs/providers.md.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from gateway.providers.quirks import Grant, RevocationAuth, TokenAuth
from gateway.providers.variables import Form

Text = Annotated[str, Field(min_length=1, max_length=500)]
Word = Annotated[str, Field(pattern=r"^[!-~]+$", max_length=200)]
# What an exchange carries already is ours to set (vault/connection.py); the names here are what catalogues add.
ParamName = Annotated[str, Field(pattern=r"^[a-z][A-Za-z_\[\]]*$", max_length=100)]
Params = dict[ParamName, Annotated[str, Field(max_length=500)]]


class Model(BaseModel):
    """Nothing is coerced, no key is unknown, and no error repeats a value."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)


class RejectedFile(Model):
    """How an API says that it rejects a token."""

    status: Annotated[int, Field(ge=200, le=599)]
    pointer: str = ""
    values: Annotated[list[Word | Text], Field(max_length=20)] = []


class VariableFile(Model):
    """A part of the endpoints that each connection fills in."""

    description: Text
    form: Form
    pattern: Annotated[str, Field(max_length=200)]
    example: Text
    default: str | None = None


class QuirksFile(Model):
    """What a provider does otherwise than the standards say."""

    token_auth: TokenAuth | None = None
    token_body: Literal["form", "json"] = "form"  # noqa: S105  # a format
    scope_separator: Annotated[str, Field(pattern=r"^[ ,+]$")] = " "
    scopes_param: Annotated[str, Field(pattern=r"^[a-z_]+$")] = "scope"
    pkce: bool = True
    refresh_url: str | None = None
    refresh_scope: bool = False
    revocation_auth: RevocationAuth | None = None
    authorization_params: Params = {}
    code_params: Params = {}
    refresh_params: Params = {}
    token_errors_with_status_200: bool = False
    dead_grant_errors: Annotated[list[Word], Field(max_length=20)] = []
    token_path: str = ""
    default_expires_seconds: Annotated[int, Field(ge=60, le=10 * 365 * 86_400)] | None = None
    accept_header: Annotated[str, Field(pattern=r"^[a-z]+/[a-z0-9.+-]+$")] = "application/json"
    refresh_token_rotates: bool | None = None
    issues_refresh_tokens: bool = True
    account_path: str = ""
    userinfo_url: str = ""
    userinfo_path: str = ""
    issuer: str = ""
    rejected: Annotated[list[RejectedFile], Field(max_length=10)] = []
    grants: Annotated[list[Grant], Field(min_length=1)] | None = None


FieldName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9-]*$", max_length=100)]
QueryName = Annotated[str, Field(pattern=r"^[A-Za-z$][A-Za-z0-9_-]*$", max_length=100)]
PathGlob = Annotated[str, Field(pattern=r"^/[!-~]+$", max_length=300)]  # patterns.py reads it; a test tries each


class UpstreamFile(Model):
    """What is known of the provider's API."""

    origins: Annotated[list[str], Field(max_length=20)] = []
    credential_fields: Annotated[list[FieldName], Field(max_length=20)] = []
    credential_params: Annotated[list[QueryName], Field(max_length=20)] = []
    minting_paths: Annotated[list[PathGlob], Field(max_length=50)] = []
    multiplex_paths: Annotated[list[PathGlob], Field(max_length=50)] = []


class ProviderFile(Model):
    """A provider's whole file."""

    name: Text
    description: Text
    docs_url: str
    kind: Literal["oauth", "apikey"] = "oauth"
    authorization_url: str = ""
    token_url: str = ""
    revocation_url: str = ""
    discovery_url: str = ""
    default_scopes: Annotated[list[Word], Field(max_length=50)] = []
    origins: Annotated[list[str], Field(min_length=1, max_length=50)]
    variables: dict[str, VariableFile] = {}
    quirks: QuirksFile = QuirksFile()
    upstream: UpstreamFile = UpstreamFile()
