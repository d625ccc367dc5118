"""The demo's contacts API on the wire."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.demo.contacts import ContactsApi
from gateway.demo.people import CONTACTS, OWNERS
from gateway.demo.provider import USERS
from gateway.net.client import Answer, OutboundClient

from .conftest import Serve

LIVE = {"ada-token": "ada@example.com", "grace-token": "grace@example.com"}
LIST = "/v1/people/me/connections"


@pytest.fixture
def api() -> ContactsApi:
    """The API, with one live token for each user."""
    return ContactsApi(LIVE.get)


async def get(client: OutboundClient, url: str, authorization: str | None = "Bearer ada-token") -> Answer:
    """Ask with that Authorization."""
    headers = {} if authorization is None else {"Authorization": authorization}
    return await client.request("GET", url, headers=headers)


def read(answer: Answer) -> dict[str, Any]:
    """The JSON object of a good answer."""
    assert 200 == answer.status
    found = answer.json()
    assert isinstance(found, dict)
    return found


def names(page: dict[str, Any]) -> list[str]:
    """Who is on the page."""
    return [each["names"][0]["displayName"] for each in page["connections"]]


def test_every_user_of_the_provider_has_contacts() -> None:
    """
    Provider and API know the same two users.
    """
    assert set(USERS) == set(CONTACTS) == set(OWNERS)


async def test_each_user_sees_their_own_contacts(api: ContactsApi, serve: Serve, client: OutboundClient) -> None:
    """
    The token decides whose contacts are shown.
    """
    url = await serve(api.app)
    ada = read(await get(client, f"{url}{LIST}?personFields=names"))
    grace = read(await get(client, f"{url}{LIST}?personFields=names", "bearer grace-token"))

    assert "Charles Babbage" in names(ada)
    assert "Jean Bartik" in names(grace)
    assert not set(names(ada)) & set(names(grace))
    assert (len(CONTACTS["ada@example.com"]), 2) == (ada["totalItems"], api.statuses[200])


async def test_shows_the_fields_that_were_asked_for(api: ContactsApi, serve: Serve, client: OutboundClient) -> None:
    """
    A person has its name and etag, and of the rest what personFields says.
    """
    url = await serve(api.app)
    me = read(await get(client, f"{url}/v1/people/me?personFields=names,%20emailAddresses"))
    first = read(await get(client, f"{url}{LIST}?personFields=phoneNumbers,organizations,metadata"))["connections"][0]

    assert {"resourceName", "etag", "names", "emailAddresses"} == set(me)
    assert ("people/me", "ada@example.com") == (me["resourceName"], me["emailAddresses"][0]["value"])
    assert {"resourceName", "etag", "phoneNumbers", "organizations", "metadata"} == set(first)
    assert first["resourceName"].startswith("people/c")


async def test_pages_through_everything_once(api: ContactsApi, serve: Serve, client: OutboundClient) -> None:
    """
    Page by page comes what one page would hold, and the last page names no next one.
    """
    url = await serve(api.app)
    whole = names(read(await get(client, f"{url}{LIST}?personFields=names")))
    found: list[str] = []
    token = ""
    while True:
        page = read(await get(client, f"{url}{LIST}?personFields=names&pageSize=2&pageToken={token}"))
        found += names(page)
        if "nextPageToken" not in page:
            break
        token = page["nextPageToken"]

    assert whole == found
    foreign = await get(client, f"{url}{LIST}?personFields=names&pageToken={token}", "Bearer grace-token")
    assert 400 == foreign.status


DEAD = {
    "nothing": None,
    "an unknown token": "Bearer unknown",
    "another scheme": "Basic ada-token",
    "no token": "Bearer",
}


@pytest.mark.parametrize("authorization", DEAD.values(), ids=DEAD.keys())
async def test_a_dead_token_is_challenged(
    authorization: str | None, api: ContactsApi, serve: Serve, client: OutboundClient
) -> None:
    """
    Without a live token: 401, RFC 6750's challenge, Google's error.
    """
    url = await serve(api.app)
    answer = await get(client, f"{url}{LIST}?personFields=names", authorization)
    body = answer.json()

    assert isinstance(body, dict)
    assert (401, 401, "UNAUTHENTICATED") == (answer.status, body["error"]["code"], body["error"]["status"])
    assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]
    assert 1 == api.statuses[401]


WRONG = {
    "no personFields": (LIST, 400),
    "empty personFields": (f"{LIST}?personFields=,", 400),
    "an unknown field": (f"{LIST}?personFields=names,secrets", 400),
    "page size 0": (f"{LIST}?personFields=names&pageSize=0", 400),
    "page size 1001": (f"{LIST}?personFields=names&pageSize=1001", 400),
    "a page size that is none": (f"{LIST}?personFields=names&pageSize=two", 400),
    "a page size of digits elsewhere": (f"{LIST}?personFields=names&pageSize=%D9%A2", 400),
    "an unknown page": (f"{LIST}?personFields=names&pageToken=x", 400),
    "an unknown path": ("/v1/people/you", 404),
}


@pytest.mark.parametrize(("target", "status"), WRONG.values(), ids=WRONG.keys())
async def test_a_wrong_question_is_an_error_of_googles_form(
    target: str, status: int, api: ContactsApi, serve: Serve, client: OutboundClient
) -> None:
    """
    Every error is a JSON object with code, message and status.
    """
    answer = await get(client, f"{await serve(api.app)}{target}")
    body = answer.json()

    assert isinstance(body, dict)
    assert (status, {"code", "message", "status"}) == (answer.status, set(body["error"]))
