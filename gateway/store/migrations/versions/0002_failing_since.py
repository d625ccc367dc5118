"""Since when the refresh of a token has been failing."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the column. Of a token that fails already, the last attempt is the earliest that is known."""
    op.add_column("tokens", sa.Column("failing_since", sa.Float(), nullable=True))
    op.execute("UPDATE tokens SET failing_since = updated_at WHERE last_refresh_error <> ''")


def downgrade() -> None:
    """Drop it."""
    op.drop_column("tokens", "failing_since")
