"""What concerns several keys. The broken files have most of it; here is what they cannot show."""

from __future__ import annotations

import pytest

from tests.config.samples import problems

ROUTE = "{name: a, prefix: /a, upstream: https://a.example, connection: a}"
DISCOVERED = "discovery_url: https://p.example, client_id: x, token_auth: none"


@pytest.mark.parametrize(
    ("case", "text"),
    [
        ("one prefix, two hosts", "routes: [{host: a.example, %s}, {host: b.example, name: b, %s}]"),
        ("one prefix, with and without host", "routes: [{host: a.example, %s}, {name: b, %s}]"),
    ],
)
def test_prefix_is_unique_per_host(case: str, text: str) -> None:
    """
    Two routes may share a prefix when their hosts tell them apart.
    """
    rest = "prefix: /a, upstream: https://a.example, connection: a"
    assert [] == problems(text % (f"name: a, {rest}", rest)), case


def test_other_mistakes_do_not_hide_these() -> None:
    """
    A duplicate is told although both routes are wrong in other ways as well.
    """
    found = problems("routes: [{name: a, prefix: /a}, {name: a, prefix: /a, subject: x}]")

    assert any("expected a name of its own" in problem for problem in found)
    assert any("expected a prefix of its own" in problem for problem in found)


@pytest.mark.parametrize(
    ("case", "text", "expected"),
    [
        ("two doors at one address", 'listeners: {traffic: {bind: "a:1"}, console: {bind: "a:1"}}', 1),
        ("a door at another's default", 'listeners: {console: {bind: "127.0.0.1:8081"}}', 1),
        ("which is off", 'listeners: {token_api: off, console: {bind: "127.0.0.1:8081"}}', 0),
        ("two doors at any free port", 'listeners: {traffic: {bind: "a:0"}, console: {bind: "a:0"}}', 0),
    ],
)
def test_doors_have_addresses_of_their_own(case: str, text: str, expected: int) -> None:
    """
    Two listeners cannot have one address, unless the system chooses the ports.
    """
    assert expected == len(problems(text)), case


@pytest.mark.parametrize(
    ("case", "prefixes", "expected"),
    [
        ("one issuer needs none", [""], 0),
        ("one of two may go without", ["", "b:"], 0),
        ("also the last", ["a:", ""], 0),
        ("two without", ["", ""], 1),
        ("the same twice", ["a:", "a:"], 1),
        ("one begins another", ["a", "ab"], 1),
        ("one is begun by another", ["ab", "a"], 1),
    ],
)
def test_user_prefixes(case: str, prefixes: list[str], expected: int) -> None:
    """
    The users of several issuers can never be taken for each other.
    """
    issuers = [
        f'{{issuer: "https://i{number}.example", audience: gw, user_prefix: "{prefix}"}}'
        for number, prefix in enumerate(prefixes)
    ]
    assert expected == len(problems(f"callers: {{issuers: [{', '.join(issuers)}]}}")), case


@pytest.mark.parametrize(
    ("case", "connection", "expected"),
    [
        ("nothing but an id", "", []),
        ("a public client", "token_url: https://p.example, client_id: x, token_auth: none", []),
        ("a secret is missing", "token_url: https://p.example, client_id: x", ["client_secret"]),
        ("a secret is missing without an exchange", "token_auth: client_secret_post", ["client_secret"]),
        ("all is missing", "authorization_url: https://p.example", ["token_url"]),
        ("a key has no client", "type: apikey, client_id: x, pkce: true", ["client_id", "pkce"]),
        ("metadata, and a client", "discovery_url: https://p.example, client_id: x, client_secret: y", []),
        ("metadata instead of the token URL", f"{DISCOVERED}, authorization_url: https://p.example/a", []),
        ("metadata without a client", "discovery_url: https://p.example", ["client_id", "client_secret"]),
        (
            "a client's credentials",
            "grant_type: client_credentials, token_url: https://p.example, client_id: x, client_secret: y",
            [],
        ),
        (
            "client credentials without any",
            "grant_type: client_credentials",
            ["client_id", "client_secret", "token_url"],
        ),
        ("a service account", "grant_type: jwt_bearer, client_secret: y, subject: robot", []),
        ("an App", "grant_type: github_app, client_id: x, client_secret: y, installation_id: '7'", []),
        (
            "an App without its installation",
            "grant_type: github_app, client_id: x, client_secret: y",
            ["installation_id"],
        ),
        ("an installation of nothing", "installation_id: '7'", ["installation_id"]),
        (
            "a public client that mints",
            "grant_type: jwt_bearer, client_secret: y, token_auth: none",
            ["token_auth"],
        ),
        ("a place to register without the wish", f"{DISCOVERED}, dcr_url: https://p.example", ["dcr_url"]),
        (
            "a key is not registered",
            "type: apikey, use_dcr: true, discovery_url: https://p.example",
            ["use_dcr", "discovery_url"],
        ),
    ],
)
def test_keys_of_a_connection_need_one_another(case: str, connection: str, expected: list[str]) -> None:
    """
    A connection has what its type needs, and nothing that would mean nothing.
    """
    found = problems(f"connections: [{{id: a, {connection}}}]")

    assert [f"connections[0].{key}" for key in expected] == [problem.partition(":")[0] for problem in found], case


@pytest.mark.parametrize(
    ("case", "connection", "expected"),
    [
        ("where metadata says", "discovery_url: https://p.example", []),
        ("where it is said", "dcr_url: https://p.example, token_auth: client_secret_post", []),
        ("with a template", "template: google, dcr_url: https://p.example, token_auth: none", []),
        ("nobody says where", "token_auth: none", ["discovery_url"]),
        (
            "a client beside it",
            "discovery_url: https://p.example, client_id: x, client_secret: y",
            ["client_id", "client_secret"],
        ),
        ("a key that nobody registers", "dcr_url: https://p.example, token_auth: private_key_jwt", ["token_auth"]),
    ],
)
def test_client_that_is_registered_comes_from_the_provider(case: str, connection: str, expected: list[str]) -> None:
    """
    `use_dcr` says where, brings no client of its own, and needs the address that is registered as the callback's.
    """
    text = f"connections: [{{id: a, use_dcr: true, {connection}}}]"
    found = problems(f"listeners: {{traffic: {{public_url: https://gw.example}}}}\n{text}")

    assert [f"connections[0].{key}" for key in expected] == [problem.partition(":")[0] for problem in found], case
    assert any("listeners.traffic.public_url: required with use_dcr" in problem for problem in problems(text))


def test_policy_may_name_a_connection_of_a_route() -> None:
    """
    A connection that only the vault knows is known by the route that uses it.
    """
    assert [] == problems(f"policies: [{{id: p, effect: allow, connections: [a], routes: [a]}}]\nroutes: [{ROUTE}]")


def test_policy_reference_gets_no_hint_from_a_secret() -> None:
    """
    A substituted reference is shown by its template, without a suggestion.
    """
    route = ROUTE.replace("name: a", "name: aaa")
    text = f"policies: [{{id: p, effect: allow, routes: ['${{UNSET:-aa}}']}}]\nroutes: [{route}]"

    assert ['policies[0].routes[0]: expected the name of a route, found "${UNSET:-aa}"'] == problems(text)
