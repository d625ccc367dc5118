"""What a browser is told around a page."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

import pytest

from gateway.models import PageRequest
from gateway.vault import connect, grant_store, page_texts, pages
from gateway.vault.links import CALLBACK_PATH
from gateway.vault.pages import Pages
from tests.vault.authority import authority
from tests.vault.connecting import Browser, contacts, demo_provider, query_of, town

SECRET = "A" * 43

PATHS: dict[str, tuple[str, str, int]] = {
    "nothing below the prefix": ("GET", "/connect/", 404),
    "no secret": ("GET", "/connect/abc", 404),
    "a slash too many": ("GET", f"/connect/{SECRET}/", 404),
    "an unknown link": ("GET", f"/connect/{SECRET}", 404),
    "an unknown attempt": ("GET", f"/connect/done/{'0' * 32}", 404),
    "an unknown reason": ("GET", "/connect/stopped/%3Cscript%3E", 404),
    "a reason": ("GET", "/connect/stopped/state_used", 400),
    "another method": ("PUT", f"/connect/{SECRET}", 405),
    "a callback that is posted": ("POST", CALLBACK_PATH, 405),
    "a form without a cookie": ("POST", f"/connect/{SECRET}", 403),
    "a confirmation of nothing": ("GET", f"/connect/confirm/{'0' * 32}", 404),
}


@pytest.mark.parametrize(("method", "path", "status"), PATHS.values(), ids=PATHS.keys())
async def test_paths(database_url: str, method: str, path: str, status: int) -> None:
    """Each path has its answer, and every answer is a page."""
    async with town(database_url) as place:
        made = Pages(place.connecting, base_url=lambda: place.url, random_bytes=os.urandom)
        answer = await made.answer(PageRequest(method, path))

    assert status == answer.status
    assert b"<h1>" in answer.body
    assert b"script" not in answer.body


def test_what_is_taken() -> None:
    """Only the fixed prefixes are taken from the traffic listener."""
    taken = ("/connect/x", CALLBACK_PATH)
    left = ("/connect", "/connected", f"{CALLBACK_PATH}/x", "/", "/v1/outbound/oauth")
    assert [True] * 2 + [False] * 5 == [Pages.takes(path) for path in taken + left]


async def test_cookie_has_its_prefix_over_https(database_url: str) -> None:
    """Over https the cookie is Secure and __Host-; one without the prefix is not looked at."""
    async with town(database_url) as place, demo_provider(place) as (_, url):
        await place.connections.create(contacts(url))
        path = "/connect/" + (await place.link()).url.rpartition("/")[2]
        made = Pages(place.connecting, base_url=lambda: "https://g.example", random_bytes=os.urandom)
        answer = await made.answer(PageRequest("GET", path, headers={"cookie": f"gateway-connect={SECRET}"}))

    cookie = dict(answer.headers)["Set-Cookie"]
    assert cookie.startswith("__Host-gateway-connect=")
    assert "; Path=/" in cookie
    assert cookie.endswith("; Secure")


async def test_form_may_lead_to_the_provider(database_url: str) -> None:
    """The policy lets a form's answer lead to any https, and to the provider's own plain http origin; no further."""
    async with town(database_url) as place, demo_provider(place) as (_, url):
        await place.connections.create(contacts(url))
        async with Browser() as browser:
            page = await browser.get((await place.link()).url)

    assert f"form-action 'self' https: {url};" in page.headers["Content-Security-Policy"]


async def test_exchange_outlives_the_browser(database_url: str) -> None:
    """A browser that goes away during the exchange costs no grant."""
    async with town(database_url) as place, authority() as provider:
        await place.connections.create(contacts(provider.url, client_id="client", extra={"discoveryUrl": provider.url}))
        link = await place.link()
        url = await place.connecting.consent(link.url.rpartition("/")[2], browser=SECRET)
        state = dict(parse_qsl(query_of(url)))["state"]
        query = urlencode({"state": state, "code": "CODE", "iss": provider.url})
        leaving = asyncio.create_task(place.connecting.finish(query, browser=SECRET))
        await provider.entered.wait()
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        await place.connecting.close()

        assert leaving.cancelled()
        assert "connected" == await place.connecting.links.status(link.id)


def test_every_reason_has_its_page() -> None:
    """Whatever stops a step is told in a sentence of our own."""
    sources = "".join(Path(str(module.__file__)).read_text("utf-8") for module in (connect, grant_store, pages))
    reasons = set(re.findall(r'ConnectStopped\("(\w+)"', sources))
    assert len(reasons) > 5
    assert reasons <= set(page_texts.STOPPED)


def test_style_is_named_by_its_hash() -> None:
    """The page's style is the very text that the policy's hash was made of."""
    html = page_texts.stopped_page("busy")
    style = html.partition("<style>")[2].partition("</style>")[0]
    assert "&lt;" not in style
    assert "</" not in style
    assert len(style) > 1000
