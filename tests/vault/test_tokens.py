"""Stored tokens: whose they are, which is meant, and that they stay where they are."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gateway.models import TokenKey, token_owner
from gateway.vault.oauth import Granted
from gateway.vault.sealing import SealBroken
from gateway.vault.service import Vault
from gateway.vault.stored_token import StoredToken, TokenDraft, scopes_key
from tests.vault.conftest import House


def draft(
    user: str = "", tenant: str = "", account: str = "", *, token: str, scopes: tuple[str, ...] = ()
) -> TokenDraft:
    """A token to store."""
    return TokenDraft("contacts", user, tenant, account, scopes, access_token=token)


def key(
    user: str | None, tenant: str | None = None, account: str | None = None, scopes: tuple[str, ...] | None = None
) -> TokenKey:
    """A token to ask for."""
    return TokenKey("contacts", user, tenant, scopes, account)


async def found(vault: Vault, wanted: TokenKey) -> str | None:
    """The access token that *wanted* leads to."""
    token = await vault.tokens.find(wanted)
    return None if token is None else token.access_token


async def test_levels_and_accounts_never_stand_in_for_each_other(vault: Vault) -> None:
    """A user's, a user's in a tenant, a tenant's and an account's token are found by their own key only."""
    await vault.tokens.put(draft("alice", token="user"))
    await vault.tokens.put(draft("alice", "acme", token="user-in-tenant"))
    await vault.tokens.put(draft("", "acme", token="tenant"))
    await vault.tokens.put(draft("alice", account="work", token="account"))

    expected = {
        key("alice"): "user",
        key("alice", "acme"): "user-in-tenant",
        key(None, "acme"): "tenant",
        key("alice", None, "work"): "account",
        key("alice", "other"): None,
        key("alice", "acme", "work"): None,
        key(None, "alice"): None,
        key("acme"): None,
        key("Alice"): None,
        key("alice "): None,
        key(None, None): None,
    }
    assert expected == {wanted: await found(vault, wanted) for wanted in expected}


# What a joined key, a collation, a normalization or a column of fixed width would take for one another.
LOOKALIKES = [
    *(
        ("a", "b|c", ""),
        ("a|b", "c", ""),
        ("a", "b", "c"),
        ("a:b", "c", ""),
        ("a", "b:c", ""),
        ("a/b", "", ""),
        ("ab", "", ""),
    ),
    *(("user", "", ""), ("USER", "", ""), ("user ", "", ""), (" user", "", ""), ("user\u00a0", "", ""), ("u%", "", "")),
    *(
        ("jos\u00e9", "", ""),
        ("jose\u0301", "", ""),
        ("\u00df", "", ""),
        ("ss", "", ""),
        ("\uff41", "", ""),
        ("a", "", ""),
    ),
    *(
        ("1", "", ""),
        ("01", "", ""),
        ("1.0", "", ""),
        ("NULL", "", ""),
        ("None", "", ""),
        ("\u0131", "", ""),
        ("i", "", ""),
    ),
]


async def test_names_that_look_alike_are_not_one(vault: Vault) -> None:
    """Users, tenants and accounts are told apart by every character: each finds its own token (threats D1)."""
    for number, names in enumerate(LOOKALIKES):
        await vault.tokens.put(draft(*names, token=f"T{number}"))

    wanted = [key(user, tenant or None, account or None) for user, tenant, account in LOOKALIKES]
    assert [f"T{number}" for number in range(len(LOOKALIKES))] == [await found(vault, each) for each in wanted]


async def test_latest_is_the_newest_by_creation(vault: Vault) -> None:
    """The newest created token answers, at one instant too; uploading an older one again does not make it newer."""
    first = await vault.tokens.put(draft("alice", token="old", scopes=("a",)))
    await vault.tokens.put(draft("alice", token="new", scopes=("b",)))
    again = await vault.tokens.put(draft("alice", token="old again", scopes=("a",)))

    assert "new" == await found(vault, key("alice"))
    assert (first.id, first.created_at, 2) == (again.id, again.created_at, again.version)


async def test_consent_is_the_newest(house: House, vault: Vault) -> None:
    """What a user has just consented to is the latest and found first by its scopes, and keeps its id."""
    first = await vault.tokens.put(draft("alice", token="first", scopes=("a", "b")))
    await vault.tokens.put(draft("alice", token="second", scopes=("c",)))
    house.clock.now -= 60  # the clock went back
    consented = replace(draft("alice", token="third", scopes=("a", "b")), granted_scopes=("c",))
    again = await vault.tokens.put_consented(consented)

    assert ("third", "third") == (await found(vault, key("alice")), await found(vault, key("alice", scopes=("c",))))
    assert (first.id, ("a", "b"), ("c",)) == (again.id, again.requested_scopes, again.granted_scopes)
    assert again == await vault.tokens.get(again.id)
    assert await vault.tokens.put(draft("alice", token="second", scopes=("c",)))
    assert "third" == await found(vault, key("alice"))


async def test_scopes_are_compared_as_sets(vault: Vault) -> None:
    """Exactly the requested set answers, in any order and with duplicates; a subset or a superset does not."""
    await vault.tokens.put(draft("alice", token="ab", scopes=("b", "a")))
    await vault.tokens.put(draft("alice", token="none", scopes=()))

    expected = {
        ("a", "b"): "ab",
        ("b", "a", "a"): "ab",
        ("a",): None,
        ("a", "b", "c"): None,
        ("A", "b"): None,
        (): "none",
    }
    assert expected == {scopes: await found(vault, key("alice", scopes=scopes)) for scopes in expected}


async def test_granted_set_answers_too(house: House, vault: Vault) -> None:
    """A token whose granted set differs from the requested one answers to both; the newest wins."""
    token = await vault.tokens.put(draft("alice", token="narrowed", scopes=("a", "b")))
    house.execute("UPDATE tokens SET granted_scopes = :scopes WHERE id = :id", scopes='["a"]', id=token.id)

    assert "narrowed" == await found(vault, key("alice", scopes=("a",)))
    assert "narrowed" == await found(vault, key("alice", scopes=("a", "b")))
    await vault.tokens.put(draft("alice", token="newer", scopes=("a",)))
    assert "newer" == await found(vault, key("alice", scopes=("a",)))


def test_scope_digest_has_no_collisions_by_joining() -> None:
    """Sets that would be one string when joined have different digests."""
    assert scopes_key(("a", "bc")) != scopes_key(("ab", "c")) != scopes_key(("abc",))


async def test_swapped_rows_do_not_open(house: House, vault: Vault) -> None:
    """Secrets exchanged between two users' rows in the database are refused, and nothing is served."""
    await vault.tokens.put(draft("alice", token="CANARY-alice"))
    await vault.tokens.put(draft("mallory", token="CANARY-mallory"))
    ((sealed,),) = house.execute("SELECT sealed_access_token FROM tokens WHERE user_id = 'alice'")
    house.execute("UPDATE tokens SET sealed_access_token = :sealed WHERE user_id = 'mallory'", sealed=bytes(sealed))

    with pytest.raises(SealBroken):
        await vault.tokens.find(key("mallory"))
    assert "CANARY-alice" == await found(vault, key("alice"))


async def test_renamed_row_does_not_open(house: House, vault: Vault) -> None:
    """A row whose user was changed in the database is refused."""
    await vault.tokens.put(draft("alice", token="CANARY"))
    house.execute("UPDATE tokens SET user_id = 'mallory'")

    with pytest.raises(SealBroken):
        await vault.tokens.find(key("mallory"))


@pytest.mark.parametrize("engine", ["sqlite"])
async def test_database_files_hold_no_secret(house: House, vault: Vault) -> None:
    """Neither the database nor its -wal and -shm files hold a token or a client secret in clear."""
    token = await vault.tokens.put(
        TokenDraft("contacts", "alice", access_token="CANARY-access", refresh_token="CANARY-refresh")
    )
    await vault.connections.create(house.connection(id="x", name="x", client_secret="CANARY-client"))

    files = sorted(house.path.parent.iterdir())

    assert "gateway.db-wal" in [path.name for path in files]
    assert all(b"CANARY" not in path.read_bytes() for path in files)
    assert "CANARY" not in repr(token)


async def test_same_refresh_token_again_keeps_what_is_known_of_it(house: House, vault: Vault) -> None:
    """Uploading the refresh token that is stored, after a lost answer, does not make it certain; another one does."""
    known, other = (TokenDraft("contacts", "alice", refresh_token=name) for name in ("RT-a", "RT-b"))
    token = await vault.tokens.put(known)
    house.execute("UPDATE tokens SET last_refresh_error = 'answer_lost'")

    assert ("answer_lost", token.version + 1) == _known(await vault.tokens.put(known))
    assert ("", token.version + 2) == _known(await vault.tokens.put(other))


async def test_upload_of_another_refresh_token_ends_the_lease(house: House, vault: Vault) -> None:
    """An exchange under way is about the token that it presented: the same one keeps its lease, another ends it."""
    known, other = (TokenDraft("contacts", "alice", refresh_token=name) for name in ("RT-a", "RT-b"))
    token = await vault.tokens.put(known)
    house.lease_to("another", token.id)

    again = await vault.tokens.put(known)
    replaced = await vault.tokens.put(other)

    assert (True, token.version) == (again.is_leased, again.version)
    assert (False, None, token.version + 1) == (replaced.is_leased, replaced.lease_owner, replaced.version)


def _known(token: StoredToken) -> tuple[str, int]:
    return token.last_refresh_error, token.version


async def test_upload_over_a_row_that_does_not_open(house: House, vault: Vault) -> None:
    """A row whose seal is broken is replaced by an upload."""
    draft = TokenDraft("contacts", "alice", refresh_token="RT-a", access_token="AT-a")
    await vault.tokens.put(draft)
    house.execute("UPDATE tokens SET sealed_refresh_token = sealed_access_token")

    assert "RT-a" == (await vault.tokens.put(draft)).refresh_token


@pytest.mark.parametrize("user", ["ali\0ce", "\ud800", "'; DROP TABLE tokens; --"])
async def test_text_that_no_database_keeps_is_not_found(vault: Vault, user: str) -> None:
    """A NUL or a lone surrogate in an id is nobody's, and no failure of the database."""
    assert None is await vault.tokens.find(key(user))


async def test_one_lease_for_many_who_want_it(house: House, vault: Vault) -> None:
    """Of twenty that read the row and take the lease, in two processes, one has it."""
    token = await vault.tokens.put(TokenDraft("contacts", "alice", refresh_token="RT"))
    async with house.vault() as other:
        taken = await asyncio.gather(
            *(one.tokens.rows.lease(token, owner=f"{name}", seconds=1) for name, one in enumerate([vault, other] * 10))
        )

    assert 1 == sum(taken)


async def test_first_uploads_at_once_are_one_token(house: House, vault: Vault) -> None:
    """Twenty uploads of one identity that does not exist yet leave one row, and none fails."""
    async with house.vault() as other:
        stored = await asyncio.gather(
            *(one.tokens.put(draft("alice", token=f"T{number}")) for number, one in enumerate([vault, other] * 10))
        )

    assert 1 == len({token.id for token in stored})
    assert set(range(1, 21)) == {token.version for token in stored}


async def test_given_up_exchange_may_report_until_another_begins(house: House, vault: Vault) -> None:
    """The late answer of a holder that counted as dead is kept; not so once its heir exchanges."""
    for user, heir in (("alice", None), ("bob", "heir")):
        token = await vault.tokens.put(TokenDraft("contacts", user, refresh_token="RT-0"))
        assert await vault.tokens.rows.lease(token, owner="sleeper", seconds=1)
        leased = await vault.tokens.get(token.id)
        assert leased is not None
        assert await vault.tokens.rows.give_up(leased, heir=heir, seconds=1)
        late = Granted("AT-1", "RT-1", "Bearer", None, None)

        assert (heir is None) == await vault.tokens.rows.store_granted(token, late, owner="sleeper")


async def test_failing_since_the_first_failure(house: House, vault: Vault) -> None:
    """Failures after the first do not move it, a lost answer counts, and a grant or an upload ends it."""

    async def leased() -> StoredToken:
        token = await vault.tokens.latest(key("alice"))
        assert token is not None
        assert await vault.tokens.rows.lease(token, owner="me", seconds=1)
        again = await vault.tokens.get(token.id)
        assert again is not None
        return again

    def since() -> list[float | None]:
        return [row[0] for row in house.execute("SELECT failing_since FROM tokens")]

    began = house.clock.now
    renewable = TokenDraft("contacts", "alice", refresh_token="RT-0")
    await vault.tokens.put(renewable)
    assert [None] == since()
    await vault.tokens.rows.note_failure(await leased(), error="timeout", owner="me")
    house.clock.now += 60
    await vault.tokens.rows.note_failure(await leased(), error="status_503", owner="me")
    assert [began] == since()
    await vault.tokens.rows.store_granted(await leased(), Granted("AT-1", None, "Bearer", None, None), owner="me")
    assert [None] == since()
    await vault.tokens.rows.give_up(await leased())
    house.clock.now += 60
    await vault.tokens.put(renewable)  # the same one: whether it is spent is still unknown
    assert [began + 60] == since()
    await vault.tokens.put(draft("alice", token="another"))
    assert [None] == since()


async def test_lease_that_is_renewed_is_not_given_up(vault: Vault) -> None:
    """A beat that moved since the row was read proves its holder alive."""
    token = await vault.tokens.put(TokenDraft("contacts", "alice", refresh_token="RT-0"))
    assert await vault.tokens.rows.lease(token, owner="holder", seconds=1)
    read = await vault.tokens.get(token.id)
    assert read is not None
    assert await vault.tokens.rows.renew(token, owner="holder", seconds=1)

    assert not await vault.tokens.rows.give_up(read)
    assert not await vault.tokens.rows.renew(token, owner="another", seconds=1)


async def test_every_write_is_announced(house: House, vault: Vault) -> None:
    """Storing, storing again and deleting each tell the token's owner."""
    token = await vault.tokens.put(draft("alice", token="a"))
    await vault.tokens.put(draft("alice", token="b"))
    assert await vault.tokens.delete(token.id)
    assert not await vault.tokens.delete(token.id)

    assert [token_owner(token.connection, "alice", None)] * 3 == house.announced("tokens")


async def test_list_has_no_secrets(vault: Vault) -> None:
    """The list shows what there is, and no token."""
    await vault.tokens.put(draft("alice", token="CANARY"))
    await vault.tokens.put(draft("bob", token="CANARY"))

    assert {"alice", "bob"} == {token.user for token in await vault.tokens.list()}
    assert ["bob"] == [token.user for token in await vault.tokens.list(user="bob")]
    assert [None, None] == [token.access_token for token in await vault.tokens.list(connection="contacts")]
