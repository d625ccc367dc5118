"""The flow in a real browser: what Chromium makes of our cookie, form and policy, no HTTP client can tell."""

from __future__ import annotations

import pytest

from tests.browser import chromium
from tests.vault.connecting import contacts, demo_provider, town

pytestmark = pytest.mark.parametrize("engine", ["sqlite"])  # the rules are the browser's


async def test_user_connects_in_a_browser(database_url: str) -> None:
    """Page, consent, provider, callback, confirmation page: nothing on the way is blocked, and the style applies."""
    async with town(database_url) as place, demo_provider(place) as (_, url), chromium() as tab:
        await place.connections.create(contacts(url))
        link = await place.link()
        await tab.call("Page.navigate", url=link.url)
        await tab.until("Connect Google Contacts?")
        radius = await tab.evaluate("getComputedStyle(document.querySelector('main')).borderRadius")
        await tab.evaluate("document.querySelector('button.yes').click()")
        await tab.until("Connected")
        at = await tab.evaluate("location.href")

    assert "16px" == radius
    assert f"{place.url}/connect/done/{link.id}" == at
