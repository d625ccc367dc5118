"""What `make bench-guard` counts: that it does the gateway's work."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.hot_path import WARM_UP, drive, write_issuer


@pytest.mark.parametrize(
    ("changes", "callers", "routes"),
    [(False, 1, 1), (True, 1, 1), (False, 5, 3)],
    ids=["equal heads", "one field changes", "many callers"],
)
async def test_every_request_is_answered_and_recorded(
    tmp_path: Path, *, changes: bool, callers: int, routes: int
) -> None:
    """
    Each request is answered 200 and has its two lines in the record, in a process without a network.
    """
    own = write_issuer(tmp_path, callers=callers)
    jwks, credentials = (own / "jwks.json").read_bytes(), (own / "credentials").read_text().split("\n")

    await drive(tmp_path, jwks=jwks, credentials=credentials, routes=routes, total=10, changes=changes)

    record = (tmp_path / "egress.jsonl").read_bytes()
    for event in (b"intent", b"outcome"):
        assert WARM_UP + 10 == record.count(b'"event":"%b"' % event)
