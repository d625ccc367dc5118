"""The first schema: keys, connections, tokens and the list of changes."""

from __future__ import annotations

from alembic import op

from gateway.store.schema import metadata

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create every table. Until the first release this is the schema itself; after it, steps are written out."""
    metadata.create_all(op.get_bind(), checkfirst=False)


def downgrade() -> None:
    """Drop every table."""
    metadata.drop_all(op.get_bind())
