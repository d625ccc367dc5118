"""
What the refresh job writes into a token's row: the lease, its beat, and what an exchange brought.

Rules (threats.md section 2, "Refresh protocol"; `tokens.py` has the rest of the row):
1. Compare and swap: what follows an exchange is written only where the version is the one that was exchanged, and
   `lease_owner` still names that exchange. `lease_owner` is the exchange that was begun last, `lease_until` is set
   while it is under way: one that was given up may still report, unless another began.
2. Whatever is written ends the lease, and is announced in the same transaction; taking, renewing or releasing a lease
   is no change of the token.
3. A refresh token that another one replaces is written down as spent in the same statement (`spent_tokens.py`).
4. `failing_since` is the time of the first failure without a success after it.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import ColumnElement, func, update

from gateway.models import token_owner
from gateway.store.changes import announce
from gateway.store.engine import Store
from gateway.store.schema import tokens as table
from gateway.vault.oauth import Granted
from gateway.vault.sealing import Binding, Sealer
from gateway.vault.spent_tokens import COLUMN as SPENT
from gateway.vault.spent_tokens import SpentTokens
from gateway.vault.stored_token import ANSWER_LOST, ROTATION_INTERRUPTED, StoredToken


class ExchangeRows:
    """Writes for exchanges. *clock* gives POSIX seconds."""

    def __init__(self, store: Store, sealer: Sealer, *, clock: Callable[[], float]) -> None:
        self._store = store
        self._sealer = sealer
        self._spent = SpentTokens(sealer)
        self._clock = clock

    async def lease(self, token: StoredToken, *, owner: str, seconds: float) -> bool:
        """
        Make *owner* the one who exchanges *token*, as it was just read, and tell whether that was possible.

        False: it is gone, has moved, is leased, or was leased since it was read. *seconds* is what operators are shown
        as its end; who may take it over is decided by `lease.py`.
        """
        free = (*_as_read(token), table.c.lease_until.is_(None))
        return await self._set_lease(free, owner=owner, until=self._clock() + seconds)

    async def renew(self, token: StoredToken, *, owner: str, seconds: float) -> bool:
        """Move the beat of *owner*'s lease, and tell whether it still holds it."""
        own = (table.c.id == token.id, table.c.lease_owner == owner, table.c.lease_until.is_not(None))
        return await self._set_lease(own, owner=owner, until=self._clock() + seconds)

    async def give_up(self, token: StoredToken, *, heir: str | None = None, seconds: float = 0.0) -> bool:
        """
        End the lease of a holder that stood still: what it asked of the provider, and what came of it, is unknown.

        *heir* has the lease from now on, as with `lease`; None leaves it to nobody. Without a refresh token nothing can
        have been spent, so nothing is noted. False: the holder was not dead after all.
        """
        now = self._clock()
        # Not `updated_at`: nobody has just tried and failed, so nobody need wait before the next attempt.
        values: dict[str, object] = {"lease_until": None}
        if heir is not None:
            values |= {"lease_owner": heir, "lease_until": now + seconds, "lease_beat": table.c.lease_beat + 1}
        if token.refresh_token is not None:
            values |= _failed(ANSWER_LOST, now)
        stands_still = (*_as_read(token), table.c.lease_owner == token.lease_owner, table.c.lease_until.is_not(None))
        async with self._store.write() as db:
            given_up = await db.execute(update(table).where(*stands_still).values(values))
            if given_up.rowcount == 0:
                return False
            await announce(db, "tokens", token_owner(token.connection, token.user, token.tenant), at=now)
        return True

    async def _set_lease(self, where: tuple[ColumnElement[bool], ...], *, owner: str, until: float) -> bool:
        values = {"lease_owner": owner, "lease_until": until, "lease_beat": table.c.lease_beat + 1}
        async with self._store.write(is_alone=False) as db:
            return (await db.execute(update(table).where(*where).values(values))).rowcount == 1

    async def store_granted(self, token: StoredToken, granted: Granted, *, owner: str) -> bool:
        """
        Write what an exchange of *token* brought, end its lease, and tell whether it was written.

        An absent refresh token keeps the old one (RFC 6749 section 6), absent scopes the old scopes. False: the row is
        gone, or has moved since, or the lease is another's.
        """
        return await self._swap(token, self._granted(token, granted), owner=owner, is_new_version=True)

    async def rescue(self, token: StoredToken, granted: Granted) -> bool:
        """
        Write a late answer to the exchange of *token*'s refresh token over the row, dead or not, as it was just read.

        False: it has moved, or somebody exchanges it again.
        """
        still = (
            table.c.id == token.id,
            table.c.version == token.version,
            table.c.lease_beat == token.lease_beat,
            table.c.lease_until.is_(None),
        )
        values = self._granted(token, granted) | {"dead": False}
        if token.last_refresh_error == ANSWER_LOST:
            values |= _failed(ANSWER_LOST, self._clock())  # of another exchange, begun after this one
        return await self._write(token, values | {"version": token.version + 1}, where=still)

    def _granted(self, token: StoredToken, granted: Granted) -> dict[str, object]:
        now = self._clock()
        values: dict[str, object] = {
            "sealed_access_token": self._seal(token, "sealed_access_token", granted.access_token),
            "token_type": granted.token_type,
            "issued_at": now,
            "expires_at": granted.expires_at,
            "last_refresh_at": now,
            "last_refresh_error": "",
            "failing_since": None,
        }
        if granted.refresh_token is not None:
            values |= self._renewed(token, granted.refresh_token)
        if granted.scopes is not None:
            values["granted_scopes"] = sorted(set(granted.scopes))
        return values

    async def store_renewed(self, token: StoredToken, refresh_token: str, *, error: str, owner: str) -> bool:
        """Write the refresh token that came without a usable access token, under the conditions of `store_granted`."""
        values = self._renewed(token, refresh_token) | _failed(error, self._clock())
        return await self._swap(token, values, owner=owner, is_new_version=True)

    def _renewed(self, token: StoredToken, refresh_token: str) -> dict[str, object]:
        """The columns of another refresh token than *token*'s, or of the same one again."""
        values: dict[str, object] = {"sealed_refresh_token": self._seal(token, "sealed_refresh_token", refresh_token)}
        if token.refresh_token is not None and token.refresh_token != refresh_token:
            values[SPENT] = self._spent.sealed(token, token.refresh_token)
        return values

    async def revive(self, token: StoredToken) -> bool:
        """
        Let a dead grant be tried once more, because an operator says so; tell whether it was still that grant.

        A rotation that was interrupted counts as a lost answer again: what a refusal then means stays the same.
        """
        error = ANSWER_LOST if token.last_refresh_error == ROTATION_INTERRUPTED else ""
        still = (table.c.id == token.id, table.c.version == token.version, table.c.dead.is_(True))
        since = {} if error else {"failing_since": None}
        return await self._write(token, {"dead": False, "last_refresh_error": error, **since}, where=still)

    async def mark_dead(self, token: StoredToken, *, error: str, owner: str) -> bool:
        """Write that the provider refused the grant for good, under the conditions of `store_granted`."""
        return await self._swap(token, {"dead": True} | _failed(error, self._clock()), owner=owner, is_new_version=True)

    async def note_failure(self, token: StoredToken, *, error: str, owner: str) -> bool:
        """Write why an exchange failed for a passing cause, under the conditions of `store_granted`."""
        return await self._swap(token, _failed(error, self._clock()), owner=owner, is_new_version=False)

    async def _swap(self, token: StoredToken, values: dict[str, object], *, owner: str, is_new_version: bool) -> bool:
        if is_new_version:
            values["version"] = token.version + 1
        own = (table.c.id == token.id, table.c.version == token.version, table.c.lease_owner == owner)
        return await self._write(token, values, where=own)

    async def _write(
        self, token: StoredToken, values: dict[str, object], *, where: tuple[ColumnElement[bool], ...]
    ) -> bool:
        """Write *values* where the row is as it must be, end its lease, and tell whether it was."""
        now = self._clock()
        values |= {"updated_at": now, "lease_owner": None, "lease_until": None}
        async with self._store.write() as db:
            swapped = await db.execute(update(table).where(*where).values(values))
            if swapped.rowcount == 0:
                return False
            await announce(db, "tokens", token_owner(token.connection, token.user, token.tenant), at=now)
        return True

    def _seal(self, token: StoredToken, column: str, secret: str) -> bytes:
        binding = Binding("tokens", column, token.id, token.connection, token.user, token.tenant, token.account)
        return self._sealer.seal(secret.encode(), binding=binding)


def _failed(error: str, now: float) -> dict[str, object]:
    """What a row says after a failure at *now*: why, and since when without a success between."""
    return {"last_refresh_error": error, "failing_since": func.coalesce(table.c.failing_since, now)}


def _as_read(token: StoredToken) -> tuple[ColumnElement[bool], ...]:
    """The conditions under which nobody has changed the grant, leased it or moved its beat since *token* was read."""
    return (
        table.c.id == token.id,
        table.c.version == token.version,
        table.c.lease_beat == token.lease_beat,
        table.c.dead.is_(False),
    )
