"""Uploads: many tokens are what each alone would be, all stored or none, and one refresh token is in one row only."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, replace

import pytest
from sqlalchemy import text
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import IntegrityError

from gateway.models import token_owner
from gateway.vault.adoption import RefreshTokenStored
from gateway.vault.backoff import RefreshFailed
from gateway.vault.oauth import Granted
from gateway.vault.service import Vault
from gateway.vault.stored_token import StoredToken, TokenDraft
from gateway.vault.uploads import RefreshTokenRepeated, _Batch, _of_subjects, _rows_of
from tests.vault.conftest import ANYBODY, KEY, House

GRANT = TokenDraft("contacts", "alice", scopes=("read",), access_token="AT", refresh_token="RT-alice-0")
MANY = [
    TokenDraft("contacts", "alice", scopes=("b", "a"), access_token="1", refresh_token="R1", expires_at=1e10),
    TokenDraft("contacts", "alice", scopes=("c",), access_token="2", token_type="mac", granted_by="bob"),
    TokenDraft("contacts", "alice", account="work", refresh_token="R3", token_sub="sub", granted_scopes=("x", "x")),
    TokenDraft("contacts", "bob", "acme", access_token="4", refresh_token="R1"),
    TokenDraft("contacts", "", "acme", access_token="5"),
]


async def everything(vault: Vault) -> list[StoredToken]:
    """All rows, with their secrets, by whose they are."""
    found = [await vault.tokens.get(token.id) for token in await vault.tokens.list()]
    return sorted(
        (token for token in found if token is not None),
        key=lambda it: (it.user, it.tenant, it.account, it.requested_scopes),
    )


def without_id(token: StoredToken) -> dict[str, object]:
    """What two vaults have alike."""
    return {name: value for name, value in asdict(token).items() if name != "id"}


async def test_many_are_what_each_alone_would_be(house: House, vault: Vault) -> None:
    """New rows, rows with another and with the same refresh token, leased or not: as `Tokens.put` would write them."""
    again = [
        replace(MANY[0], access_token="1b"),
        replace(MANY[2], refresh_token="R3b", expires_at=1e10),
        replace(MANY[4], access_token="5b", refresh_token="R5"),
        TokenDraft("contacts", "alice", scopes=("new",), access_token="6"),
    ]

    async def story(one_by_one: bool) -> tuple[list[dict[str, object]], list[str]]:
        async def put(drafts: list[TokenDraft]) -> list[str]:
            if not one_by_one:
                return list(await vault.uploads.put_all(drafts))
            return [(await vault.tokens.put(draft)).id for draft in drafts]

        house.execute("DELETE FROM tokens")
        house.execute("DELETE FROM changes")
        ids = await put(MANY)
        for number in (0, 2):
            house.execute("UPDATE tokens SET last_refresh_error = 'answer_lost', dead = :d", d=True)
            house.lease_to("another", ids[number])
        house.clock.now += 10
        assert {ids[0], ids[2], ids[4]} == set((await put(again))[:3])
        stored = [without_id(token) for token in await everything(vault)]
        house.clock.now -= 10
        return stored, sorted(set(house.announced("tokens")))

    assert await story(True) == await story(False)
    assert token_owner("contacts", "alice", "") in house.announced("tokens")


async def test_nothing_is_stored_of_nothing(vault: Vault) -> None:
    """An empty batch is no error."""
    assert () == await vault.uploads.put_all([])


async def test_newest_of_a_batch_is_its_last(vault: Vault) -> None:
    """Tokens of one user in a batch are created one after the other, at one instant of the clock too."""
    await vault.uploads.put_all([TokenDraft("contacts", "alice", scopes=(f"{n}",), access_token=f"{n}") for n in "abc"])
    latest = await vault.tokens.latest(KEY)
    assert latest is not None
    assert "c" == latest.access_token


async def test_batch_with_a_failing_row_changes_nothing(house: House, vault: Vault) -> None:
    """A token of a connection that is not there undoes new rows, changed rows and what was announced."""
    await vault.uploads.put_all(MANY)
    before, announced = await everything(vault), house.announced("tokens")
    changed = [replace(draft, access_token="changed") for draft in MANY]
    with pytest.raises(IntegrityError):
        await vault.uploads.put_all(
            [*changed, TokenDraft("contacts", "carol", access_token="x"), TokenDraft("nothing", "x", access_token="x")]
        )

    assert before == await everything(vault)
    assert announced == house.announced("tokens")


async def test_batch_goes_over_a_row_that_does_not_open(house: House, vault: Vault) -> None:
    """A row whose seal is broken is replaced, and hinders no other one."""
    await vault.uploads.put_all(MANY[:2])
    house.execute("UPDATE tokens SET sealed_refresh_token = sealed_access_token WHERE sealed_refresh_token IS NOT NULL")
    await vault.uploads.put_all(MANY)

    assert [None, "R1", None, "R3", "R1"] == [token.refresh_token for token in await everything(vault)]


REPEATED: dict[str, tuple[TokenDraft, bool]] = {
    "other scopes": (replace(GRANT, scopes=("write",)), True),
    "another account of the user": (replace(GRANT, account="work"), True),
    "the user within a tenant": (replace(GRANT, tenant="acme"), True),
    "another user": (replace(GRANT, user="bob"), False),
    "a tenant": (replace(GRANT, user="", tenant="acme"), False),
    "another refresh token": (replace(GRANT, scopes=("write",), refresh_token="RT-other"), False),
    "no refresh token": (replace(GRANT, scopes=("write",), refresh_token=None), False),
}


@pytest.mark.parametrize(("second", "is_refused"), REPEATED.values(), ids=REPEATED.keys())
async def test_one_refresh_token_twice_in_a_batch(vault: Vault, second: TokenDraft, is_refused: bool) -> None:
    """Two rows of one subject would spend it for each other: the later one is named, and nothing is stored."""
    if not is_refused:
        assert 2 == len(set(await vault.uploads.put_all([GRANT, second])))
        return
    with pytest.raises(RefreshTokenRepeated) as refusal:
        await vault.uploads.put_all([GRANT, second])
    assert ((second,), []) == (refusal.value.drafts, await vault.tokens.list())


@pytest.mark.parametrize(("second", "is_refused"), REPEATED.values(), ids=REPEATED.keys())
async def test_one_refresh_token_in_a_row_and_a_batch(vault: Vault, second: TokenDraft, is_refused: bool) -> None:
    """The row that holds it is named, and nothing is stored."""
    stored = await vault.tokens.put(GRANT)
    batch = [TokenDraft("contacts", "carol", access_token="x"), second]
    if not is_refused:
        assert 2 == len(await vault.uploads.put_all(batch))
        return
    with pytest.raises(RefreshTokenStored) as refusal:
        await vault.uploads.put_all(batch)
    assert (stored.id, [stored.id]) == (refusal.value.token_id, [token.id for token in await vault.tokens.list()])


async def test_one_refresh_token_uploaded_twice_at_once_is_in_one_row(house: House, vault: Vault) -> None:
    """Uploads and batches of other scopes, in two processes at once: one stores it, the others are told which row."""
    drafts = [replace(GRANT, scopes=(f"{number}",)) for number in range(10)]
    async with house.vault() as other:
        ended = await asyncio.gather(
            *(vault.upload(draft) for draft in drafts[:5]),
            *(other.uploads.put_all([draft]) for draft in drafts[5:]),
            return_exceptions=True,
        )

    (token,) = await vault.tokens.list()
    assert {token.id} == {each.token_id for each in ended if isinstance(each, RefreshTokenStored)}
    assert 9 == sum(isinstance(each, RefreshTokenStored) for each in ended)


async def test_provider_that_never_rotates_may_have_it_twice(house: House, vault: Vault) -> None:
    """Where using a refresh token does not spend it, several rows may hold it."""
    await vault.connections.create(house.connection(id="still", name="still", template="google"))
    drafts = [replace(GRANT, connection="still", scopes=(scope,)) for scope in ("a", "b")]
    assert 2 == len(await vault.uploads.put_all(drafts))
    await vault.upload(replace(drafts[0], scopes=("c",)))


async def test_token_that_is_being_verified_is_not_in_a_batch(house: House, vault: Vault) -> None:
    """Its exchange is under way in another process: the batch is told to come back, and changes nothing."""
    access_token, refresh_token = house.provider.grant("alice")
    given = replace(GRANT, access_token=access_token, refresh_token=refresh_token)
    house.provider.gate = asyncio.Event()
    async with house.vault() as other:
        verifying = asyncio.create_task(other.upload(given, verify_refresh=True))
        await house.provider.entered.wait()
        with pytest.raises(RefreshFailed) as refusal:
            await vault.uploads.put_all([TokenDraft("contacts", "bob", access_token="x"), given])
        assert ("in_progress", []) == (refusal.value.error, await vault.tokens.list())
        house.provider.gate.set()
        await verifying


@pytest.mark.parametrize("is_same", [True, False])
async def test_batch_races_with_a_refresh(house: House, vault: Vault, is_same: bool) -> None:
    """A batch during an exchange keeps its answer if it brought the same refresh token; another one stays."""
    token = await house.grant(vault, seconds=100.0)
    house.clock.now += 101.0
    house.provider.gate = asyncio.Event()
    fetching = asyncio.create_task(vault.fetch(KEY, caller=ANYBODY, credential=""))
    await house.provider.entered.wait()
    brought = replace(GRANT, refresh_token="RT-alice-0" if is_same else "RT-other")
    async with house.vault() as another:
        await another.uploads.put_all([TokenDraft("contacts", "bob", access_token="x"), brought])
    house.provider.gate.set()
    await fetching
    stored = await vault.tokens.get(token.id)

    assert stored is not None
    assert (
        ("AT-alice-1", "RT-alice-1") == (stored.access_token, stored.refresh_token)
        if is_same
        else (("AT", "RT-other") == (stored.access_token, stored.refresh_token))
    )
    assert ["RT-alice-0"] == house.provider.exchanges
    assert not stored.is_leased


@pytest.mark.parametrize("engine", ["postgresql"])
async def test_lease_between_the_read_and_the_write_counts(house: House, vault: Vault) -> None:
    """A lease needs no lock of the database: taken while a batch is written, its exchange is not discarded."""
    token = await vault.tokens.put(GRANT)
    batch = _Batch([GRANT], vault.uploads._sealer, vault.tokens.spent)
    async with house.vault() as other, vault.uploads._store.write() as db:
        rows = await _rows_of(db, [GRANT])
        await batch.prepare(rows, ["unused"])
        assert await other.tokens.rows.lease(token, owner="me", seconds=60)
        await vault.uploads._write(db, batch, rows)

    assert await vault.tokens.rows.store_granted(token, Granted("AT-1", "RT-1", "Bearer", None, None), owner="me")


MANY_SUBJECTS = {
    "users": [TokenDraft("contacts", f"user-{number}") for number in range(500)],
    "tenants": [TokenDraft("contacts", tenant=f"tenant-{number}") for number in range(500)],
    "users of as many connections": [TokenDraft(f"c{number}", f"user-{number}") for number in range(500)],
}


@pytest.mark.parametrize("engine", ["sqlite"])
@pytest.mark.parametrize("drafts", MANY_SUBJECTS.values(), ids=MANY_SUBJECTS.keys())
async def test_largest_batch_reads_by_the_index(vault: Vault, drafts: list[TokenDraft]) -> None:
    """What a batch costs while it has the lock does not grow with the number of stored tokens."""
    query = _of_subjects(drafts).compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True})
    async with vault.uploads._store.read() as db:
        plan = [row[3] for row in await db.execute(text(f"EXPLAIN QUERY PLAN {query}"))]
        await _rows_of(db, drafts)

    assert [] == [step for step in plan if step.startswith("SCAN tokens")]
