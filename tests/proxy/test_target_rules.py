"""What a target asks for beside its path."""

from __future__ import annotations

import pytest

from gateway.access.patterns import PathPattern
from gateway.errors import (
    CredentialNotPassed,
    FieldNotPassed,
    MintingNotAllowed,
    MultiplexNotAllowed,
    Refusal,
)
from gateway.models import AllowPattern, Injection, Origin, Route, RouteMatch, UpstreamRules
from gateway.providers.catalogue import catalogue
from gateway.proxy.target_rules import TargetRules

KNOWN = UpstreamRules(
    credential_params=frozenset({"key"}),
    minting_paths=("/**/serviceAccounts/*:signJwt", "/api/oauth.*"),
    multiplex_paths=("/batch", "/batch/**", "/**/$batch"),
)
ALLOW = (AllowPattern("*", "/**"),)


def route(**more: object) -> Route:
    return Route("api", "/api", Origin("https", "api.example.com", 443), "c", **more)  # type: ignore[arg-type]  # rows


def read(target: str, *, has_conditions: bool = False, override: str | None = None, **more: object) -> str:
    """Return the target that is sent; *more* are keys of the route."""
    entry = route(**more)
    path, _, query = target.partition("?")
    match = RouteMatch(entry, "GET", "/whatever", target, path, query)
    sent, _ = TargetRules(entry, KNOWN, has_conditions=has_conditions).read(match, override)
    return sent.target


MINTING = (
    "/v1/projects/-/serviceAccounts/a@b.example:signJwt",
    "/serviceAccounts/a:signJwt",
    "/v1/serviceaccounts/a:SIGNJWT",
    "/v1/serviceAccounts/a:signJwt/",
    "/v1/serviceAccounts/a%3AsignJwt",
    "/v1/serviceAccounts/a:signJwt?alt=json",
    "/api/oauth.access",
    "/api/oauth.v2.access.",
)


@pytest.mark.parametrize("target", MINTING)
def test_path_that_hands_out_credentials_is_refused(target: str) -> None:
    """
    A path of the API that mints is refused, however a careless server would let it be spelled.
    """
    with pytest.raises(MintingNotAllowed):
        read(target)


@pytest.mark.parametrize("target", MINTING)
def test_path_that_hands_out_credentials_passes_where_the_route_says_so(target: str) -> None:
    """
    With `minting: pass` it is a path like any other.
    """
    assert target == read(target, minting="pass")


MULTIPLEX = ("/batch", "/Batch", "/batch/drive/v3", "/batch/?x", "/v1.0/$batch", "/$batch", "/v1.0/%24batch")
NARROWED: dict[str, dict[str, object]] = {
    "an allow list": {"allow": ALLOW},
    "policies with methods or paths": {"has_conditions": True},
}


@pytest.mark.parametrize("target", MULTIPLEX)
@pytest.mark.parametrize("case", NARROWED)
def test_several_calls_in_one_are_refused_where_each_would_have_to_be_seen(target: str, case: str) -> None:
    """
    A batch passes neither allow lists nor conditional policies by.
    """
    with pytest.raises(MultiplexNotAllowed):
        read(target, **NARROWED[case])  # type: ignore[arg-type]  # rows


@pytest.mark.parametrize("target", MULTIPLEX)
def test_several_calls_in_one_pass_where_nothing_is_bypassed(target: str) -> None:
    """
    Without allow list and conditions there is nothing to pass by; `multiplex: true` is the operator's word.
    """
    assert target == read(target)
    assert target == read(target, allow=ALLOW, has_conditions=True, multiplex=True)


@pytest.mark.parametrize("target", ["/", "/batches", "/v1/serviceAccounts/a", "/api/chat.postMessage", "/x?q=/batch"])
def test_other_paths_pass(target: str) -> None:
    """
    A path that neither mints nor carries several calls is sent as it came.
    """
    assert target == read(target, allow=ALLOW, has_conditions=True)


QUERIES: dict[str, tuple[str, type[Refusal]]] = {
    "a credential": ("/x?key=1", CredentialNotPassed),
    "a credential for the base path": ("/?access_token=1", CredentialNotPassed),
    "a method override": ("/x?_method=DELETE", FieldNotPassed),
}


@pytest.mark.parametrize("case", QUERIES)
def test_query_is_read(case: str) -> None:
    """
    What a query may not hold is refused.
    """
    target, refusal = QUERIES[case]

    with pytest.raises(refusal):
        read(target)


def test_target_is_sent_without_the_callers_own_injected_parameter() -> None:
    """
    The target that goes on to policy, record and upstream has lost it; an empty query goes with its mark.
    """
    inject = Injection("query", "appid", "{token}")

    assert "/x?a=b" == read("/x?appid=mine&a=b", inject=inject)
    assert "/x" == read("/x?appid=mine", inject=inject)
    assert "/x?" == read("/x?", inject=inject)


def test_override_of_field_and_query_together_is_refused() -> None:
    """
    Two places that name a method are read in two ways, also where they agree.
    """
    assert "/x?a" == read("/x?a", override="GET", method_override="judge")
    with pytest.raises(FieldNotPassed):
        read("/x?_method=GET", override="GET", method_override="judge")


@pytest.mark.parametrize("provider_id", sorted(catalogue()))
def test_globs_of_the_catalogue_can_be_read(provider_id: str) -> None:
    """
    Every path that the catalogue knows is a glob, and some path fits it.
    """
    upstream = catalogue()[provider_id].upstream
    for glob in (*upstream.minting_paths, *upstream.multiplex_paths):
        pattern = PathPattern.compile(glob)
        assert pattern.matches(glob.replace("/**", "/x/y").replace("*", "x")), glob
