"""
What a provider does differently from plain OAuth 2: the defaults of `Quirks` are the standard, each field a deviation.

Rules:
1. Data only: `vault/` acts on these; nothing here sends anything.
2. A quirk is named after what goes over the wire, never after a provider.

Sources: RFC 6749 (OAuth 2), RFC 7636 (PKCE), RFC 7009 (revocation), RFC 7523 (JWT bearer), RFC 6901 (JSON Pointer).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gateway.models import Rejected

TokenAuth = Literal["client_secret_basic", "client_secret_post", "private_key_jwt", "none"]
RevocationAuth = Literal["client_secret_basic", "client_secret_post", "private_key_jwt", "none", "bearer"]
Grant = Literal["authorization_code", "client_credentials", "jwt_bearer", "github_app", "api_key"]
AccessType = Literal["online", "offline"]
Prompt = Literal["none", "login", "consent", "select_account", "create"]  # OpenID Connect Core 1.0, Prompt Create 1.0
TENANT = "{tenantid}"  # as the metadata of such a provider spells it
Params = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Quirks:
    """
    How a provider's OAuth differs. `Quirks()` is a provider that follows the RFCs.

    Authorization request: *scopes_param* is the name of the parameter that carries the scopes, *scope_separator* stands
    between them (in requests: answers are read with spaces and commas alike), *authorization_params* are added.
    *pkce* False: no challenge is sent, because the provider refuses it or does not document it.

    Token request: *token_auth* is how the client authenticates (None: unsaid, the connection decides); *token_body* how
    the body is written; *code_params* are added where a code is exchanged, *refresh_params* where a token is refreshed;
    *refresh_url* is where refreshes go, None: to the token URL; *accept_header* is the Accept field. *refresh_scope*
    tells whether a refresh names the scopes.

    Token answer: *token_path* is a JSON pointer to the object that holds access_token; where nothing lies there, the
    whole answer does. *token_errors_with_status_200*: an answer of 200 may be an error: it has a string at /error, or
    false at /ok. *dead_grant_errors* are error codes that mean what "invalid_grant" means, beside it.
    *default_expires_seconds* is the lifetime of a token whose answer names none; None: it does not expire, or nobody
    knows. *refresh_token_rotates*: each refresh token works once (True), for good (False), or unknown (None).
    *issues_refresh_tokens* False: there is nothing to refresh with.

    Whose account it is, where no id token says it: *account_path* is a JSON pointer into the whole token answer;
    *userinfo_url* is an address of the API that tells it for a GET with the fresh token, at the JSON pointer
    *userinfo_path*. "": it is not told there.

    *issuer*, where tenants have issuers of their own and metadata names none of them: `{tenantid}` in it stands for an
    id token's claim `tid`. "": metadata names the issuer exactly, as RFC 8414 says.

    *revocation_auth*: how a revocation is authenticated; None: as a token request; "bearer": with the token itself.
    *rejected* are the API answers that reject a token, beside a plain 401. *grants* are what the provider offers.
    """

    token_auth: TokenAuth | None = None
    token_body: Literal["form", "json"] = "form"  # noqa: S105  # a format
    scope_separator: str = " "
    scopes_param: str = "scope"
    pkce: bool = True
    refresh_url: str | None = None
    refresh_scope: bool = False
    revocation_auth: RevocationAuth | None = None
    authorization_params: Params = ()
    code_params: Params = ()
    refresh_params: Params = ()
    token_errors_with_status_200: bool = False
    dead_grant_errors: tuple[str, ...] = ()
    token_path: str = ""
    default_expires_seconds: int | None = None
    accept_header: str = "application/json"
    refresh_token_rotates: bool | None = None
    issues_refresh_tokens: bool = True
    account_path: str = ""
    userinfo_url: str = ""
    userinfo_path: str = ""
    issuer: str = ""
    rejected: tuple[Rejected, ...] = ()
    grants: tuple[Grant, ...] = ("authorization_code",)
