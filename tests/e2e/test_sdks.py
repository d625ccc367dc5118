"""Unmodified SDKs make calls through a running gateway; only their base URL and their token differ (docs/sdks.md)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import github
import google.oauth2.credentials
import googleapiclient.discovery
import googleapiclient.errors
import pytest
import slack_sdk
import slack_sdk.errors

from tests.e2e.gateway_process import RunningProcess, serving
from tests.world import Received, Upstream, answer, create_connection, settings

USER = "ada"
TOKEN = "connection-token-of-ada"

Play = Callable[[Received], tuple[int, Any, str]]


@pytest.fixture
async def gateway(tmp_path: Path, upstream: Upstream) -> AsyncIterator[RunningProcess]:
    """A gateway process with the route /api to the upstream's /base; the user is connected."""
    route = {"name": "api", "prefix": "/api", "upstream": f"{upstream.url}/base", "connection": "api"}
    async with serving(settings(route), tmp_path / "data") as gateway:
        await create_connection(gateway, None)
        await gateway.connect(USER, access_token=TOKEN)
        yield gateway


@pytest.fixture
async def agent_key(gateway: RunningProcess) -> str:
    """What the agent has instead of a provider's token."""
    return await gateway.agent_key(USER)


@pytest.fixture(autouse=True)
async def _nothing_of_the_agent_leaves(upstream: Upstream, agent_key: str) -> AsyncIterator[None]:
    """After each test: the upstream saw the connection token on every request, and the agent key on none."""
    yield
    assert upstream.received
    for received in upstream.received:
        assert [f"Bearer {TOKEN}"] == received.values("Authorization")
        assert agent_key.encode() not in received.head + received.body


# --- PyGithub --------------------------------------------------------------------------------------------------


async def test_pygithub_pages_through_the_gateway(gateway: RunningProcess, upstream: Upstream, agent_key: str) -> None:
    """
    PyGithub follows the upstream's own Link to the second page, through the gateway.
    """

    def play(received: Received) -> tuple[int, Any, str]:
        page = parse_qs(_query(received)).get("page", ["1"])[0]
        if page == "2":
            return 200, [{"id": 3, "name": "three"}], ""
        link = f'Link: <{upstream.url}/base/user/repos?page=2>; rel="next", <{upstream.url}/base/user/repos?page=2>; rel="last"\r\n'
        return 200, [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}], link

    _plays(upstream, play)

    def call() -> list[str]:
        with github.Github(base_url=f"{gateway.url}/api", auth=github.Auth.Token(agent_key)) as client:
            return [repository.name for repository in client.get_user().get_repos()]

    assert ["one", "two", "three"] == await asyncio.to_thread(call)
    assert ["GET /base/user/repos HTTP/1.1", "GET /base/user/repos?page=2 HTTP/1.1"] == _request_lines(upstream)


async def test_pygithub_follows_a_moved_repository(gateway: RunningProcess, upstream: Upstream, agent_key: str) -> None:
    """
    A redirect to the upstream's own origin comes back through the gateway, and PyGithub follows it.
    """

    def play(received: Received) -> tuple[int, Any, str]:
        if received.request_line.split()[1] == "/base/repos/ada/old":
            return 301, {"message": "Moved Permanently"}, f"Location: {upstream.url}/base/repositories/1\r\n"
        return 200, {"id": 1, "name": "new", "full_name": "ada/new"}, ""

    _plays(upstream, play)

    def call() -> str:
        with github.Github(base_url=f"{gateway.url}/api", auth=github.Auth.Token(agent_key)) as client:
            return client.get_repo("ada/old").full_name

    assert "ada/new" == await asyncio.to_thread(call)
    assert ["GET /base/repos/ada/old HTTP/1.1", "GET /base/repositories/1 HTTP/1.1"] == _request_lines(upstream)


async def test_pygithub_creates(gateway: RunningProcess, upstream: Upstream, agent_key: str) -> None:
    """
    A POST with a JSON body arrives as PyGithub made it.
    """
    _plays(upstream, lambda received: (201, {"number": 7, "title": "Broken"}, ""))

    def call() -> int:
        with github.Github(base_url=f"{gateway.url}/api", auth=github.Auth.Token(agent_key)) as client:
            return client.get_repo("ada/contacts", lazy=True).create_issue("Broken", body="It is.").number

    assert 7 == await asyncio.to_thread(call)
    assert ["POST /base/repos/ada/contacts/issues HTTP/1.1"] == _request_lines(upstream)
    assert {"title": "Broken", "body": "It is."} == json.loads(upstream.received[0].body)


# --- slack_sdk -------------------------------------------------------------------------------------------------


async def test_slack_sdk_posts_a_message(gateway: RunningProcess, upstream: Upstream, agent_key: str) -> None:
    """
    slack_sdk's JSON call arrives at the same method below the route.
    """
    _plays(upstream, lambda received: (200, {"ok": True, "channel": "C1", "ts": "1.2"}, ""))
    client = slack_sdk.WebClient(token=agent_key, base_url=f"{gateway.url}/api/")

    said = await asyncio.to_thread(client.chat_postMessage, channel="C1", text="Hello, wörld")

    assert "1.2" == said["ts"]
    assert ["POST /base/chat.postMessage HTTP/1.1"] == _request_lines(upstream)
    assert b"w%C3%B6rld" in upstream.received[0].body or "wörld" == json.loads(upstream.received[0].body)["text"][-5:]


async def test_slack_sdk_pages_by_cursor(gateway: RunningProcess, upstream: Upstream, agent_key: str) -> None:
    """
    slack_sdk pages with the cursor that the body names.
    """

    def play(received: Received) -> tuple[int, Any, str]:
        asked = parse_qs(_query(received) or received.body.decode())
        if asked.get("cursor") == ["page2"]:
            return 200, {"ok": True, "channels": [{"id": "C3"}]}, ""
        page = {"ok": True, "channels": [{"id": "C1"}, {"id": "C2"}]}
        return 200, {**page, "response_metadata": {"next_cursor": "page2"}}, ""

    _plays(upstream, play)
    client = slack_sdk.WebClient(token=agent_key, base_url=f"{gateway.url}/api/")

    def call() -> list[str]:
        return [channel["id"] for page in client.conversations_list(limit=2) for channel in page["channels"]]

    assert ["C1", "C2", "C3"] == await asyncio.to_thread(call)
    assert 2 == len(upstream.received)


async def test_slack_sdk_tells_the_upstreams_refusal(
    gateway: RunningProcess, upstream: Upstream, agent_key: str
) -> None:
    """
    An error of the API reaches slack_sdk as its own exception.
    """
    _plays(upstream, lambda received: (200, {"ok": False, "error": "channel_not_found"}, ""))
    client = slack_sdk.WebClient(token=agent_key, base_url=f"{gateway.url}/api/")

    with pytest.raises(slack_sdk.errors.SlackApiError, match="channel_not_found"):
        await asyncio.to_thread(client.conversations_info, channel="C404")


# --- google-api-python-client ------------------------------------------------------------------------------------


async def test_google_client_lists_connections(gateway: RunningProcess, upstream: Upstream, agent_key: str) -> None:
    """
    The People API, built from the bundled discovery document, lists and pages through the gateway.
    """

    def play(received: Received) -> tuple[int, Any, str]:
        if parse_qs(_query(received)).get("pageToken") == ["p2"]:
            return 200, {"connections": [{"resourceName": "people/c2"}]}, ""
        return 200, {"connections": [{"resourceName": "people/c1"}], "nextPageToken": "p2"}, ""

    _plays(upstream, play)

    def call() -> list[str]:
        names: list[str] = []
        with _people(gateway, agent_key) as people:
            connections = people.people().connections()
            request = connections.list(resourceName="people/me", personFields="names,emailAddresses")
            while request is not None:
                answered = request.execute()
                names += [person["resourceName"] for person in answered["connections"]]
                request = connections.list_next(request, answered)
        return names

    assert ["people/c1", "people/c2"] == await asyncio.to_thread(call)
    paths = [urlsplit(line.split(" ")[1]).path for line in _request_lines(upstream)]
    assert ["/base/v1/people/me/connections"] * 2 == paths
    assert {"personFields": ["names,emailAddresses"], "alt": ["json"]} == parse_qs(_query(upstream.received[0]))


async def test_google_client_calls_custom_methods(gateway: RunningProcess, upstream: Upstream, agent_key: str) -> None:
    """
    A path with a colon, as Google's custom methods have, arrives as it was sent.
    """
    _plays(upstream, lambda received: (200, {"resourceName": "people/c3"}, ""))

    def call() -> str:
        with _people(gateway, agent_key) as people:
            created = people.people().createContact(body={"names": [{"givenName": "Ada"}]}).execute()
        return str(created["resourceName"])

    assert "people/c3" == await asyncio.to_thread(call)
    assert "/base/v1/people:createContact" == urlsplit(_request_lines(upstream)[0].split(" ")[1]).path
    assert {"names": [{"givenName": "Ada"}]} == json.loads(upstream.received[0].body)


async def test_google_client_is_refused_a_method_override(
    gateway: RunningProcess, upstream: Upstream, agent_key: str
) -> None:
    """
    A GET with a URL above 2,048 characters goes out as POST with X-HTTP-Method-Override, which the gateway refuses.
    """
    _plays(upstream, lambda received: (200, {}, ""))

    def call(fields: str) -> None:
        with _people(gateway, agent_key) as people:
            people.people().get(resourceName="people/me", personFields=fields).execute()

    await asyncio.to_thread(call, "names")
    with pytest.raises(googleapiclient.errors.HttpError) as refused:
        await asyncio.to_thread(call, ",".join(["names"] * 400))

    assert 400 == refused.value.status_code
    assert "invalid_request" == json.loads(refused.value.content)["code"]
    assert 1 == len(upstream.received)


def _people(gateway: RunningProcess, agent_key: str) -> Any:
    return googleapiclient.discovery.build(
        "people",
        "v1",
        credentials=google.oauth2.credentials.Credentials(token=agent_key),
        client_options={"api_endpoint": f"{gateway.url}/api"},
        static_discovery=True,
    )


# --- the upstream ------------------------------------------------------------------------------------------------


def _plays(upstream: Upstream, play: Play) -> None:
    """Let *upstream* answer with the status, the JSON and the further field lines that *play* returns."""

    async def respond(received: Received, writer: asyncio.StreamWriter) -> None:
        status, content, fields = play(received)
        writer.write(answer(status, json.dumps(content).encode(), fields))

    upstream.respond = respond


def _request_lines(upstream: Upstream) -> list[str]:
    return [received.request_line for received in upstream.received]


def _query(received: Received) -> str:
    return urlsplit(received.request_line.split(" ")[1]).query
