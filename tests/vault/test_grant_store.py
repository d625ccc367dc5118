"""What becomes of a fresh grant: stored as granted, confirmed where the account changed, or given back."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gateway.vault.connection import Connection
from gateway.vault.stored_token import TokenDraft
from tests.vault.authority import Authority, authority
from tests.vault.connecting import ADA, Browser, Page, Town, town


@pytest.fixture
async def place(database_url: str) -> AsyncIterator[Town]:
    """The pages on a socket."""
    async with town(database_url) as made:
        yield made


@pytest.fixture
async def provider(place: Town) -> AsyncIterator[Authority]:
    """A provider that is found by discovery, and a connection to it."""
    async with authority() as made:
        await place.connections.create(
            Connection(
                "contacts",
                "Contacts",
                client_id="client",
                client_secret="s3cret",
                default_scopes=("read", "write"),
                extra={"discoveryUrl": made.url},
            )
        )
        yield made


async def connect(place: Town, browser: Browser, *scopes: str) -> Page:
    """Connect ADA's account, up to the page after the callback; without *scopes*, with those of the connection."""
    return await browser.answer(await browser.get((await place.link(scopes=scopes)).url))


async def rows(place: Town) -> dict[str, tuple[str, str | None]]:
    """Return account and refresh token of each stored token, by the scopes that it was asked for."""
    found = [await place.tokens.get(token.id) for token in await place.tokens.list()]
    return {" ".join(t.requested_scopes): (t.token_sub, t.refresh_token) for t in found if t is not None}


async def test_granted_scopes_are_kept_beside_the_asked(place: Town, provider: Authority) -> None:
    """A provider that grants less is believed: the token says so, the page tells what is missing, and whose it is."""
    provider.token = {"scope": "read"}
    async with Browser() as browser:
        page = await connect(place, browser)

    stored = await place.token()
    assert stored is not None
    assert (("read", "write"), ("read",), "account-1") == (
        stored.requested_scopes, stored.granted_scopes, stored.token_sub
    )  # fmt: skip
    assert "Not granted: write" in page.text


@pytest.mark.parametrize("says_yes", [True, False])
async def test_another_account_needs_a_yes(place: Town, provider: Authority, says_yes: bool) -> None:
    """Tokens of another account are stored after a yes, and the old grant is revoked; after a no, they are."""
    async with Browser() as browser:
        await connect(place, browser)
        provider.sub = "account-2"
        asked = await connect(place, browser)
        before = await place.token()
        done = await browser.answer(asked, answer="yes" if says_yes else "no")
        replayed = await browser.answer(asked, answer="yes")

    assert "another account" in asked.text
    assert before is not None
    assert "account-1" == before.token_sub
    stored = await place.token()
    assert stored is not None
    kept, revoked = ("account-2", "RT-1") if says_yes else ("account-1", "RT-2")
    assert kept == stored.token_sub
    assert [revoked] == [form["token"] for form in provider.revoked]
    assert ("Connected" if says_yes else "old account stays") in done.text
    assert 410 == replayed.status


async def test_same_account_needs_no_yes(place: Town, provider: Authority) -> None:
    """Connecting the same account again replaces its token, revokes nothing, and keeps a refresh token not renewed."""
    async with Browser() as browser:
        await connect(place, browser)
        provider.token = {"refresh_token": None}
        await connect(place, browser)

    stored = await place.token()
    assert stored is not None
    assert ("AT-2", "RT-1") == (stored.access_token, stored.refresh_token)
    assert [] == provider.revoked


async def test_unnamed_account_keeps_no_old_refresh_token(place: Town, provider: Authority) -> None:
    """Where the provider does not say whose account it is, an old refresh token may be another's: it goes."""
    provider.id_token = None
    async with Browser() as browser:
        await connect(place, browser)
        provider.token = {"refresh_token": None}
        await connect(place, browser)

    stored = await place.token()
    assert stored is not None
    assert ("AT-2", None) == (stored.access_token, stored.refresh_token)


async def test_uploaded_token_of_unknown_account_is_replaced(place: Town, provider: Authority) -> None:
    """A token whose account nobody knows is no reason to ask."""
    await place.tokens.put(TokenDraft("contacts", ADA, scopes=("read", "write"), access_token="old"))
    async with Browser() as browser:
        page = await connect(place, browser)

    assert "Connected" in page.text


@pytest.mark.parametrize("narrowed", [(), ("read", "write")], ids=["no other row", "a newer row granted the same"])
async def test_refresh_token_stays_when_same_scopes_are_connected_again(
    place: Town, provider: Authority, narrowed: tuple[str, ...]
) -> None:
    """A row keeps a refresh token that is not renewed, also beside a newer one that was granted the row's scopes."""
    provider.token = {"scope": "read"}
    async with Browser() as browser:
        await connect(place, browser, "read")
        if narrowed:
            await connect(place, browser, *narrowed)
        provider.token = {"scope": "read", "refresh_token": None}
        await connect(place, browser, "read")

    assert ("account-1", "RT-1") == (await rows(place))["read"]
    assert [] == provider.revoked


async def test_no_refresh_token_of_another_row_is_taken_over(place: Town, provider: Authority) -> None:
    """A first grant of its scopes has no refresh token of its own, whatever a row that was granted these has."""
    provider.token = {"scope": "read"}
    async with Browser() as browser:
        await connect(place, browser, "read", "write")
        provider.token = {"scope": "read", "refresh_token": None}
        await connect(place, browser, "read")

    assert {"read write": ("account-1", "RT-1"), "read": ("account-1", None)} == await rows(place)


async def test_replaced_grant_is_revoked_when_a_newer_row_was_granted_its_scopes(
    place: Town, provider: Authority
) -> None:
    """The grant of another account that has lost its row is revoked, and no other."""
    provider.token = {"scope": "read"}
    async with Browser() as browser:
        await connect(place, browser, "read")
        await connect(place, browser, "read", "write")
        provider.sub = "account-2"
        await browser.answer(await connect(place, browser, "read"))

    assert {"read": ("account-2", "RT-3"), "read write": ("account-1", "RT-2")} == await rows(place)
    assert ["RT-1"] == [form["token"] for form in provider.revoked]


# Row "read" is account-1's, the newer row "write" account-2's: scopes, account, and whether there is a question.
ASKED = {
    "its own account, beside a newer row of another": ("read", "account-1", False),
    "another account, which has the newest row": ("read", "account-2", True),
    "the newest row's own account": ("write", "account-2", False),
    "new scopes, the newest row's account": ("delete", "account-2", False),
    "new scopes, another account than the newest row's": ("delete", "account-1", True),
}


@pytest.mark.parametrize(("scope", "account", "is_asked"), ASKED.values(), ids=ASKED.keys())
async def test_question_is_about_the_row_that_would_be_replaced(
    place: Town, provider: Authority, scope: str, account: str, is_asked: bool
) -> None:
    """The account is compared with the one that loses its row; for a new row, with the subject's newest."""
    async with Browser() as browser:
        for provider.sub, scopes in (("account-1", "read"), ("account-2", "write")):
            page = await connect(place, browser, scopes)
            if "another account" in page.text:
                await browser.answer(page)
        before = await rows(place)
        provider.sub = account
        page = await connect(place, browser, scope)

    assert {"read": ("account-1", "RT-1"), "write": ("account-2", "RT-2")} == before
    assert is_asked == ("another account" in page.text)
    assert (before if is_asked else before | {scope: (account, "RT-3")}) == await rows(place)
    assert [] == provider.revoked
