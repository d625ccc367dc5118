"""
Bring a database's schema to the one that this program knows, with Alembic.

Rules:
1. All steps run inside the caller's transaction: a failed upgrade changes nothing.
2. A database whose revision this program does not know was upgraded by a newer one: refused, never guessed at.
3. A database that is at `HEAD` is asked for its revision, and for nothing else.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, column, inspect, select, table

from gateway.store.schema import metadata

MIGRATIONS = Path(__file__).with_name("migrations")
HEAD = "0003"  # the newest of them; a test compares
_VERSIONS = table("alembic_version", column("version_num"))  # where Alembic keeps the revision


class SchemaTooNew(Exception):
    """The database was written by a newer version of the gateway than this one."""


def upgrade_to_head(connection: Connection) -> None:
    """
    Run the missing migrations on *connection*, inside its transaction.

    Raises:
        SchemaTooNew: the database is at a revision that this program does not have.
    """
    if inspect(connection).has_table(_VERSIONS.name):
        revisions = list(connection.scalars(select(_VERSIONS.c.version_num)))
        if revisions == [HEAD]:
            return
    _upgrade(connection)


def _upgrade(connection: Connection) -> None:
    # Here, not above: Alembic takes 0.25 s to import (with Mako, Pygments and the dialects of all databases), and a
    # start that finds its schema needs none of it.
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    script = ScriptDirectory.from_config(config)
    current = MigrationContext.configure(connection).get_current_revision()
    known = {revision.revision for revision in script.walk_revisions()}
    if current is not None and current not in known:
        raise SchemaTooNew(f"the database is at schema {current}, which this version of the gateway does not know")
    with EnvironmentContext(
        config, script, fn=lambda revision, _: script._upgrade_revs("head", revision)
    ) as environment:
        environment.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
        environment.run_migrations()
