"""
One authenticated request to the token API, what it works with, and the form of the contract's rows.

Rules:
1. `Endpoint` is a row of the contract's table. `endpoints.py` has the table; it routes requests, and the OpenAPI
   document is made of it (`openapi.py`).
2. Whoever is handed a raw token is recorded before the answer is sent; a change has a line before it is made and one
   with what was done (`record.py`).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from gateway.access.keys import KeyRing
from gateway.access.policy import PolicySet
from gateway.models import Caller
from gateway.vault.connection import Connection
from gateway.vault.record import Record, conclude, who
from gateway.vault.service import Vault
from gateway.vault.wire import ErrorKind, Message

Credential = Literal["management", "either", "caller", "public"]


class Identifies(Protocol):
    """Tells who holds an access token (`access/identity.py`)."""

    async def identify(self, credential: str, *, requires_scope: bool = True) -> Caller:
        """
        Return the caller, or raise CallerUnauthenticated, KeysUnavailable or (where *requires_scope*)
        CallerScopeMissing.
        """


class PublishesKeys(Protocol):
    """Knows the keys that access tokens are verified with (`access/issuers.py`)."""

    async def public_keys(self) -> list[dict[str, str]]:
        """Return them as JWKs, each with `kid`, `use` and `alg`."""


class Link(Protocol):
    """Where a user goes to connect (`connect.py`, ConnectLink)."""

    @property
    def url(self) -> str: ...


class Connecting(Protocol):
    """Begins a user's or tenant's connecting (`connect.py`)."""

    async def start(
        self,
        connection_id: str,
        *,
        user: str | None,
        tenant: str | None,
        tenant_level: bool,
        account: str | None,
        scopes: Iterable[str] | None,
        redirect_url: str | None,
        started_by: Caller,
    ) -> Link:
        """Return a link for one use and a short while."""

    async def register(self, connection: Connection) -> Connection:
        """
        Return *connection* with the client that its provider registers, where it says `useDcr`.

        Raises:
            ConnectionInvalid, RegistrationFailed
        """


@dataclass(frozen=True, slots=True)
class TokenApi:
    """What the endpoints work with. What is None is not supported by this gateway, and says so."""

    vault: Vault
    identity: Identifies
    keyring: KeyRing
    policies: PolicySet
    project: str
    record: Record
    random_bytes: Callable[[int], bytes]
    issuers: PublishesKeys | None = None
    connecting: Connecting | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """One request. *content* is its body or query, *params* hold the path's placeholders, *id* is in its lines."""

    api: TokenApi
    caller: Caller
    content: dict[str, Any] = field(repr=False)
    params: Mapping[str, str]
    id: str = ""

    def note(self, event: str, **fields: object) -> None:
        """
        Record *event* of this caller, before it happens.

        Raises:
            RecordUnavailable: it must not happen.
        """
        self.api.record(event, id=self.id, **who(self.caller), **fields)

    def note_done(self, event: str, **fields: object) -> None:
        """Record *event* of this caller, which has happened."""
        conclude(self.api.record, event, id=self.id, **who(self.caller), **fields)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """
    A row of the contract's table.

    *credential* "either": a management key or an access token; "caller": an access token or a session JWT, which need
    not have its issuer's required scope. *query* is what its query holds, *request* its body, *answer* the type of its
    answer; *errors* are those of its own, beside what every endpoint may answer.
    """

    row: int
    method: Literal["GET", "POST", "DELETE"]
    path: str
    credential: Credential
    handle: Callable[[Call], Awaitable[Mapping[str, object]]]
    answer: type[Any]
    request: type[Message] | None = None
    query: type[Message] | None = None
    errors: tuple[ErrorKind, ...] = ()

    @property
    def name(self) -> str:
        """What it does, in a word."""
        return self.handle.__name__

    @property
    def is_fetch(self) -> bool:
        """Whether it is a fetch: there a wrong method and malformed JSON are 500 (contract section 11)."""
        return self.row <= 4

    @property
    def is_change(self) -> bool:
        """Whether it changes something by a management key: then the key is not left to a memory, however short."""
        return self.credential == "management" and self.method != "GET"

    @property
    def pattern(self) -> re.Pattern[str]:
        """What the whole path must match."""
        return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(self.path)))
