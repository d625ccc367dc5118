"""Unmodified SDKs make calls through a running gateway; only their base URL and their token differ (docs/sdks.md)."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import github
import google.auth.exceptions
import google.oauth2.credentials
import googleapiclient.discovery
import googleapiclient.errors
import googleapiclient.http
import pytest
import slack_sdk
import slack_sdk.errors

from tests.e2e.gateway_process import RunningProcess, serving
from tests.e2e.json_api import plays, query_of, request_lines
from tests.tools import ROOT
from tests.world import Received, Upstream, create_connection, settings

USER = "ada"
TOKEN = "connection-token-of-ada"


@pytest.fixture
async def gateway(tmp_path: Path, upstream: Upstream) -> AsyncIterator[RunningProcess]:
    """A gateway process with the routes /api and the page's, all to the upstream's /base; the user is connected."""
    names = ("api", "github", "slack", "google-contacts", "google-drive")
    to = {"upstream": f"{upstream.url}/base", "connection": "api"}
    async with serving(settings(*({"name": n, "prefix": f"/{n}", **to} for n in names)), tmp_path / "data") as gateway:
        await create_connection(gateway, None)
        await gateway.connect(USER, access_token=TOKEN)
        yield gateway


@pytest.fixture
async def agent_key(gateway: RunningProcess) -> str:
    """What the agent has instead of a provider's token."""
    return await gateway.agent_key(USER)


@pytest.fixture(autouse=True)
async def _secrets_stay_where_they_belong(
    gateway: RunningProcess, upstream: Upstream, agent_key: str
) -> AsyncIterator[None]:
    """After each test: every request carried the connection token, none the agent key, and no secret was written."""
    yield
    for received in upstream.received:
        assert [f"Bearer {TOKEN}"] == received.values("Authorization")
        assert agent_key.encode() not in received.head + received.body
    files = [path for path in gateway.data.rglob("*") if path.is_file()]
    assert gateway.gateway.record_path in files
    written = [path.read_bytes() for path in files]
    written += [gateway.process.stdout.encode(), gateway.process.stderr.encode()]
    for secret in (TOKEN, agent_key, gateway.management_key):
        assert not any(secret.encode() in each for each in written)


# --- PyGithub --------------------------------------------------------------------------------------------------


async def test_pygithub_pages_through_the_gateway(gateway: RunningProcess, upstream: Upstream, agent_key: str) -> None:
    """
    PyGithub follows the upstream's own Link to the second page, through the gateway.
    """

    def play(received: Received) -> tuple[int, Any, str]:
        page = parse_qs(query_of(received)).get("page", ["1"])[0]
        if page == "2":
            return 200, [{"id": 3, "name": "three"}], ""
        second = f"<{upstream.url}/base/user/repos?page=2>"
        link = f'Link: {second}; rel="next", {second}; rel="last"\r\n'
        return 200, [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}], link

    plays(upstream, play)

    def call() -> list[str]:
        with github.Github(base_url=f"{gateway.url}/api", auth=github.Auth.Token(agent_key)) as client:
            return [repository.name for repository in client.get_user().get_repos()]

    assert ["one", "two", "three"] == await asyncio.to_thread(call)
    assert ["GET /base/user/repos HTTP/1.1", "GET /base/user/repos?page=2 HTTP/1.1"] == request_lines(upstream)


async def test_pygithub_follows_a_moved_repository(gateway: RunningProcess, upstream: Upstream, agent_key: str) -> None:
    """
    A redirect to the upstream's own origin comes back through the gateway, and PyGithub follows it.
    """

    def play(received: Received) -> tuple[int, Any, str]:
        if received.request_line.split()[1] == "/base/repos/ada/old":
            return 301, {"message": "Moved Permanently"}, f"Location: {upstream.url}/base/repositories/1\r\n"
        return 200, {"id": 1, "name": "new", "full_name": "ada/new"}, ""

    plays(upstream, play)

    def call() -> str:
        with github.Github(base_url=f"{gateway.url}/api", auth=github.Auth.Token(agent_key)) as client:
            return client.get_repo("ada/old").full_name

    assert "ada/new" == await asyncio.to_thread(call)
    assert ["GET /base/repos/ada/old HTTP/1.1", "GET /base/repositories/1 HTTP/1.1"] == request_lines(upstream)


async def test_pygithub_works_on_a_repository(gateway: RunningProcess, upstream: Upstream, agent_key: str) -> None:
    """
    A lazy PyGithub makes its paths itself: it reads and creates below a repository, through the gateway.
    """

    def play(received: Received) -> tuple[int, Any, str]:
        issue = {"number": 7, "title": "Broken", "url": "https://api.github.com/repos/ada/contacts/issues/7"}
        return (201, issue, "") if received.request_line.startswith("POST") else (200, [issue], "")

    plays(upstream, play)

    def call() -> list[int]:
        with github.Github(base_url=f"{gateway.url}/api", auth=github.Auth.Token(agent_key), lazy=True) as client:
            repository = client.get_repo("ada/contacts")
            created = repository.create_issue("Broken", body="It is.")
            return [created.number, *(issue.number for issue in repository.get_issues())]

    assert [7, 7] == await asyncio.to_thread(call)
    path = "/base/repos/ada/contacts/issues HTTP/1.1"
    assert [f"POST {path}", f"GET {path}"] == request_lines(upstream)
    assert {"title": "Broken", "body": "It is."} == json.loads(upstream.received[0].body)


async def test_pygithub_never_sends_the_agent_key_where_a_body_points(
    gateway: RunningProcess, upstream: Upstream, agent_key: str
) -> None:
    """
    Bodies are not rewritten: a PyGithub that is not lazy refuses their URLs by itself, and nothing is sent there.
    """
    plays(upstream, lambda received: (200, {"url": "https://api.github.com/repos/ada/contacts"}, ""))

    def call() -> None:
        with github.Github(base_url=f"{gateway.url}/api", auth=github.Auth.Token(agent_key)) as client:
            client.get_repo("ada/contacts").create_issue("Broken")

    with pytest.raises(AssertionError, match=r"api\.github\.com"):
        await asyncio.to_thread(call)
    assert ["GET /base/repos/ada/contacts HTTP/1.1"] == request_lines(upstream)


# --- slack_sdk -------------------------------------------------------------------------------------------------


async def test_slack_sdk_posts_a_message(gateway: RunningProcess, upstream: Upstream, agent_key: str) -> None:
    """
    slack_sdk's JSON call arrives at the same method below the route.
    """
    plays(upstream, lambda received: (200, {"ok": True, "channel": "C1", "ts": "1.2"}, ""))
    client = slack_sdk.WebClient(token=agent_key, base_url=f"{gateway.url}/api/")

    said = await asyncio.to_thread(client.chat_postMessage, channel="C1", text="Hello, wörld")

    assert "1.2" == said["ts"]
    assert ["POST /base/chat.postMessage HTTP/1.1"] == request_lines(upstream)
    assert {"channel": "C1", "text": "Hello, wörld"} == json.loads(upstream.received[0].body)


async def test_slack_sdk_pages_by_cursor(gateway: RunningProcess, upstream: Upstream, agent_key: str) -> None:
    """
    slack_sdk pages with the cursor that the body names.
    """

    def play(received: Received) -> tuple[int, Any, str]:
        if parse_qs(received.body.decode()).get("cursor") == ["page2"]:
            return 200, {"ok": True, "channels": [{"id": "C3"}]}, ""
        page = {"ok": True, "channels": [{"id": "C1"}, {"id": "C2"}]}
        return 200, {**page, "response_metadata": {"next_cursor": "page2"}}, ""

    plays(upstream, play)
    client = slack_sdk.WebClient(token=agent_key, base_url=f"{gateway.url}/api/")

    def call() -> list[str]:
        return [channel["id"] for page in client.conversations_list(limit=2) for channel in page["channels"]]

    assert ["C1", "C2", "C3"] == await asyncio.to_thread(call)
    assert ["POST /base/conversations.list HTTP/1.1"] * 2 == request_lines(upstream)


async def test_slack_sdk_tells_the_upstreams_refusal(
    gateway: RunningProcess, upstream: Upstream, agent_key: str
) -> None:
    """
    An error of the API reaches slack_sdk as its own exception.
    """
    plays(upstream, lambda received: (200, {"ok": False, "error": "channel_not_found"}, ""))
    client = slack_sdk.WebClient(token=agent_key, base_url=f"{gateway.url}/api/")

    with pytest.raises(slack_sdk.errors.SlackApiError, match="channel_not_found"):
        await asyncio.to_thread(client.conversations_info, channel="C404")


# --- google-api-python-client ------------------------------------------------------------------------------------


async def test_google_client_lists_connections(gateway: RunningProcess, upstream: Upstream, agent_key: str) -> None:
    """
    The People API, built from the bundled discovery document, lists and pages through the gateway.
    """

    def play(received: Received) -> tuple[int, Any, str]:
        if parse_qs(query_of(received)).get("pageToken") == ["p2"]:
            return 200, {"connections": [{"resourceName": "people/c2"}]}, ""
        return 200, {"connections": [{"resourceName": "people/c1"}], "nextPageToken": "p2"}, ""

    plays(upstream, play)

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
    paths = [urlsplit(line.split(" ")[1]).path for line in request_lines(upstream)]
    assert ["/base/v1/people/me/connections"] * 2 == paths
    assert {"personFields": ["names,emailAddresses"], "alt": ["json"]} == parse_qs(query_of(upstream.received[0]))


async def test_google_client_calls_custom_methods(gateway: RunningProcess, upstream: Upstream, agent_key: str) -> None:
    """
    A path with a colon, as Google's custom methods have, arrives as it was sent.
    """
    plays(upstream, lambda received: (200, {"resourceName": "people/c3"}, ""))

    def call() -> str:
        with _people(gateway, agent_key) as people:
            created = people.people().createContact(body={"names": [{"givenName": "Ada"}]}).execute()
        return str(created["resourceName"])

    assert "people/c3" == await asyncio.to_thread(call)
    assert "/base/v1/people:createContact" == urlsplit(request_lines(upstream)[0].split(" ")[1]).path
    assert {"names": [{"givenName": "Ada"}]} == json.loads(upstream.received[0].body)


async def test_google_client_is_refused_a_method_override(
    gateway: RunningProcess, upstream: Upstream, agent_key: str
) -> None:
    """
    A GET with a URL above 2,048 characters goes out as POST with X-HTTP-Method-Override, which the gateway refuses.
    """
    plays(upstream, lambda received: (200, {}, ""))

    def call(fields: str) -> None:
        with _people(gateway, agent_key) as people:
            people.people().get(resourceName="people/me", personFields=fields).execute()

    await asyncio.to_thread(call, "names")
    with pytest.raises(googleapiclient.errors.HttpError) as refused:
        await asyncio.to_thread(call, ",".join(["names"] * 400))

    assert 400 == refused.value.status_code
    assert "invalid_request" == json.loads(refused.value.content)["code"]
    assert 1 == len(upstream.received)


async def test_google_client_leaves_the_gateway_for_a_batch(
    gateway: RunningProcess, upstream: Upstream, agent_key: str
) -> None:
    """
    `api_endpoint` moves neither uploads below the route's prefix nor batches to the gateway: the page's warnings hold.
    """
    plays(upstream, lambda received: (200, {"files": []}, ""))

    def call() -> tuple[str, str]:
        with _build("drive", "v3", f"{gateway.url}/google-drive/drive/v3/", agent_key) as drive:
            drive.files().list().execute()
            media = googleapiclient.http.MediaInMemoryUpload(b"Hello", mimetype="text/plain")
            return drive.files().create(media_body=media).uri, drive.new_batch_http_request()._batch_uri

    upload, batch = await asyncio.to_thread(call)
    assert "/upload/drive/v3/files" == urlsplit(upload).path
    assert "https://www.googleapis.com/batch/drive/v3" == batch
    assert ["GET /base/drive/v3/files?alt=json HTTP/1.1"] == request_lines(upstream)


def _people(gateway: RunningProcess, agent_key: str) -> Any:
    return _build("people", "v1", f"{gateway.url}/api", agent_key)


def _build(api: str, version: str, endpoint: str, agent_key: str) -> Any:
    credentials = google.oauth2.credentials.Credentials(token=agent_key)  # type: ignore[no-untyped-call]  # theirs
    options = {"api_endpoint": endpoint}
    return googleapiclient.discovery.build(
        api, version, credentials=credentials, client_options=options, static_discovery=True
    )


# --- refusals ----------------------------------------------------------------------------------------------------


async def test_each_sdk_hands_over_the_refusal(gateway: RunningProcess, upstream: Upstream) -> None:
    """
    What the gateway refuses is an exception of the SDK's own, from which the agent can read code and connection.
    """
    stranger = await gateway.agent_key("bob")  # has connected nothing

    def with_pygithub() -> Any:
        with (
            pytest.raises(github.GithubException) as refused,
            github.Github(base_url=f"{gateway.url}/api", auth=github.Auth.Token(stranger)) as client,
        ):
            client.get_repo("ada/contacts")
        return refused.value.data

    def with_slack_sdk() -> Any:
        client = slack_sdk.WebClient(token=stranger, base_url=f"{gateway.url}/api/")
        with pytest.raises(slack_sdk.errors.SlackApiError) as refused:
            client.conversations_info(channel="C1")
        return refused.value.response.data

    def with_google_client() -> Any:
        with pytest.raises(googleapiclient.errors.HttpError) as refused, _people(gateway, stranger) as people:
            people.people().get(resourceName="people/me", personFields="names").execute()
        return json.loads(refused.value.content)

    for call in (with_pygithub, with_slack_sdk, with_google_client):
        problem = await asyncio.to_thread(call)
        assert ("connection_required", "api") == (problem["code"], problem["connection"]), call.__name__
    assert [] == upstream.received


async def test_google_client_cannot_replace_a_key_that_is_not_known(gateway: RunningProcess) -> None:
    """
    A 401 of the gateway makes google-auth look for a refresh token, as the page says; there is none.
    """

    def call() -> None:
        with _people(gateway, "gwa_of_nobody") as people:
            people.people().get(resourceName="people/me", personFields="names").execute()

    with pytest.raises(google.auth.exceptions.RefreshError):
        await asyncio.to_thread(call)


# --- the page ----------------------------------------------------------------------------------------------------


async def test_every_block_of_the_page_runs_as_it_stands(
    gateway: RunningProcess, upstream: Upstream, agent_key: str
) -> None:
    """
    The Python of docs/sdks.md works through the gateway; only the address and the key are put in.
    """

    def play(received: Received) -> tuple[int, Any, str]:
        upload = f"Location: {upstream.url}/base/upload/drive/v3/files?upload_id=1\r\n"
        return 200, PAGE_ANSWERS[received.request_line.split(" ")[1]], upload

    plays(upstream, play)
    page = (ROOT / "docs" / "sdks.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)

    for block in blocks:
        code = block.replace("http://127.0.0.1:8080", gateway.url).replace("gwa_…", agent_key)
        await asyncio.to_thread(_run, code)

    assert list(PAGE_ANSWERS) == [line.split(" ")[1] for line in request_lines(upstream)]
    assert b"Hello" == upstream.received[-1].body


PAGE_ANSWERS = {
    "/base/repos/ada/contacts/issues": [{"number": 7, "title": "Broken"}],
    "/base/api/chat.postMessage": {"ok": True},
    "/base/v1/people/me/connections?personFields=names&alt=json": {"connections": []},
    "/base/upload/drive/v3/files?alt=json&uploadType=resumable": {},
    "/base/upload/drive/v3/files?upload_id=1": {"id": "f1"},
}


def _run(code: str) -> None:
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102  # a page of this repository
    for value in names.values():
        if isinstance(value, github.Github | googleapiclient.discovery.Resource):
            value.close()
