"""What is known of the API at an origin."""

from __future__ import annotations

import pytest

from gateway.models import Rejected, UpstreamRules
from gateway.providers.catalogue import catalogue
from gateway.providers.upstreams import upstream_rules

FIELDS: dict[str, tuple[str, str | None, str, bool]] = {
    "a provider's origin": ("https://people.googleapis.com", None, "x-goog-api-key", True),
    "another host of the provider": ("https://sts.googleapis.com", None, "x-goog-api-key", True),
    "a host below that": ("https://a.b.googleapis.com", None, "x-goog-api-key", True),
    "the domain itself": ("https://googleapis.com", None, "x-goog-api-key", False),
    "a host that ends alike": ("https://evilgoogleapis.com", None, "x-goog-api-key", False),
    "a host that begins alike": ("https://people.googleapis.com.evil.example", None, "x-goog-api-key", False),
    "another port": ("https://people.googleapis.com:8443", None, "x-goog-api-key", False),
    "another scheme": ("http://people.googleapis.com", None, "x-goog-api-key", False),
    "a variable": ("https://acme.myshopify.com", None, "x-shopify-access-token", True),
    "a variable of several labels": ("https://acme--dev.sandbox.my.salesforce.com", None, "x-sfdc-session", True),
    "a host of one's own, by its default": ("https://gitlab.com", None, "private-token", True),
    "a host of one's own": ("https://git.example", None, "private-token", False),
    "a host of one's own, by the template": ("https://git.example", "gitlab", "private-token", True),
    "a template that is not known": ("https://git.example", "gitlba", "private-token", False),
}


@pytest.mark.parametrize("case", FIELDS)
def test_catalogue_knows_an_api_by_its_origin(case: str) -> None:
    """
    What a provider's file says holds at its origins, and wherever a connection was made from it.
    """
    origin, template, field, is_known = FIELDS[case]

    assert is_known == (field in upstream_rules(origin, template).credential_fields)


def test_little_is_known_of_other_apis() -> None:
    """
    Of an origin of nobody's it is known what OData calls a batch, and nothing else.
    """
    assert UpstreamRules(multiplex_paths=("/**/$batch",)) == upstream_rules("https://api.example.com")


def test_all_that_providers_of_one_origin_know_holds() -> None:
    """
    Two providers of one API tell together, each thing once; what rejects a token is told as well.
    """
    found = upstream_rules("https://slack.com")

    assert len(set(found.minting_paths)) == len(found.minting_paths)
    assert {"token"} == found.credential_params
    assert Rejected(200, "/error", ("token_expired", "token_revoked", "invalid_auth")) in found.rejected


@pytest.mark.parametrize("provider_id", sorted(catalogue()))
def test_what_crosses_for_everybody_is_no_ones_credential(provider_id: str) -> None:
    """
    No file takes away a field that requests need.
    """
    needed = {"accept", "content-type", "content-encoding", "user-agent", "range", "if-match", "if-none-match", "date"}

    assert not needed & catalogue()[provider_id].upstream.credential_fields


SLACK = (Rejected(200, "/error", ("token_expired", "token_revoked", "invalid_auth")),)
REJECTED: dict[str, tuple[str, str | None, tuple[Rejected, ...]]] = {
    "an origin of nobody": ("https://api.example.com", None, ()),
    "an origin of nobody, and no such template": ("https://api.example.com", "nothing", ()),
    "Slack's": ("https://slack.com", None, SLACK),
    "Slack's, and its template": ("https://slack.com", "slack-bot", SLACK),
    "a template's, elsewhere": ("http://127.0.0.1:8080", "slack", SLACK),
    "one that begins alike": ("https://slack.com.evil.test", None, ()),
    "another scheme": ("http://slack.com", None, ()),
}


@pytest.mark.parametrize("case", REJECTED)
def test_origin_and_template_tell_how_tokens_are_rejected(case: str) -> None:
    """
    What is known of the provider at an origin, and of the connection's own, holds once.
    """
    origin, template, rejected = REJECTED[case]

    assert rejected == upstream_rules(origin, template).rejected
