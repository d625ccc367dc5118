"""Which refresh tokens a token's exchanges have spent."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the column. What was spent before is not known."""
    op.add_column("tokens", sa.Column("sealed_spent", sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("tokens", "sealed_spent")
