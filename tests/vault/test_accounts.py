"""Whose account a grant is: what the provider says, and what is unknown."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from gateway.net.client import OutboundClient
from gateway.providers.catalogue import catalogue
from gateway.vault.accounts import Accounts, userinfo_url
from gateway.vault.oauth import MAX_ANSWER_BYTES
from gateway.vault.stored_token import TokenDraft
from gateway.vault.templates import from_template
from tests.vault.authority import authority
from tests.vault.conftest import LOOPBACK
from tests.vault.connecting import ADA, Browser, serve, town

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture
async def client() -> AsyncIterator[OutboundClient]:
    """What calls the provider."""
    async with OutboundClient(LOOPBACK) as made:
        yield made


def says(content: Any, **more: Any) -> Answer:
    """Return a provider that answers with *content* as JSON."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.json_response(content, **more)

    return answer


async def ends(request: web.Request) -> web.StreamResponse:
    """Cut the connection instead of an answer."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


TOLD: dict[str, tuple[Answer, str]] = {
    "as text": (says({"user": {"id": "U1"}}), "U1"),
    "as a number": (says({"user": {"id": 7}}), "7"),
    "elsewhere": (says({"id": "U1"}), ""),
    "in a list": (says([{"user": {"id": "U1"}}]), ""),
    "with an error": (says({"user": {"id": "U1"}}, status=403), ""),
    "by a redirect": (says({"user": {"id": "U1"}}, status=302, headers={"Location": "/other"}), ""),
    "in no JSON": (says(None, dumps=lambda _: "<html>"), ""),
    "beside too much": (says({"user": {"id": "U1"}, "more": "x" * MAX_ANSWER_BYTES}), ""),
    "in no answer": (ends, ""),
}


@pytest.mark.parametrize(("answer", "account"), TOLD.values(), ids=TOLD.keys())
async def test_api_tells_the_account(client: OutboundClient, answer: Answer, account: str) -> None:
    """The account is what stands at the pointer; whatever else comes, it is unknown, and nothing is raised."""
    seen: list[tuple[str, str, bool]] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        headers = request.headers
        seen.append((request.method, headers["Authorization"], "User-Agent" in headers))
        return await answer(request)

    runner, url = await serve(handle)
    try:
        assert account == await Accounts(client).told_at(f"{url}/me", "/user/id", "AT")
    finally:
        await runner.cleanup()

    assert [("GET", "Bearer AT", True)] == seen


async def test_api_that_does_not_answer_is_left(client: OutboundClient) -> None:
    """A provider that keeps the call open costs a bounded time, and no grant."""
    leave = asyncio.Event()

    async def handle(request: web.Request) -> web.StreamResponse:
        await leave.wait()
        return web.Response()

    runner, url = await serve(handle)
    try:
        assert "" == await Accounts(client, seconds=0.05).told_at(f"{url}/me", "/id", "AT")
    finally:
        leave.set()
        await runner.cleanup()


GITHUB = from_template("github", id="gh", client_id="client", client_secret="s3cret")
PLACES = {
    "as the catalogue has it": (GITHUB, "https://api.github.com/user"),
    "with its variables": (from_template("gitlab", id="gl", variables={"host": "git.example"}),
                           "https://git.example/api/v4/user"),
    "with a token of another server": (replace(GITHUB, token_url="https://ghe.example/token"), ""),
    "with origins of its own": (replace(GITHUB, origins=("https://uploads.github.com",)), ""),
    "with tokens for any origin": (replace(GITHUB, origins=None), "https://api.github.com/user"),
    "without a template": (replace(GITHUB, template=None), ""),
    "without such an address": (from_template("google", id="g"), ""),
}  # fmt: skip


@pytest.mark.parametrize(("connection", "url"), PLACES.values(), ids=PLACES.keys())
def test_token_goes_only_where_it_may(connection: Any, url: str) -> None:
    """A fresh token is shown to the catalogue's address only where it is the catalogue's server that issued it."""
    assert url == userinfo_url(connection)


@pytest.mark.parametrize("provider_id", [each for each in catalogue() if catalogue()[each].quirks.userinfo_url])
def test_each_template_asks_where_its_tokens_go(provider_id: str) -> None:
    """Each address of the catalogue is one that a connection made from it may use."""
    variables = {variable.name: variable.example for variable in catalogue()[provider_id].variables}

    assert userinfo_url(from_template(provider_id, id="c", variables=variables)).startswith("https://")


@pytest.mark.parametrize("engine", ["sqlite"])
async def test_account_in_the_token_answer_needs_a_yes_when_it_changes(database_url: str) -> None:
    """
    Without an id token, the catalogue tells accounts apart: unknown before, nobody is asked; another one than before
    needs a yes.
    """
    async with town(database_url) as place, authority(id_token=None) as provider:
        urls = {
            "authorization_url": f"{provider.url}/authorize",
            "token_url": f"{provider.url}/token",
            "revocation_url": f"{provider.url}/revoke",
        }
        await place.connections.create(
            from_template("dropbox", id="contacts", client_id="client", client_secret="s3cret", overrides=urls)
        )
        connection = await place.connections.load("contacts")
        assert connection is not None
        await place.tokens.put(TokenDraft("contacts", ADA, scopes=connection.default_scopes, access_token="old"))
        pages = []
        async with Browser() as browser:
            for account in ("dbid:1", "dbid:1", "dbid:2"):
                provider.token = {"account_id": account}
                pages.append((await browser.answer(await browser.get((await place.link()).url))).text)
        stored = await place.token()

    assert [True, True, False] == ["Connected" in page for page in pages]
    assert "another account" in pages[2]
    assert stored is not None
    assert "dbid:1" == stored.token_sub
