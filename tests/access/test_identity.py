"""Who is calling, from a credential; and for whose connection token the call asks."""

from __future__ import annotations

import asyncio
import base64
import os
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from gateway.access.identity import MAX_CACHED, Identity, Verified, choose_subject, parse_credential
from gateway.access.issuers import Issuer, Issuers
from gateway.access.keys import KeyRing
from gateway.access.keysets import REFRESH_SECONDS
from gateway.errors import (
    CallerScopeMissing,
    CallerUnauthenticated,
    KeysUnavailable,
    Refusal,
    SubjectNotAllowed,
    SubjectRequired,
    TenantRequired,
)
from gateway.models import Caller, CredentialPlace, Origin, Route, Subject
from gateway.net.client import OutboundClient
from gateway.store.changes import ChangeFeed
from gateway.store.engine import Store

from .idp import AUDIENCE, NOW, Clock, Idp, compact, jwk, rsa_key

AUTHORIZATION = CredentialPlace()
HEADER = CredentialPlace("header", "X-Api-Key")
BASIC = CredentialPlace("basic")


def basic(text: str | bytes) -> str:
    """Basic credentials."""
    return "Basic " + base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


CREDENTIALS: dict[str, tuple[str, CredentialPlace, str | None]] = {
    "nothing": ("", AUTHORIZATION, None),
    "a scheme alone": ("Bearer", AUTHORIZATION, None),
    "a scheme and a space": ("Bearer ", AUTHORIZATION, None),
    "no scheme": ("gwa_x", AUTHORIZATION, None),
    "Bearer": ("Bearer a.b-c_d", AUTHORIZATION, "a.b-c_d"),
    "bearer in lower case": ("bearer abc", AUTHORIZATION, "abc"),
    "BEARER and more spaces": ("BEARER   abc", AUTHORIZATION, "abc"),
    "token, as PyGithub sends it": ("token abc", AUTHORIZATION, "abc"),
    "Token in another case": ("Token abc", AUTHORIZATION, "abc"),
    "Bearer with the project": ("Bearer acme:abc", AUTHORIZATION, "abc"),
    "Bearer with another project": ("Bearer other:abc", AUTHORIZATION, None),
    "Bearer with the project in another case": ("Bearer ACME:abc", AUTHORIZATION, None),
    "Bearer with no project": ("Bearer :abc", AUTHORIZATION, None),
    "Bearer with the project and nothing": ("Bearer acme:", AUTHORIZATION, None),
    "Bearer with three parts": ("Bearer acme:abc:def", AUTHORIZATION, None),
    "token with the project": ("token acme:abc", AUTHORIZATION, None),
    "a tab after the scheme": ("Bearer\tabc", AUTHORIZATION, None),
    "two credentials": ("Bearer abc, Bearer def", AUTHORIZATION, None),
    "a space at the end": ("Bearer abc ", AUTHORIZATION, None),
    "a letter outside of ASCII": ("Bearer abç", AUTHORIZATION, None),
    "a surrogate": ("Bearer a\udcff", AUTHORIZATION, None),
    "Basic where Bearer belongs": (basic("u:abc"), AUTHORIZATION, None),
    "another scheme": ("DPoP abc", AUTHORIZATION, None),
    "a very long one": ("Bearer " + "a" * 8193, AUTHORIZATION, None),
    "an enormous one": ("Bearer " + " " * 10_000_000, AUTHORIZATION, None),
    "a field's whole value": ("abc", HEADER, "abc"),
    "a field with a scheme": ("Bearer abc", HEADER, None),
    "a field with nothing": ("", HEADER, None),
    "Basic": (basic("anyone:abc"), BASIC, "abc"),
    "Basic without a name": (basic(":abc"), BASIC, "abc"),
    "Basic without a password": (basic("anyone:"), BASIC, None),
    "Basic without a colon": (basic("abc"), BASIC, None),
    "Basic that is no base64": ("Basic !!!!", BASIC, None),
    "Basic that is no UTF-8": (basic(b"u:\xff\xfe"), BASIC, None),
    "Bearer where Basic belongs": ("Bearer abc", BASIC, None),
}


@pytest.mark.parametrize(("value", "place", "expected"), CREDENTIALS.values(), ids=CREDENTIALS)
def test_reads_the_credential(value: str, place: CredentialPlace, expected: str | None) -> None:
    """
    A credential is read where the route says, in the forms that DESIGN section 9 names, and in no other.
    """
    if expected is None:
        with pytest.raises(CallerUnauthenticated):
            parse_credential(value, place, "acme")
    else:
        assert expected == parse_credential(value, place, "acme")


@given(st.text(max_size=40), st.sampled_from([AUTHORIZATION, HEADER, BASIC]))
def test_reads_anything_without_a_failure(value: str, place: CredentialPlace) -> None:
    """
    Whatever stands in the field, the outcome is a credential or a refusal.
    """
    for prefix in ("", "Bearer ", "token ", "Basic "):
        try:
            assert " " not in parse_credential(prefix + value, place, "acme")
        except CallerUnauthenticated:
            continue


def issuer_of(idp: Idp) -> Issuer:
    """The configuration of *idp*."""
    return Issuer(issuer=idp.url, audience=(AUDIENCE,), jwks_uri=f"{idp.url}/keys")


@pytest.fixture
async def issuers(client: OutboundClient, idp: Idp, clock: Clock, monotonic: Clock) -> AsyncIterator[Issuers]:
    """The test's issuer, trusted."""
    issuers = Issuers([issuer_of(idp)], client, clock=clock, monotonic=monotonic)
    yield issuers
    await issuers.close()


@pytest.fixture
def identity(issuers: Issuers, keyring: KeyRing, clock: Clock, monotonic: Clock) -> Identity:
    """A door that takes no management keys."""
    return Identity(issuers, keyring, clock=clock, monotonic=monotonic, accepts_management=False)


def token(idp: Idp, **claims: Any) -> str:
    """A token of *idp*."""
    return compact({"alg": "RS256", "kid": "k1"}, idp.claims(**claims), key=rsa_key("one"))


async def test_remembers_a_token_for_a_minute(identity: Identity, idp: Idp, monotonic: Clock) -> None:
    """
    A verified token is believed for a minute without a look at anything, by whoever holds that.
    """
    jwt = token(idp)
    assert identity.cached(jwt) is None
    caller = await identity.identify(jwt)
    known = identity.cached(jwt)
    assert known is not None
    assert caller is known.caller
    monotonic.now += 59.9
    assert caller is await identity.identify(jwt)
    assert known.is_believed(monotonic.now)
    monotonic.now += 0.1
    assert not known.is_believed(monotonic.now)


async def fetched() -> None:
    """Return when every fetch of a key set that has begun is over."""
    await asyncio.gather(*(task for task in asyncio.all_tasks() if task.get_name() == "key-set"))


@pytest.mark.parametrize("key_set", ["fresh", "fetched again", "due"])
async def test_believes_a_token_for_another_minute_while_its_key_is_there(
    identity: Identity, issuers: Issuers, idp: Idp, monotonic: Clock, key_set: str
) -> None:
    """
    Nothing is verified again where its issuer, heard of lately, still has the key; else it is verified as a new one.
    """
    jwt = token(idp)
    held = await identity.verify(jwt)
    if key_set == "fetched again":
        monotonic.now += REFRESH_SECONDS
        await issuers.load()
        await fetched()
        assert 2 == idp.fetches
    monotonic.now += REFRESH_SECONDS - 1 if key_set == "due" else 60
    assert not held.is_believed(monotonic.now)
    monotonic.now += 1

    again = identity.cached(jwt)

    if key_set == "due":
        assert again is None
        assert held is not await identity.verify(jwt)
        assert not held.is_believed(monotonic.now)
    else:
        assert again is held
        assert held.is_believed(monotonic.now + 59)


@pytest.mark.parametrize(
    "what", ["taken out", "another of its name", "for other algorithms", "of a name that came twice"]
)
async def test_believes_no_token_whose_key_has_gone(
    identity: Identity, issuers: Issuers, idp: Idp, monotonic: Clock, what: str
) -> None:
    """
    A key that is not in the set any more, as it was, ends what was verified by it within a minute.
    """
    jwt = token(idp)
    await identity.identify(jwt)
    key = idp.keys[0]
    idp.keys = {
        "taken out": [jwk(rsa_key("two"), "k2")],
        "another of its name": [jwk(rsa_key("two"), "k1")],
        "for other algorithms": [{**key, "alg": "PS256"}, jwk(rsa_key("two"), "k2")],
        "of a name that came twice": [key, jwk(rsa_key("two"), "k1"), jwk(rsa_key("two"), "k2")],
    }[what]
    monotonic.now += REFRESH_SECONDS
    await issuers.load()
    await fetched()

    assert identity.cached(jwt) is None
    with pytest.raises(CallerUnauthenticated):
        await identity.identify(jwt)


async def test_believes_no_expired_token_for_another_minute(
    identity: Identity, idp: Idp, clock: Clock, monotonic: Clock
) -> None:
    """
    The wall clock alone says that a token has expired, a key that is still there or not.
    """
    jwt = token(idp, exp=NOW + 90)
    await identity.identify(jwt)
    clock.now += 60
    monotonic.now += 60
    held = identity.cached(jwt)
    assert held is not None
    assert held.is_believed(monotonic.now + 29)
    clock.now += 30
    monotonic.now += 30

    assert not held.is_believed(monotonic.now)
    assert identity.cached(jwt) is None
    with pytest.raises(CallerUnauthenticated):
        await identity.identify(jwt)


async def test_forgets_a_token_when_it_expires(identity: Identity, idp: Idp, clock: Clock, monotonic: Clock) -> None:
    """
    A token that ends within the minute is believed until then.
    """
    jwt = token(idp, exp=NOW + 10)
    await identity.identify(jwt)
    clock.now += 10
    monotonic.now += 10

    assert identity.cached(jwt) is None
    with pytest.raises(CallerUnauthenticated):
        await identity.identify(jwt)


async def test_remembers_no_failure(identity: Identity, idp: Idp, keyring: KeyRing) -> None:
    """
    Strangers fill nothing: refused credentials leave no trace.
    """
    key = await keyring.create_agent("a", user="u")
    for credential in ["x", "gwa_x", key.secret[:-1], token(idp, aud="x"), token(idp, exp=1)]:
        with pytest.raises(CallerUnauthenticated):
            await identity.identify(credential)
    with pytest.raises(CallerScopeMissing):
        await identity.identify(token(idp, scope="x"))

    assert 0 == len(identity._callers)


async def test_caller_without_the_scope_is_known_only_where_none_is_required(identity: Identity, idp: Idp) -> None:
    """
    A session JWT is somebody where no scope is needed, and is not remembered as somebody elsewhere.
    """
    session = token(idp, scope="openid")
    caller = await identity.identify(session, requires_scope=False)

    assert ("jwt", frozenset({"openid"})) == (caller.kind, caller.scopes)
    assert identity.cached(session) is None
    with pytest.raises(CallerScopeMissing):
        await identity.identify(session)
    for bad in (token(idp, scope="x", aud="x"), token(idp, scope="x", exp=1), "x"):
        with pytest.raises(CallerUnauthenticated):
            await identity.identify(bad, requires_scope=False)


async def test_remembers_a_bounded_number(identity: Identity, monotonic: Clock) -> None:
    """
    The oldest caller makes room for the newest.
    """
    for number in range(MAX_CACHED + 5):
        identity._remember(f"c{number}", Verified(Caller("agent", user="u", key_id=f"k{number}"), None))

    assert MAX_CACHED == len(identity._callers) == len(identity._credentials)
    assert "c0" not in identity._callers


async def test_takes_management_keys_only_where_the_door_does(
    identity: Identity, issuers: Issuers, keyring: KeyRing, clock: Clock, monotonic: Clock, feed: ChangeFeed
) -> None:
    """
    A management key that one door has just taken is still nobody at the other.
    """
    await feed.poll()
    door = Identity(issuers, keyring, clock=clock, monotonic=monotonic, accepts_management=True)
    key = await keyring.create_management("ci")

    assert "management" == (await door.identify(key.secret)).kind
    assert identity.cached(key.secret) is None
    with pytest.raises(CallerUnauthenticated):
        await identity.identify(key.secret)


async def test_believes_a_key_only_while_changes_are_heard(
    identity: Identity, keyring: KeyRing, feed: ChangeFeed, monotonic: Clock, store: Store
) -> None:
    """
    When the list of changes cannot be read, the database is asked about each key; when that fails, it is a 503.
    """
    await feed.poll()
    key = await keyring.create_agent("a", user="u")
    await identity.identify(key.secret)
    assert identity.cached(key.secret) is not None
    monotonic.now += 1
    assert identity.cached(key.secret) is None
    assert "u" == (await identity.identify(key.secret)).user
    async with store.write() as connection:
        await connection.execute(text("ALTER TABLE keys RENAME TO gone"))
    with pytest.raises(KeysUnavailable):
        await identity.identify(key.secret)


async def test_forgets_a_key_that_changed(
    identity: Identity, keyring: KeyRing, feed: ChangeFeed, monotonic: Clock
) -> None:
    """
    The change of one key drops that key and no other.
    """
    one, two = await keyring.create_agent("one", user="u"), await keyring.create_agent("two", user="u")
    await feed.poll()
    for key in (one, two):
        await identity.identify(key.secret)
    await keyring.revoke(one.id)
    await feed.poll()

    assert identity.cached(one.secret) is None
    assert identity.cached(two.secret) is not None


@pytest.mark.parametrize("how", ["revoked", "changes missed", "changes not heard", "verified anew", "pushed out"])
async def test_what_is_forgotten_ends_for_whoever_holds_it(
    identity: Identity, keyring: KeyRing, feed: ChangeFeed, monotonic: Clock, store: Store, how: str
) -> None:
    """
    A call of somebody who is remembered elsewhere, as a connection's last caller is, finds out as well.
    """
    key = await keyring.create_agent("a", user="u")
    await feed.poll()
    held = await identity.verify(key.secret)
    assert held.is_believed(monotonic.now)

    if how == "revoked":
        await keyring.revoke(key.id)
        await feed.poll()
    elif how == "changes missed":
        async with store.write() as connection:
            await connection.execute(text("DELETE FROM changes"))
        await feed.poll()
    elif how == "changes not heard":
        monotonic.now += 1
    elif how == "verified anew":
        identity._remember(key.secret, Verified(held.caller, feed))
    else:
        for number in range(MAX_CACHED):
            identity._remember(f"c{number}", Verified(Caller("jwt", user="u"), None))

    assert not held.is_believed(monotonic.now)


async def test_forgets_every_key_when_changes_were_missed(
    identity: Identity, idp: Idp, keyring: KeyRing, feed: ChangeFeed, store: Store
) -> None:
    """
    A feed that has lost its place says nothing of single keys: all are verified anew, and tokens of issuers stay.
    """
    keys = [await keyring.create_agent(name, user="u") for name in ("one", "two")]
    await feed.poll()
    jwt = token(idp)
    for credential in (jwt, *(key.secret for key in keys)):
        await identity.identify(credential)
    async with store.write() as connection:
        await connection.execute(text("DELETE FROM changes"))
    await feed.poll()

    assert [None, None] == [identity.cached(key.secret) for key in keys]
    assert identity.cached(jwt) is not None


async def test_does_not_remember_a_key_that_changed_while_it_was_verified(
    issuers: Issuers, keyring: KeyRing, feed: ChangeFeed, clock: Clock, monotonic: Clock
) -> None:
    """
    A revocation heard between the database's answer and the cache is not overwritten by that answer.
    """

    class SlowKeyRing(KeyRing):
        async def verify(self, credential: str) -> Caller:
            caller = await super().verify(credential)
            await self.revoke(caller.key_id or "")
            await self.feed.poll()
            return caller

    slow = SlowKeyRing(keyring._store, feed, clock=clock, random_bytes=os.urandom)
    identity = Identity(issuers, slow, clock=clock, monotonic=monotonic, accepts_management=False)
    key = await keyring.create_agent("a", user="u")
    await feed.poll()
    await identity.identify(key.secret)

    assert identity.cached(key.secret) is None


async def test_revoked_key_is_refused_by_another_process_within_a_second(issuers: Issuers, database_url: str) -> None:
    """
    Two gateways share a database: what one revokes, the other's running feed drops.
    """
    stores = [await Store.open(database_url) for _ in range(2)]
    feeds = [ChangeFeed(store, clock=time.time, monotonic=time.monotonic) for store in stores]
    rings = [
        KeyRing(store, feed, clock=time.time, random_bytes=os.urandom)
        for store, feed in zip(stores, feeds, strict=True)
    ]
    door = Identity(issuers, rings[1], clock=time.time, monotonic=time.monotonic, accepts_management=False)
    for feed in feeds:
        await feed.start()
    try:
        key = await rings[0].create_agent("a", user="u")
        while door.cached(key.secret) is None:
            await door.identify(key.secret)
            await asyncio.sleep(0.01)
        await rings[0].revoke(key.id)
        await asyncio.sleep(1.0)
        assert door.cached(key.secret) is None
        with pytest.raises(CallerUnauthenticated):
            await door.identify(key.secret)
    finally:
        for feed in feeds:
            await feed.stop()
        for store in stores:
            await store.close()


def route(subject: Any = "user", account: str | None = None) -> Route:
    """A route for *subject*."""
    return Route("r", "/r", Origin("https", "api.example.com", 443), "c", subject=subject, account=account)


USER = Caller("jwt", "alice", frozenset({"a", "b"}), "a")
NO_CURRENT = Caller("jwt", "alice", frozenset({"a", "b"}))
NO_TENANT = Caller("jwt", "alice")
CLIENT = Caller("jwt", None, frozenset({"a"}), "a", client="job")
AGENT = Caller("agent", "alice", frozenset({"a", "b"}), client="bot")
KEY = Caller("management", None)
U, UT, T = "user", "user_in_tenant", "tenant"

SUBJECTS: dict[str, tuple[Caller, Route, dict[str, str], Subject | type[Refusal]]] = {
    "a user": (USER, route(U), {}, Subject("alice", None)),
    "a user's agent": (AGENT, route(U), {}, Subject("alice", None)),
    "a user whose tenant does not matter": (USER, route(U), {"tenant": "b"}, Subject("alice", None)),
    "a user and a tenant not theirs": (USER, route(U), {"tenant": "c"}, SubjectNotAllowed),
    "a client for a user's token": (CLIENT, route(U), {}, SubjectRequired),
    "a client that names a user": (CLIENT, route(U), {"user": "alice"}, SubjectNotAllowed),
    "a user that names another": (USER, route(U), {"user": "bob"}, SubjectNotAllowed),
    "a user that names nobody": (USER, route(U), {"user": ""}, SubjectNotAllowed),
    "a user that names itself": (USER, route(U), {"user": "alice"}, SubjectNotAllowed),
    "an agent that names a user": (AGENT, route(U), {"user": "alice"}, SubjectNotAllowed),
    "in the current tenant": (USER, route(UT), {}, Subject("alice", "a")),
    "in a chosen tenant": (USER, route(UT), {"tenant": "b"}, Subject("alice", "b")),
    "in a foreign tenant": (USER, route(UT), {"tenant": "c"}, SubjectNotAllowed),
    "in a tenant in another case": (USER, route(UT), {"tenant": "A"}, SubjectNotAllowed),
    "in an empty tenant": (USER, route(UT), {"tenant": ""}, SubjectNotAllowed),
    "in no tenant": (NO_TENANT, route(UT), {}, TenantRequired),
    "in one of several": (NO_CURRENT, route(UT), {}, TenantRequired),
    "in one of several, chosen": (NO_CURRENT, route(UT), {"tenant": "b"}, Subject("alice", "b")),
    "an agent in one of several": (AGENT, route(UT), {}, TenantRequired),
    "an agent in a chosen one": (AGENT, route(UT), {"tenant": "b"}, Subject("alice", "b")),
    "a client in its tenant": (CLIENT, route(UT), {}, SubjectRequired),
    "a client for its tenant": (CLIENT, route(T), {}, Subject(None, "a")),
    "a client for another tenant": (CLIENT, route(T), {"tenant": "b"}, SubjectNotAllowed),
    "a user for its tenant": (USER, route(T), {}, Subject(None, "a")),
    "a user without a tenant": (NO_TENANT, route(T), {}, TenantRequired),
    "an agent for a chosen tenant": (AGENT, route(T), {"tenant": "a"}, Subject(None, "a")),
    "a management key": (KEY, route(U), {"user": "bob"}, Subject("bob", None)),
    "a management key that names nobody": (KEY, route(U), {}, SubjectRequired),
    "a management key with an empty user": (KEY, route(U), {"user": ""}, SubjectRequired),
    "a management key with a control character": (KEY, route(U), {"user": "a\tb"}, SubjectNotAllowed),
    "a management key with a surrogate": (KEY, route(U), {"user": "a\udcff"}, SubjectNotAllowed),
    "a management key with a long user": (KEY, route(U), {"user": "u" * 513}, SubjectNotAllowed),
    "a management key in a tenant": (KEY, route(UT), {"user": "bob", "tenant": "x"}, Subject("bob", "x")),
    "a management key in no tenant": (KEY, route(UT), {"user": "bob"}, TenantRequired),
    "a management key in an empty tenant": (KEY, route(UT), {"user": "bob", "tenant": ""}, TenantRequired),
    "a management key for a tenant": (KEY, route(T), {"tenant": "x"}, Subject(None, "x")),
    "a management key for a tenant and a user": (KEY, route(T), {"tenant": "x", "user": "u"}, Subject(None, "x")),
    "an account": (USER, route(U), {"account": "work"}, Subject("alice", None, "work")),
    "an empty account": (USER, route(U), {"account": ""}, Subject("alice", None)),
    "a long account": (USER, route(U), {"account": "w" * 201}, SubjectNotAllowed),
    "the route's account": (USER, route(U, "home"), {}, Subject("alice", None, "home")),
    "the route's account, named": (USER, route(U, "home"), {"account": "home"}, Subject("alice", None, "home")),
    "another account than the route's": (USER, route(U, "home"), {"account": "work"}, SubjectNotAllowed),
    "the same for a management key": (KEY, route(U, "home"), {"user": "u", "account": "work"}, SubjectNotAllowed),
}


@pytest.mark.parametrize(("caller", "route", "fields", "expected"), SUBJECTS.values(), ids=SUBJECTS)
def test_chooses_the_subject(
    caller: Caller, route: Route, fields: dict[str, str], expected: Subject | type[Refusal]
) -> None:
    """
    Callers act for themselves and in their own tenants; only a management key names somebody.
    """
    given_fields: dict[str, str | None] = {"user": None, "tenant": None, "account": None, **fields}
    if isinstance(expected, type):
        with pytest.raises(expected):
            choose_subject(caller, route, **given_fields)
    else:
        assert expected == choose_subject(caller, route, **given_fields)


_ODD_NAMES = st.text(st.sampled_from(":/|%\\ .aAä\u0301é-_\u00e9"), min_size=1, max_size=4)


@given(_ODD_NAMES, _ODD_NAMES, _ODD_NAMES, _ODD_NAMES)
def test_two_names_never_run_together(user: str, tenant: str, other_user: str, other_tenant: str) -> None:
    """
    Different users and tenants are different subjects, whatever separators, case or accents they hold (threats D1).
    """
    first = choose_subject(
        Caller("jwt", user, frozenset({tenant}), tenant), route(UT), user=None, tenant=None, account=None
    )
    second = choose_subject(KEY, route(UT), user=other_user, tenant=other_tenant, account=None)

    assert (first == second) is ((user, tenant) == (other_user, other_tenant))
    assert first == (user, tenant, None)
