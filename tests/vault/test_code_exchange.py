"""What a code is worth, and whose account it is."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.vault.connection import Connection
from gateway.vault.discovery import OIDC_WELL_KNOWN
from tests.vault.authority import authority
from tests.vault.connecting import Browser, town

pytestmark = pytest.mark.parametrize("engine", ["sqlite"])  # the rules are the provider's

BAD = {
    "another issuer's": {"iss": "https://evil.example"},
    "for another client": {"aud": "other"},
    "for nobody": {"aud": None},
}


async def connect(database_url: str, settings: dict[str, Any], **changes: Any) -> tuple[str, Any, Any]:
    """Connect with a provider of these settings; return the last page, the stored token, and the provider."""
    async with town(database_url) as place, authority(**settings) as provider:
        fields: dict[str, Any] = {
            "client_id": "client", "client_secret": "s3cret", "extra": {"discoveryUrl": provider.url}
        }  # fmt: skip
        await place.connections.create(Connection("contacts", "Contacts", **(fields | changes)))
        async with Browser() as browser:
            page = await browser.answer(await browser.get((await place.link()).url))
        return page.text, await place.token(), provider


@pytest.mark.parametrize("claims", BAD.values(), ids=BAD.keys())
async def test_id_token_for_somebody_else_is_refused(database_url: str, claims: dict[str, Any]) -> None:
    """An id token that is not this provider's, for this client, makes the grant unusable: it is given back."""
    text, stored, provider = await connect(database_url, {"id_token": claims})

    assert "did not match" in text
    assert stored is None
    assert ["RT-1"] == [form["token"] for form in provider.revoked]


OUTCOMES: dict[str, tuple[dict[str, Any], str]] = {
    "granted": ({}, "granted"),
    "refused": ({"token": {"error": "invalid_grant"}, "token_status": 400}, "invalid_grant"),
    "a provider that is down": ({"token_status": 503}, "status_503"),
}


@pytest.mark.parametrize(("settings", "outcome"), OUTCOMES.values(), ids=OUTCOMES.keys())
async def test_exchange_of_a_code_is_counted(database_url: str, settings: dict[str, Any], outcome: str) -> None:
    """A code counts as an exchange, under the same outcomes as a refresh."""
    async with town(database_url) as place, authority(**settings) as provider:
        extra = {"discoveryUrl": provider.url}
        await place.connections.create(
            Connection("contacts", "Contacts", client_id="client", client_secret="s3cret", extra=extra)
        )
        async with Browser() as browser:
            await browser.answer(await browser.get((await place.link()).url))

        assert {outcome: 1} == place.counts


GUID = "9188040d-6c67-4c5b-b112-36a304b66dad"
OTHER = "72f988bf-86f1-41af-91ab-2d7cd011db47"
TENANTS: dict[str, tuple[dict[str, Any], bool]] = {
    "its own tenant's": ({"iss": "{url}/" + GUID + "/v2.0", "tid": GUID}, True),
    "another tenant's": ({"iss": "{url}/" + OTHER + "/v2.0", "tid": GUID}, False),
    "a tenant's that is not named": ({"iss": "{url}/" + GUID + "/v2.0"}, False),
    "a tenant's that is no text": ({"iss": "{url}/" + GUID + "/v2.0", "tid": [GUID]}, False),
    "the placeholder": ({"iss": "{url}/{tenantid}/v2.0", "tid": "{tenantid}"}, False),
    "the placeholder alone": ({"iss": "{url}/{tenantid}/v2.0"}, False),
    "the place that was asked": ({"iss": "{url}/common/v2.0", "tid": GUID}, False),
    "a tenant that is a path": ({"iss": "{url}/a/b/v2.0", "tid": "a/b"}, False),
    "another host's": ({"iss": f"https://evil.example/{GUID}/v2.0", "tid": GUID}, False),
    "another client's": ({"iss": "{url}/" + GUID + "/v2.0", "tid": GUID, "aud": "other"}, False),
}


@pytest.mark.parametrize("is_discovered", [True, False])
@pytest.mark.parametrize(("claims", "is_taken"), TENANTS.values(), ids=TENANTS.keys())
async def test_id_token_is_of_the_tenant_that_it_names(
    database_url: str, claims: dict[str, Any], is_taken: bool, is_discovered: bool
) -> None:
    """
    A provider whose tenants have issuers of their own names one in each id token; its metadata has a placeholder there.
    """
    settings = {"well_known": f"/common/v2.0{OIDC_WELL_KNOWN}", "iss": None}
    async with town(database_url) as place, authority(**settings) as provider:
        issuer = f"{provider.url}/{{tenantid}}/v2.0"
        provider.metadata = {"issuer": issuer, "authorization_response_iss_parameter_supported": None}
        provider.id_token = {
            name: value.replace("{url}", provider.url) if isinstance(value, str) else value
            for name, value in claims.items()
        }
        urls = {"authorization_url": f"{provider.url}/authorize", "token_url": f"{provider.url}/token"}
        found = {"extra": {"issuer": issuer, "discoveryUrl": f"{provider.url}/common/v2.0"}}
        fields: dict[str, Any] = found if is_discovered else urls | {"extra": {"issuer": issuer}}
        await place.connections.create(
            Connection("contacts", "Contacts", client_id="client", client_secret="s3cret", **fields)
        )
        async with Browser() as browser:
            page = await browser.answer(await browser.get((await place.link()).url))
        stored = await place.token()

    assert ("Connected" if is_taken else "did not match") in page.text
    assert (f"{GUID}:account-1" if is_taken else None) == (stored.token_sub if stored else None)


SUBS: dict[str, tuple[dict[str, Any], str]] = {
    "by id token": ({}, "account-1"),
    "by user info": ({"id_token": None, "token": {"scope": "openid"}, "userinfo": {"sub": "me"}}, "me"),
    "by user info that is none": ({"id_token": None, "token": {"scope": "openid"}, "userinfo": {"sub": 1}}, ""),
    "not at all": ({"id_token": None}, ""),
    "with odd bytes": ({"id_token": {"sub": "a\u0000b"}}, ""),
    "by an id token that is no JWT": ({"token": {"id_token": "CANARY"}}, ""),
}


@pytest.mark.parametrize(("settings", "sub"), SUBS.values(), ids=SUBS.keys())
async def test_account_is_what_the_provider_says(database_url: str, settings: dict[str, Any], sub: str) -> None:
    """Whose account it is, comes from the id token or the user info, else it is unknown."""
    async with town(database_url) as place, authority(**settings) as provider:
        provider.metadata = {"userinfo_endpoint": f"{provider.url}/userinfo"}
        await place.connections.create(
            Connection("contacts", "C", client_id="client", client_secret="s", extra={"discoveryUrl": provider.url})
        )
        async with Browser() as browser:
            page = await browser.answer(await browser.get((await place.link()).url))
        stored = await place.token()

    assert "Connected" in page.text
    assert stored is not None
    assert sub == stored.token_sub


ANSWERS: dict[str, tuple[dict[str, Any], str]] = {
    "no such client": ({"token_status": 401, "token": {"error": "invalid_client"}}, "set up correctly"),
    "a token with a line break": ({"token": {"access_token": "a\r\nX: y"}}, "It did not work"),
    "a token that is no bearer token": ({"token": {"token_type": "mac"}}, "It did not work"),
    "an error page": ({"token_status": 500}, "It did not work"),
}


@pytest.mark.parametrize(("settings", "told"), ANSWERS.values(), ids=ANSWERS.keys())
async def test_unusable_answer_is_a_page(database_url: str, settings: dict[str, Any], told: str) -> None:
    """What is no usable token is told, and not stored (threats J11)."""
    text, stored, _ = await connect(database_url, settings)

    assert told in text
    assert stored is None


async def test_public_client_sends_its_verifier(database_url: str) -> None:
    """A client without a secret proves itself with PKCE: S256, one verifier per attempt."""
    _, stored, provider = await connect(database_url, {}, client_secret=None)

    assert stored is not None
    assert ("S256", 43) == (provider.asked[0]["code_challenge_method"], len(provider.asked[0]["code_challenge"]))
    assert ("client", 43) == (provider.exchanged[0]["client_id"], len(provider.exchanged[0]["code_verifier"]))


METADATA: dict[str, dict[str, Any]] = {
    "S256 is not among its methods": {"code_challenge_methods_supported": ["plain"]},
    "another issuer": {"issuer": "https://evil.example"},
    "a javascript endpoint": {"authorization_endpoint": "javascript:alert(1)"},
    "an endpoint with credentials": {"token_endpoint": "https://a:b@c/token"},
}


@pytest.mark.parametrize("metadata", METADATA.values(), ids=METADATA.keys())
async def test_provider_that_cannot_be_trusted_is_not_asked(database_url: str, metadata: dict[str, Any]) -> None:
    """Metadata that is wrong stops the attempt before anybody is sent anywhere (threats J4, J10)."""
    async with town(database_url) as place, authority(metadata=metadata) as provider:
        await place.connections.create(
            Connection("contacts", "C", client_id="client", client_secret="s", extra={"discoveryUrl": provider.url})
        )
        async with Browser() as browser:
            page = await browser.get((await place.link()).url)
            if page.status == 200:
                page = await browser.answer(page)

    assert 502 == page.status
    assert [] == provider.asked


async def test_missing_iss_is_refused_where_it_is_advertised(database_url: str) -> None:
    """A provider that says it sends `iss` and does not is not believed (RFC 9207 section 2.4)."""
    text, stored, provider = await connect(database_url, {"iss": None})

    assert "right place" in text
    assert (None, []) == (stored, provider.exchanged)
