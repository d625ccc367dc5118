"""Every provider that ships: its facts are shaped right; and how the catalogue is asked."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import pytest

import gateway.providers
from gateway.providers.catalogue import Catalogue, EntryInvalid, Provider, ProviderUnknown, catalogue, resolve
from gateway.providers.variables import names_in
from gateway.vault.connection import RESERVED_PARAMS, canonical_origin

ROOT = Path(__file__).parents[2]
NAMED_IN_THE_ISSUE = {
    "google", "github", "gitlab", "slack", "microsoft", "notion", "atlassian", "linear", "hubspot", "salesforce",
    "dropbox", "zoom", "asana", "discord", "figma", "airtable", "stripe", "shopify", "spotify", "reddit", "x",
    "linkedin", "box", "intercom", "zendesk",
}  # fmt: skip


def filled(provider: Provider) -> Provider:
    """*provider* with its variables' examples."""
    return provider.with_variables({variable.name: variable.example for variable in provider.variables})


def test_the_well_known_are_there() -> None:
    """
    There are at least twenty-eight providers, those of the issue among them.
    """
    assert len(catalogue()) >= 28
    assert set() == NAMED_IN_THE_ISSUE - set(catalogue())


@pytest.mark.parametrize("provider_id", catalogue())
def test_provider_is_read(provider_id: str) -> None:
    """
    Each file is valid, has its id, and says on its first line where its facts come from.
    """
    text = (resources.files(gateway.providers) / f"{provider_id}.yaml").read_text("utf-8")

    assert provider_id == catalogue()[provider_id].id
    assert re.match(r"# Source: https://\S+\n", text)


@pytest.mark.parametrize("provider_id", catalogue())
def test_provider_can_be_used_as_it_is(provider_id: str) -> None:
    """
    With its variables' examples filled in, every URL is https, every origin canonical, and nothing is left to fill in.
    """
    provider = filled(catalogue()[provider_id])
    urls = [provider.docs_url, provider.authorization_url, provider.token_url, provider.revocation_url,
            provider.discovery_url, provider.quirks.refresh_url or "", provider.quirks.userinfo_url,
            *provider.origins]  # fmt: skip

    assert [] == [url for url in urls if url and not url.startswith("https://")]
    assert [] == [url for url in urls if names_in(url) or "{" in url]
    assert list(provider.origins) == [canonical_origin(origin) for origin in provider.origins]
    assert bool(provider.token_url) == ("oauth" == provider.kind)


@pytest.mark.parametrize("provider_id", catalogue())
def test_provider_sets_no_parameter_that_is_ours(provider_id: str) -> None:
    """
    Additional parameters never replace those of the exchange.
    """
    quirks = catalogue()[provider_id].quirks
    names = {name for name, _ in quirks.authorization_params + quirks.code_params + quirks.refresh_params}

    assert set() == names & RESERVED_PARAMS


@pytest.mark.parametrize("provider_id", [each for each in catalogue() if catalogue()[each].variables])
@pytest.mark.parametrize("value", ["evil.example/", "a@evil.example", "a#", "..", "evil.example?", "", "a b", "x:1"])
def test_hostile_variable_is_refused(provider_id: str, value: str) -> None:
    """
    No variable of any provider takes a value that would leave its place.
    """
    provider = catalogue()[provider_id]
    examples = {variable.name: variable.example for variable in provider.variables}

    for variable in provider.variables:
        with pytest.raises(Exception, match=variable.name):
            provider.with_variables(examples | {variable.name: value})


@pytest.mark.parametrize("provider_id", catalogue())
def test_provider_is_on_the_page(provider_id: str) -> None:
    """
    docs/providers.md lists every provider.
    """
    assert f"| `{provider_id}` |" in (ROOT / "docs" / "providers.md").read_text("utf-8")


FACTS: dict[str, tuple[str, str, object]] = {
    "Slack's scopes are separated by commas": ("slack", "scope_separator", ","),
    "Slack's users have their scopes in another parameter": ("slack", "scopes_param", "user_scope"),
    "Slack's users have their token in another place": ("slack", "token_path", "/authed_user"),
    "Slack's users are named beside their token": ("slack", "account_path", "/authed_user/id"),
    "GitHub names a user's account by its API": ("github", "userinfo_url", "https://api.github.com/user"),
    "Slack says errors with 200": ("slack", "token_errors_with_status_200", True),
    "GitHub says errors with 200": ("github", "token_errors_with_status_200", True),
    "Notion takes JSON": ("notion", "token_body", "json"),
    "Notion takes Basic": ("notion", "token_auth", "client_secret_basic"),
    "Figma refreshes elsewhere": ("figma", "refresh_url", "https://api.figma.com/v1/oauth/refresh"),
    "Salesforce names no expiry": ("salesforce", "default_expires_seconds", 7200),
    "X wants a challenge": ("x", "pkce", True),
    "Airtable wants a challenge": ("airtable", "pkce", True),
    "Shopify's tokens expire because we ask for it": ("shopify", "code_params", (("expiring", "1"),)),
    "Google gives refresh tokens when asked": (
        "google", "authorization_params", (("access_type", "offline"), ("prompt", "consent"))
    ),
}  # fmt: skip


@pytest.mark.parametrize(("provider_id", "quirk", "value"), FACTS.values(), ids=FACTS.keys())
def test_known_quirks(provider_id: str, quirk: str, value: object) -> None:
    """
    The quirks that break an integration when they are forgotten.
    """
    assert value == getattr(catalogue()[provider_id].quirks, quirk)


def test_unknown_provider_suggests_the_nearest() -> None:
    """
    A slip gets a suggestion, anything else none; neither is repeated.
    """
    with pytest.raises(ProviderUnknown) as slip:
        resolve("googel")
    with pytest.raises(ProviderUnknown) as nothing:
        resolve("\n" * 100_000)

    assert "google" == slip.value.near
    assert 'the catalogue has no such provider; did you mean "google"?' == str(slip.value)
    assert ("", "the catalogue has no such provider") == (nothing.value.near, str(nothing.value))


def test_resolve_fills_in() -> None:
    """
    A provider is found and filled in with one call.
    """
    assert "https://acme.myshopify.com/admin/oauth/access_token" == resolve("shopify", (("shop", "acme"),)).token_url


def test_a_new_provider_is_a_file(tmp_path: Path) -> None:
    """
    A file in the directory is a provider; a broken one is told when it is asked for, and hides no other.
    """
    good = "name: A\ndescription: A.\ndocs_url: https://a.example/\nkind: apikey\norigins: [https://a.example]\n"
    (tmp_path / "good.yaml").write_text(good)
    (tmp_path / "broken.yaml").write_text("name: B\n")
    (tmp_path / "notes.txt").write_text("no provider")

    found = Catalogue(tmp_path)

    assert ["broken", "good"] == list(found)
    assert "A" == found["good"].name
    with pytest.raises(EntryInvalid, match=r"^broken\.yaml:1: "):
        found["broken"]
    with pytest.raises(KeyError):
        found["notes"]
