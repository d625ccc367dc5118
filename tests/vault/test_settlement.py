"""How attempts end where something fails: what the provider issued is revoked, and the page tells what is so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text

from gateway.store.engine import DatabasePaused
from gateway.vault.attempts import STEP_SECONDS
from gateway.vault.connection import Connection
from gateway.vault.removal import Removal
from tests.vault.authority import Authority, authority
from tests.vault.connecting import ADA, Browser, Page, Town, town

FULL = {
    "sqlite": "CREATE TRIGGER full_{table} BEFORE {event} ON {table} BEGIN SELECT RAISE(ABORT, 'disk full'); END",
    "postgresql": "CREATE TRIGGER full_{table} BEFORE {event} ON {table} FOR EACH ROW EXECUTE FUNCTION disk_full()",
}
FUNCTION = "CREATE FUNCTION disk_full() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'disk full'; END$$"
SPACE = {"sqlite": "DROP TRIGGER full_{table}", "postgresql": "DROP TRIGGER full_{table} ON {table}"}


@pytest.fixture
async def place(database_url: str) -> AsyncIterator[Town]:
    """The pages on a socket."""
    async with town(database_url) as made:
        yield made


def contacts(provider: Authority) -> Connection:
    """The connection to *provider*."""
    return Connection(
        "contacts", "Contacts", client_id="client", client_secret="s3cret", extra={"discoveryUrl": provider.url}
    )


@pytest.fixture
async def provider(place: Town) -> AsyncIterator[Authority]:
    """A provider that is found by discovery, and a connection to it."""
    async with authority() as made:
        await place.connections.create(contacts(made))
        yield made


async def execute(place: Town, *statements: str) -> None:
    """Change the database as its operator, when it is not left alone."""
    for _ in range(100):
        try:
            async with place.store.write() as db:
                for statement in statements:
                    await db.execute(text(statement))
        except DatabasePaused:
            await asyncio.sleep(0.1)
        else:
            return
    raise AssertionError("the database is left alone for more than ten seconds")


async def fill_up(place: Town, engine: str, **events: str) -> None:
    """Let the database refuse *events* (table="INSERT") from now on."""
    made = [FULL[engine].format(table=table, event=event) for table, event in events.items()]
    await execute(place, *([FUNCTION] if engine == "postgresql" else []), *made)


async def connect(place: Town, browser: Browser) -> Page:
    """Connect ADA's account, up to the page after the callback."""
    return await browser.answer(await browser.get((await place.link()).url))


def revoked(provider: Authority) -> list[str]:
    """Return what was revoked, in order."""
    return [form["token"] for form in provider.revoked]


@pytest.mark.parametrize("is_made_again", [False, True])
async def test_grant_is_revoked_when_its_connection_is_deleted_meanwhile(
    place: Town, provider: Authority, is_made_again: bool
) -> None:
    """What a provider issues while the connection is deleted is revoked there; a namesake made meanwhile gets none."""
    provider.gate = asyncio.Event()
    removal = Removal(place.store, place.tokens, place.connections, clock=place.clock)
    async with Browser() as browser:
        connecting = asyncio.create_task(connect(place, browser))
        await provider.entered.wait()
        await removal.connection("contacts")
        if is_made_again:
            await place.connections.create(contacts(provider))
        provider.gate.set()
        page = await connecting

    assert (410, True) == (page.status, "This connection was removed" in page.text)
    assert ["RT-1"] == revoked(provider)
    assert await place.token() is None


async def test_grant_is_revoked_when_the_database_takes_no_token(place: Town, provider: Authority, engine: str) -> None:
    """A token that cannot be stored is revoked, the attempt has failed and says so, and a new link works later."""
    await fill_up(place, engine, tokens="INSERT")
    async with Browser() as browser:
        link = await place.link()
        page = await browser.answer(await browser.get(link.url))
        status = await place.connecting.links.status(link.id)
        await execute(place, SPACE[engine].format(table="tokens"))
        again = await connect(place, browser)

    assert "The gateway could not keep the access" in page.text
    assert ("failed", ["RT-1"]) == (status, revoked(provider))
    assert "not_stored" in [fields.get("error") for event, fields in place.recorded if event == "connect_ended"]
    assert "Connected" in again.text


async def test_grant_is_revoked_when_the_database_cannot_hold_it(place: Town, provider: Authority, engine: str) -> None:
    """Tokens of another account that cannot be kept for a confirmation are revoked; the stored ones stay."""
    async with Browser() as browser:
        await connect(place, browser)
        provider.sub = "account-2"
        link = await place.link()
        asked = await browser.get(link.url)
        provider.gate, provider.entered = asyncio.Event(), asyncio.Event()
        answering = asyncio.create_task(browser.answer(asked))
        await provider.entered.wait()
        await fill_up(place, engine, connect_attempts="UPDATE")
        provider.gate.set()
        page = await answering
        await execute(place, SPACE[engine].format(table="connect_attempts"))
        await browser.get(link.wait_url)
        status = await place.connecting.links.status(link.id)
        later = await browser.get(page.url)

    assert "being connected" in page.text
    assert ("failed", ["RT-2"]) == (status, revoked(provider))
    assert "The gateway could not keep the access" in later.text
    stored = await place.token()
    assert stored is not None
    assert "account-1" == stored.token_sub


async def test_attempt_is_connected_when_only_its_own_row_cannot_be_written(
    place: Town, provider: Authority, engine: str
) -> None:
    """A token that is stored is told as connected once the attempt's row can be written; nothing is revoked."""
    provider.gate = asyncio.Event()
    async with Browser() as browser:
        link = await place.link()
        asked = await browser.get(link.url)
        answering = asyncio.create_task(browser.answer(asked))
        await provider.entered.wait()
        await fill_up(place, engine, connect_attempts="UPDATE")
        provider.gate.set()
        page = await answering
        await execute(place, SPACE[engine].format(table="connect_attempts"))
        await browser.get(link.wait_url)
        status = await place.connecting.links.status(link.id)

    assert "Reload this page" in page.text
    assert ("connected", []) == (status, revoked(provider))
    stored = await place.token()
    assert stored is not None
    assert ADA == stored.user


async def leave_unconfirmed(place: Town, provider: Authority, browser: Browser) -> None:
    """Connect account-1, and then account-2 up to the page that asks for a yes, which nobody answers in time."""
    await connect(place, browser)
    provider.sub = "account-2"
    assert "another account" in (await connect(place, browser)).text
    place.clock.now += STEP_SECONDS


async def test_unconfirmed_grant_is_revoked(place: Town, provider: Authority) -> None:
    """Tokens of a confirmation that nobody answered are revoked with the next link; the stored account stays."""
    async with Browser() as browser:
        await leave_unconfirmed(place, provider, browser)
        assert [] == revoked(provider)
        await place.link()
        await place.connecting.close()

    assert ["RT-2"] == revoked(provider)
    stored = await place.token()
    assert stored is not None
    assert "account-1" == stored.token_sub


async def test_link_does_not_wait_for_revocations(place: Town, provider: Authority) -> None:
    """A provider that does not answer a revocation keeps nobody from a link."""
    async with Browser() as browser:
        await leave_unconfirmed(place, provider, browser)
        provider.revocation_gate = asyncio.Event()
        await place.link()
        assert [] == [event for event, _ in place.recorded if event == "revocation_outcome"]
        provider.revocation_gate.set()
        await place.connecting.close()

    assert ["RT-2"] == revoked(provider)


async def test_failing_revocation_is_recorded(place: Town, provider: Authority) -> None:
    """A provider that refuses the revocation is told in the record, once; it is not asked again."""
    async with Browser() as browser:
        await leave_unconfirmed(place, provider, browser)
        provider.revocation_status = 503
        for _ in range(2):
            await place.link()
            await place.connecting.close()

    outcomes = [fields["outcome"] for event, fields in place.recorded if event == "revocation_outcome"]
    assert ["status_503"] == outcomes


async def test_unconfirmed_grant_is_left_when_its_account_was_connected_since(place: Town, provider: Authority) -> None:
    """Revoking it would end the newer grant of the same account at providers that keep one per user and client."""
    async with Browser() as browser:
        await leave_unconfirmed(place, provider, browser)
        place.clock.now -= STEP_SECONDS / 2
        await browser.answer(await connect(place, browser))
        place.clock.now += STEP_SECONDS
        await place.link()
        await place.connecting.close()

    assert ["RT-1"] == revoked(provider)


async def test_page_tells_what_is_so_when_the_database_is_away(place: Town, provider: Authority) -> None:
    """
    Without its table nothing can be read either: the grant is revoked, the page says that it cannot tell, and the same
    page tells the failure when the database is back.
    """
    provider.gate = asyncio.Event()
    async with Browser() as browser:
        link = await place.link()
        asked = await browser.get(link.url)
        answering = asyncio.create_task(browser.answer(asked))
        await provider.entered.wait()
        await execute(place, "ALTER TABLE connect_attempts RENAME TO elsewhere")
        provider.gate.set()
        page = await answering
        await execute(place, "ALTER TABLE elsewhere RENAME TO connect_attempts")
        await browser.get(link.wait_url)
        later = await browser.get(page.url)

    assert (503, "5") == (page.status, page.headers.get("Retry-After"))
    assert "The gateway cannot tell at the moment" in page.text
    assert "The gateway could not keep the access" in later.text
    assert ["RT-1"] == revoked(provider)
    assert await place.token() is None


async def test_unconfirmed_grant_is_revoked_with_its_connection(place: Town, provider: Authority) -> None:
    """Tokens that wait for a confirmation are revoked when their connection is deleted, before their time is over."""
    removal = Removal(place.store, place.tokens, place.connections, clock=place.clock)
    removal.revoke, removal.forget = place.revocation.revoke_stored, place.connecting.forget
    async with Browser() as browser:
        await connect(place, browser)
        provider.sub = "account-2"
        asked = await connect(place, browser)
        removed = await removal.connection("contacts")
        answered = await browser.answer(asked)
        await place.connecting.close()

    assert (1, 1) == (removed.deleted, removed.revoked)
    assert {"RT-1", "RT-2"} == set(revoked(provider))
    assert 404 == answered.status
