"""The official Python SDK, sync and async and unmodified, against gateway processes: only its base URL differs."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import ClientSession
from descope import AuthException, DescopeClient
from descope.descope_client_async import DescopeClientAsync
from descope.management.outbound_application import OutboundApplication, OutboundApplicationByToken
from descope.management.outbound_application_async import OutboundApplicationAsync, OutboundApplicationByTokenAsync

from tests.e2e.gateway_process import RunningProcess, serving
from tests.vault.authority import authority
from tests.world import PROJECT, Issuer, Provider, settings

pytestmark = pytest.mark.asyncio(loop_scope="module")

SOURCE = Path(__file__).read_text()
POLICIES = [{"id": "raw", "effect": "allow", "connections": ["mail"]}]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def issuer() -> AsyncIterator[Issuer]:
    """Where the access tokens come from."""
    issuer = await Issuer().start()
    yield issuer
    await issuer.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def provider() -> AsyncIterator[Provider]:
    """Where tokens are refreshed."""
    provider = await Provider().start()
    yield provider
    await provider.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(issuer: Issuer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningProcess]:
    """A gateway process without any connection."""
    data: Path = tmp_path_factory.mktemp("sdk") / "data"
    async with serving(settings(issuers=(issuer,), policies=POLICIES), data) as gateway:
        yield gateway


class Sdk:
    """The SDK's two clients behind one face: what is called is awaited, in a thread or in the loop."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def __call__(self, family: str, function: str, *args: Any, **kwargs: Any) -> Any:
        """Call *function* of `client.mgmt.<family>`."""
        called: Callable[..., Any] = getattr(getattr(self._client.mgmt, family), function)
        if inspect.iscoroutinefunction(called):
            return await called(*args, **kwargs)
        return await asyncio.to_thread(called, *args, **kwargs)


@pytest_asyncio.fixture(params=["sync", "async"], loop_scope="module")
async def kind(request: pytest.FixtureRequest) -> str:
    """Which of the SDK's clients."""
    return str(request.param)


async def make(kind: str, url: str | None, key: str | None) -> Any:
    """The SDK's client, made as its users make it."""
    if kind == "async":
        return DescopeClientAsync(PROJECT, management_key=key, base_url=url)
    return await asyncio.to_thread(lambda: DescopeClient(PROJECT, management_key=key, base_url=url))


@pytest_asyncio.fixture(loop_scope="module")
async def sdk(kind: str, gateway: RunningProcess) -> AsyncIterator[Sdk]:
    """A client with a management key; the connection `mail` is new, and the only one."""
    client = await make(kind, gateway.process.token_api_url, gateway.management_key)
    sdk = Sdk(client)
    for app in (await sdk("outbound_application", "load_all_applications"))["apps"]:
        await sdk("outbound_application", "delete_application", app["id"])
    await sdk("outbound_application", "create_application", "Mail", id="mail", client_secret="CANARY")
    yield sdk
    if kind == "async":
        await client.aclose()


async def test_every_outbound_function_is_tried_here() -> None:
    """A release of the SDK with another outbound function fails this, so that it gets its test."""
    kinds = (OutboundApplication, OutboundApplicationByToken, OutboundApplicationAsync, OutboundApplicationByTokenAsync)
    names = {name for kind in kinds for name in vars(kind) if not name.startswith("_")} - {"aclose"}
    assert [] == sorted(name for name in names if f'"{name}"' not in SOURCE)


async def test_update_keeps_the_client_that_the_provider_registered(sdk: Sdk, gateway: RunningProcess) -> None:
    """The SDK cannot say useDcr, and says no client: the registered one stays; for another place it is another."""
    app = "outbound_application"
    async with authority() as first, authority(registration={"client_id": "second-id"}) as second:
        body = {"id": "dcr", "name": "Registered", "useDcr": True, "discoveryUrl": first.url}
        assert "made-id" == (await post(gateway, "create", body))["app"]["clientId"]
        made = (await sdk(app, "load_application", "dcr"))["app"]
        updates: list[dict[str, Any]] = [
            {"discovery_url": first.url, "description": "changed"},
            {"description": "nobody says where"},
            {"discovery_url": first.url, "callback_domain": ""},
            {"discovery_url": second.url},
            {"callback_domain": "connect.example.com"},
        ]
        told = [(await sdk(app, "update_application", "dcr", "Renamed", **update))["app"] for update in updates]
        with pytest.raises(AuthException) as error:
            await sdk(app, "update_application", "dcr", "Renamed", discovery_url=f"{first.url}/nothing")

    method = made["tokenEndpointAuthMethod"]
    assert [(client, method, True) for client in ["made-id"] * 3 + ["second-id"] * 2] == [
        (each["clientId"], each["tokenEndpointAuthMethod"], each["useDcr"]) for each in told
    ]
    assert [first.url] * 3 + [second.url] * 2 == [each["discoveryUrl"] for each in told]
    assert (1, 2) == (len(first.registered), len(second.registered))
    assert "https://connect.example.com/v1/outbound/oauth/callback" == second.registered[1]["redirect_uris"][0]
    assert (400, "E011004") == (error.value.status_code, json.loads(str(error.value.error_message))["errorCode"])
    loaded = (await sdk(app, "load_application", "dcr"))["app"]
    assert told[4] == loaded


async def post(gateway: RunningProcess, path: str, body: object) -> Any:
    """What the SDK cannot say."""
    headers = {"Authorization": f"Bearer {PROJECT}:{gateway.management_key}"}
    url = f"{gateway.process.token_api_url}/v1/mgmt/outbound/app/{path}"
    async with ClientSession() as session, session.post(url, json=body, headers=headers) as response:
        return await response.json()


async def test_connections_are_managed(sdk: Sdk, gateway: RunningProcess, provider: Provider) -> None:
    """Created, loaded, changed, listed, deleted: an absent secret stays, and no answer holds it."""
    app = "outbound_application"
    await sdk(
        app, "update_application", "mail", "Mail 2", description="changed", token_url=f"{provider.url}/token",
        default_scopes=["a"], pkce=False,
    )  # fmt: skip
    loaded = (await sdk(app, "load_application", "mail"))["app"]
    listed = (await sdk(app, "load_all_applications"))["apps"]
    assert ("Mail 2", "changed", ["a"], False) == tuple(
        loaded[name] for name in ("name", "description", "defaultScopes", "pkce")
    )
    assert [loaded] == listed
    # The secret that the update left out is still there: client_secret_basic needs one.
    assert "client_secret_basic" == loaded["tokenEndpointAuthMethod"]
    assert "CANARY" not in json.dumps(listed)

    await sdk(app, "delete_application", "mail")
    with pytest.raises(AuthException) as error:
        await sdk(app, "load_application", "mail")
    assert (404, "E151002") == (error.value.status_code, json.loads(str(error.value.error_message))["errorCode"])


async def test_tokens_go_in_and_come_out(sdk: Sdk) -> None:
    """Uploads of users and tenants, single and in batch, are what the four fetches return."""
    app = "outbound_application"
    await sdk(app, "upload_user_token", "mail", "alice", access_token="AT-user", scopes=["a", "b"])
    await sdk(app, "upload_user_token", "mail", "alice", "acme", access_token="AT-in-acme", scopes=["a"])
    await sdk(app, "upload_tenant_token", "mail", "acme", access_token="AT-tenant", scopes=["a"])
    users = [{"appId": "mail", "userId": user, "accessToken": f"AT-{user}"} for user in ("bob", "carol")]
    tenants = [{"appId": "mail", "tenantId": "umbrella", "accessToken": "AT-umbrella"}]
    assert {"failures": []} == await sdk(app, "batch_upload_user_tokens", users)
    assert {"failures": []} == await sdk(app, "batch_upload_tenant_tokens", tenants)

    fetched = [
        await sdk(app, "fetch_token", "mail", "alice"),
        await sdk(app, "fetch_token", "mail", "alice", tenant_id="acme"),
        await sdk(app, "fetch_token_by_scopes", "mail", "alice", ["b", "a"]),
        await sdk(app, "fetch_tenant_token", "mail", "acme"),
        await sdk(app, "fetch_tenant_token_by_scopes", "mail", "acme", ["a"]),
        await sdk(app, "fetch_token", "mail", "carol"),
        await sdk(app, "fetch_tenant_token", "mail", "umbrella"),
    ]
    wanted = ["AT-user", "AT-in-acme", "AT-user", "AT-tenant", "AT-tenant", "AT-carol", "AT-umbrella"]
    assert wanted == [each["token"]["accessToken"] for each in fetched]
    assert {"appIds": ["mail"]} == await sdk(app, "list_apps_with_user_token", "alice")
    assert {"appIds": []} == await sdk(app, "list_apps_with_user_token", "alice", "umbrella")


async def test_batches_are_all_or_nothing(sdk: Sdk) -> None:
    """One wrong token keeps the whole batch out, and is named."""
    app = "outbound_application"
    tokens = [{"appId": "mail", "userId": "dave", "accessToken": "x"}, {"appId": "nothing", "userId": "erin"}]
    failures = (await sdk(app, "batch_upload_user_tokens", tokens))["failures"]
    assert [("nothing", "erin", "E011002")] == [(each["appId"], each["userId"], each["errorCode"]) for each in failures]
    assert {"appIds": []} == await sdk(app, "list_apps_with_user_token", "dave")


async def test_tokens_are_deleted(sdk: Sdk) -> None:
    """By user, by connection and by id; a tenant's token by id only."""
    app = "outbound_application"
    for user in ("alice", "bob", "carol"):
        await sdk(app, "upload_user_token", "mail", user, access_token=f"AT-{user}")
    await sdk(app, "upload_tenant_token", "mail", "acme", access_token="AT-acme")
    tenant = (await sdk(app, "fetch_tenant_token", "mail", "acme"))["token"]["id"]

    await sdk(app, "delete_user_tokens", user_id="alice")
    await sdk(app, "delete_user_tokens", "mail", "bob")
    assert ["mail"] == (await sdk(app, "list_apps_with_user_token", "carol"))["appIds"]
    await sdk(app, "delete_user_tokens", app_id="mail")
    for user in ("alice", "bob", "carol"):
        assert [] == (await sdk(app, "list_apps_with_user_token", user))["appIds"]
    assert tenant == (await sdk(app, "fetch_tenant_token", "mail", "acme"))["token"]["id"]
    await sdk(app, "delete_token", tenant)
    with pytest.raises(AuthException) as error:
        await sdk(app, "fetch_tenant_token", "mail", "acme")
    assert 404 == error.value.status_code
    with pytest.raises(AuthException) as error:
        await sdk(app, "delete_user_tokens")
    assert 400 == error.value.status_code


async def test_api_keys(sdk: Sdk, gateway: RunningProcess) -> None:
    """A key of a user and of a tenant come back in accessToken."""
    app = "outbound_application"
    # Python's SDK has no parameter for appType: whoever uses it makes the connection another way.
    await gateway.api("/v1/mgmt/outbound/app/create", {"id": "keys", "name": "Keys", "appType": "apikey"})
    await sdk(app, "upload_user_api_key", "keys", "alice", "K-alice")
    await sdk(app, "upload_tenant_api_key", "keys", "acme", "K-acme")
    user = (await sdk(app, "fetch_token", "keys", "alice"))["token"]
    tenant = (await sdk(app, "fetch_tenant_token", "keys", "acme"))["token"]
    assert ("K-alice", "ApiKey", "0") == (user["accessToken"], user["accessTokenType"], user["accessTokenExpiry"])
    assert ("K-acme", "acme", "") == (tenant["accessToken"], tenant["tenantId"], tenant["userId"])


async def test_refreshes_on_demand(sdk: Sdk, provider: Provider) -> None:
    """verifyRefresh, forceRefresh and withRefreshToken reach the provider and the caller."""
    app = "outbound_application"
    await sdk(app, "update_application", "mail", "Mail", client_id="c", token_url=f"{provider.url}/token")
    await sdk(app, "upload_user_token", "mail", "alice", refresh_token=provider.issue(), verify_refresh=True)
    options = {"forceRefresh": True, "withRefreshToken": True}
    first = (await sdk(app, "fetch_token", "mail", "alice"))["token"]
    second = (await sdk(app, "fetch_token", "mail", "alice", options=options))["token"]
    assert first["accessToken"] != second["accessToken"]
    assert ("refreshToken" in first, "refreshToken" in second, True) == (False, True, first["hasRefreshToken"])
    assert first["id"] == second["id"]
    with pytest.raises(AuthException) as error:
        await sdk(app, "upload_user_token", "mail", "bob", refresh_token="never-issued", verify_refresh=True)
    assert 400 == error.value.status_code


async def test_fetches_by_access_token(kind: str, sdk: Sdk, gateway: RunningProcess, issuer: Issuer) -> None:
    """With an access token and no management key the SDK gets its user's tokens, and nobody else's."""
    app, by_token = "outbound_application", "outbound_application_by_token"
    await sdk(app, "upload_user_token", "mail", "alice", access_token="AT-user", scopes=["a"])
    await sdk(app, "upload_tenant_token", "mail", "acme", access_token="AT-tenant", scopes=["a"])
    client = await make(kind, f"{gateway.process.token_api_url}/", None)
    bare = Sdk(client)
    alice = issuer.token("alice")
    batch = issuer.token("batch", azp="batch", tenants={"acme": {}})
    fetched = [
        await bare(by_token, "fetch_token", alice, "mail", "alice"),
        await bare(by_token, "fetch_token_by_scopes", alice, "mail", "alice", ["a"]),
        await bare(by_token, "fetch_tenant_token", batch, "mail", "acme"),
        await bare(by_token, "fetch_tenant_token_by_scopes", batch, "mail", "acme", ["a"]),
    ]
    assert ["AT-user", "AT-user", "AT-tenant", "AT-tenant"] == [each["token"]["accessToken"] for each in fetched]
    with pytest.raises(AuthException) as error:
        await bare(by_token, "fetch_token", alice, "mail", "bob")
    assert 403 == error.value.status_code
    if kind == "async":
        await client.aclose()


async def test_nothing_secret_was_written(gateway: RunningProcess) -> None:
    """Neither log nor record of the process holds a token or a secret that the tests before this one used."""
    written = gateway.process.stdout + gateway.process.stderr
    assert not [secret for secret in ("AT-", "K-alice", "CANARY", gateway.management_key) if secret in written]
