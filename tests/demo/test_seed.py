"""How the demo's connection is made, through provider and token API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from gateway.demo.contacts import ContactsApi
from gateway.demo.provider import CONTACTS_SCOPE, ClientCredentials, DemoProvider
from gateway.demo.seed import SeedFailed, TokenApi, connect_user, seed
from gateway.net.client import OutboundClient

from .conftest import CREDENTIALS, REDIRECT_URI, Clock, Serve

KEY = "gwm_canary-5d2e"


class RecordingTokenApi:
    """Takes what the token API takes, and keeps it."""

    def __init__(self, status: int = 200) -> None:
        self.messages: list[tuple[str, str, dict[str, Any]]] = []
        self._status = status
        self.app = web.Application()
        self.app.router.add_post("/{path:.*}", self._take)

    async def _take(self, request: web.Request) -> web.Response:
        self.messages.append((request.path, request.headers["Authorization"], await request.json()))
        return web.json_response({}, status=self._status)


async def run_seed(
    client: OutboundClient,
    provider_url: str,
    token_api_url: str,
    clock: Clock,
    random_token: Callable[[], str],
    credentials: ClientCredentials = CREDENTIALS,
) -> None:
    """Seed as the demo does."""
    await seed(
        client,
        token_api=TokenApi(token_api_url, "demo", KEY),
        provider_url=provider_url,
        api_origin="http://127.0.0.1:9",
        credentials=credentials,
        redirect_uri=REDIRECT_URI,
        clock=clock,
        random_token=random_token,
    )


async def test_connects_both_users(
    provider: DemoProvider, serve: Serve, client: OutboundClient, clock: Clock, random_token: Callable[[], str]
) -> None:
    """
    One connection is created, then each user's live tokens are uploaded, as the contract's rows 14 and 8 say.
    """
    api = RecordingTokenApi()
    url = await serve(provider.app)
    await run_seed(client, url, await serve(api.app), clock, random_token)

    (create, *uploads) = api.messages
    assert "/v1/mgmt/outbound/app/create" == create[0]
    assert {f"Bearer demo:{KEY}"} == {authorization for _path, authorization, _body in api.messages}
    assert ("google-contacts", f"{url}/token") == (create[2]["id"], create[2]["tokenUrl"])
    assert (CREDENTIALS.client_id, CREDENTIALS.client_secret) == (create[2]["clientId"], create[2]["clientSecret"])
    assert ["http://127.0.0.1:9"] == create[2]["origins"]
    assert ["/v1/mgmt/outbound/app/user/oauthtoken/upload"] * 2 == [path for path, _key, _body in uploads]
    for user, (_path, _key, body) in zip(("ada@example.com", "grace@example.com"), uploads, strict=True):
        assert user == body["userId"] == provider.is_live(body["accessToken"])
        assert ([CONTACTS_SCOPE], int(clock()) + 3600) == (body["scopes"], body["accessTokenExpiry"])
        assert body["refreshToken"]
    assert (2, 2) == (provider.counts.logins, provider.counts.code_exchanges)


async def test_a_connected_users_token_reads_contacts(
    provider: DemoProvider, serve: Serve, client: OutboundClient, clock: Clock, random_token: Callable[[], str]
) -> None:
    """
    Provider and API belong together: what the login brings is what the API takes, for 20 seconds.
    """
    url = await serve(provider.app)
    tokens = await connect_user(
        client,
        provider_url=url,
        credentials=CREDENTIALS,
        redirect_uri=REDIRECT_URI,
        user="grace@example.com",
        random_token=random_token,
    )
    api_url = await serve(ContactsApi(provider.is_live).app)
    headers = {"Authorization": f"Bearer {tokens.access_token}"}
    target = f"{api_url}/v1/people/me?personFields=names"

    assert b"Hopper" in (await client.request("GET", target, headers=headers)).body
    clock.now += 20
    assert 401 == (await client.request("GET", target, headers=headers)).status
    assert tokens.access_token not in repr(tokens)


@pytest.mark.parametrize("status", [302, 400, 401, 409, 500])
async def test_names_the_step_that_failed(
    status: int,
    provider: DemoProvider,
    serve: Serve,
    client: OutboundClient,
    clock: Clock,
    random_token: Callable[[], str],
) -> None:
    """
    A token API that does not answer 200 ends it; path and status are told, the key is not.
    """
    url, api_url = await serve(provider.app), await serve(RecordingTokenApi(status).app)

    with pytest.raises(SeedFailed, match=f"/v1/mgmt/outbound/app/create: answered {status}") as caught:
        await run_seed(client, url, api_url, clock, random_token)

    assert KEY not in repr(caught.value)
    assert KEY not in repr(TokenApi(api_url, "demo", KEY))


async def test_stops_when_the_provider_refuses(
    provider: DemoProvider, serve: Serve, client: OutboundClient, clock: Clock, random_token: Callable[[], str]
) -> None:
    """
    A login or exchange that does not go through uploads nothing.
    """
    api = RecordingTokenApi()
    url, api_url = await serve(provider.app), await serve(api.app)

    with pytest.raises(SeedFailed, match="login: answered 400"):
        await run_seed(client, url, api_url, clock, random_token, ClientCredentials("other", "x"))
    with pytest.raises(SeedFailed, match="code exchange: answered 401"):
        await run_seed(client, url, api_url, clock, random_token, ClientCredentials(CREDENTIALS.client_id, "x"))

    assert not any("upload" in path for path, _key, _body in api.messages)


LIES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "another issuer": {"issuer": "http://evil.example", "authorization_endpoint": "x", "token_endpoint": "x"},
    "no endpoints": {"issuer": "{url}"},
    "an endpoint elsewhere": {
        "issuer": "{url}",
        "authorization_endpoint": "http://169.254.169.254/",
        "token_endpoint": "http://169.254.169.254/",
    },
}


@pytest.mark.parametrize("metadata", LIES.values(), ids=LIES.keys())
async def test_believes_no_other_providers_metadata(
    metadata: dict[str, Any], serve: Serve, client: OutboundClient, random_token: Callable[[], str]
) -> None:
    """
    Metadata must be of the issuer that was asked (RFC 8414 section 3.3), and leads nowhere that is not dialled.
    """

    async def answer(request: web.Request) -> web.Response:
        url = str(request.url.origin())
        return web.json_response({name: value.replace("{url}", url) for name, value in metadata.items()})

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)

    with pytest.raises(SeedFailed, match=r"metadata|blocked"):
        await connect_user(
            client,
            provider_url=await serve(app),
            credentials=CREDENTIALS,
            redirect_uri=REDIRECT_URI,
            user="ada@example.com",
            random_token=random_token,
        )
