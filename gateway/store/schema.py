"""
The tables, as SQLAlchemy Core sees them. `migrations/` creates them; the two are compared in a test.

Rules:
1. Times are POSIX seconds (Float); sets and lists are JSON arrays, sorted, without duplicates.
2. An absent user, tenant or account is the empty string, not NULL: it is part of a token's identity and unique
   constraints treat NULLs as different.
3. Columns named `sealed_…` hold what `vault/sealing.py` made; nothing secret is stored otherwise, and keys only as
   digests.
4. `version` counts writes of a token's grant; every update compares it (compare-and-swap).
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

keys = Table(
    "keys",
    metadata,
    Column("id", String(32), primary_key=True),  # the public part of the key
    Column("kind", String(16), nullable=False),  # agent | management
    Column("name", String(200), nullable=False),  # an agent key's client; a management key's label
    Column("digest", LargeBinary, nullable=False),  # SHA-256 of the secret part (256 random bits: no slow hash needed)
    Column("user_id", String(512), nullable=False, default=""),
    Column("tenants", JSON, nullable=False, default=list),
    Column("roles", JSON, nullable=False, default=list),
    Column("permissions", JSON, nullable=False, default=list),
    Column("scopes", JSON, nullable=False, default=list),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=True),
    Column("revoked_at", Float, nullable=True),
)

connections = Table(
    "connections",
    metadata,
    Column("id", String(200), primary_key=True),
    Column(
        "owner", String(16), nullable=False, default="api"
    ),  # api | file: a file's connection is read-only in the API
    Column("settings", JSON, nullable=False),  # the App fields of the contract, without the secret
    Column("sealed_client_secret", LargeBinary, nullable=True),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("connection_id", String(200), ForeignKey("connections.id", ondelete="CASCADE"), nullable=False),
    Column("user_id", String(512), nullable=False, default=""),
    Column("tenant_id", String(512), nullable=False, default=""),
    Column("account", String(200), nullable=False, default=""),
    Column("requested_scopes", JSON, nullable=False, default=list),
    Column("requested_scopes_key", String(64), nullable=False, default=""),  # digest of the set: part of the identity
    Column("granted_scopes", JSON, nullable=False, default=list),
    Column("sealed_access_token", LargeBinary, nullable=True),
    Column("sealed_refresh_token", LargeBinary, nullable=True),
    Column("sealed_spent", LargeBinary, nullable=True),  # digests of refresh tokens (vault/spent_tokens.py)
    Column("token_type", String(32), nullable=False, default="Bearer"),
    Column("token_sub", String(512), nullable=False, default=""),
    Column("granted_by", String(512), nullable=False, default=""),
    Column("issued_at", Float, nullable=True),  # when the access token was received: the lifetime's start
    Column("expires_at", Float, nullable=True),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("last_refresh_at", Float, nullable=True),
    Column("last_refresh_error", String(200), nullable=False, default=""),
    Column("failing_since", Float, nullable=True),  # when the first of the failures was noted that nothing ended yet
    Column("dead", Boolean, nullable=False, default=False),  # the provider refused the grant for good
    Column("version", Integer, nullable=False, default=1),
    Column("lease_owner", String(64), nullable=True),  # the exchange that was begun last
    Column("lease_until", Float, nullable=True),  # set while it is under way; shown, never compared with a clock
    Column("lease_beat", Integer, nullable=False, default=0),  # moves with every lease and renewal, never back
    UniqueConstraint("connection_id", "user_id", "tenant_id", "account", "requested_scopes_key"),
    Index(None, "user_id"),
)

changes = Table(
    "changes",
    metadata,
    # 64 bits: at 100 changes a second, 32 would be used up in 248 days. SQLite's INTEGER has them anyway.
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("topic", String(32), nullable=False),  # keys | connections | tokens
    Column("subject", String(200), nullable=False),  # keys, connections: the row's id; tokens: their owner
    Column("at", Float, nullable=False),
    sqlite_autoincrement=True,  # a seq is never used twice: a reader that waits at N cannot miss N+1
)

connect_attempts = Table(
    "connect_attempts",
    metadata,
    Column("id", String(32), primary_key=True),  # public: in logs and in the page's last address
    Column("link_digest", String(64), nullable=False, unique=True),  # SHA-256 of the link's secret part
    Column("connection_id", String(200), ForeignKey("connections.id", ondelete="CASCADE"), nullable=False),
    Column("user_id", String(512), nullable=False, default=""),  # whose token it becomes; "" at tenant level
    Column("tenant_id", String(512), nullable=False, default=""),
    Column("account", String(200), nullable=False, default=""),
    Column("granted_by", String(512), nullable=False, default=""),  # the user who is asked
    Column("scopes", JSON, nullable=False, default=list),
    Column("redirect_url", String(2048), nullable=False, default=""),
    Column("status", String(16), nullable=False),  # vault/attempts.py
    Column("error", String(64), nullable=False, default=""),
    Column("browser_digest", String(64), nullable=False, default=""),
    Column("state_digest", String(64), nullable=True, unique=True),
    Column("issuer", String(2048), nullable=False, default=""),
    Column("callback_url", String(2048), nullable=False, default=""),
    Column("sealed_verifier", LargeBinary, nullable=True),
    Column("sealed_tokens", LargeBinary, nullable=True),  # what waits for the confirmation of another account
    Column("token_id", String(32), nullable=False, default=""),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Index(None, "expires_at"),
    Index(None, "connection_id", "user_id", "tenant_id"),
)
