"""
Agent keys and management keys: made, listed, revoked, verified.

Rules:
1. A key is `gwa_<id>_<secret><checksum>` (agent) or `gwm_…` (management): a prefix that secret scanners find, a public
   id of 20 characters, 256 random bits in 43 characters, and a CRC-32 of all that in 6, so that a scanner or a typing
   error is told from a key without a database. Base 62, digits first.
2. Only the SHA-256 of the secret part is stored: 256 random bits need no slow hash. The secret is shown once.
3. An unknown id costs the same comparison as a known one, in constant time (threats K2).
4. Revoked and expired keys are refused; a revocation is announced in its own transaction, topic "keys".
5. When the database cannot be asked, that is `KeysUnavailable` (503), never a refusal of the key.

Leaves caching, and with it the second within which a revocation holds, to `access/identity.py`.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from hmac import compare_digest
from typing import Any, Literal

from sqlalchemy import insert, select, update
from sqlalchemy.exc import SQLAlchemyError

from gateway.access.names import is_name
from gateway.errors import CallerUnauthenticated, KeysUnavailable
from gateway.models import Caller
from gateway.store.changes import ChangeFeed, announce
from gateway.store.engine import DatabasePaused, Store
from gateway.store.schema import keys

TOPIC = "keys"
KeyKind = Literal["agent", "management"]
PREFIXES: dict[KeyKind, str] = {"agent": "gwa", "management": "gwm"}

ID_BYTES = 14  # 112 bits: public, only has to be unique
ID_CHARS = 20
SECRET_BYTES = 32
SECRET_CHARS = 43
CHECKSUM_CHARS = 6
MAX_LABEL_CHARS = 200  # store/schema.py, keys.name
MAX_VALUES = 200  # tenants, roles, permissions or scopes of one key
MAX_LOOKUPS = 4  # at once: strangers can make well-formed keys and must not occupy every database connection
LOOKUP_SECONDS = 5.0
RETRY_SECONDS = 5  # what a caller is told to wait when the database does not answer

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_KEY = re.compile(
    rf"(gw[am])_([0-9A-Za-z]{{{ID_CHARS}}})_([0-9A-Za-z]{{{SECRET_CHARS}}})([0-9A-Za-z]{{{CHECKSUM_CHARS}}})"
)
_NOBODY = sha256(b"the digest that no secret has").digest()


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made. *secret* is the whole credential, and is nowhere else from now on."""

    id: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """What is known about a key, without its secret. *name* is an agent's client, or a management key's label."""

    id: str
    kind: KeyKind
    name: str
    user: str | None
    tenants: tuple[str, ...]
    roles: tuple[str, ...]
    permissions: tuple[str, ...]
    scopes: tuple[str, ...]
    created_at: float
    expires_at: float | None
    revoked_at: float | None


KeyInfos = list[KeyInfo]


def looks_like_key(credential: str) -> bool:
    """Whether *credential* is meant as an agent or management key. A JWT never is: it begins with "ey"."""
    return credential.startswith(("gwa_", "gwm_"))


class KeyRing:
    """The keys of one database. *random_bytes* returns that many bytes of a cryptographic source (`os.urandom`)."""

    def __init__(
        self,
        store: Store,
        feed: ChangeFeed,
        *,
        clock: Callable[[], float],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._store = store
        self._feed = feed
        self._clock = clock
        self._random_bytes = random_bytes
        self._lookups = asyncio.Semaphore(MAX_LOOKUPS)

    @property
    def feed(self) -> ChangeFeed:
        """Tells which keys change: topic "keys", subject the key's id. Started and stopped by whoever made it."""
        return self._feed

    async def create_agent(
        self,
        name: str,
        *,
        user: str | None,
        tenants: Iterable[str] = (),
        roles: Iterable[str] = (),
        permissions: Iterable[str] = (),
        scopes: Iterable[str] = (),
        expires_at: float | None = None,
    ) -> NewKey:
        """
        Make a key for the agent *name* that acts for *user*, or only for *tenants*, and return it with its secret.

        Raises:
            ValueError: a name is empty, too long or holds control characters; neither user nor tenant; expired.
            sqlalchemy.exc.SQLAlchemyError: the database cannot be written.
        """
        if user is not None and not is_name(user):
            raise ValueError("user: expected 1 to 512 characters without control characters")
        lists = {
            "tenants": _names("tenants", tenants),
            "roles": _names("roles", roles),
            "permissions": _names("permissions", permissions),
            "scopes": _names("scopes", scopes),
        }
        if user is None and not lists["tenants"]:
            raise ValueError("expected a user or at least one tenant for the agent to act for")
        return await self._create("agent", name, expires_at, user_id=user or "", **lists)

    async def create_management(self, name: str, *, expires_at: float | None = None) -> NewKey:
        """
        Make a management key labelled *name*, and return it with its secret.

        Raises:
            ValueError, sqlalchemy.exc.SQLAlchemyError: as `create_agent`.
        """
        return await self._create(
            "management", name, expires_at, user_id="", tenants=[], roles=[], permissions=[], scopes=[]
        )

    async def list(self) -> KeyInfos:
        """Return every key, the newest first, revoked and expired ones included."""
        async with self._store.read() as connection:
            rows = await connection.execute(select(keys).order_by(keys.c.created_at.desc(), keys.c.id))
            return [_info(row) for row in rows]

    async def revoke(self, key_id: str) -> bool:
        """Revoke the key *key_id* for good and announce it; return whether there is such a key. Twice is fine."""
        now = self._clock()
        async with self._store.write() as connection:
            found = (await connection.execute(select(keys.c.id).where(keys.c.id == key_id))).one_or_none()
            if found is None:
                return False
            await connection.execute(
                update(keys).where(keys.c.id == key_id, keys.c.revoked_at.is_(None)).values(revoked_at=now)
            )
            await announce(connection, TOPIC, key_id, at=now)
            return True

    async def verify(self, credential: str) -> Caller:
        """
        Return the caller whose key *credential* is, as the database says now.

        Raises:
            CallerUnauthenticated: no such key, a wrong secret, revoked, or expired.
            KeysUnavailable: the database does not answer.
        """
        parts = _parse(credential)
        if parts is None:
            raise CallerUnauthenticated
        kind, key_id, secret = parts
        row = await self._find(key_id)
        stored = _NOBODY if row is None else row.digest
        is_secret = compare_digest(sha256(secret.encode("ascii")).digest(), stored)
        if row is None or not is_secret or row.kind != kind:
            raise CallerUnauthenticated
        if row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= self._clock()):
            raise CallerUnauthenticated
        return _caller(_info(row))

    async def _create(self, kind: KeyKind, name: str, expires_at: float | None, **columns: Any) -> NewKey:
        if not is_name(name, MAX_LABEL_CHARS):
            raise ValueError(f"name: expected 1 to {MAX_LABEL_CHARS} characters without control characters")
        now = self._clock()
        if expires_at is not None and expires_at <= now:
            raise ValueError("expires_at: expected a time in the future")
        key_id = _base62(self._random_bytes(ID_BYTES), ID_CHARS)
        secret = _base62(self._random_bytes(SECRET_BYTES), SECRET_CHARS)
        body = f"{PREFIXES[kind]}_{key_id}_{secret}"
        async with self._store.write() as connection:
            await connection.execute(
                insert(keys).values(
                    id=key_id,
                    kind=kind,
                    name=name,
                    digest=sha256(secret.encode("ascii")).digest(),
                    created_at=now,
                    expires_at=expires_at,
                    **columns,
                )
            )
            await announce(connection, TOPIC, key_id, at=now)
        return NewKey(key_id, body + _checksum(body))

    async def _find(self, key_id: str) -> Any:
        try:
            async with asyncio.timeout(LOOKUP_SECONDS), self._lookups, self._store.read(is_lookup=True) as connection:
                return (await connection.execute(select(keys).where(keys.c.id == key_id))).one_or_none()
        except DatabasePaused as exc:
            raise KeysUnavailable(retry_after=exc.retry_after) from exc
        except (SQLAlchemyError, OSError, TimeoutError) as exc:
            raise KeysUnavailable(retry_after=RETRY_SECONDS) from exc


def _parse(credential: str) -> tuple[KeyKind, str, str] | None:
    match = _KEY.fullmatch(credential)
    if match is None or _checksum(credential[:-CHECKSUM_CHARS]) != match[4]:
        return None
    return ("agent" if match[1] == PREFIXES["agent"] else "management", match[2], match[3])


def _caller(info: KeyInfo) -> Caller:
    # A key that belongs to one tenant alone names it as current; of several the caller chooses.
    tenant = info.tenants[0] if len(info.tenants) == 1 else None
    return Caller(
        kind=info.kind,
        user=info.user,
        tenants=frozenset(info.tenants),
        tenant=tenant,
        client=info.name,
        roles=frozenset(info.roles),
        permissions=frozenset(info.permissions),
        scopes=frozenset(info.scopes),
        expires_at=info.expires_at,
        key_id=info.id,
    )


def _info(row: Any) -> KeyInfo:
    return KeyInfo(
        id=row.id,
        kind=row.kind,
        name=row.name,
        user=row.user_id or None,
        tenants=tuple(row.tenants),
        roles=tuple(row.roles),
        permissions=tuple(row.permissions),
        scopes=tuple(row.scopes),
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )


def _names(what: str, values: Iterable[str]) -> list[str]:
    names = sorted(set(values))
    if len(names) > MAX_VALUES or not all(is_name(value) for value in names):
        raise ValueError(
            f"{what}: expected at most {MAX_VALUES} names of 1 to 512 characters without control characters"
        )
    return names


def _base62(data: bytes, width: int) -> str:
    number = int.from_bytes(data)
    digits = []
    for _ in range(width):
        number, digit = divmod(number, 62)
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))


def _checksum(text: str) -> str:
    return _base62(zlib.crc32(text.encode("ascii")).to_bytes(4), CHECKSUM_CHARS)
