"""
What a management key does with tokens (contract rows 5 to 13): uploads, batches, API keys, deletes, who holds what.

Rules (descope-contract.md sections 4 and 11):
1. A batch is stored whole or not at all; what is wrong with its tokens is told for each, with status 200.
2. An upload with verifyRefresh asks the provider first; is the refresh token refused, nothing is written.
3. Tokens are deleted by user, by connection and user, or by id; a tenant's by id, or with its connection. Deleting
   nothing by user is no error, deleting an id that is not there is. Each is revoked at its provider where that can be
   done (`removal.py`).
4. Each change is recorded, without secrets.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.vault import wire
from gateway.vault.adoption import RefreshTokenStored
from gateway.vault.backoff import RefreshFailed
from gateway.vault.calls import Call
from gateway.vault.connection import Connection
from gateway.vault.record import whose
from gateway.vault.stored_token import TokenDraft
from gateway.vault.uploads import RefreshTokenRepeated
from gateway.vault.wire import ApiError
from gateway.vault.wire_tokens import (
    AppsWithUserToken,
    BatchTenantToken,
    BatchTenantTokens,
    BatchUserToken,
    BatchUserTokens,
    DeleteToken,
    DeleteUserTokens,
    Failure,
    UploadTenantApiKey,
    UploadTenantToken,
    UploadUserApiKey,
    UploadUserToken,
    api_key_of,
    draft_of,
    failure_of,
    read_batch,
)

Json = Mapping[str, object]


async def delete_user_tokens(call: Call) -> Json:
    """
    Delete the tokens of a user, of a connection's users, or of one user of one connection.

    One of appId and userId is required.
    """
    message = wire.read_message(DeleteUserTokens, call.content)
    if message.appId is None and message.userId is None:
        raise ApiError(wire.MISSING, "One of appId and userId is required")
    removed = await call.api.vault.removal.of_users(connection=message.appId, user=message.userId)
    about = {"connection": message.appId} | whose(message.userId, None, None)
    call.note_done("tokens_deleted", **about, **removed.for_the_record())
    return {}


async def delete_token(call: Call) -> Json:
    """Delete one token by its id."""
    message = wire.read_message(DeleteToken, call.content)
    removed = await call.api.vault.removal.one(message.id)
    if not removed.deleted:
        raise ApiError(wire.TOKEN_NOT_FOUND, "There is no token of this id.")
    call.note_done("tokens_deleted", **removed.for_the_record())
    return {}


async def list_apps_with_user_token(call: Call) -> Json:
    """List the connections of which a user holds a valid token."""
    message = wire.read_message(AppsWithUserToken, call.content)
    found = await call.api.vault.holdings.connections_of(message.userId, tenant=message.tenantId)
    return {"appIds": list(found)}


async def upload_user_token(call: Call) -> Json:
    """
    Store a user's token that was obtained elsewhere.

    With verifyRefresh a refreshToken is required, and a connection that has a tokenUrl.
    """
    return await _upload(call, wire.read_message(UploadUserToken, call.content))


async def upload_tenant_token(call: Call) -> Json:
    """
    Store a tenant's token that was obtained elsewhere.

    With verifyRefresh a refreshToken is required, and a connection that has a tokenUrl.
    """
    return await _upload(call, wire.read_message(UploadTenantToken, call.content))


async def _upload(call: Call, message: UploadUserToken | UploadTenantToken) -> Json:
    draft = draft_of(message)
    connection = await _connection_of(call, draft, kind="oauth")
    verify = message.verifyRefresh is True
    if verify and (draft.refresh_token is None or not connection.token_url):
        raise ApiError(wire.INVALID, "verifyRefresh: expected a refreshToken, and a connection with a tokenUrl")
    try:
        stored = await call.api.vault.upload(draft, verify_refresh=verify)
    except (RefreshFailed, RefreshTokenStored) as exc:
        raise _upload_error(exc) from exc
    _note_upload(call, "token_uploaded", draft, token=stored.id)
    return {}


async def upload_user_api_key(call: Call) -> Json:
    """Store a user's API key."""
    return await _upload_api_key(call, wire.read_message(UploadUserApiKey, call.content))


async def upload_tenant_api_key(call: Call) -> Json:
    """Store a tenant's API key."""
    return await _upload_api_key(call, wire.read_message(UploadTenantApiKey, call.content))


async def _upload_api_key(call: Call, message: UploadUserApiKey | UploadTenantApiKey) -> Json:
    draft = api_key_of(message)
    await _connection_of(call, draft, kind="apikey")
    stored = await call.api.vault.upload(draft)
    _note_upload(call, "api_key_uploaded", draft, token=stored.id)
    return {}


async def batch_upload_user_tokens(call: Call) -> Json:
    """Store many users' tokens, all of them or none."""
    message = wire.read_message(BatchUserTokens, call.content)
    return await _upload_batch(call, message, BatchUserToken)


async def batch_upload_tenant_tokens(call: Call) -> Json:
    """Store many tenants' tokens, all of them or none."""
    message = wire.read_message(BatchTenantTokens, call.content)
    return await _upload_batch(call, message, BatchTenantToken)


async def _upload_batch(
    call: Call, message: BatchUserTokens, kind: type[BatchUserToken] | type[BatchTenantToken]
) -> Json:
    drafts, failures = read_batch(kind, message.tokens)
    for connection in dict.fromkeys(draft.connection for draft in drafts):
        found = await call.api.vault.connections.load(connection)
        wrong = _why_not_there(found, kind="oauth")
        if wrong is not None:
            failures += [_failure(kind, draft, wrong) for draft in drafts if draft.connection == connection]
    if failures:
        return {"failures": failures}
    try:
        stored = await call.api.vault.uploads.put_all(drafts)
    except RefreshTokenRepeated as exc:
        wrong = ApiError(
            wire.INVALID, "refreshToken: another token of the batch, of the same user or tenant, has it too"
        )
        return {"failures": [_failure(kind, draft, wrong) for draft in exc.drafts]}
    except (RefreshFailed, RefreshTokenStored) as exc:
        raise _upload_error(exc) from exc
    for draft, token_id in zip(drafts, stored, strict=True):
        _note_upload(call, "token_uploaded", draft, token=token_id)
    return {"failures": []}


def _upload_error(exc: RefreshFailed | RefreshTokenStored) -> ApiError:
    if isinstance(exc, RefreshTokenStored):
        text = f"refreshToken: stored already, in the token {exc.token_id} of other scopes. Delete that one first"
        return ApiError(wire.INVALID, text)
    if exc.error == "invalid_grant":
        return ApiError(wire.INVALID, "The provider did not accept the refresh token; nothing was stored.")
    if exc.error == "answer_lost":
        text = "The provider's answer was lost, and nothing was stored. It may have spent the refresh token."
    elif exc.error == "in_progress":
        text = "This refresh token is being verified at the moment. Repeat the upload later."
    else:
        text = "The provider cannot verify the refresh token for now; nothing was stored. Repeat the upload later."
    return ApiError(wire.UNAVAILABLE, text, retry_after=exc.retry_after)


def _failure(kind: type[BatchUserToken] | type[BatchTenantToken], draft: TokenDraft, error: ApiError) -> Failure:
    whose = {"appId": draft.connection, "userId": draft.user, "tenantId": draft.tenant}
    return failure_of(kind, whose, error)


async def _connection_of(call: Call, draft: TokenDraft, *, kind: str) -> Connection:
    connection = await call.api.vault.connections.load(draft.connection)
    wrong = _why_not_there(connection, kind=kind)
    if wrong is not None or connection is None:
        raise wrong or ApiError(wire.APP_NOT_FOUND)
    return connection


def _why_not_there(connection: Connection | None, *, kind: str) -> ApiError | None:
    """Return why a token of this *kind* cannot be stored in *connection*, or None."""
    if connection is None:
        return ApiError(wire.APP_NOT_FOUND, "There is no connection of this appId.")
    if connection.kind == kind:
        return None
    held, brought = ("API keys", "OAuth tokens") if kind == "oauth" else ("OAuth tokens", "API keys")
    return ApiError(wire.INVALID, f"appId: this connection holds {held}, not {brought}")


def _note_upload(call: Call, event: str, draft: TokenDraft, *, token: str) -> None:
    about = whose(draft.user, draft.tenant, draft.account)
    call.note_done(event, connection=draft.connection, token=token, **about)
