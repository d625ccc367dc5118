"""
Which connections a user holds valid tokens of.

Rules (descope-contract.md section 4):
1. A user's tokens within a tenant are asked for with the tenant; without one only the user's own level counts, as in a
   fetch. Any account of the user counts.
2. A token is valid if a fetch could serve it: it is not dead, and has not expired or can be renewed (`can_renew`).
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import select

from gateway.store.engine import Store
from gateway.store.schema import tokens as table
from gateway.vault.connections import settings_in
from gateway.vault.grants import can_renew


class Holdings:
    """Reads sets of tokens, without opening any. *clock* gives POSIX seconds."""

    def __init__(self, store: Store, *, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock

    async def connections_of(self, user: str, *, tenant: str | None) -> tuple[str, ...]:
        """Return the ids of the connections of which *user* holds a valid token, in *tenant* where given, sorted."""
        held = select(
            table.c.connection_id,
            table.c.expires_at,
            table.c.sealed_access_token.is_not(None).label("has_access_token"),
            table.c.sealed_refresh_token.is_not(None).label("has_refresh_token"),
        )
        of_user = held.where(table.c.user_id == user, table.c.tenant_id == (tenant or ""), table.c.dead.is_(False))
        async with self._store.read() as db:
            rows = (await db.execute(of_user)).mappings().all()
            connections = await settings_in(db, {row["connection_id"] for row in rows})
        now = self._clock()
        found = {
            row["connection_id"]
            for row in rows
            if (row["has_access_token"] and (row["expires_at"] is None or now < row["expires_at"]))
            or can_renew(connections[row["connection_id"]], has_refresh_token=row["has_refresh_token"])
        }
        return tuple(sorted(found))
