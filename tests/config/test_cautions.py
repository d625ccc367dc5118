"""What is allowed, and perhaps should not be."""

from __future__ import annotations

import pytest

from tests.config.samples import example, warnings

ROUTE = "routes: [{name: a, prefix: /a, upstream: https://a.example, connection: people}]\n"
OPENED = "routes: [{name: a, prefix: /a, upstream: https://a.example, connection: people, %s}]"
LISTED = "routes: [{name: a, prefix: /a, upstream: '%s', connection: people, allow: [%s]}]"
DESCOPE = "token_service: {kind: descope, project: P, credential: %s}\n"
NO_REFRESH = "connections[0].token_url: no token_url: tokens are never refreshed"


@pytest.mark.parametrize(
    ("case", "text", "expected"),
    [
        ("no policies", "", "every route, and none may fetch a raw token"),
        (
            "a slip in a policy",
            "policies: [{id: a, effect: deny, connections: [peopel]}]\n" + ROUTE,
            'policies[0].connections[0]: "peopel" is neither in connections nor a route\'s: the vault must know it; '
            'did you mean "people"?',
        ),
        ("empty policies", "policies: []", "policies: an empty list: no caller may use any route"),
        ("no issuers", "", "callers: no issuers: only keys identify callers"),
        (
            "nobody",
            DESCOPE % "caller",
            "callers: no issuers: nobody can call: Descope is asked with the caller's own token",
        ),
        ("no routes", "", "routes: no routes: agents can call nothing"),
        ("management keys", "callers: {management_keys: true}", "bypass policies on the traffic listener"),
        ("a key for Descope", DESCOPE % "'${SECRET}'", "bypasses Descope's policies"),
        ("a token API beside Descope", "listeners: {token_api: {}}\n" + DESCOPE % "caller", "the token API is off"),
        ("no origins", "connections: [{id: people}]", "connections[0].origins: no origins: any route may send"),
        ("no token endpoint", "connections: [{id: people}]", NO_REFRESH),
        ("a secret in the file", "connections: [{id: a, client_secret: x}]", "client_secret: a secret in the file"),
        ("credentials handed out", OPENED % "minting: pass", "routes[0].minting: callers can have the API hand out"),
        ("answers that are scripts", OPENED % "jsonp: pass", "routes[0].jsonp: an answer can be a script"),
        ("batches", OPENED % "multiplex: true", "routes[0].multiplex: what a request to a batch path carries"),
        ("echoes unseen", OPENED % "echo_guard: off", "routes[0].echo_guard: an API that answers with the token"),
        (
            "messages that nobody looks into",
            OPENED % "echo_guard: cut, upgrade: [websocket]",
            "routes[0].upgrade: echo_guard: cut does not look into the messages",
        ),
        ("judged overrides", OPENED % "method_override: judge", "both methods are judged"),
        ("a token in the URL", OPENED % "inject: {query: key}", "routes[0].inject.query: a token in a URL is written"),
        (
            "a list that names what is refused",
            LISTED % ("https://gitlab.com/api/v4", '"POST /users/*/personal_access_tokens"'),
            "routes[0].allow[0]: the API hands out credentials there: refused, unless the route says minting: pass",
        ),
        (
            "a list that names a batch",
            LISTED % ("https://www.googleapis.com", '"GET /x", "POST /batch/**"'),
            "routes[0].allow[1]: a request there carries several calls: refused",
        ),
        (
            "a list that names what is refused, known by the template",
            "connections: [{id: people, template: gitlab, client_id: a, client_secret: '${SECRET}', "
            "variables: {host: git.example}}]\n" + LISTED % ("https://git.example", '"GET /api/v4/user/keys"'),
            "routes[0].allow[0]: the API hands out credentials there",
        ),
        ("everybody is a proxy", "listeners: {traffic: {trusted_proxies: ['::/0']}}", "every peer is believed"),
        (
            "a proxy's password in the file",
            "egress: {proxy: 'http://a:b@proxy.example:1'}",
            "egress.proxy: a secret in the file",
        ),
        ("a slip in a connection", "connections: [{id: peopel}]\n" + ROUTE, 'did you mean "peopel"?'),
    ],
)
def test_caution(case: str, text: str, expected: str) -> None:
    """
    An unwise choice is taken, with a sentence about what follows from it.
    """
    assert any(expected in warning for warning in warnings(text)), case


@pytest.mark.parametrize(
    ("case", "text", "unexpected"),
    [
        ("policies", "policies: [{id: a, effect: deny}]", "policies"),
        ("the caller's own token", DESCOPE % "caller", "token_service"),
        ("an API key is never refreshed", "connections: [{id: a, type: apikey}]", "token_url"),
        (
            "metadata says where to refresh",
            "connections: [{id: a, discovery_url: 'https://p.example', client_id: x, token_auth: none}]",
            "token_url",
        ),
        ("a secret from elsewhere", "connections: [{id: a, client_secret: '${SECRET}'}]", "client_secret"),
        ("a proxy without a password", "egress: {proxy: 'http://proxy.example:1'}", "egress"),
        ("its password from elsewhere", "egress: {proxy: 'http://a:${SECRET}@proxy.example:1'}", "egress"),
        ("connections that come by the API", ROUTE, "routes"),
        ("a list that covers what is refused", LISTED % ("https://gitlab.com", '"* /**"'), "routes"),
        ("a list of paths of another API", LISTED % ("https://a.example", '"POST /batch"'), "routes"),
        ("a known connection", "connections: [{id: people}]\n" + ROUTE, "routes"),
    ],
)
def test_no_caution(case: str, text: str, unexpected: str) -> None:
    """
    A sound choice is not commented on.
    """
    assert not any(unexpected in warning.partition(": ")[0] for warning in warnings(text)), case


def test_cautions_come_by_place() -> None:
    """
    Warnings are in the order of the file, with their places.
    """
    found = example("everything").warnings

    assert list(found) == sorted(found, key=lambda problem: (problem.line, problem.column))
    assert all(problem.line > 1 for problem in found)
