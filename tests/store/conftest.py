"""A database of either engine, empty and open."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gateway.store.engine import Store


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    """An open database."""
    store = await Store.open(database_url)
    yield store
    await store.close()
