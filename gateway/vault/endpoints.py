"""
The contract's table: every request of the token API, who may make it, what it takes and what it answers.

Rules (descope-contract.md section 2):
1. `ENDPOINTS` routes requests (`api.py`), and the OpenAPI document is made of it (`openapi.py`).
2. A management key may do everything but connect. An access token may fetch (`endpoints_fetch.py` says what) and
   connect (`endpoints_connect.py`). Agent keys may do neither.
3. Row 22, the provider's redirect, is the traffic listener's.
"""

from __future__ import annotations

from gateway.vault import (
    endpoints_connect,
    endpoints_connections,
    endpoints_fetch,
    endpoints_tokens,
    wire_apps,
    wire_connect,
    wire_tokens,
)
from gateway.vault.calls import Endpoint
from gateway.vault.wire import (
    APP_EXISTS,
    APP_NOT_FOUND,
    APP_READ_ONLY,
    FORBIDDEN,
    INVALID,
    MISSING,
    NOT_FOUND,
    RATE_LIMITED,
    TEMPLATE_NOT_FOUND,
    TOKEN_NOT_FOUND,
)

OUTBOUND = "/v1/mgmt/outbound"

ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        1, "POST", f"{OUTBOUND}/app/user/token/latest", "either", endpoints_fetch.fetch_user_token,
        request=wire_tokens.FetchUser, answer=wire_tokens.TokenAnswer, errors=(FORBIDDEN, TOKEN_NOT_FOUND),
    ),
    Endpoint(
        2, "POST", f"{OUTBOUND}/app/user/token", "either", endpoints_fetch.fetch_user_token_by_scopes,
        request=wire_tokens.FetchUserByScopes, answer=wire_tokens.TokenAnswer, errors=(FORBIDDEN, TOKEN_NOT_FOUND),
    ),
    Endpoint(
        3, "POST", f"{OUTBOUND}/app/tenant/token/latest", "either", endpoints_fetch.fetch_tenant_token,
        request=wire_tokens.FetchTenant, answer=wire_tokens.TokenAnswer, errors=(FORBIDDEN, TOKEN_NOT_FOUND),
    ),
    Endpoint(
        4, "POST", f"{OUTBOUND}/app/tenant/token", "either", endpoints_fetch.fetch_tenant_token_by_scopes,
        request=wire_tokens.FetchTenantByScopes, answer=wire_tokens.TokenAnswer, errors=(FORBIDDEN, TOKEN_NOT_FOUND),
    ),
    Endpoint(
        5, "DELETE", f"{OUTBOUND}/user/tokens", "management", endpoints_tokens.delete_user_tokens,
        query=wire_tokens.DeleteUserTokens, answer=wire_tokens.EmptyAnswer, errors=(INVALID, MISSING),
    ),
    Endpoint(
        6, "DELETE", f"{OUTBOUND}/token", "management", endpoints_tokens.delete_token,
        query=wire_tokens.DeleteToken, answer=wire_tokens.EmptyAnswer, errors=(INVALID, TOKEN_NOT_FOUND),
    ),
    Endpoint(
        7, "GET", f"{OUTBOUND}/apps-with-user-token", "management", endpoints_tokens.list_apps_with_user_token,
        query=wire_tokens.AppsWithUserToken, answer=wire_tokens.AppIdsAnswer, errors=(INVALID,),
    ),
    Endpoint(
        8, "POST", f"{OUTBOUND}/app/user/oauthtoken/upload", "management", endpoints_tokens.upload_user_token,
        request=wire_tokens.UploadUserToken, answer=wire_tokens.EmptyAnswer, errors=(MISSING, APP_NOT_FOUND),
    ),
    Endpoint(
        9, "POST", f"{OUTBOUND}/app/tenant/oauthtoken/upload", "management", endpoints_tokens.upload_tenant_token,
        request=wire_tokens.UploadTenantToken, answer=wire_tokens.EmptyAnswer, errors=(MISSING, APP_NOT_FOUND),
    ),
    Endpoint(
        10, "POST", f"{OUTBOUND}/app/user/oauthtoken/batch/upload", "management",
        endpoints_tokens.batch_upload_user_tokens,
        request=wire_tokens.BatchUserTokens, answer=wire_tokens.FailuresAnswer,
    ),
    Endpoint(
        11, "POST", f"{OUTBOUND}/app/tenant/oauthtoken/batch/upload", "management",
        endpoints_tokens.batch_upload_tenant_tokens,
        request=wire_tokens.BatchTenantTokens, answer=wire_tokens.FailuresAnswer,
    ),
    Endpoint(
        12, "POST", f"{OUTBOUND}/app/user/apikey/upload", "management", endpoints_tokens.upload_user_api_key,
        request=wire_tokens.UploadUserApiKey, answer=wire_tokens.EmptyAnswer, errors=(APP_NOT_FOUND,),
    ),
    Endpoint(
        13, "POST", f"{OUTBOUND}/app/tenant/apikey/upload", "management", endpoints_tokens.upload_tenant_api_key,
        request=wire_tokens.UploadTenantApiKey, answer=wire_tokens.EmptyAnswer, errors=(APP_NOT_FOUND,),
    ),
    Endpoint(
        14, "POST", f"{OUTBOUND}/app/create", "management", endpoints_connections.create_app,
        request=wire_apps.CreateApp, answer=wire_apps.AppAnswer, errors=(APP_EXISTS,),
    ),
    Endpoint(
        15, "POST", f"{OUTBOUND}/app/create/bytemplate", "management", endpoints_connections.create_app_by_template,
        request=wire_apps.CreateAppByTemplate, answer=wire_apps.AppAnswer,
        errors=(TEMPLATE_NOT_FOUND, APP_EXISTS),
    ),
    Endpoint(
        16, "POST", f"{OUTBOUND}/app/update", "management", endpoints_connections.update_app,
        request=wire_apps.UpdateApp, answer=wire_apps.AppAnswer, errors=(APP_NOT_FOUND, APP_EXISTS, APP_READ_ONLY),
    ),
    Endpoint(
        17, "POST", f"{OUTBOUND}/app/delete", "management", endpoints_connections.delete_app,
        request=wire_apps.DeleteApp, answer=wire_tokens.EmptyAnswer, errors=(APP_NOT_FOUND, APP_READ_ONLY),
    ),
    Endpoint(
        18, "GET", f"{OUTBOUND}/app/{{id}}", "management", endpoints_connections.load_app,
        answer=wire_apps.AppAnswer, errors=(APP_NOT_FOUND,),
    ),
    Endpoint(
        19, "GET", f"{OUTBOUND}/apps", "management", endpoints_connections.load_apps, answer=wire_apps.AppsAnswer
    ),
    Endpoint(
        20, "POST", f"{OUTBOUND}/app/connect", "caller", endpoints_connect.connect,
        request=wire_connect.Connect, answer=wire_connect.ConnectAnswer,
        errors=(NOT_FOUND, APP_NOT_FOUND, RATE_LIMITED),
    ),
    Endpoint(
        21, "POST", "/v1/outbound/oauth/connect", "caller", endpoints_connect.connect,
        request=wire_connect.Connect, answer=wire_connect.ConnectAnswer,
        errors=(NOT_FOUND, APP_NOT_FOUND, RATE_LIMITED),
    ),
    Endpoint(
        23, "GET", "/v1/mgmt/license", "management", endpoints_connect.rate_limit_tier,
        answer=wire_connect.LicenseAnswer,
    ),
    Endpoint(24, "GET", "/v2/keys/{id}", "public", endpoints_connect.public_keys, answer=wire_connect.KeysAnswer),
)  # fmt: skip
PATTERNS = tuple((endpoint, endpoint.pattern) for endpoint in ENDPOINTS)
