"""What a provider says about itself, and when it is believed."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.vault.connection import Connection
from gateway.vault.discovery import DiscoveryFailed, candidates, declared_issuer, is_endpoint, read_metadata
from gateway.vault.templates import from_template
from tests.vault.authority import authority
from tests.vault.connecting import town

ISSUER = "https://p.example"
OAUTH = "/.well-known/oauth-authorization-server"
OIDC = "/.well-known/openid-configuration"

PLACES: dict[str, list[tuple[str, str]]] = {
    ISSUER: [(f"{ISSUER}{OAUTH}", ISSUER), (f"{ISSUER}{OIDC}", ISSUER)],
    f"{ISSUER}/realms/a": [
        (f"{ISSUER}{OAUTH}/realms/a", f"{ISSUER}/realms/a"), (f"{ISSUER}/realms/a{OIDC}", f"{ISSUER}/realms/a")
    ],
    f"{ISSUER}{OIDC}": [(f"{ISSUER}{OIDC}", ISSUER)],
    f"{ISSUER}/realms/a{OIDC}": [(f"{ISSUER}/realms/a{OIDC}", f"{ISSUER}/realms/a")],
    f"{ISSUER}{OAUTH}/realms/a": [(f"{ISSUER}{OAUTH}/realms/a", f"{ISSUER}/realms/a")],
}  # fmt: skip


@pytest.mark.parametrize(("url", "expected"), PLACES.items(), ids=PLACES.keys())
def test_places_of_metadata(url: str, expected: list[tuple[str, str]]) -> None:
    """An issuer is looked up at both well-known places, a metadata URL as it is (RFC 8414 section 3.1)."""
    assert expected == candidates(url)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no issuer": ({}, "issuer_mismatch"),
    "another issuer": ({"issuer": "https://evil.example"}, "issuer_mismatch"),
    "the issuer in other letters": ({"issuer": "https://P.example"}, "issuer_mismatch"),
    "an issuer that is a list": ({"issuer": [ISSUER]}, "issuer_mismatch"),
    "plain http": ({"issuer": ISSUER, "token_endpoint": "http://p.example/t"}, "invalid_token_endpoint"),
    "a script": ({"issuer": ISSUER, "authorization_endpoint": "javascript:x"}, "invalid_authorization_endpoint"),
    "credentials": ({"issuer": ISSUER, "revocation_endpoint": "https://a@p.example/"}, "invalid_revocation_endpoint"),
    "a number": ({"issuer": ISSUER, "token_endpoint": 1}, "invalid_token_endpoint"),
}


@pytest.mark.parametrize(("document", "reason"), WRONG.values(), ids=WRONG.keys())
def test_wrong_metadata_is_not_used(document: dict[str, Any], reason: str) -> None:
    """One wrong value and nothing of the document is used."""
    with pytest.raises(DiscoveryFailed, match=reason):
        read_metadata(document, issuer=ISSUER, allow_http=False)


TENANTS = "https://login.example/{tenantid}/v2.0"
GUID = "9188040d-6c67-4c5b-b112-36a304b66dad"
DECLARED: dict[str, tuple[str, str, bool]] = {
    "the issuer that was asked": ("https://login.example/common/v2.0", TENANTS, True),
    "the placeholder as it is": (TENANTS, TENANTS, True),
    "one tenant's": (f"https://login.example/{GUID}/v2.0", TENANTS, True),
    "a tenant's of another host": (f"https://evil.example/{GUID}/v2.0", TENANTS, False),
    "a tenant's of a longer host": (f"https://login.example.evil.example/{GUID}/v2.0", TENANTS, False),
    "more than one segment": (f"https://login.example/x/{GUID}/v2.0", TENANTS, False),
    "an empty segment": ("https://login.example//v2.0", TENANTS, False),
    "a line more": (f"https://login.example/{GUID}/v2.0\n", TENANTS, False),
    "another version": (f"https://login.example/{GUID}/v1.0", TENANTS, False),
    "one that is declared without tenants": ("https://issuer.example", "https://issuer.example", True),
    "another than is declared": ("https://other.example", "https://issuer.example", False),
    "the placeholder, where none is declared": (TENANTS, "", False),
}


@pytest.mark.parametrize(("said", "declared", "is_right"), DECLARED.values(), ids=DECLARED.keys())
def test_declared_issuer_may_be_named_instead(said: str, declared: str, is_right: bool) -> None:
    """Where tenants have issuers of their own, metadata names some tenant's, or all of them by a placeholder."""
    asked = "https://login.example/common/v2.0"
    if is_right:
        assert said == read_metadata({"issuer": said}, issuer=asked, declared=declared, allow_http=False).issuer
        return
    with pytest.raises(DiscoveryFailed, match="issuer_mismatch"):
        read_metadata({"issuer": said}, issuer=asked, declared=declared, allow_http=False)


MICROSOFT = "https://login.microsoftonline.com"
DECLARING: dict[str, tuple[dict[str, Any], str]] = {
    "the entry's": ({}, f"{MICROSOFT}/{{tenantid}}/v2.0"),
    "the entry's, with metadata of the same host": (
        {"extra": {"discoveryUrl": f"{MICROSOFT}/common/v2.0"}}, f"{MICROSOFT}/{{tenantid}}/v2.0"
    ),
    "the connection's own": ({"extra": {"issuer": "https://own.example"}}, "https://own.example"),
    "nobody's: the tokens come from elsewhere": ({"token_url": "https://login.microsoftonline.us/common/t"}, ""),
    "nobody's: the metadata comes from elsewhere": ({"extra": {"discoveryUrl": "https://evil.example"}}, ""),
    "nobody's: no endpoint": ({"token_url": ""}, ""),
}  # fmt: skip


@pytest.mark.parametrize(("overrides", "issuer"), DECLARING.values(), ids=DECLARING.keys())
def test_issuer_is_declared_for_the_own_endpoints(overrides: dict[str, Any], issuer: str) -> None:
    """What the catalogue says of an issuer holds for the endpoints that it says it of."""
    made = from_template("microsoft", id="m", client_id="c", client_secret="s", overrides=overrides)
    assert issuer == declared_issuer(made)


@pytest.mark.parametrize(
    "url",
    ["", "https://", "//p.example", "https://p.example/#a", "https://p.example\\@evil", "https://p:99999/", "ftp://p"],
)
def test_what_is_no_endpoint(url: str) -> None:
    """An endpoint is an absolute https URL without credentials, fragment and odd bytes."""
    assert not is_endpoint(url, allow_http=True)


async def test_document_is_fetched_once_an_hour_and_survives_an_outage(database_url: str) -> None:
    """Metadata is remembered; while the provider does not answer, the last good document serves for a day."""
    async with town(database_url) as place, authority() as provider:
        connection = Connection("c", "c", token_url="https://own.example/t", extra={"discoveryUrl": provider.url})
        for _ in range(3):
            made = (await place.discovery.resolve(connection)).connection
        assert 1 == provider.fetched
        assert (f"{provider.url}/authorize", "https://own.example/t") == (made.authorization_url, made.token_url)

        provider.metadata = {"issuer": "https://evil.example"}
        place.clock.now += 3601
        assert provider.url == (await place.discovery.resolve(connection)).issuer
        assert 2 == provider.fetched
        place.clock.now += 86_400
        with pytest.raises(DiscoveryFailed):
            await place.discovery.resolve(connection)


async def test_nothing_is_asked_where_the_urls_are_there(database_url: str) -> None:
    """A refresh or a revocation that has its URLs does not fail for want of metadata; one that lacks them asks."""
    async with authority() as provider, town(database_url) as place:
        extra = {"discoveryUrl": provider.url}
        own = Connection("c", "C", token_url=f"{provider.url}/own", extra=extra)
        assert own is await place.discovery.with_urls(own, "token_url")
        assert 0 == provider.fetched

        filled = await place.discovery.with_urls(own, "token_url", "revocation_url")

        assert (f"{provider.url}/own", f"{provider.url}/revoke") == (filled.token_url, filled.revocation_url)
        assert 1 == provider.fetched


async def test_provider_without_metadata_is_told(database_url: str) -> None:
    """Where there is no document, that is said."""
    async with town(database_url) as place, authority(well_known="/nowhere") as provider:
        with pytest.raises(DiscoveryFailed, match="status_404"):
            await place.discovery.metadata(provider.url)
