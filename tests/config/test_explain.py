"""What pydantic found, in our words."""

from __future__ import annotations

import pytest

from gateway.config.explain import known_keys
from gateway.config.schema import ConfigurationFile
from tests.config.samples import problems


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ((), "project"),
        (("listeners", "token_api", "<bind>"), "bind"),
        (("listeners", "traffic", "tls"), "cert"),
        (("callers", "issuers", 0, "claims"), "tenants"),
        (("token_service", "<descope>"), "base_url"),
        (("policies", 3), "effect"),
        (("routes", 0, "credential", "<header>"), "header"),
        (("routes", 0, "egress"), "allow_http"),
        (("routes", 0, "inject"), "basic"),
    ],
)
def test_known_keys(location: tuple[str | int, ...], expected: str) -> None:
    """
    The keys that a mapping may have are known wherever it stands, also in a branch of a union.
    """
    assert expected in known_keys(ConfigurationFile, location)


@pytest.mark.parametrize(
    ("case", "text", "expected"),
    [
        ("a slip in a key", "drain_second: 5", 'drain_second: unknown key; did you mean "drain_seconds"?'),
        (
            "a slip in a deep key",
            "listeners: {traffic: {tls: {crt: x, key: y}}}",
            'crt: unknown key; did you mean "cert"?',
        ),
        ("a key in a branch", "token_service: {kind: vault, url: x}", "token_service.url: unknown key; expected kind"),
        ("a key that looks like a branch", 'listeners: {"<off>": 1}', 'listeners."<off>": unknown key'),
        (
            "a key that is a branch",
            'token_service: {kind: vault, "<vault>": 1}',
            'token_service."<vault>": unknown key',
        ),
        (
            "a number for text",
            "token_service: {kind: descope, project: 5, credential: caller}",
            "found 5; put it in quotes",
        ),
        ("a missing key", "routes: [{}]", "routes[0].upstream: required, and missing"),
        ("a slip in a word", "routes: [{subject: tennant}]", 'did you mean "tenant"?'),
        ("what comes later", "policies: [{when: 'true'}]", 'not supported yet: expected nothing, found "true"'),
        (
            "a slip in the first of two words",
            "routes: [{audit: requird}]",
            'expected default or required, found "requird"',
        ),
        ("a wrong word", "routes: [{echo_guard: cuut}]", 'expected off, record or cut, found "cuut"'),
        ("a substituted word is not compared", "routes: [{subject: '${UNSET:-tennant}'}]", 'found "${UNSET:-tennant}"'),
    ],
)
def test_explained(case: str, text: str, expected: str) -> None:
    """
    A problem says what was expected and what was found, and suggests what is near.
    """
    assert any(expected in problem for problem in problems(text)), case


def test_substituted_word_gets_no_suggestion() -> None:
    """
    What a secret resembles is not told.
    """
    found = [problem for problem in problems("routes: [{subject: '${UNSET:-tennant}'}]") if "subject" in problem]

    assert ['routes[0].subject: expected user, user_in_tenant or tenant, found "${UNSET:-tennant}"'] == found


def test_unfilled_template_is_told_once() -> None:
    """
    A value that could not be filled in has one problem, whatever the key wants.
    """
    assert ["drain_seconds: expected the environment variable UNSET to be set, found none"] == problems(
        "drain_seconds: ${UNSET}"
    )
