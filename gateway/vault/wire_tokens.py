# ruff: noqa: N815  # names of the wire are not ours to choose, and an alias for each would hide them
"""
The token API's messages about tokens: fetches, uploads, deletes (contract rows 1 to 13).

`wire.py` has the rules that all messages follow.
"""

from __future__ import annotations

from typing import Annotated, Any, NotRequired

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict  # pydantic takes this one only, before Python 3.12

from gateway.vault.stored_token import StoredToken, TokenDraft
from gateway.vault.wire import (
    INVALID,
    MISSING,
    TOKEN_SCHEMA,
    Account,
    ApiError,
    AppId,
    Expiry,
    Message,
    Name,
    OptionalAppId,
    OptionalName,
    OptionalSecret,
    Scopes,
    Secret,
    read_message,
)

API_KEY_TYPE = "ApiKey"
MAX_BATCH = 500  # tokens, in one transaction: nobody else writes for some 80 ms (measured: uploads.py)
MAX_ID_TOKEN_CHARS = 65_536
ONE_TOKEN: dict[str, Any] = {
    "anyOf": [{"required": [name], "properties": {name: TOKEN_SCHEMA}} for name in ("accessToken", "refreshToken")]
}


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


class DeleteUserTokens(Message):
    """Row 5, a query: at least one of the two."""

    appId: OptionalAppId = None
    userId: OptionalName = None


class DeleteToken(Message):
    """Row 6, a query."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class AppsWithUserToken(Message):
    """Row 7, a query."""

    userId: Name
    tenantId: OptionalName = None


class BatchToken(Message):
    """What an uploaded token has in every row. The id token is checked for its length and not kept."""

    model_config = ConfigDict(json_schema_extra=ONE_TOKEN)

    appId: AppId
    accessToken: OptionalSecret = None
    refreshToken: OptionalSecret = None
    accessTokenExpiry: Expiry = None
    accessTokenType: Annotated[str | None, Field(max_length=32, pattern=r"^[A-Za-z0-9._-]*$")] = None
    scopes: Scopes | None = None
    externalIdentifier: Account = None
    grantedBy: OptionalName = None
    idToken: Annotated[str | None, Field(max_length=MAX_ID_TOKEN_CHARS)] = None


class BatchUserToken(BatchToken):
    """One of row 10."""

    userId: Name
    tenantId: OptionalName = None


class BatchTenantToken(BatchToken):
    """One of row 11."""

    tenantId: Name


class UploadUserToken(BatchUserToken):
    """Row 8."""

    verifyRefresh: bool | None = None


class UploadTenantToken(BatchTenantToken):
    """Row 9."""

    verifyRefresh: bool | None = None


class BatchUserTokens(Message):
    """Row 10. Each token is read on its own, because what is wrong with it is told on its own."""

    tokens: Annotated[list[dict[str, Any]], Field(max_length=MAX_BATCH)]


class BatchTenantTokens(BatchUserTokens):
    """Row 11."""


class UploadUserApiKey(Message):
    """Row 12."""

    appId: AppId
    userId: Name
    apiKey: Secret
    tenantId: OptionalName = None
    externalIdentifier: Account = None


class UploadTenantApiKey(Message):
    """Row 13."""

    appId: AppId
    tenantId: Name
    apiKey: Secret
    externalIdentifier: Account = None


# --- answers ---------------------------------------------------------------------------------------------------------


class Token(TypedDict):
    """A connection token. Times are strings of epoch seconds, "0" where there is none."""

    id: str
    appId: str
    userId: str
    tokenSub: str
    accessToken: str
    accessTokenType: str
    accessTokenExpiry: str
    hasRefreshToken: bool
    refreshToken: NotRequired[str]
    lastRefreshTime: str
    lastRefreshError: str
    scopes: list[str]
    tenantId: str
    grantedBy: str
    externalIdentifier: str


class TokenAnswer(TypedDict):
    """The answer of a fetch."""

    token: Token


class Failure(TypedDict):
    """Why a token of a batch was not stored. A user's has no tenantId, a tenant's no userId."""

    appId: str
    userId: NotRequired[str]
    tenantId: NotRequired[str]
    errorCode: str
    reason: str


class FailuresAnswer(TypedDict):
    """The answer of a batch: all tokens were stored, or some failed and none was."""

    failures: list[Failure]


class AppIdsAnswer(TypedDict):
    """The connections of which a user holds a valid token."""

    appIds: list[str]


class EmptyAnswer(TypedDict):
    """Done, and nothing to tell."""


def token_of(token: StoredToken, *, kind: str, with_refresh_token: bool) -> Token:
    """Return *token* as a Token. *kind* is its connection's."""
    answer: Token = {
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


def draft_of(message: BatchUserToken | BatchTenantToken) -> TokenDraft:
    """
    Return the token that *message* uploads.

    Raises:
        ApiError: 400, it has neither an access token nor a refresh token.
    """
    if message.accessToken is None and message.refreshToken is None:
        raise ApiError(MISSING, "One of accessToken and refreshToken is required")
    return TokenDraft(
        connection=message.appId,
        user=message.userId if isinstance(message, BatchUserToken) else "",
        tenant=message.tenantId or "",
        account=message.externalIdentifier or "",
        scopes=tuple(sorted(set(message.scopes or ()))),
        access_token=message.accessToken,
        refresh_token=message.refreshToken,
        token_type=message.accessTokenType or "Bearer",
        expires_at=float(message.accessTokenExpiry) if message.accessTokenExpiry else None,
        granted_by=message.grantedBy or "",
    )


def api_key_of(message: UploadUserApiKey | UploadTenantApiKey) -> TokenDraft:
    """Return the API key that *message* uploads, as the token it is kept as."""
    return TokenDraft(
        connection=message.appId,
        user=message.userId if isinstance(message, UploadUserApiKey) else "",
        tenant=message.tenantId or "",
        account=message.externalIdentifier or "",
        access_token=message.apiKey,
        token_type=API_KEY_TYPE,
    )


def read_batch(
    kind: type[BatchUserToken] | type[BatchTenantToken], items: list[dict[str, Any]]
) -> tuple[list[TokenDraft], list[Failure]]:
    """Return the tokens of a batch that can be read, and what is wrong with the others. None is there twice."""
    drafts: list[TokenDraft] = []
    failures: list[Failure] = []
    seen: set[tuple[object, ...]] = set()
    for item in items:
        try:
            draft = draft_of(read_message(kind, item))
            identity = (draft.connection, draft.user, draft.tenant, draft.account, draft.scopes)
            if identity in seen:
                raise ApiError(INVALID, "The batch has this token twice.")
        except ApiError as exc:
            failures.append(failure_of(kind, item, exc))
            continue
        seen.add(identity)
        drafts.append(draft)
    return drafts, failures


def failure_of(kind: type[BatchUserToken] | type[BatchTenantToken], item: dict[str, Any], error: ApiError) -> Failure:
    """Return *error* as what went wrong with *item*: whose it is as far as that can be told, and no other value."""
    failure = Failure(appId=_short(item, "appId"), errorCode=error.kind.code, reason=error.body()["errorMessage"])
    if kind is BatchUserToken:
        failure["userId"] = _short(item, "userId")
    else:
        failure["tenantId"] = _short(item, "tenantId")
    return failure


def _short(item: dict[str, Any], name: str) -> str:
    value = item.get(name)
    return value[:512] if isinstance(value, str) else ""


def _epoch(seconds: float | None) -> str:
    return "0" if seconds is None else str(int(seconds))
