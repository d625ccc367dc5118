"""The form of a row, and what a record line says about a caller."""

from __future__ import annotations

from gateway.models import Caller, Subject
from gateway.vault.calls import who
from gateway.vault.endpoints import ENDPOINTS


def test_paths_match_whole_and_ids_are_one_segment() -> None:
    """A placeholder is one segment, and nothing may follow it."""
    load = next(endpoint for endpoint in ENDPOINTS if endpoint.row == 18)
    found = [load.pattern.fullmatch(f"/v1/mgmt/outbound/app/{tail}") is not None for tail in ("a.b-c", "", "a/b", "a/")]
    assert [True, False, False, False] == found


def test_what_changes_something_is_known() -> None:
    """A key is verified afresh for every row that a management key changes something with, and for no other."""
    assert [5, 6, *range(8, 18)] == [endpoint.row for endpoint in ENDPOINTS if endpoint.is_change]


def test_record_tells_caller_and_subject_apart() -> None:
    """Who asked and for whom are different fields."""
    line = who(Caller(kind="jwt", user="alice", client="app"), Subject("bob", "acme", "work"))
    assert ("alice", "app", "bob", "acme", "work") == tuple(
        line[name] for name in ("caller_user", "caller_client", "user", "tenant", "account")
    )
