"""The demo provider on the wire."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, quote_plus, urlencode, urlsplit

import pytest

from gateway.demo.grants import challenge_of
from gateway.demo.provider import CONTACTS_SCOPE, ClientCredentials, DemoProvider
from gateway.net.client import Answer, OutboundClient

from .conftest import CREDENTIALS, REDIRECT_URI, Clock, Serve

ASKED = {
    "response_type": "code",
    "client_id": CREDENTIALS.client_id,
    "redirect_uri": REDIRECT_URI,
    "scope": CONTACTS_SCOPE,
    "state": "st a/te",
    "code_challenge": challenge_of("verifier"),
    "code_challenge_method": "S256",
    "login_hint": "ada@example.com",
}


def basic(credentials: ClientCredentials = CREDENTIALS) -> str:
    """The Authorization of a client."""
    pair = f"{quote_plus(credentials.client_id)}:{quote_plus(credentials.client_secret)}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


async def authorize(client: OutboundClient, url: str, changes: Mapping[str, str | None] | None = None) -> Answer:
    """Ask the authorization endpoint, with *changes* to a good question; None leaves a parameter out."""
    asked = {name: value for name, value in {**ASKED, **(changes or {})}.items() if value is not None}
    return await client.request("GET", f"{url}/authorize?{urlencode(asked)}")


async def post(client: OutboundClient, url: str, form: Mapping[str, str], authorization: str | None) -> Answer:
    """Post a form, with the client's Authorization where one is given."""
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    if authorization is not None:
        headers["Authorization"] = authorization
    return await client.request("POST", url, headers=headers, body=urlencode(form).encode())


async def tokens(client: OutboundClient, url: str) -> dict[str, Any]:
    """The answer to a good code exchange."""
    location = (await authorize(client, url)).headers["Location"]
    code = parse_qs(urlsplit(location).query)["code"][0]
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": REDIRECT_URI,
        "code_verifier": "verifier",
    }
    answer = await post(client, f"{url}/token", form, basic())
    assert 200 == answer.status
    found = answer.json()
    assert isinstance(found, dict)
    return found


async def test_the_way_from_login_to_a_refreshed_token(
    provider: DemoProvider, serve: Serve, client: OutboundClient, clock: Clock
) -> None:
    """
    A login's code becomes tokens that are said to live an hour, die after 20 seconds, and are refreshed with rotation.
    """
    url = await serve(provider.app)
    first = await tokens(client, url)
    assert ("Bearer", 3600, CONTACTS_SCOPE) == (first["token_type"], first["expires_in"], first["scope"])
    assert "ada@example.com" == provider.is_live(first["access_token"])

    clock.now += 20
    assert provider.is_live(first["access_token"]) is None

    form = {"grant_type": "refresh_token", "refresh_token": first["refresh_token"]}
    answer = await post(client, f"{url}/token", form, basic())
    second = answer.json()
    assert isinstance(second, dict)
    assert "ada@example.com" == provider.is_live(second["access_token"])
    assert "no-store" == answer.headers["Cache-Control"]

    again = await post(client, f"{url}/token", form, basic())
    assert (400, {"error": "invalid_grant"}) == (again.status, again.json())
    assert provider.is_live(second["access_token"]) is None
    assert (1, 1, 1) == (provider.counts.code_exchanges, provider.counts.refreshes, provider.counts.reuses)


async def test_metadata_names_the_endpoints(provider: DemoProvider, serve: Serve, client: OutboundClient) -> None:
    """
    RFC 8414: the issuer is where it was asked, and every endpoint is below it.
    """
    url = await serve(provider.app)
    found = (await client.request("GET", f"{url}/.well-known/oauth-authorization-server")).json()

    assert isinstance(found, dict)
    assert url == found["issuer"]
    assert [f"{url}/authorize", f"{url}/token", f"{url}/revoke"] == [
        found[f"{name}_endpoint"] for name in ("authorization", "token", "revocation")
    ]
    assert ["S256"] == found["code_challenge_methods_supported"]


async def test_login_answers_with_code_state_and_issuer(
    provider: DemoProvider, serve: Serve, client: OutboundClient
) -> None:
    """
    The browser comes back with a code, the client's state as it was, and who answered.
    """
    url = await serve(provider.app)
    answer = await authorize(client, url)

    location = urlsplit(answer.headers["Location"])
    came = parse_qs(location.query)
    assert REDIRECT_URI == f"{location.scheme}://{location.netloc}{location.path}"
    assert (["st a/te"], [url]) == (came["state"], came["iss"])


async def test_login_page_offers_both_users(provider: DemoProvider, serve: Serve, client: OutboundClient) -> None:
    """
    Without a hint the page has a link for each user, and lets nobody in by itself.
    """
    url = await serve(provider.app)
    answer = await authorize(client, url, {"login_hint": None, "state": '"><script>'})
    page = answer.body.decode()

    assert 200 == answer.status
    assert "login_hint=ada@example.com" in page
    assert "login_hint=grace@example.com" in page
    assert "<script>" not in page
    assert 0 == provider.counts.logins


REFUSED_HERE: dict[str, dict[str, str | None]] = {
    "an unknown client": {"client_id": "other"},
    "no client": {"client_id": None},
    "another redirect URI": {"redirect_uri": "https://evil.example/"},
    "a redirect URI that only begins like ours": {"redirect_uri": f"{REDIRECT_URI}/../x"},
    "no redirect URI": {"redirect_uri": None},
}


@pytest.mark.parametrize("changes", REFUSED_HERE.values(), ids=REFUSED_HERE.keys())
async def test_sends_nobody_to_an_unknown_place(
    changes: dict[str, str | None], provider: DemoProvider, serve: Serve, client: OutboundClient
) -> None:
    """
    With an unknown client or redirect URI there is no redirect at all.
    """
    answer = await authorize(client, await serve(provider.app), changes)

    assert 400 == answer.status
    assert "Location" not in answer.headers


REFUSED_THERE: dict[str, tuple[dict[str, str | None], str]] = {
    "another response type": ({"response_type": "token"}, "unsupported_response_type"),
    "no PKCE": ({"code_challenge": None}, "invalid_request"),
    "plain PKCE": ({"code_challenge_method": "plain"}, "invalid_request"),
    "a challenge outside of ASCII": ({"code_challenge": "ü"}, "invalid_request"),
    "an unknown scope": ({"scope": "openid everything"}, "invalid_scope"),
}


@pytest.mark.parametrize(("changes", "error"), REFUSED_THERE.values(), ids=REFUSED_THERE.keys())
async def test_tells_the_client_what_is_wrong(
    changes: dict[str, str | None], error: str, provider: DemoProvider, serve: Serve, client: OutboundClient
) -> None:
    """
    Errors of a known client go to its redirect URI.
    """
    answer = await authorize(client, await serve(provider.app), changes)

    assert answer.headers["Location"].startswith(f"{REDIRECT_URI}?")
    assert [error] == parse_qs(urlsplit(answer.headers["Location"]).query)["error"]


SECRET_FORM = {"client_id": CREDENTIALS.client_id, "client_secret": CREDENTIALS.client_secret}
AUTHENTICATION: dict[str, tuple[str | None, dict[str, str], int, str]] = {
    "nothing": (None, {}, 401, "invalid_client"),
    "not base64": ("Basic ?", {}, 401, "invalid_client"),
    "not UTF-8": ("Basic /////w==", {}, 401, "invalid_client"),
    "another scheme": ("Bearer x", {}, 401, "invalid_client"),
    "a wrong secret": (basic(ClientCredentials("demo client", "x")), {}, 401, "invalid_client"),
    "another client": (basic(ClientCredentials("x", CREDENTIALS.client_secret)), {}, 401, "invalid_client"),
    "both ways at once": (basic(), SECRET_FORM, 400, "invalid_request"),
    "basic": (basic(), {}, 400, "invalid_grant"),
    "in the form": (None, SECRET_FORM, 400, "invalid_grant"),
}


@pytest.mark.parametrize(
    ("authorization", "form", "status", "error"), AUTHENTICATION.values(), ids=AUTHENTICATION.keys()
)
async def test_knows_its_client(
    authorization: str | None,
    form: dict[str, str],
    status: int,
    error: str,
    provider: DemoProvider,
    serve: Serve,
    client: OutboundClient,
) -> None:
    """
    The client proves itself in one of two ways before a grant is looked at.
    """
    url = await serve(provider.app)
    asked = {"grant_type": "refresh_token", "refresh_token": "unknown", **form}
    answer = await post(client, f"{url}/token", asked, authorization)

    assert (status, {"error": error}) == (answer.status, answer.json())
    assert ("WWW-Authenticate" in answer.headers) is (status == 401)


FORMS: dict[str, tuple[bytes, str, str]] = {
    "nothing": (b"", "", "invalid_request"),
    "another grant type": (b"grant_type=password", "", "unsupported_grant_type"),
    "a parameter twice": (b"grant_type=refresh_token&grant_type=refresh_token", "", "invalid_request"),
    "broken UTF-8": (b"grant_type=\xff", "", "invalid_request"),
    "an unknown charset": (b"grant_type=refresh_token", "; charset=no-such", "invalid_request"),
}


@pytest.mark.parametrize(("body", "charset", "error"), FORMS.values(), ids=FORMS.keys())
async def test_reads_forms_strictly(
    body: bytes, charset: str, error: str, provider: DemoProvider, serve: Serve, client: OutboundClient
) -> None:
    """
    A form that cannot be read, or can be read in two ways, is refused.
    """
    url = await serve(provider.app)
    headers = {"Authorization": basic(), "Content-Type": f"application/x-www-form-urlencoded{charset}"}
    answer = await client.request("POST", f"{url}/token", headers=headers, body=body)

    assert (400, {"error": error}) == (answer.status, answer.json())


async def test_revokes(provider: DemoProvider, serve: Serve, client: OutboundClient) -> None:
    """
    RFC 7009: the client's own token dies; an unknown one is 200 as well; without the client's secret nothing happens.
    """
    url = await serve(provider.app)
    first = await tokens(client, url)
    form = {"token": first["refresh_token"]}

    assert 401 == (await post(client, f"{url}/revoke", form, None)).status
    assert "ada@example.com" == provider.is_live(first["access_token"])
    assert 200 == (await post(client, f"{url}/revoke", form, basic())).status
    assert provider.is_live(first["access_token"]) is None
    assert 200 == (await post(client, f"{url}/revoke", {"token": "unknown"}, basic())).status


def test_secret_is_in_no_repr() -> None:
    """
    The client's credentials can be logged.
    """
    assert CREDENTIALS.client_secret not in repr(CREDENTIALS)
