"""Agent keys and management keys."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from sqlalchemy import text

from gateway.access.keys import KeyRing, looks_like_key
from gateway.errors import CallerUnauthenticated, KeysUnavailable
from gateway.models import Caller
from gateway.store.changes import ChangeFeed
from gateway.store.engine import FAILURES, PAUSE_SECONDS, Store

from .idp import NOW, Clock


async def test_agent_key_carries_its_user_and_rights(keyring: KeyRing) -> None:
    """
    A key is verified into exactly what it was made with.
    """
    key = await keyring.create_agent(
        "mail-agent",
        user="alice",
        tenants=["b", "a", "a"],
        roles=["sales"],
        permissions=["p"],
        scopes=["s"],
        expires_at=NOW + 60,
    )

    assert Caller(
        kind="agent",
        user="alice",
        tenants=frozenset({"a", "b"}),
        client="mail-agent",
        roles=frozenset({"sales"}),
        permissions=frozenset({"p"}),
        scopes=frozenset({"s"}),
        expires_at=NOW + 60,
        key_id=key.id,
    ) == await keyring.verify(key.secret)


async def test_agent_key_of_one_tenant_acts_in_it(keyring: KeyRing) -> None:
    """
    A key with one tenant names it as current, and needs no user.
    """
    key = await keyring.create_agent("batch", user=None, tenants=["acme"])
    caller = await keyring.verify(key.secret)

    assert (None, "acme") == (caller.user, caller.tenant)


async def test_management_key_is_its_own_kind(keyring: KeyRing) -> None:
    """
    A management key names no user: each call does.
    """
    key = await keyring.create_management("ci", expires_at=None)

    assert Caller(kind="management", user=None, client="ci", key_id=key.id) == await keyring.verify(key.secret)


async def test_key_has_the_form_that_scanners_find(keyring: KeyRing) -> None:
    """
    Prefix, public id, 256 bits and a checksum; no two keys are alike.
    """
    agent = await keyring.create_agent("a", user="u")
    management = await keyring.create_management("m")

    assert re.fullmatch(rf"gwa_{agent.id}_[0-9A-Za-z]{{49}}", agent.secret)
    assert re.fullmatch(rf"gwm_{management.id}_[0-9A-Za-z]{{49}}", management.secret)
    assert re.fullmatch(r"[0-9A-Za-z]{20}", agent.id)
    assert agent.id != management.id
    assert agent.secret[-49:] != management.secret[-49:]
    assert [True, True, False] == [looks_like_key(value) for value in (agent.secret, management.secret, "eyJhbGciOi")]


async def test_refuses_every_change_to_a_key(keyring: KeyRing) -> None:
    """
    A key with one character changed, left out or added is nobody's.
    """
    key = await keyring.create_agent("a", user="u")
    good = key.secret
    changed = [good[:index] + ("A" if good[index] != "A" else "B") + good[index + 1 :] for index in range(len(good))]
    for wrong in [
        *changed,
        good[:-1],
        good + "A",
        f" {good}",
        f"{good}\n",
        good.upper(),
        "",
        "gwa_",
        "gwa__",
        "x" * 9000,
    ]:
        with pytest.raises(CallerUnauthenticated):
            await keyring.verify(wrong)


async def test_refuses_a_secret_with_another_keys_id(keyring: KeyRing, store: Store, tmp_path: Path) -> None:
    """
    A well-formed key with a right checksum, of an unknown id or with another key's secret, is nobody's.
    """
    one = await keyring.create_agent("one", user="u")
    # A second ring on another database makes well-formed keys that this one does not know; then ids are exchanged.
    other_store = await Store.open(f"sqlite+aiosqlite:///{tmp_path / 'other' / 'gateway.db'}")
    feed = ChangeFeed(other_store, clock=Clock(), monotonic=Clock())
    same_id = iter([_bytes_of(one.id, 14), os.urandom(32), os.urandom(14), os.urandom(32)])
    other = KeyRing(other_store, feed, clock=Clock(), random_bytes=lambda _size: next(same_id))
    impostor = await other.create_agent("impostor", user="root")
    unknown = await other.create_agent("unknown", user="root")
    await other_store.close()

    assert impostor.id == one.id
    for key in (impostor, unknown):
        with pytest.raises(CallerUnauthenticated):
            await keyring.verify(key.secret)


def _bytes_of(key_id: str, size: int) -> bytes:
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    number = 0
    for character in key_id:
        number = number * 62 + digits.index(character)
    return number.to_bytes(size)


async def test_refuses_a_revoked_key(keyring: KeyRing, feed: ChangeFeed) -> None:
    """
    A revocation holds at once, is announced, and may be repeated.
    """
    key = await keyring.create_agent("a", user="u")
    heard: list[str] = []
    feed.subscribe("keys", heard.append)
    await feed.poll()
    heard.clear()

    assert await keyring.revoke(key.id)
    assert await keyring.revoke(key.id)
    assert not await keyring.revoke("unknown")
    await feed.poll()

    assert [key.id, key.id] == heard
    with pytest.raises(CallerUnauthenticated):
        await keyring.verify(key.secret)
    assert NOW == (await keyring.list())[0].revoked_at


async def test_refuses_an_expired_key(keyring: KeyRing, clock: Clock) -> None:
    """
    A key ends with the second in which it expires.
    """
    key = await keyring.create_agent("a", user="u", expires_at=NOW + 10)
    clock.now = NOW + 9.9
    await keyring.verify(key.secret)
    clock.now = NOW + 10

    with pytest.raises(CallerUnauthenticated):
        await keyring.verify(key.secret)


INVALID = {
    "no name": ({"name": "", "user": "u"}, "name: expected"),
    "a name with a line feed": ({"name": "a\nb", "user": "u"}, "name: expected"),
    "a long name": ({"name": "a" * 201, "user": "u"}, "name: expected"),
    "an empty user": ({"name": "a", "user": ""}, "user: expected"),
    "neither user nor tenant": ({"name": "a", "user": None}, "a user or at least one tenant"),
    "an empty tenant": ({"name": "a", "user": "u", "tenants": [""]}, "tenants: expected"),
    "too many roles": ({"name": "a", "user": "u", "roles": [*map(str, range(201))]}, "roles: expected"),
    "an expiry that has passed": ({"name": "a", "user": "u", "expires_at": NOW}, "expires_at: expected"),
}


@pytest.mark.parametrize(("arguments", "expected"), INVALID.values(), ids=INVALID)
async def test_refuses_to_make_a_key_that_says_nothing(
    keyring: KeyRing, arguments: dict[str, object], expected: str
) -> None:
    """
    A key needs a name, someone to act for, and a future.
    """
    with pytest.raises(ValueError, match=expected):
        await keyring.create_agent(**arguments)  # type: ignore[arg-type]  # wrong on purpose

    assert [] == await keyring.list()


async def test_says_unavailable_when_the_database_is(keyring: KeyRing, store: Store) -> None:
    """
    A database that fails is no reason to call a key wrong.
    """
    key = await keyring.create_agent("a", user="u")
    async with store.write() as connection:
        await connection.execute(text("ALTER TABLE keys RENAME TO gone"))

    for _ in range(FAILURES):
        with pytest.raises(KeysUnavailable):
            await keyring.verify(key.secret)
    with pytest.raises(KeysUnavailable) as info:  # and now it is not even asked
        await keyring.verify(key.secret)

    assert PAUSE_SECONDS == info.value.retry_after


@pytest.mark.parametrize("engine", ["sqlite"])
async def test_secret_is_nowhere_but_in_the_answer(keyring: KeyRing, database_path: Path) -> None:
    """
    Neither the repr of a key nor any byte of the database holds the secret.
    """
    key = await keyring.create_agent("a", user="alice")
    secret = key.secret[-49:-6]
    files = [path.read_bytes() for path in database_path.parent.iterdir()]

    assert secret not in repr(key)
    assert secret not in repr(await keyring.list())
    assert any(b"alice" in content for content in files)
    assert not any(secret.encode() in content for content in files)
