"""Storms on one expired token, with real processes and a strict provider; `make soak` runs the long ones."""

from __future__ import annotations

import pytest

from gateway.vault.service import Vault
from soak.killing import _Run
from soak.storm import storm
from tests.oidc_provider_process import OidcProviderProcess
from tests.vault.conftest import House

ROUNDS = 10


async def test_storm_costs_one_exchange_per_expiry(oidc_provider: OidcProviderProcess, database_url: str) -> None:
    """4 processes with 25 callers each: all get the same new token, the provider is asked once, the grant lives."""
    done = await storm(oidc_provider, database_url, processes=4, callers=25, rounds=ROUNDS)

    assert {"served": 4 * 25 * ROUNDS} == dict(done.answers)
    assert (ROUNDS, 0, True, 0) == (done.exchanges, done.reuses, done.is_grant_alive, done.torn_rounds)


@pytest.mark.parametrize("engine", ["sqlite"])
async def test_worker_that_was_killed_at_the_end_counts_as_dead(house: House, vault: Vault) -> None:
    """The judge of `make soak` asks of every worker that ever exchanged, also once all are gone."""
    run = _Run(house.database_url, vault, house.secret, users=1, seed=1)
    await run.work(workers=1, seconds=0)
    run.close()

    assert not run._is_alive("worker-1")
