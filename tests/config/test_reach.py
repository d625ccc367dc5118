"""Where URLs lead."""

from __future__ import annotations

import pytest

from tests.config.samples import problems

PRIVATE = "expected a public address (egress.allow_private does not list this one)"
PLAIN = "expected https (egress.allow_http is false)"


def route(upstream: str, *, more: str = "") -> str:
    """Return the text of one route to *upstream*."""
    return f"routes: [{{name: a, prefix: /a, connection: a, upstream: '{upstream}'{more}}}]\n"


@pytest.mark.parametrize(
    ("case", "text", "expected"),
    [
        ("a public name over https", route("https://api.example"), []),
        ("a public address", route("https://1.1.1.1"), []),
        ("a name is judged when it is dialled", route("https://localhost"), []),
        ("plain http", route("http://api.example"), [PLAIN]),
        ("loopback", route("https://127.0.0.1"), [PRIVATE]),
        ("metadata, mapped", route("https://[::ffff:169.254.169.254]"), [PRIVATE]),
        ("both", route("http://10.0.0.1"), [PRIVATE, PLAIN]),
        (
            "both are allowed",
            "egress: {allow_private: [10.0.0.0/8], allow_http: true}\n" + route("http://10.0.0.1"),
            [],
        ),
        ("another network is allowed", "egress: {allow_private: [10.0.0.0/8]}\n" + route("https://10.0.0.1"), []),
        ("one address is allowed", "egress: {allow_private: [10.0.0.1]}\n" + route("https://10.0.0.2"), [PRIVATE]),
        (
            "the route's own allows",
            route("http://10.0.0.1", more=", egress: {allow_private: [10.0.0.0/8], allow_http: true}"),
            [],
        ),
        (
            "the route's own replaces the global one",
            "egress: {allow_private: [10.0.0.0/8], allow_http: true}\n" + route("http://10.0.0.1", more=", egress: {}"),
            [PRIVATE, PLAIN],
        ),
        (
            "the route's own is for its upstream only",
            route("https://a.example", more=", egress: {allow_http: true}")
            + "connections: [{id: a, token_url: 'http://p.example', client_id: x, token_auth: none}]",
            [PLAIN],
        ),
        (
            "key set of an issuer",
            "callers: {issuers: [{issuer: x, audience: a, jwks_uri: 'https://10.0.0.1/k'}]}",
            [PRIVATE],
        ),
        ("discovery of an issuer", "callers: {issuers: [{issuer: 'http://i.example', audience: a}]}", [PLAIN]),
        (
            "an issuer that is not dialled",
            "callers: {issuers: [{issuer: 'http://i.example', audience: a, jwks_uri: 'https://k.example'}]}",
            [],
        ),
        (
            "Descope",
            "token_service: {kind: descope, project: P, credential: caller, base_url: 'https://[::1]'}",
            [PRIVATE],
        ),
        (
            "metadata and registration of a provider",
            "listeners: {traffic: {public_url: 'https://gw.example'}}\n"
            "connections: [{id: a, use_dcr: true, discovery_url: 'http://p.example', dcr_url: 'https://10.0.0.1/r'}]",
            [PLAIN, PRIVATE],
        ),
        (
            "an authorization endpoint is the browser's to reach",
            "connections: [{id: a, authorization_url: 'https://10.0.0.1/a', token_url: 'https://p.example', "
            "client_id: x, token_auth: none}]",
            [],
        ),
    ],
)
def test_reach(case: str, text: str, expected: list[str]) -> None:
    """
    What the gateway would not dial is refused when the file is read, as far as the file can tell.
    """
    assert expected == [problem.partition(": ")[2].partition(", found")[0] for problem in problems(text)], case


@pytest.mark.parametrize(
    ("case", "origins", "upstream", "is_allowed"),
    [
        ("no origins restrict nothing", "null", "https://a.example", True),
        ("the same origin", "['https://a.example']", "https://a.example/v1", True),
        ("another spelling of it", "['https://A.example:443/']", "https://a.example", True),
        ("one of several", "['https://b.example', 'https://a.example']", "https://a.example", True),
        ("another host", "['https://b.example']", "https://a.example", False),
        ("a host below", "['https://example']", "https://a.example", False),
        ("another port", "['https://a.example:8443']", "https://a.example", False),
        ("another scheme", "['http://a.example']", "https://a.example", False),
    ],
)
def test_route_goes_where_its_connection_may(case: str, origins: str, upstream: str, is_allowed: bool) -> None:
    """
    A route whose origin is none of its connection's is refused when the file is read.
    """
    found = problems(f"connections: [{{id: a, origins: {origins}}}]\n" + route(upstream))

    assert is_allowed is (found == []), case
