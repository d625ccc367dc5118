"""The schema is brought to head, and a newer one is refused."""

from __future__ import annotations

import asyncio

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, inspect, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateIndex, CreateTable

from gateway.store.engine import Store
from gateway.store.migrate import HEAD, MIGRATIONS, SchemaTooNew, upgrade_to_head
from gateway.store.schema import connections, metadata, tokens


def _differences(connection: Connection) -> list[object]:
    context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
    return list(compare_metadata(context, metadata))


def _schema(connection: Connection) -> list[str]:
    """What is there, as the statements that would make it, and the revision."""
    found = MetaData()
    found.reflect(connection)
    tables = [str(CreateTable(table)) for table in found.sorted_tables]
    indexes = sorted(str(CreateIndex(index)) for table in found.sorted_tables for index in table.indexes)
    return [*tables, *indexes, *connection.execute(text("SELECT version_num FROM alembic_version")).scalars()]


def test_head_is_the_newest_migration() -> None:
    """
    The revision at which a database is left alone is the one that Alembic would bring it to.
    """
    assert [HEAD] == ScriptDirectory(str(MIGRATIONS)).get_heads()


async def test_migrations_make_the_schema(store: Store) -> None:
    """
    A database made by the migrations has the tables that the program knows, column by column.
    """
    async with store.read() as connection:
        assert [] == await connection.run_sync(_differences)


async def test_gateways_that_start_together_make_one_schema(database_url: str) -> None:
    """
    Of four that open a new database at once, one makes the tables and the others find them.
    """
    for store in await asyncio.gather(*(Store.open(database_url) for _ in range(4))):
        await store.close()


async def test_opening_again_changes_nothing(database_url: str) -> None:
    """
    A database at head is left as it is.
    """
    seen = []
    for _ in range(2):
        store = await Store.open(database_url)
        async with store.read() as connection:
            seen.append(await connection.run_sync(_schema))
        await store.close()

    assert seen[0] == seen[1]


async def test_failing_tokens_of_the_first_schema_are_dated(database_url: str) -> None:
    """
    A token that fails when its database is upgraded has been failing since its last attempt, as far as is known.
    """
    store = await Store.open(database_url)
    async with store.write() as connection:
        made = {"settings": {}, "created_at": 1.0, "updated_at": 1.0}
        await connection.execute(connections.insert().values(id="c", owner="api", **made))
        for user, error in (("alice", "timeout"), ("bob", "")):
            row = {"id": user, "user_id": user, "last_refresh_error": error, "requested_scopes_key": user}
            await connection.execute(
                tokens.insert().values(row | {"connection_id": "c", "created_at": 1.0, "updated_at": 7.0})
            )
        for column in ("failing_since", "sealed_spent"):
            await connection.execute(text(f"ALTER TABLE tokens DROP COLUMN {column}"))
        await connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    await store.close()

    store = await Store.open(database_url)
    async with store.read() as connection:
        assert [] == await connection.run_sync(_differences)
        found = (await connection.execute(select(tokens.c.id, tokens.c.failing_since).order_by(tokens.c.id))).all()
    await store.close()
    assert [("alice", 7.0), ("bob", None)] == [tuple(row) for row in found]


async def test_tokens_of_the_second_schema_have_spent_nothing_that_is_known(database_url: str) -> None:
    """
    The column of spent refresh tokens is added to the tokens that are there, empty.
    """
    store = await Store.open(database_url)
    async with store.write() as connection:
        made = {"settings": {}, "created_at": 1.0, "updated_at": 1.0}
        await connection.execute(connections.insert().values(id="c", owner="api", **made))
        await connection.execute(tokens.insert().values(id="t", connection_id="c", created_at=1.0, updated_at=7.0))
        await connection.execute(text("ALTER TABLE tokens DROP COLUMN sealed_spent"))
        await connection.execute(text("UPDATE alembic_version SET version_num = '0002'"))
    await store.close()

    store = await Store.open(database_url)
    async with store.read() as connection:
        assert [] == await connection.run_sync(_differences)
        found = (await connection.execute(select(tokens.c.id, tokens.c.sealed_spent))).all()
    await store.close()
    assert [("t", None)] == [tuple(row) for row in found]


async def test_newer_schema_is_refused(database_url: str, store: Store) -> None:
    """
    A database that a newer version has upgraded is not touched.
    """
    async with store.write() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        await connection.execute(text("DROP TABLE changes"))
        before = await connection.run_sync(_schema)

    with pytest.raises(SchemaTooNew, match="9999"):
        await Store.open(database_url)
    async with store.read() as connection:
        assert before == await connection.run_sync(_schema)


async def test_failed_upgrade_leaves_nothing(store: Store) -> None:
    """
    An upgrade that fails half way is undone as a whole, so that the next start can try again.
    """
    async with store.write() as connection:
        await connection.run_sync(metadata.drop_all)
        await connection.execute(text("DELETE FROM alembic_version"))
        await connection.execute(text("CREATE TABLE other (x INTEGER)"))
        await connection.execute(text("CREATE INDEX ix_tokens_user_id ON other (x)"))  # in the way of ours
    with pytest.raises(DBAPIError, match="ix_tokens_user_id"):
        async with store.write() as connection:
            await connection.run_sync(upgrade_to_head)
    async with store.read() as connection:
        names = await connection.run_sync(lambda connection: inspect(connection).get_table_names())

    assert {"alembic_version", "other"} == set(names)
