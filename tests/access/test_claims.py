"""What claims must be, and whom they name. The hostile claims are in the table of test_issuers.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from gateway.access.claims import ClaimNames, Issuer, check_claims, read_caller
from gateway.access.names import MAX_NAME_CHARS
from gateway.access.tokens import TokenRefused, UnverifiedToken
from gateway.errors import CallerScopeMissing
from gateway.models import Caller

from .idp import AUDIENCE, NOW

ISSUER = Issuer(issuer="https://i.example", audience=(AUDIENCE,), required_scope=None)
GOOD = {"iss": "https://i.example", "aud": AUDIENCE, "sub": "alice", "exp": NOW + 60}


def token(**claims: Any) -> UnverifiedToken:
    """A token with good claims and *claims*."""
    return UnverifiedToken("RS256", "k", False, GOOD | claims, b"", b"")


def read(claims: Mapping[str, Any], issuer: Issuer = ISSUER, foreign: tuple[str, ...] = ()) -> Caller:
    """The caller whom good claims with *claims* name."""
    return read_caller(token(**claims), issuer, foreign_prefixes=foreign)


def test_reads_the_claims_that_the_issuer_is_configured_with() -> None:
    """
    Every name of a claim is configuration.
    """
    names = ClaimNames(user="uid", client="cid", roles="r", permissions="p", scopes="scp", tenant="org", tenants="orgs")
    issuer = Issuer(issuer="https://i.example", audience=(AUDIENCE,), claims=names, required_scope="s")
    caller = read(
        {"uid": "u", "cid": "c", "r": ["x"], "p": ["y"], "scp": ["s"], "org": "o", "orgs": ["o", "q"], "azp": "no"},
        issuer,
    )

    assert ("u", "c", "o") == (caller.user, caller.client, caller.tenant)
    assert [{"x"}, {"y"}, {"s"}, {"o", "q"}] == [
        set(names) for names in (caller.roles, caller.permissions, caller.scopes, caller.tenants)
    ]


USERS = {
    "a user": ({}, "alice"),
    "a user and a client": ({"azp": "agent"}, "alice"),
    "a client alone": ({"azp": "alice"}, None),
}


@pytest.mark.parametrize(("claims", "expected"), USERS.values(), ids=USERS)
def test_client_credentials_stand_for_no_user(claims: dict[str, str], expected: str | None) -> None:
    """
    Where subject and client are one, there is no user.
    """
    assert expected == read(claims).user


def test_client_is_recognised_before_the_prefix_is_added() -> None:
    """
    A prefix does not turn a client into a user.
    """
    issuer = Issuer(issuer="https://i.example", audience=(AUDIENCE,), required_scope=None, user_prefix="i:")

    assert "i:alice" == read({}, issuer).user
    assert read({"azp": "alice"}, issuer).user is None


def test_current_tenant_is_one_of_the_tenants() -> None:
    """
    A token that names its current tenant alone may act in it.
    """
    for claims, current in (({"dct": "a"}, "a"), ({"tenants": {"a": {}}}, None)):
        caller = read(claims)
        assert current == caller.tenant
        assert {"a"} == caller.tenants


@pytest.mark.parametrize("claims", [{"sub": "x" * (MAX_NAME_CHARS - 1)}, {"sub": "other:alice"}])
def test_prefixed_users_stay_in_their_namespace(claims: dict[str, str]) -> None:
    """
    A user that is too long with its prefix, or falls into another issuer's part, is refused.
    """
    issuer = Issuer(issuer="https://i.example", audience=(AUDIENCE,), required_scope=None)
    prefixed = Issuer(issuer="https://i.example", audience=(AUDIENCE,), required_scope=None, user_prefix="ii:")
    with pytest.raises(TokenRefused):
        read(claims, prefixed if len(claims["sub"]) > 100 else issuer, ("other:",))


def test_unreadable_scopes_are_missing_scopes() -> None:
    """
    Scopes of the wrong type are no scopes, even where none is required: a deny by scope must not be slipped.
    """
    for requires_scope in (True, False):
        with pytest.raises(CallerScopeMissing):
            read_caller(token(scope={"a": 1}), ISSUER, foreign_prefixes=(), requires_scope=requires_scope)


def test_checks_times_at_their_edges() -> None:
    """
    `exp` has no leeway and a greatest distance.
    """
    check_claims(token(exp=NOW + 31 * 86_400), ISSUER, now=NOW)
    for expires_at in (NOW, NOW + 31 * 86_400 + 1):
        with pytest.raises(TokenRefused):
            check_claims(token(exp=expires_at), ISSUER, now=NOW)
