"""The first schema: keys, connections, tokens, the list of changes, and attempts to connect."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create every table, as it was then: what has changed since is in the steps that follow."""
    op.create_table(
        "changes",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("topic", sa.String(length=32), nullable=False),
        sa.Column("subject", sa.String(length=200), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_changes")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "connections",
        sa.Column("id", sa.String(length=200), nullable=False),
        sa.Column("owner", sa.String(length=16), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("sealed_client_secret", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_connections")),
    )
    op.create_table(
        "keys",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("user_id", sa.String(length=512), nullable=False),
        sa.Column("tenants", sa.JSON(), nullable=False),
        sa.Column("roles", sa.JSON(), nullable=False),
        sa.Column("permissions", sa.JSON(), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=True),
        sa.Column("revoked_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_keys")),
    )
    op.create_table(
        "connect_attempts",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("link_digest", sa.String(length=64), nullable=False),
        sa.Column("connection_id", sa.String(length=200), nullable=False),
        sa.Column("user_id", sa.String(length=512), nullable=False),
        sa.Column("tenant_id", sa.String(length=512), nullable=False),
        sa.Column("account", sa.String(length=200), nullable=False),
        sa.Column("granted_by", sa.String(length=512), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("redirect_url", sa.String(length=2048), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("error", sa.String(length=64), nullable=False),
        sa.Column("browser_digest", sa.String(length=64), nullable=False),
        sa.Column("state_digest", sa.String(length=64), nullable=True),
        sa.Column("issuer", sa.String(length=2048), nullable=False),
        sa.Column("callback_url", sa.String(length=2048), nullable=False),
        sa.Column("sealed_verifier", sa.LargeBinary(), nullable=True),
        sa.Column("sealed_tokens", sa.LargeBinary(), nullable=True),
        sa.Column("token_id", sa.String(length=32), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["connection_id"], ["connections.id"], name=op.f("fk_connect_attempts_connection_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_connect_attempts")),
        sa.UniqueConstraint("link_digest", name=op.f("uq_connect_attempts_link_digest")),
        sa.UniqueConstraint("state_digest", name=op.f("uq_connect_attempts_state_digest")),
    )
    op.create_index(
        op.f("ix_connect_attempts_connection_id_user_id_tenant_id"),
        "connect_attempts",
        ["connection_id", "user_id", "tenant_id"],
        unique=False,
    )
    op.create_index(op.f("ix_connect_attempts_expires_at"), "connect_attempts", ["expires_at"], unique=False)
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("connection_id", sa.String(length=200), nullable=False),
        sa.Column("user_id", sa.String(length=512), nullable=False),
        sa.Column("tenant_id", sa.String(length=512), nullable=False),
        sa.Column("account", sa.String(length=200), nullable=False),
        sa.Column("requested_scopes", sa.JSON(), nullable=False),
        sa.Column("requested_scopes_key", sa.String(length=64), nullable=False),
        sa.Column("granted_scopes", sa.JSON(), nullable=False),
        sa.Column("sealed_access_token", sa.LargeBinary(), nullable=True),
        sa.Column("sealed_refresh_token", sa.LargeBinary(), nullable=True),
        sa.Column("token_type", sa.String(length=32), nullable=False),
        sa.Column("token_sub", sa.String(length=512), nullable=False),
        sa.Column("granted_by", sa.String(length=512), nullable=False),
        sa.Column("issued_at", sa.Float(), nullable=True),
        sa.Column("expires_at", sa.Float(), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.Column("last_refresh_at", sa.Float(), nullable=True),
        sa.Column("last_refresh_error", sa.String(length=200), nullable=False),
        sa.Column("dead", sa.Boolean(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("lease_owner", sa.String(length=64), nullable=True),
        sa.Column("lease_until", sa.Float(), nullable=True),
        sa.Column("lease_beat", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["connection_id"], ["connections.id"], name=op.f("fk_tokens_connection_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tokens")),
        sa.UniqueConstraint(
            "connection_id",
            "user_id",
            "tenant_id",
            "account",
            "requested_scopes_key",
            name=op.f("uq_tokens_connection_id_user_id_tenant_id_account_requested_scopes_key"),
        ),
    )
    op.create_index(op.f("ix_tokens_user_id"), "tokens", ["user_id"], unique=False)


def downgrade() -> None:
    """Drop every table."""
    for table in ("tokens", "connect_attempts", "connections", "keys", "changes"):
        op.drop_table(table)
