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


async def connect(place: Town, browser: Browser) -> Page:
    """Connect ADA's account, up to the page after the callback."""
    return await browser.answer(await browser.get((await place.link()).url))


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
