"""Where the commands under test find the gateway's state."""

from __future__ import annotations

import os

import pytest


@pytest.fixture
def environment(engine: str, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the developer's own; the database is the data directory's file, or one of PostgreSQL."""
    for name in [name for name in os.environ if name.startswith("GATEWAY_")]:
        monkeypatch.delenv(name)
    if engine == "postgresql":
        monkeypatch.setenv("GATEWAY_DATABASE_URL", database_url)
