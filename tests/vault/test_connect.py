"""The whole way from a link to a stored token, and every way to leave it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

import pytest
import structlog

from gateway.demo.provider import CONTACTS_SCOPE, DemoProvider
from gateway.vault.connection import ConnectionInvalid
from gateway.vault.links import CALLBACK_PATH
from tests.vault.connecting import ADA, Browser, Town, contacts, demo_provider, query_of, town


@pytest.fixture
async def place(database_url: str) -> AsyncIterator[Town]:
    """The pages on a socket."""
    async with town(database_url) as made:
        yield made


@pytest.fixture
async def provider(place: Town) -> AsyncIterator[DemoProvider]:
    """The demo provider, and a connection to it."""
    async with demo_provider(place) as (made, url):
        await place.connections.create(contacts(url))
        yield made


async def test_user_connects_an_account(place: Town, provider: DemoProvider) -> None:
    """A link leads over our page and the provider's to a stored token, and the browser ends at a clean address."""
    link = await place.link()
    async with Browser() as browser:
        asked = await browser.get(link.url)
        done = await browser.answer(asked)

    assert (200, 200) == (asked.status, done.status)
    assert ADA in asked.text
    assert CONTACTS_SCOPE in asked.text
    assert "Connected" in done.text
    assert f"{place.url}/connect/done/{link.id}" == done.url
    stored = await place.token()
    assert stored is not None
    assert (ADA, "", "contacts", ADA) == (stored.user, stored.tenant, stored.connection, stored.granted_by)
    assert (CONTACTS_SCOPE, "openid") == stored.granted_scopes
    assert stored.refresh_token is not None
    assert "connected" == await place.connecting.links.status(link.id)
    assert 1 == provider.counts.code_exchanges
    assert any(CALLBACK_PATH in hop for hop in browser.hops)


async def test_user_says_no_on_our_page(place: Town, provider: DemoProvider) -> None:
    """A cancel before consent ends the attempt; the provider is never asked."""
    link = await place.link()
    async with Browser() as browser:
        done = await browser.answer(await browser.get(link.url), answer="no")
        again = await browser.get(link.url)

    assert "You cancelled" in done.text
    assert "You cancelled" in again.text
    assert "refused" == await place.connecting.links.status(link.id)
    assert 0 == provider.counts.logins
    assert await place.token() is None


async def test_link_belongs_to_the_first_browser(place: Town, provider: DemoProvider) -> None:
    """Whoever has the link later, in another browser, is refused: before consent, and after it."""
    link = await place.link()
    async with Browser() as first, Browser() as second:
        page = await first.get(link.url)
        late = await second.get(link.url)
        done = await first.answer(page)
        later = await second.get(link.url)
        peek = await second.get(done.url)

    assert [403, 403, 403] == [late.status, later.status, peek.status]
    assert "another browser" in late.text
    assert ADA not in late.text + later.text + peek.text
    assert "connected" == await place.connecting.links.status(link.id)


PREVIEWS = {
    "a chat's preview": {},
    "a prefetch": {"Sec-Fetch-Mode": "navigate", "Sec-Purpose": "prefetch;prerender"},
    "a script's fetch": {"Sec-Fetch-Mode": "cors"},
}


@pytest.mark.parametrize("headers", PREVIEWS.values(), ids=PREVIEWS.keys())
async def test_preview_takes_nothing(place: Town, provider: DemoProvider, headers: dict[str, str]) -> None:
    """What looks at a link without a person leaves it to the browser that opens it."""
    link = await place.link()
    async with Browser() as bot, Browser() as browser:
        assert 200 == (await bot.get(link.url, headers=headers)).status
        done = await browser.answer(await browser.get(link.url))

    assert "Connected" in done.text


async def test_link_works_once(place: Town, provider: DemoProvider) -> None:
    """After the end, the link shows its own browser how it ended, and its old form is not taken again."""
    link = await place.link()
    async with Browser() as browser:
        page = await browser.get(link.url)
        await browser.answer(page)
        again = await browser.get(link.url)
        replayed = await browser.answer(page)

    assert (200, f"/connect/done/{link.id}") == (again.status, again.url.removeprefix(place.url))
    assert 410 == replayed.status
    assert 1 == provider.counts.code_exchanges


async def test_link_expires(place: Town, provider: DemoProvider) -> None:
    """Ten minutes after it was made, nobody can begin with a link."""
    link = await place.link()
    place.clock.now += 600
    async with Browser() as browser:
        page = await browser.get(link.url)

    assert (410, "expired") == (page.status, await place.connecting.links.status(link.id))


async def test_way_back_leads_to_the_provider_again(place: Town, provider: DemoProvider) -> None:
    """Who comes back from the provider without an answer may go again; the state of the first time is worth nothing."""
    link = await place.link()
    callback = f"{place.url}{CALLBACK_PATH}"
    async with Browser() as browser:
        first = await browser.answer(await browser.get(link.url), until=callback)
        second = await browser.answer(await browser.get(link.url), until=callback)
        stale = await browser.get(first.url)
        done = await browser.get(second.url)

    assert (400, 200) == (stale.status, done.status)
    assert "Connected" in done.text


HOSTILE: dict[str, tuple[dict[str, str | None], str]] = {
    "no state": ({"state": None}, "answer_malformed"),
    "a guessed state": ({"state": "A" * 43}, "state_unknown"),
    "a state of another form": ({"state": "x"}, "answer_malformed"),
    "a state with a line break": ({"state": "A" * 42 + "\r\n"}, "answer_malformed"),
    "neither code nor error": ({"code": None}, "answer_malformed"),
    "a code of 5 KB": ({"code": "A" * 5000}, "answer_malformed"),
    "a code beyond ASCII": ({"code": "é"}, "answer_malformed"),
}


@pytest.mark.parametrize(("changes", "reason"), HOSTILE.values(), ids=HOSTILE.keys())
async def test_hostile_callback_changes_nothing(
    place: Town, provider: DemoProvider, changes: dict[str, str | None], reason: str
) -> None:
    """What is no answer to our question is refused at a clean address; the true answer still counts after it."""
    link = await place.link()
    async with Browser() as browser:
        true = await browser.answer(await browser.get(link.url), until=f"{place.url}{CALLBACK_PATH}")
        query = dict(parse_qsl(query_of(true.url))) | changes
        forged = urlencode({name: value for name, value in query.items() if value is not None})
        page = await browser.get(f"{place.url}{CALLBACK_PATH}?{forged}")
        assert f"{place.url}/connect/stopped/{reason}" == page.url
        assert await place.token() is None
        done = await browser.get(true.url)

    assert "Connected" in done.text


async def test_parameter_that_comes_twice_is_refused(place: Town, provider: DemoProvider) -> None:
    """An answer with two codes, states, or issuers is none."""
    link = await place.link()
    async with Browser() as browser:
        true = await browser.answer(await browser.get(link.url), until=f"{place.url}{CALLBACK_PATH}")
        for name in ("code", "state", "iss", "error"):
            page = await browser.get(f"{true.url}&{name}=a&{name}=b")
            assert page.url.endswith("/connect/stopped/answer_malformed")


async def test_callback_in_another_browser_is_refused(place: Town, provider: DemoProvider) -> None:
    """The answer counts in the browser that asked: a stolen callback stores nothing, and costs nothing."""
    link = await place.link()
    async with Browser() as browser, Browser() as thief:
        true = await browser.answer(await browser.get(link.url), until=f"{place.url}{CALLBACK_PATH}")
        stolen = await thief.get(true.url)
        assert (403, 0) == (stolen.status, provider.counts.code_exchanges)
        done = await browser.get(true.url)

    assert "Connected" in done.text


async def test_replayed_callback_is_refused(place: Town, provider: DemoProvider) -> None:
    """A callback counts once; its replay, even at the same time, exchanges nothing."""
    link = await place.link()
    async with Browser() as browser:
        true = await browser.answer(await browser.get(link.url), until=f"{place.url}{CALLBACK_PATH}")
        pages = await asyncio.gather(*(browser.get(true.url) for _ in range(5)))
        late = await browser.get(true.url)

    assert [200, 400, 400, 400, 400] == sorted(page.status for page in pages)
    assert late.url.endswith("/connect/stopped/state_used")
    assert (1, 0) == (provider.counts.code_exchanges, provider.counts.reuses)


async def test_late_callback_is_refused(place: Town, provider: DemoProvider) -> None:
    """Ten minutes after consent the state is worth nothing."""
    link = await place.link()
    async with Browser() as browser:
        true = await browser.answer(await browser.get(link.url), until=f"{place.url}{CALLBACK_PATH}")
        place.clock.now += 600
        late = await browser.get(true.url)

    assert (410, 0) == (late.status, provider.counts.code_exchanges)


async def test_injected_code_is_refused_by_pkce(place: Town, provider: DemoProvider) -> None:
    """The code of somebody else's attempt, put into this browser's callback, brings no token."""
    async with Browser() as attacker, Browser() as victim:
        theirs = await attacker.answer(
            await attacker.get((await place.link(user="mallory")).url), until=f"{place.url}{CALLBACK_PATH}"
        )
        link = await place.link()
        own = await victim.answer(await victim.get(link.url), until=f"{place.url}{CALLBACK_PATH}")
        code = dict(parse_qsl(query_of(theirs.url)))["code"]
        query = urlencode(dict(parse_qsl(query_of(own.url))) | {"code": code})
        page = await victim.get(f"{place.url}{CALLBACK_PATH}?{query}")

    assert "It did not work" in page.text
    assert "invalid_grant" in page.text
    assert "failed" == await place.connecting.links.status(link.id)
    assert await place.token() is None


ERRORS = {
    "the user declines": ("access_denied", "declined at the provider", "refused"),
    "a scope is not known": ("invalid_scope", "does not know these permissions", "failed"),
    "the provider is down": ("temporarily_unavailable", "could not complete", "failed"),
    "words of the provider's own": ("<script>CANARY</script>", "unknown_error", "failed"),
}


@pytest.mark.parametrize(("error", "told", "status"), ERRORS.values(), ids=ERRORS.keys())
async def test_errors_are_pages(place: Town, provider: DemoProvider, error: str, told: str, status: str) -> None:
    """A refusal at the provider is told in our words, and nothing that the provider wrote is shown."""
    link = await place.link()
    async with Browser() as browser:
        true = await browser.answer(await browser.get(link.url), until=f"{place.url}{CALLBACK_PATH}")
        sent = dict(parse_qsl(query_of(true.url)))
        query = urlencode({"state": sent["state"], "error": error, "error_description": "CANARY", "iss": sent["iss"]})
        page = await browser.get(f"{place.url}{CALLBACK_PATH}?{query}")

    assert told in page.text
    assert "CANARY" not in page.text
    assert status == await place.connecting.links.status(link.id)


@pytest.mark.parametrize("error", [None, "access_denied"])
async def test_answer_of_another_issuer_is_refused(place: Town, provider: DemoProvider, error: str | None) -> None:
    """`iss` is compared, in error answers too; the code is not sent anywhere (RFC 9207)."""
    link = await place.link()
    async with Browser() as browser:
        true = await browser.answer(await browser.get(link.url), until=f"{place.url}{CALLBACK_PATH}")
        query = dict(parse_qsl(query_of(true.url))) | {"iss": "https://evil.example"}
        if error is not None:
            query = {"state": query["state"], "iss": query["iss"], "error": error}
        page = await browser.get(f"{place.url}{CALLBACK_PATH}?{urlencode(query)}")

    assert "right place" in page.text
    assert 0 == provider.counts.code_exchanges
    assert "failed" == await place.connecting.links.status(link.id)


FORMS: dict[str, dict[str, str] | None] = {
    "a form of another site": {"Origin": "https://evil.example"},
    "a cross-site form": {"Origin": "null", "Sec-Fetch-Site": "cross-site"},
    "a wrong token": None,
}


@pytest.mark.parametrize("headers", FORMS.values(), ids=FORMS.keys())
async def test_forged_form_is_refused(place: Town, provider: DemoProvider, headers: dict[str, str] | None) -> None:
    """Consent is given on our own page, in this browser, or not at all."""
    link = await place.link()
    async with Browser() as browser:
        page = await browser.get(link.url)
        more = {"csrf": "A" * 43} if headers is None else {}
        forged = await browser.answer(page, headers=headers, **more)
        assert 403 == forged.status
        async with Browser() as other:
            assert 403 == (await other.answer(page)).status

    assert "open" == await place.connecting.links.status(link.id)


async def test_pages_are_locked_down(place: Town, provider: DemoProvider) -> None:
    """Every page forbids scripts, frames, storage and Referers, and its cookie is no script's."""
    link = await place.link()
    async with Browser() as browser:
        page = await browser.get(link.url)
        pages = [page, await browser.get(f"{place.url}/connect/nothing"), await browser.answer(page)]

    for each in pages:
        policy = each.headers["Content-Security-Policy"]
        assert "default-src 'none'; style-src 'sha256-" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert ("no-store", "no-referrer", "nosniff") == tuple(
            each.headers[name] for name in ("Cache-Control", "Referrer-Policy", "X-Content-Type-Options")
        )
    cookie = page.headers["Set-Cookie"]
    assert "HttpOnly; SameSite=Lax" in cookie
    assert "Domain" not in cookie


async def test_names_are_escaped(place: Town, provider: DemoProvider) -> None:
    """A user's name is text, whatever it looks like."""
    async with Browser() as browser:
        page = await browser.get((await place.link(user="<script>alert(1)</script>")).url)

    assert "<script" not in page.text
    assert "&lt;script&gt;" in page.text


async def test_agent_waits_for_the_outcome(place: Town, provider: DemoProvider) -> None:
    """The wait address answers once the user is done."""
    link = await place.link()
    async with Browser() as browser, Browser() as agent:
        waiting = asyncio.create_task(agent.get(link.wait_url, headers={}))
        await browser.answer(await browser.get(link.url))
        page = await waiting

    assert (200, '{"status":"connected"}') == (page.status, page.text)


async def test_wait_ends_without_an_outcome(database_url: str) -> None:
    """A wait is bounded; an address that nobody knows is told like an expired one."""
    async with town(database_url, wait_seconds=0.02, poll_seconds=0.01) as place, demo_provider(place) as (_, url):
        await place.connections.create(contacts(url))
        link = await place.link()
        async with Browser() as agent:
            pending = await agent.get(link.wait_url, headers={})
            unknown = await agent.get(f"{place.url}/connect/{'A' * 43}/wait", headers={})
            place.clock.now += 600
            expired = await agent.get(link.wait_url, headers={})

    assert ['{"status":"pending"}', '{"status":"expired"}', '{"status":"expired"}'] == [
        pending.text, unknown.text, expired.text
    ]  # fmt: skip


@pytest.mark.parametrize("engine", ["sqlite"])
async def test_secrets_stay_out_of_logs_and_the_database(
    place: Town, provider: DemoProvider, database_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither link, state, code, verifier, cookie nor token is in a log line, nor in the database in clear."""
    structlog.reset_defaults()  # a command's test may have sent the log elsewhere
    link = await place.link()
    async with Browser() as browser:
        done = await browser.answer(await browser.get(link.url))
    stored = await place.token()
    assert "Connected" in done.text
    assert stored is not None
    told = capsys.readouterr()
    content = b"".join(path.read_bytes() for path in database_path.parent.glob("gateway.db*"))
    asked = dict(parse_qsl(query_of(next(hop for hop in browser.hops if "/authorize" in hop))))
    came = dict(parse_qsl(query_of(next(hop for hop in browser.hops if CALLBACK_PATH in hop))))
    secrets = [link.url.rpartition("/")[2], asked["state"], came["code"], stored.access_token, stored.refresh_token]
    for secret in secrets:
        assert secret is not None
        assert secret not in told.out + told.err + repr(link)
        assert secret.encode() not in content
    assert link.id in told.out + told.err


async def test_longest_callback_domain_can_be_stored(place: Town, provider: DemoProvider) -> None:
    """A callback URL of the longest domain that a connection may have fits into its column, on either engine."""
    domain = "gateway." * 31 + "gates:65535"  # 253 characters, as many as a name has (RFC 1035), and a port
    await place.connections.update("contacts", lambda now: replace(now, extra={"callbackDomain": domain}))
    secret = (await place.link()).url.rpartition("/")[2]
    url = await place.connecting.consent(secret, browser="browser")

    assert f"https://{domain}{CALLBACK_PATH}" == dict(parse_qsl(query_of(url)))["redirect_uri"]


async def test_callback_domain_that_is_too_long_is_refused(place: Town, provider: DemoProvider) -> None:
    """A longer one is refused with its name, and changes nothing."""
    stored = await place.connections.load("contacts")
    with pytest.raises(ConnectionInvalid, match="callbackDomain"):
        await place.connections.update("contacts", lambda now: replace(now, extra={"callbackDomain": "a" * 2040}))

    assert stored == await place.connections.load("contacts")
