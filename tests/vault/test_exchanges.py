"""One exchange: asked once, bounded, and told as an outcome whatever the provider does."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from gateway.net.client import OutboundClient
from gateway.vault.exchanges import Exchanges, word_of
from gateway.vault.oauth import ExchangeFailed
from gateway.vault.stored_token import TokenDraft, preview
from gateway.vault.token_endpoint import TokenEndpoints
from tests.vault.conftest import LOOPBACK, House

FAULTS: dict[str, tuple[int | str, str, bool]] = {
    "a server error": (503, "status_503", True),
    "too many requests": (429, "server_error", False),
    "a page": ("garbage", "malformed_answer", True),
    "a broken connection": ("drop", "reset", True),
    "no answer at all": ("hang", "timeout", True),
}


@pytest.mark.parametrize(("fault", "error", "is_unknown"), FAULTS.values(), ids=FAULTS.keys())
async def test_fault_is_an_outcome(house: House, fault: int | str, error: str, is_unknown: bool) -> None:
    """No fault of a provider raises; doubt about the refresh token is told; the record has the line before it."""
    house.provider.fault = fault
    _, refresh_token = house.provider.grant("alice")
    token = preview(TokenDraft("contacts", "alice", refresh_token=refresh_token), now=house.clock())
    counts: Counter[str] = Counter()
    async with OutboundClient(LOOPBACK) as client:
        exchanges = Exchanges(
            client,
            discovery=None,
            record=house.note,
            seconds=0.5,
            clock=house.clock,
            random_bytes=os.urandom,
            counts=counts,
            endpoints=TokenEndpoints(monotonic=house.clock, random_bytes=os.urandom),
        )
        turn = await exchanges.turn(house.connection(), token, wait_seconds=0)
        outcome = await exchanges.ask(house.connection(), token, exchange_id="x", turn=turn)
        exchanges.ended(token, outcome, exchange_id="x", stored=False, error="answer_lost")

    assert isinstance(outcome, ExchangeFailed)
    assert is_unknown == outcome.is_outcome_unknown
    assert {word_of(outcome): 1} == counts
    assert ["exchange_intent", "exchange_outcome"] == house.events()
    assert (word_of(outcome), False) == (house.recorded[1][1]["outcome"], house.recorded[1][1]["stored"])
    assert error in word_of(outcome)
