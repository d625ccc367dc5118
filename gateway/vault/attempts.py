"""
One attempt to connect an account, from the link to the stored token: a row that moves through its states, once each.

    open ──consent──► asked ──callback──► exchanging ──► connected
      │                 │                     ├──► confirming ──yes──► storing ──► connected
      └──► refused ◄────┘                     │        └──no──► refused
                 every state but the last ones ──► failed, or expired by the clock

Rules (threats.md J1, J12):
1. Every step compares and swaps the state: of two that come at once, or of a step and its replay, one goes through.
2. The link's secret and the `state` have 256 random bits each; the row holds only their digests. The PKCE verifier and
   tokens that wait for a confirmation are sealed, and removed with the step that used them.
3. A link lives ten minutes until consent; from consent on the provider's answer has ten minutes, and so has each
   further step (RFC 6749 4.1.2: as long as a code may live).
4. Attempts under way are bounded, in all and per subject: the subject's oldest makes room, one whose link was only made
   before one whose user is at the provider; one that holds a grant makes none. Old rows are swept.
5. Tokens that wait for a yes stay when their time is over, until somebody takes them to have them revoked.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from sqlalchemy import and_, delete, func, insert, not_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.store.engine import Store
from gateway.store.schema import connect_attempts as table
from gateway.vault.record import whose
from gateway.vault.sealing import Binding, Sealer

Status = Literal[
    "open", "asked", "exchanging", "confirming", "storing", "connected", "refused", "failed", "expired"
]  # fmt: skip

STEP_SECONDS = 600.0  # rule 3
KEEP_SECONDS = 3600.0  # how long an attempt that is over can be asked about
MAX_OPEN = 10_000  # under way at once in this database: 5 MB
MAX_OPEN_PER_SUBJECT = 10
SECRET_BYTES = 32
OVER: frozenset[str] = frozenset({"connected", "refused", "failed", "expired"})


class TooManyAttempts(Exception):
    """So many attempts are under way that no further one is begun."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One row. *user* and *tenant* are the token's ("" where absent), *granted_by* is the user who is asked."""

    id: str
    connection: str
    user: str
    tenant: str
    account: str
    granted_by: str
    scopes: tuple[str, ...]
    redirect_url: str
    status: Status
    error: str
    browser_digest: str
    issuer: str
    callback_url: str
    token_id: str
    created_at: float
    expires_at: float
    verifier: str | None = field(default=None, repr=False)
    tokens: bytes | None = field(default=None, repr=False)

    def for_the_record(self) -> dict[str, object]:
        """The fields of a record line that tell what the attempt is about."""
        subject = whose(self.user, self.tenant, self.account)
        return {"attempt": self.id, "connection": self.connection, "granted_by": self.granted_by, **subject}

    @property
    def is_over(self) -> bool:
        """Whether nothing more can happen to it."""
        return self.status in OVER


class ConnectStopped(Exception):
    """A step that cannot be taken. *reason* is a key of the pages' table; *attempt* is told where it is the user's."""

    def __init__(self, reason: str, attempt: Attempt | None = None) -> None:
        self.reason = reason
        self.attempt = attempt
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class NewAttempt:
    """What a new attempt is about."""

    connection: str
    user: str
    tenant: str
    account: str
    granted_by: str
    scopes: tuple[str, ...]
    redirect_url: str


def new_secret(random_bytes: Callable[[int], bytes]) -> str:
    """Return 256 random bits as 43 URL-safe characters: a link, a state, a browser's cookie, a PKCE verifier."""
    return base64.urlsafe_b64encode(random_bytes(SECRET_BYTES)).rstrip(b"=").decode()


def digest_of(secret: str) -> str:
    """Return what is stored of *secret*. It is random and long, so that no slow hash is needed."""
    return hashlib.sha256(secret.encode()).hexdigest()


class Attempts:
    """The table of attempts."""

    def __init__(
        self,
        store: Store,
        sealer: Sealer,
        *,
        clock: Callable[[], float],
        random_bytes: Callable[[int], bytes],
        max_open: int = MAX_OPEN,
    ) -> None:
        self._store = store
        self._sealer = sealer
        self._clock = clock
        self._random_bytes = random_bytes
        self._max_open = max_open

    async def begin(self, new: NewAttempt) -> tuple[Attempt, str]:
        """
        Store a new attempt, and return it with the secret part of its link, which is kept nowhere.

        Raises:
            TooManyAttempts: rule 4.
        """
        now, secret = self._clock(), new_secret(self._random_bytes)
        attempt_id = self._random_bytes(16).hex()
        values = {
            "id": attempt_id,
            "link_digest": digest_of(secret),
            "connection_id": new.connection,
            "user_id": new.user,
            "tenant_id": new.tenant,
            "account": new.account,
            "granted_by": new.granted_by,
            "scopes": list(new.scopes),
            "redirect_url": new.redirect_url,
            "status": "open",
            "created_at": now,
            "expires_at": now + STEP_SECONDS,
        }
        async with self._store.write() as db:
            is_held = and_(table.c.status == "confirming", table.c.sealed_tokens.is_not(None))
            await db.execute(delete(table).where(table.c.expires_at < now - KEEP_SECONDS, not_(is_held)))
            await self._make_room(db, new, now)
            await db.execute(insert(table).values(values))
        attempt = await self.get(attempt_id)
        if attempt is None:
            raise RuntimeError("an attempt that was just written is not there")
        return attempt, secret

    async def get(self, attempt_id: str) -> Attempt | None:
        """Return the attempt of this id, or None."""
        return await self._find(table.c.id == attempt_id)

    async def of_link(self, secret: str) -> Attempt | None:
        """Return the attempt whose link has this secret, or None."""
        return await self._find(table.c.link_digest == digest_of(secret))

    async def of_state(self, state: str) -> Attempt | None:
        """Return the attempt that sent this `state` to its provider, used or not, or None."""
        return await self._find(table.c.state_digest == digest_of(state))

    async def bind(self, attempt: Attempt, browser: str) -> bool:
        """Bind an open attempt to the first *browser* that comes, and tell whether it is this one's."""
        if attempt.browser_digest:
            return attempt.browser_digest == digest_of(browser)
        return await self._move(
            attempt, "open", {"browser_digest": digest_of(browser)}, also=(table.c.browser_digest == "",)
        )

    async def ask(self, attempt: Attempt, *, state: str, verifier: str | None, issuer: str, callback_url: str) -> bool:
        """Move from open to asked: *state* and *verifier* exist from here on."""
        values = {
            "state_digest": digest_of(state),
            "sealed_verifier": self._seal(attempt, "sealed_verifier", (verifier or "").encode()),
            "issuer": issuer,
            "callback_url": callback_url,
        }
        return await self._move(attempt, "asked", values)

    async def move(self, attempt: Attempt, status: Status, *, error: str = "", token_id: str = "") -> bool:
        """Move to *status* from the attempt's own, and tell whether it still was in that; drops what was sealed."""
        values: dict[str, object] = {"error": error[:64], "token_id": token_id, "sealed_verifier": None}
        if status != "storing":
            values["sealed_tokens"] = None
        return await self._move(attempt, status, values)

    async def hold(self, attempt: Attempt, tokens: bytes) -> bool:
        """Move from exchanging to confirming, with *tokens* sealed until the user has said yes."""
        sealed = self._seal(attempt, "sealed_tokens", tokens)
        return await self._move(attempt, "confirming", {"sealed_tokens": sealed, "sealed_verifier": None})

    async def take_abandoned(self, connection: str | None = None) -> Attempt | None:
        """
        Return one attempt with the tokens that nobody has said yes to in time, and keep them no more; else None.

        *connection*: one of this connection, which goes away, with or without time left.
        """
        is_meant = table.c.expires_at <= self._clock() if connection is None else table.c.connection_id == connection
        abandoned = (table.c.status == "confirming", table.c.sealed_tokens.is_not(None), is_meant)
        found = select(table).where(*abandoned).order_by(table.c.expires_at).limit(1)
        async with self._store.read() as db:
            if (await db.execute(found)).first() is None:
                return None
        async with self._store.write() as db:
            row = (await db.execute(found)).mappings().one_or_none()
            if row is None:
                return None
            await db.execute(update(table).where(table.c.id == row["id"]).values(sealed_tokens=None))
        attempt = self._open(row)
        return replace(attempt, tokens=self._unseal(attempt, "sealed_tokens", row["sealed_tokens"]))

    async def _move(
        self, attempt: Attempt, status: Status, values: dict[str, Any], *, also: Iterable[Any] = ()
    ) -> bool:
        now = self._clock()
        current = (table.c.id == attempt.id, table.c.status == attempt.status, table.c.expires_at > now, *also)
        values = {**values, "status": status}
        if status != attempt.status:
            values["expires_at"] = now + STEP_SECONDS
        async with self._store.write() as db:
            moved = await db.execute(update(table).where(*current).values(values))
        return bool(moved.rowcount)

    async def _make_room(self, db: AsyncConnection, new: NewAttempt, now: float) -> None:
        under_way = (table.c.expires_at > now, table.c.status.not_in(sorted(OVER)))
        count = select(func.count()).select_from(table).where(*under_way)
        if (await db.execute(count)).scalar_one() >= self._max_open:
            raise TooManyAttempts("too many accounts are being connected at the moment")
        own = (
            table.c.connection_id == new.connection,
            table.c.user_id == new.user,
            table.c.tenant_id == new.tenant,
            # What adoption.py claims there is no attempt: nobody's browser ever came for it.
            not_(and_(table.c.status == "exchanging", table.c.browser_digest == "")),
        )
        oldest = select(table.c.id, table.c.status).where(*own, *under_way).order_by(table.c.created_at, table.c.id)
        rows = (await db.execute(oldest)).all()
        surplus = len(rows) - MAX_OPEN_PER_SUBJECT + 1
        if surplus <= 0:
            return
        replaceable = [row.id for status in ("open", "asked") for row in rows if row.status == status]
        if len(replaceable) < surplus:
            raise TooManyAttempts("too many accounts of one subject are being connected at the moment")
        await db.execute(delete(table).where(table.c.id.in_(replaceable[:surplus])))

    async def _find(self, condition: Any) -> Attempt | None:
        async with self._store.read() as db:
            row = (await db.execute(select(table).where(condition))).mappings().one_or_none()
        return None if row is None else self._open(row)

    def _open(self, row: Any) -> Attempt:
        status: Status = row["status"]
        if status not in OVER and row["expires_at"] <= self._clock():
            status = "expired"
        attempt = Attempt(
            id=row["id"],
            connection=row["connection_id"],
            user=row["user_id"],
            tenant=row["tenant_id"],
            account=row["account"],
            granted_by=row["granted_by"],
            scopes=tuple(row["scopes"]),
            redirect_url=row["redirect_url"],
            status=status,
            error=row["error"],
            browser_digest=row["browser_digest"],
            issuer=row["issuer"],
            callback_url=row["callback_url"],
            token_id=row["token_id"],
            created_at=row["created_at"],
            expires_at=row["expires_at"],
        )
        if status in OVER:
            return attempt
        verifier = self._unseal(attempt, "sealed_verifier", row["sealed_verifier"])
        tokens = self._unseal(attempt, "sealed_tokens", row["sealed_tokens"])
        return replace(attempt, verifier=verifier.decode() if verifier else None, tokens=tokens)

    def _seal(self, attempt: Attempt, column: str, content: bytes) -> bytes:
        return self._sealer.seal(content, binding=_binding(attempt, column))

    def _unseal(self, attempt: Attempt, column: str, sealed: bytes | None) -> bytes | None:
        return None if sealed is None else self._sealer.open(bytes(sealed), binding=_binding(attempt, column))


def _binding(attempt: Attempt, column: str) -> Binding:
    return Binding(
        "connect_attempts", column, attempt.id, attempt.connection, attempt.user, attempt.tenant, attempt.account
    )
