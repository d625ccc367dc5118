"""What the demo provider's codes and tokens are worth, and when they die."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gateway.demo.grants import CODE_SECONDS, GrantInvalid, Grants, challenge_of

from .conftest import Clock

URI = "https://client.example/callback"


@pytest.fixture
def grants(clock: Clock, random_token: Callable[[], str]) -> Grants:
    """Grants whose access tokens die after 20 seconds."""
    return Grants(clock=clock, random_token=random_token, token_lifetime_seconds=20)


def code_of(grants: Grants, user: str = "ada@example.com") -> str:
    """A fresh code of *user*."""
    return grants.authorize(user=user, scope="openid", redirect_uri=URI, challenge=challenge_of("verifier"))


def test_challenge_is_that_of_the_rfc() -> None:
    """
    S256 as in RFC 7636, appendix B.
    """
    assert "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM" == challenge_of("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk")


def test_an_access_token_dies_when_its_time_is_over(grants: Grants, clock: Clock) -> None:
    """
    It is its user's for 20 seconds, and nobody's after that.
    """
    issued = grants.exchange(code_of(grants), redirect_uri=URI, verifier="verifier")

    assert "ada@example.com" == grants.user_of(issued.access_token)
    clock.now += 19.9
    assert "ada@example.com" == grants.user_of(issued.access_token)
    clock.now += 0.1
    assert grants.user_of(issued.access_token) is None
    assert grants.user_of("unknown") is None


WRONG = {
    "an unknown code": ("nope", URI, "verifier", 0.0),
    "another redirect URI": (None, "https://evil.example/", "verifier", 0.0),
    "another verifier": (None, URI, "guess", 0.0),
    "no verifier": (None, URI, "", 0.0),
    "a code that is too old": (None, URI, "verifier", CODE_SECONDS),
}


@pytest.mark.parametrize(("code", "uri", "verifier", "wait"), WRONG.values(), ids=WRONG.keys())
def test_a_code_is_for_its_client_only(
    code: str | None, uri: str, verifier: str, wait: float, grants: Grants, clock: Clock
) -> None:
    """
    A code without its redirect URI and verifier is worth nothing, and after one guess it is gone.
    """
    good = code_of(grants)
    clock.now += wait

    with pytest.raises(GrantInvalid):
        grants.exchange(code or good, redirect_uri=uri, verifier=verifier)

    if code is None:
        with pytest.raises(GrantInvalid):
            grants.exchange(good, redirect_uri=URI, verifier="verifier")


def test_a_code_used_twice_revokes_its_grant(grants: Grants) -> None:
    """
    The second use of a code kills what the first one got.
    """
    code = code_of(grants)
    issued = grants.exchange(code, redirect_uri=URI, verifier="verifier")

    with pytest.raises(GrantInvalid):
        grants.exchange(code, redirect_uri=URI, verifier="verifier")

    assert grants.user_of(issued.access_token) is None
    with pytest.raises(GrantInvalid):
        grants.refresh(issued.refresh_token)


def test_a_refresh_rotates(grants: Grants) -> None:
    """
    Each refresh answers with new tokens of the same user; the access token before lives on until its time.
    """
    first = grants.exchange(code_of(grants), redirect_uri=URI, verifier="verifier")
    second = grants.refresh(first.refresh_token)
    third = grants.refresh(second.refresh_token)

    assert 6 == len({token for each in (first, second, third) for token in (each.access_token, each.refresh_token)})
    assert ["ada@example.com"] * 3 == [grants.user_of(each.access_token) for each in (first, second, third)]
    assert (1, 2, 3) == (grants.counts.code_exchanges, grants.counts.refreshes, grants.counts.exchanges)


def test_an_old_refresh_token_revokes_the_grant(grants: Grants) -> None:
    """
    Reuse is theft until proven otherwise: nobody keeps the grant, and other grants are untouched.
    """
    first = grants.exchange(code_of(grants), redirect_uri=URI, verifier="verifier")
    other = grants.exchange(code_of(grants, "grace@example.com"), redirect_uri=URI, verifier="verifier")
    second = grants.refresh(first.refresh_token)

    for refresh_token in (first.refresh_token, second.refresh_token):
        with pytest.raises(GrantInvalid):
            grants.refresh(refresh_token)

    assert grants.user_of(second.access_token) is None
    assert "grace@example.com" == grants.user_of(other.access_token)
    assert (1, 1) == (grants.counts.reuses, grants.counts.revocations)


def test_revocation(grants: Grants) -> None:
    """
    A revoked access token takes nothing with it, a revoked refresh token its grant; unknown ones are no error.
    """
    issued = grants.exchange(code_of(grants), redirect_uri=URI, verifier="verifier")
    grants.revoke(issued.access_token)
    assert grants.user_of(issued.access_token) is None

    refreshed = grants.refresh(issued.refresh_token)
    grants.revoke(refreshed.refresh_token)
    grants.revoke("unknown")
    assert grants.user_of(refreshed.access_token) is None


def test_killing_access_tokens_leaves_the_grants(grants: Grants) -> None:
    """
    What waiting does can be done at once: the tokens are dead, a refresh brings new ones.
    """
    issued = grants.exchange(code_of(grants), redirect_uri=URI, verifier="verifier")
    grants.kill_access_tokens()

    assert grants.user_of(issued.access_token) is None
    assert "ada@example.com" == grants.user_of(grants.refresh(issued.refresh_token).access_token)


def test_tokens_are_in_no_repr(grants: Grants) -> None:
    """
    What is issued can be logged.
    """
    issued = grants.exchange(code_of(grants), redirect_uri=URI, verifier="verifier")

    assert "token-" not in repr(issued)
