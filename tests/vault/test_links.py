"""Who may have a link made, for what, and where it leads in the end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.errors import ConnectionUnknown, SubjectNotAllowed
from gateway.models import Caller, TokenKey
from gateway.vault.connection import Connection
from gateway.vault.links import ConnectInvalid
from tests.vault.connecting import ADA, OPERATOR, Browser, Town, contacts, demo_provider, town

APP = "https://app.example.com/connections"
USER = Caller(kind="jwt", user=ADA, tenants=frozenset({"acme"}))
AGENT = Caller(kind="agent", user=ADA, client="batch")
CLIENT = Caller(kind="jwt", user=None, client="batch", tenants=frozenset({"acme"}))


@pytest.fixture
async def place(database_url: str) -> AsyncIterator[Town]:
    """The pages, one redirect target, and connections of several kinds."""
    async with town(database_url, redirect_urls=(APP,)) as made, demo_provider(made) as (_, url):
        await made.connections.create(contacts(url))
        await made.connections.create(Connection("keys", "Keys", kind="apikey"))
        await made.connections.create(
            Connection("own", "Own", client_id="c", extra={"grantType": "client_credentials"}, token_url=f"{url}/token")
        )
        await made.connections.create(contacts(url, id="app", name="App", extra={"defaultRedirectUrl": f"{APP}/x"}))
        await made.connections.create(Connection("bare", "Bare"))
        yield made


REFUSED: dict[str, tuple[Caller, dict[str, Any]]] = {
    "a user for another user": (USER, {"user": "grace@example.com"}),
    "a user in a tenant that is not theirs": (USER, {"user": ADA, "tenant": "other"}),
    "an agent for another user": (AGENT, {"user": "grace@example.com"}),
    "a client for a user": (CLIENT, {"user": ADA}),
    "a client for a tenant that is not its": (CLIENT, {"user": None, "tenant": "other", "tenant_level": True}),
}


@pytest.mark.parametrize("engine", ["sqlite"])
@pytest.mark.parametrize(("caller", "about"), REFUSED.values(), ids=REFUSED.keys())
async def test_nobody_begins_for_others(place: Town, caller: Caller, about: dict[str, Any]) -> None:
    """A credential begins for its own user, in its own tenants."""
    with pytest.raises(SubjectNotAllowed):
        await place.connecting.start("contacts", started_by=caller, **about)


INVALID: dict[str, tuple[str, dict[str, Any], str]] = {
    "no user": ("contacts", {"user": None}, "user"),
    "a user with a line break": ("contacts", {"user": "a\nb"}, "user"),
    "a tenant's without a tenant": ("contacts", {"tenant_level": True}, "tenantId"),
    "an account that is too long": ("contacts", {"account": "a" * 201}, "externalIdentifier"),
    "a scope with a space": ("contacts", {"scopes": ("a b",)}, "scopes"),
    "a connection that needs no browser": ("own", {}, "without a browser"),
    "a connection without an address": ("bare", {}, "client id"),
}


@pytest.mark.parametrize("engine", ["sqlite"])
@pytest.mark.parametrize(("connection", "about", "told"), INVALID.values(), ids=INVALID.keys())
async def test_invalid_wish_is_told(place: Town, connection: str, about: dict[str, Any], told: str) -> None:
    """What cannot be connected is refused before there is a link, and says why."""
    wish: dict[str, Any] = {"user": ADA, "started_by": OPERATOR}
    with pytest.raises(ConnectInvalid, match=told):
        await place.connecting.start(connection, **(wish | about))
    with pytest.raises(ConnectionUnknown):
        await place.link("nothing")


TARGETS = (
    "https://evil.example/",
    "https://app.example.com/connections/",
    "https://app.example.com.evil.example/connections",
    "https://app.example.com@evil.example/connections",
    "//app.example.com/connections",
    "/connections",
    "javascript:alert(1)",
    "https://app.example.com/connections\r\nX: y",
    "https://app.example.com\\connections",
    f"{APP}/x",
)


@pytest.mark.parametrize("engine", ["sqlite"])
@pytest.mark.parametrize("target", TARGETS)
async def test_redirect_goes_only_where_an_operator_said(place: Town, target: str) -> None:
    """A redirect target is one of the list, or the connection's own, to the letter (RFC 9700 section 4.11)."""
    with pytest.raises(ConnectInvalid, match="redirectUrl"):
        await place.link(redirect_url=target)


async def test_default_that_is_no_address_is_refused(place: Town) -> None:
    """A connection's own target is an https address as well."""
    await place.connections.create(
        Connection(
            "bad", "Bad", client_id="c", authorization_url="https://p.example/a", token_url="https://p.example/t",
            extra={"defaultRedirectUrl": "javascript:alert(1)"},
        )
    )  # fmt: skip
    with pytest.raises(ConnectInvalid, match="https"):
        await place.link("bad")


@pytest.mark.parametrize(("connection", "wanted", "end"), [("contacts", APP, APP), ("app", None, f"{APP}/x")])
async def test_browser_ends_at_the_app(place: Town, connection: str, wanted: str | None, end: str) -> None:
    """After success the browser is sent to the app, with nothing of ours in the address."""
    link = await place.link(connection, redirect_url=wanted)
    async with Browser() as browser:
        page = await browser.answer(await browser.get(link.url), until="https://app.example.com")

    assert (303, end) == (page.status, page.url)


async def test_refused_link_is_offered_again(place: Town) -> None:
    """Who meets connection_required again and again gets the same link until somebody opens it."""
    key = TokenKey("contacts", ADA, None)
    first = await place.connecting.link_for(key, USER)
    second = await place.connecting.link_for(key, USER)
    assert first is not None
    assert first == second
    async with Browser() as browser:
        await browser.get(first.url)
    third = await place.connecting.link_for(key, USER)
    assert third is not None
    assert third != first


NO_LINK = {
    "a tenant's token": (TokenKey("contacts", None, "acme"), USER),
    "a connection without a browser": (TokenKey("own", ADA, None), USER),
    "no such connection": (TokenKey("nothing", ADA, None), USER),
    "another's user": (TokenKey("contacts", "grace@example.com", None), USER),
}


@pytest.mark.parametrize("engine", ["sqlite"])
@pytest.mark.parametrize(("key", "caller"), NO_LINK.values(), ids=NO_LINK.keys())
async def test_no_link_where_it_would_not_help(place: Town, key: TokenKey, caller: Caller) -> None:
    """Where a browser cannot help, or the caller may not begin, a refusal has no link."""
    assert await place.connecting.link_for(key, caller) is None


async def test_levels_are_kept_apart(place: Town) -> None:
    """A tenant's grant has no user but remembers who consented; a user's in a tenant has both."""
    async with Browser() as browser:
        tenant = await place.link(tenant="acme", tenant_level=True)
        await browser.answer(await browser.get(tenant.url))
        within = await place.link(tenant="acme")
        await browser.answer(await browser.get(within.url))
    owners = {(token.user, token.tenant, token.granted_by) for token in await place.tokens.list()}
    assert {("", "acme", ADA), (ADA, "acme", ADA)} == owners


async def test_user_enters_an_api_key(place: Town) -> None:
    """A connection of API keys asks for one: what cannot be one is asked for again, a good one is stored sealed."""
    link = await place.link("keys")
    async with Browser() as browser:
        page = await browser.get(link.url)
        again = await browser.answer(page, api_key="a b")
        done = await browser.answer(again, api_key=" CANARY-key ")

    assert (400, 200) == (again.status, done.status)
    stored = await place.token()
    assert stored is not None
    assert ("CANARY-key", None) == (stored.access_token, stored.expires_at)
    assert "CANARY" not in again.text + done.text


async def test_callback_is_at_the_connections_own_domain(place: Town) -> None:
    """`callbackDomain` moves link and callback together: the cookie belongs to one host."""
    await place.connections.create(
        Connection(
            "elsewhere", "E", client_id="c", authorization_url="https://p.example/a", token_url="https://p.example/t",
            extra={"callbackDomain": "connect.example.com"},
        )
    )  # fmt: skip
    link = await place.link("elsewhere")
    assert link.url.startswith("https://connect.example.com/connect/")
