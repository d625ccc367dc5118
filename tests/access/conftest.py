"""Fixtures of the access tests: an issuer, a client that may call it, a store, clocks."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest

from gateway.access.keys import KeyRing
from gateway.net.client import OutboundClient
from gateway.store.changes import ChangeFeed
from gateway.store.engine import Store

from .idp import LOOPBACK, Clock, Idp, jwk, rsa_key, running


@pytest.fixture
def clock() -> Clock:
    """The wall clock."""
    return Clock()


@pytest.fixture
def monotonic() -> Clock:
    """The monotonic clock."""
    return Clock(1000.0)


@pytest.fixture
async def client() -> AsyncIterator[OutboundClient]:
    """A client that may dial 127.0.0.1."""
    async with OutboundClient(LOOPBACK) as client:
        yield client


@pytest.fixture
async def idp() -> AsyncIterator[Idp]:
    """A running issuer with one RSA key, "k1"."""
    async with running(Idp(keys=[jwk(rsa_key("one"), "k1")])) as idp:
        yield idp


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    """An open database."""
    store = await Store.open(database_url)
    yield store
    await store.close()


@pytest.fixture
def feed(store: Store, clock: Clock, monotonic: Clock) -> ChangeFeed:
    """The store's change feed, not started: tests poll."""
    return ChangeFeed(store, clock=clock, monotonic=monotonic)


@pytest.fixture
def keyring(store: Store, feed: ChangeFeed, clock: Clock) -> KeyRing:
    """The store's keys."""
    return KeyRing(store, feed, clock=clock, random_bytes=os.urandom)
