"""The pages on the callers' listener, over real sockets."""

from __future__ import annotations

import pytest

from gateway.proxy.pages import MAX_BODY_BYTES
from tests.proxy.wire import call, calling, request
from tests.world import Issuer, Running, Upstream


@pytest.mark.parametrize("path", ["/connect/" + "x" * 43, "/connect/stopped/answer_malformed"])
async def test_page_needs_no_credential(gateway: Running, upstream: Upstream, path: str) -> None:
    """
    A browser without a credential gets a page that a person understands, and nothing reaches an upstream.
    """
    answer = await call(gateway, request("GET", path))

    assert 400 <= answer.status < 500
    assert ["text/html; charset=utf-8"] == answer.values("Content-Type")
    assert answer.values("Content-Security-Policy")[0].startswith("default-src 'none'")
    assert ["no-store"] == answer.values("Cache-Control")
    assert ["no-referrer"] == answer.values("Referrer-Policy")
    assert [] == upstream.received
    assert [] == gateway.lines()


async def test_callback_leads_to_an_address_without_code(gateway: Running) -> None:
    """
    Code and state do not stay in the browser's history.
    """
    answer = await call(gateway, request("GET", "/v1/outbound/oauth/callback?code=c&state=s"))

    assert (303, ["/connect/stopped/answer_malformed"]) == (answer.status, answer.values("Location"))


async def test_head_of_a_page_has_no_body(gateway: Running) -> None:
    """
    HEAD gets the head alone, and the connection goes on.
    """
    async with calling(gateway) as caller:
        await caller.send(request("HEAD", "/connect/x"))
        first = await caller.answer("HEAD")
        await caller.send(request("GET", "/connect/x"))
        second = await caller.answer()

    assert (b"", True) == (first.body, second.body != b"")


async def test_form_that_is_too_large_is_refused(gateway: Running) -> None:
    """
    A page reads a small form and no more.
    """
    answer = await call(gateway, request("POST", "/connect/x", body=b"a" * (MAX_BODY_BYTES + 1)))

    assert (413, "body_too_large") == (answer.status, answer.code)


async def test_missing_connection_comes_with_a_link(gateway: Running, issuer: Issuer) -> None:
    """
    Who is refused for want of a connection gets a link for the user and an address to wait at; each caller its own.
    """
    await gateway.api(
        "/v1/mgmt/outbound/app/update",
        {
            "app": {
                "id": "api",
                "name": "The API",
                "clientId": "client",
                "clientSecret": "s3cret",
                "authorizationUrl": "http://127.0.0.1:1/authorize",
                "tokenUrl": "http://127.0.0.1:1/token",
            }
        },
    )
    links = set()
    for credential in (issuer.token("grace"), await gateway.agent_key("grace")):
        headers = {"Authorization": f"Bearer {credential}"}
        async with gateway.session.get(f"{gateway.url}/api/v1/me", headers=headers) as response:
            problem = await response.json(content_type="application/problem+json")
        assert (403, "connection_required") == (response.status, problem["code"])
        assert problem["connect_url"].startswith(f"{gateway.url}/connect/")
        assert problem["wait_url"] == problem["connect_url"] + "/wait"
        links.add(problem["connect_url"])

    assert 2 == len(links)
