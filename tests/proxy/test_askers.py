"""For whom a request is sent: what may be remembered of it, and what must not be."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from gateway.access.identity import Verified
from gateway.errors import SubjectNotAllowed
from gateway.models import Caller, Origin, Route
from gateway.proxy import askers as module
from gateway.proxy.askers import Askers
from gateway.proxy.connection import UpstreamConnection
from gateway.proxy.lane import Lane
from gateway.proxy.pool import UpstreamPool
from gateway.proxy.request_fields import RequestFields

ALICE = Verified(Caller(kind="jwt", user="alice"), None)
KEY = Verified(Caller(kind="management", user=None, key_id="k1"), None)


def lane(connection: str = "people") -> Lane:
    """Return a lane of which no request is sent."""

    async def nowhere() -> UpstreamConnection:
        raise AssertionError

    route = Route(
        name="r", prefix="/r", origin=Origin("https", "api.example", 443), base_path="", connection=connection
    )
    return Lane(route, UpstreamPool(route.origin, open_connection=nowhere, loop=asyncio.get_running_loop()))


def fields(**said: Any) -> RequestFields:
    """Return fields of which *said* are not absent."""
    found = RequestFields()
    for name, value in said.items():
        setattr(found, name, value)
    return found


async def test_the_same_is_found_again() -> None:
    """
    Equal credential and fields of one caller on one lane give one object, whatever connection they came by.
    """
    askers, here = Askers(), lane()

    first = askers.of(here, ALICE, "one", fields())

    assert first is askers.of(here, ALICE, "".join(("o", "ne")), fields())
    assert 1 == len(askers)


async def test_a_credential_verified_anew_finds_nothing() -> None:
    """
    A key that was deleted and made anew, or a JWT verified again, is another caller: nothing of the old one is used.
    """
    askers, here = Askers(), lane()
    askers.of(here, ALICE, "one", fields())

    again = askers.of(here, Verified(replace(ALICE.caller, user="bob"), None), "one", fields())

    assert ("bob", "bob") == (again.subject.user, again.key.user)
    assert '"user":"bob"' in again.who
    assert 1 == len(askers)


async def test_an_equal_caller_verified_anew_is_the_one_that_counts() -> None:
    """
    An asker holds what was verified last: what was before it may have ended.
    """
    askers, here = Askers(), lane()
    askers.of(here, ALICE, "one", fields())
    other = Verified(ALICE.caller, None)

    assert askers.of(here, other, "one", fields()).verified is other


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({"user": "alice"}, {"user": "bob"}),
        ({"user": "alice"}, {"user": "alice", "account": "work"}),
        ({"user": "alice", "account": "a"}, {"user": "alice", "account": "b"}),
    ],
    ids=["user", "account beside none", "account"],
)
async def test_another_subject_of_one_credential_is_another_asker(one: dict[str, str], two: dict[str, str]) -> None:
    """
    The Gateway fields are part of what finds an asker.
    """
    askers, here = Askers(), lane()

    first, second = (askers.of(here, KEY, "key", fields(**said)) for said in (one, two))

    assert first.key != second.key
    assert first.key == askers.of(here, KEY, "key", fields(**one)).key


async def test_a_new_configuration_finds_nothing_of_the_old_one() -> None:
    """
    A route of the same name in a new lane gets the token of its own connection.
    """
    askers = Askers()
    askers.of(lane("people"), ALICE, "one", fields())

    assert "mail" == askers.of(lane("mail"), ALICE, "one", fields()).key.connection


async def test_a_refused_choice_is_not_remembered() -> None:
    """
    A caller who names a user that is not its own leaves nothing behind.
    """
    askers, here = Askers(), lane()

    with pytest.raises(SubjectNotAllowed):
        askers.of(here, ALICE, "one", fields(user="bob"))

    assert 0 == len(askers)


async def test_the_oldest_goes_where_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The number of askers is bounded, whatever users a management key names.
    """
    monkeypatch.setattr(module, "MAX_ASKERS", 3)
    askers, here = Askers(), lane()
    first = askers.of(here, KEY, "key", fields(user="user-0"))

    for number in range(1, 10):
        askers.of(here, KEY, "key", fields(user=f"user-{number}"))

    assert 3 == len(askers)
    assert first is not askers.of(here, KEY, "key", fields(user="user-0"))


async def test_a_credential_is_not_shown() -> None:
    """
    The text of the memo tells how many it holds, and no credential.
    """
    askers = Askers()
    askers.of(lane(), ALICE, "very-secret", fields())

    assert "very-secret" not in repr(askers)
