"""What a template fills in, and that the entry's own keys win. The broken file has what is refused."""

from __future__ import annotations

import pytest

from gateway.config.values import ConnectionSettings
from gateway.providers.catalogue import resolve
from tests.config.samples import CANARY, configure, problems, warnings


def connection(entry: str) -> ConnectionSettings:
    """Return the one connection that *entry* says."""
    return configure(f"connections: [{{id: c, {entry}}}]").connections[0]


CLIENT = "client_id: x, client_secret: '${SECRET}'"


def test_template_fills_in_what_is_left_out() -> None:
    """
    URLs, scopes, origins and description are the provider's; how its OAuth differs is left to be looked up.
    """
    google = resolve("google")

    assert ConnectionSettings(
        id="c",
        name="c",
        description=google.description,
        client_id="x",
        client_secret=CANARY,
        authorization_url=google.authorization_url,
        token_url=google.token_url,
        revocation_url=google.revocation_url,
        discovery_url=google.discovery_url,
        scopes=google.default_scopes,
        origins=google.origins,
        token_auth=None,
        template="google",
    ) == connection(f"template: google, {CLIENT}")


def test_own_keys_win() -> None:
    """
    What the entry says is what counts, a null and an empty list among it.
    """
    found = connection(
        f"template: google, {CLIENT}, name: N, description: D, authorization_url: 'https://a.example/a', "
        "token_url: 'https://a.example/t', revocation_url: null, scopes: [], "
        "origins: ['https://people.googleapis.com'], "
        "pkce: false, token_auth: client_secret_basic"
    )

    assert ("N", "D") == (found.name, found.description)
    assert ("https://a.example/a", "https://a.example/t", None) == (
        found.authorization_url,
        found.token_url,
        found.revocation_url,
    )
    assert ((), ("https://people.googleapis.com",)) == (found.scopes, found.origins)
    assert (False, "client_secret_basic") == (found.pkce, found.token_auth)


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("", "https://git.example/.well-known/openid-configuration"),
        ("discovery_url: 'https://own.example', ", "https://own.example"),
        ("discovery_url: null, ", None),
        ("token_url: 'https://a.example/t', ", None),
        ("revocation_url: null, ", None),
    ],
)
def test_metadata_comes_along_where_no_endpoint_is_said(said: str, found: str | None) -> None:
    """
    The template's metadata fills in nothing beside an endpoint that the entry names, or says there is none.
    """
    made = connection(f"template: gitlab, variables: {{host: git.example}}, {said}{CLIENT}")

    assert found == made.discovery_url


def test_grant_that_the_provider_does_not_offer_is_refused() -> None:
    """
    A grant is one of the template's provider, and the error says where and which there are.
    """
    entry = "connections: [{id: c, template: google, grant_type: %s, " + CLIENT + "}]"

    assert [] == problems(entry % "jwt_bearer")
    (problem,) = problems(entry % "client_credentials")
    assert "connections[0].grant_type" in problem
    assert "(authorization_code, jwt_bearer), found" in problem


def test_variables_are_filled_in() -> None:
    """
    A variable comes from the entry, from the environment, or is the template's default.
    """
    shop = connection(f"template: shopify, variables: {{shop: acme}}, {CLIENT}")
    own = connection(f"template: gitlab, variables: {{host: '${{CLIENT_ID}}.gitlab.example'}}, {CLIENT}")
    default = connection(f"template: gitlab, {CLIENT}")

    assert "https://acme.myshopify.com/admin/oauth/access_token" == shop.token_url
    assert (("https://acme.myshopify.com",), (("shop", "acme"),)) == (shop.origins, shop.variables)
    assert "https://client-1.gitlab.example/oauth/token" == own.token_url
    assert ("https://gitlab.com/oauth/token", ()) == (default.token_url, default.variables)


def test_template_of_api_keys() -> None:
    """
    A provider of API keys gives its origins, and the type.
    """
    found = connection("template: openai")

    assert ("apikey", ("https://api.openai.com",), None) == (found.type, found.origins, found.token_url)


def test_public_client_says_so() -> None:
    """
    A client without a secret authenticates with nothing, whatever the provider wants of others.
    """
    assert "none" == connection("template: x, client_id: x, token_auth: none").token_auth


def test_template_leaves_nothing_to_warn_of() -> None:
    """
    A connection from a template has origins and a token URL.
    """
    assert [] == [text for text in warnings(f"connections: [{{id: c, template: google, {CLIENT}}}]") if "c" == text[0]
                  and text.startswith("connections")]  # fmt: skip


def test_route_goes_where_the_template_says() -> None:
    """
    A route to an origin of the template's is right, another one is refused.
    """
    text = (
        f"connections: [{{id: c, template: google, {CLIENT}}}]\n"
        "routes: [{name: a, prefix: /a, connection: c, upstream: 'https://%s'}]"
    )

    assert [] == problems(text % "people.googleapis.com/v1")
    assert 1 == len(problems(text % "people.googleapis.com.evil.example"))


@pytest.mark.parametrize(
    ("case", "entry"),
    [
        ("no list", "connections: {a: b}"),
        ("no mappings", "connections: [a, 5, null]"),
        ("a template that is a list", "connections: [{id: c, template: [a]}]"),
        ("variables that are a list", "connections: [{id: c, template: shopify, variables: [a]}]"),
        ("variables of lists", "connections: [{id: c, template: shopify, variables: {shop: [a]}}]"),
        ("a template of a megabyte", "connections: [{id: c, template: %s}]" % ("a" * 900_000)),
        ("variables and no template", "connections: [{id: c, variables: {a: b}}]"),
    ],
)
def test_any_shape_is_a_problem_and_nothing_worse(case: str, entry: str) -> None:
    """
    Filling in goes before the shape is checked, and takes every shape.
    """
    assert problems(entry), case


def test_empty_variables_need_no_template() -> None:
    """
    What `gateway config show` writes for a connection without a template loads again.
    """
    assert None is connection("template: null, variables: {}").template
