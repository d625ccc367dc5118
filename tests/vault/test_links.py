"""Who may have a link made, for what, and where it leads in the end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.demo.provider import CONTACTS_SCOPE
from gateway.errors import ConnectionUnknown, SubjectNotAllowed
from gateway.models import Caller, TokenKey
from gateway.vault.connection import Connection
from gateway.vault.links import ConnectInvalid
from gateway.vault.stored_token import TokenDraft
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
    bad = Connection(
        "bad", "Bad", client_id="c", authorization_url="https://p.example/a", token_url="https://p.example/t",
        extra={"defaultRedirectUrl": "javascript:alert(1)"},
    )  # fmt: skip
    async with place.connections._store.write() as db:
        await place.connections._insert(db, bad)  # as an earlier release took it
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


LACKING: dict[str, tuple[tuple[str, ...] | None, dict[str, Any] | None, tuple[str, ...], tuple[str, ...] | None]] = {
    "the latest token's scopes and the missing": (None, {"scopes": ("b",)}, ("m",), ("b", "m")),
    "a missing one that was asked for and not granted": (
        None,
        {"scopes": ("b", "m"), "granted": ("b",)},
        ("m",),
        ("b", "m"),
    ),
    "a missing one that was granted, as far as is known": (None, {"scopes": ("b", "m")}, ("m",), ("b", "m")),
    "a token whose scopes nobody knows": (None, {"scopes": ()}, ("m",), (CONTACTS_SCOPE, "m", "openid")),
    "a token that has gone meanwhile": (None, None, ("m",), (CONTACTS_SCOPE, "m", "openid")),
    "not said which, and less was granted than asked for": (
        None,
        {"scopes": ("b", "m"), "granted": ("b",)},
        (),
        ("b", "m"),
    ),
    "not said which, and all was granted": (None, {"scopes": ("b",)}, (), None),
    "a route's exact scopes, of which the missing is one": (
        ("b", "m"),
        {"scopes": ("b", "m"), "granted": ("b",)},
        ("m",),
        ("b", "m"),
    ),
    "a route's exact scopes without the missing": (("b",), {"scopes": ("b",)}, ("m",), None),
    "a route's exact scopes with one of two missing": (("b", "m"), {"scopes": ("b", "m")}, ("m", "n"), None),
    "a scope that no connection takes": (None, {"scopes": ("b",)}, ("with space",), None),
    "more than a connection takes": (None, {"scopes": tuple(f"s{n}" for n in range(200))}, ("m",), None),
}


@pytest.mark.parametrize(("exact", "stored", "missing", "asked"), LACKING.values(), ids=LACKING.keys())
async def test_link_for_missing_scopes_asks_for_a_grant_that_the_call_finds(
    place: Town,
    exact: tuple[str, ...] | None,
    stored: dict[str, Any] | None,
    missing: tuple[str, ...],
    asked: tuple[str, ...] | None,
) -> None:
    """
    The link asks for the scopes of a grant which the same key finds once it is there; where there is none, no link.
    """
    key = TokenKey("contacts", ADA, None, exact)
    if stored is not None:
        granted = stored.get("granted")
        draft = TokenDraft("contacts", ADA, scopes=stored["scopes"], access_token="narrow", granted_scopes=granted)
        await place.tokens.put_consented(draft)
    link = await place.connecting.link_for(key, USER, missing_scopes=missing)
    if asked is None:
        assert link is None
        return
    assert link is not None
    again = await place.connecting.link_for(key, USER, missing_scopes=missing)
    view = await place.connecting.open(link.url.rpartition("/")[2], browser="", binds=False)
    assert (link, asked) == (again, view.attempt.scopes)

    await place.tokens.put_consented(TokenDraft("contacts", ADA, scopes=asked, access_token="wide"))
    found = await place.tokens.find(key)
    assert found is not None
    assert "wide" == found.access_token


async def test_other_missing_scopes_are_another_link(place: Town) -> None:
    """A link is for the scopes that its page shows: another wish is another link."""
    key = TokenKey("contacts", ADA, None)
    links = [
        await place.connecting.link_for(key, USER, missing_scopes=missing) for missing in (None, ("m",), ("n",), ("m",))
    ]
    assert links[1] == links[3]
    assert 3 == len({link.url for link in links if link is not None})


async def test_api_key_that_lacks_rights_is_entered_again(place: Town) -> None:
    """Scopes of an API key are nobody's to ask for: the link leads to the place of the key in use."""
    await place.tokens.put(TokenDraft("keys", ADA, access_token="weak"))
    link = await place.connecting.link_for(TokenKey("keys", ADA, None), USER, missing_scopes=("m",))
    assert link is not None
    async with Browser() as browser:
        await browser.answer(await browser.get(link.url), api_key="strong")
    stored = await place.token()
    assert stored is not None
    assert ("strong", ()) == (stored.access_token, stored.requested_scopes)


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
