"""What the guard of the hot path lets through."""

from __future__ import annotations

import pytest

from bench.guard import judge

JUDGED = {
    "nothing is stored": (100, None, True),
    "another case is stored": (100, {"other": 1}, True),
    "less": (90, {"case": 100}, True),
    "within the tolerance": (102, {"case": 100}, True),
    "more": (104, {"case": 100}, False),
}


@pytest.mark.parametrize("case", JUDGED)
def test_growth_beyond_the_tolerance_fails(case: str) -> None:
    """
    Only a case that has grown by more than three per cent of its stored figure fails.
    """
    counted, stored, passes = JUDGED[case]

    assert passes == judge({"case": counted}, stored)
