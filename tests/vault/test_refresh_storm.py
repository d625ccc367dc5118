"""Storms on one expired token, with real processes and a strict provider; `make soak` runs the long ones."""

from __future__ import annotations

from soak.storm import storm
from tests.oidc_provider_process import OidcProviderProcess

ROUNDS = 10


async def test_storm_costs_one_exchange_per_expiry(oidc_provider: OidcProviderProcess, database_url: str) -> None:
    """4 processes with 25 callers each: all get the same new token, the provider is asked once, the grant lives."""
    done = await storm(oidc_provider, database_url, processes=4, callers=25, rounds=ROUNDS)

    assert {"served": 4 * 25 * ROUNDS} == dict(done.answers)
    assert (ROUNDS, 0, True, 0) == (done.exchanges, done.reuses, done.is_grant_alive, done.torn_rounds)
