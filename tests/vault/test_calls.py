"""The form of a row of the contract's table."""

from __future__ import annotations

from gateway.vault.endpoints import ENDPOINTS


def test_paths_match_whole_and_ids_are_one_segment() -> None:
    """A placeholder is one segment, and nothing may follow it."""
    load = next(endpoint for endpoint in ENDPOINTS if endpoint.row == 18)
    found = [load.pattern.fullmatch(f"/v1/mgmt/outbound/app/{tail}") is not None for tail in ("a.b-c", "", "a/b", "a/")]
    assert [True, False, False, False] == found


def test_what_changes_something_is_known() -> None:
    """A key is verified afresh for every row that a management key changes something with, and for no other."""
    assert [5, 6, *range(8, 18)] == [endpoint.row for endpoint in ENDPOINTS if endpoint.is_change]
