"""
The vault as a token service: which stored token answers, when it is refreshed, and what is said where there is none.

Rules (descope-contract.md section 11; DESIGN sections 2 and 7):
1. A token is served as it is until min(60 s, 10 % of its lifetime) before its expiry; then it is refreshed. With an
   unknown expiry it is never refreshed by time.
2. A refresh that fails for a passing cause leaves a valid token in service. An expired one, or one that the provider's
   API has rejected, is not served: `TokenServiceUnavailable`, worth repeating.
3. A dead grant, and an expired or rejected token without refresh token, are `ConnectionRequired`: somebody must act.
4. `replace` asks the provider only while the stored token still is the rejected one.
5. What cannot be opened is not served and not repaired: it is logged by id, and the service counts as unavailable.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from gateway.errors import ConnectionRequired, ConnectionUnknown, TokenServiceUnavailable
from gateway.models import Caller, ConnectionToken, TokenKey
from gateway.net.client import OutboundClient
from gateway.store import schema
from gateway.store.engine import Store
from gateway.vault.connections import Connection, Connections
from gateway.vault.refresh import Refresher, RefreshFailed, TokenGone
from gateway.vault.sealing import HEADER_BYTES, SealBroken, Sealer, SealingKeyError
from gateway.vault.tokens import StoredToken, TokenDraft, Tokens

RETRY_SECONDS = 5  # how soon a token that could not be refreshed, or a database that failed, is worth another look

log = structlog.get_logger()

CONNECT = "The account must be connected, then the call can be repeated."
NEVER_CONNECTED = f"There is no connection token for this user or tenant. {CONNECT}"
GRANT_DEAD = f"The provider no longer accepts the stored grant. {CONNECT}"
EXPIRED = f"The stored token is no longer accepted and cannot be refreshed. {CONNECT}"
NOT_REFRESHED = "The provider gave no fresh token for now. Repeat the call later."
NOT_READ = "The stored token cannot be read at the moment. Repeat the call later."
NOT_OPENED = "The stored token cannot be opened. The gateway's operator finds its id in the log."


class Vault:
    """Connections, their tokens, and the jobs that refresh them. Between `start` and `close` it serves."""

    shares_tokens_between_callers = (
        True  # what one caller is given, another with the same key may be given from a cache
    )
    max_cache_seconds: float | None = None  # until refresh_at: the change feed's topic "tokens" says what to forget

    def __init__(
        self,
        store: Store,
        sealer: Sealer,
        client: OutboundClient,
        *,
        clock: Callable[[], float],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._store = store
        self._sealer = sealer
        self._clock = clock
        self.connections = Connections(store, sealer, clock=clock, random_bytes=random_bytes)
        self.tokens = Tokens(store, sealer, clock=clock, random_bytes=random_bytes)
        self._refresher = Refresher(store, self.tokens, client, clock=clock, random_bytes=random_bytes)

    async def start(self) -> None:
        """
        Make sure that this database was sealed with this key, before anything is served or sealed.

        Raises:
            SealingKeyError: it was not; says which keys.
        """
        await check_sealing_key(self._store, self._sealer)

    async def close(self) -> None:
        """Let the exchanges under way finish."""
        await self._refresher.close()

    async def fetch(self, key: TokenKey, *, caller: Caller, credential: str) -> ConnectionToken:
        """
        Return the token that *key* means, refreshed if it is due.

        *caller* has been allowed to have it; *caller* and *credential* are unused, as the vault asks nobody else.

        Raises:
            ConnectionUnknown, ConnectionRequired, TokenServiceUnavailable
        """
        token, connection, is_refreshed = await self._fetch(key, is_forced=False)
        return self._answer(token, connection, is_refreshed=is_refreshed)

    async def fetch_stored(self, key: TokenKey, *, force_refresh: bool = False) -> tuple[StoredToken, Connection]:
        """
        Return the same as `fetch`, as the whole row and its connection: for the token API.

        *force_refresh* asks the provider even if the token is fresh, unless an exchange under way brings a new one, or
        there is no refresh token.
        """
        token, connection, _ = await self._fetch(key, is_forced=force_refresh)
        return token, connection

    async def replace(
        self, key: TokenKey, *, rejected: ConnectionToken, caller: Caller, credential: str
    ) -> ConnectionToken:
        """
        Return another token than *rejected*: the stored one if it differs by now, else the outcome of one exchange.

        A token that nobody can refresh (none to do it with, no endpoint) is returned as it is: a bare 401 destroys
        nothing, and what the provider said is the caller's to read.

        Raises:
            ConnectionUnknown, ConnectionRequired: there is none to be had without the user.
            TokenServiceUnavailable: the provider gave none for now; *rejected* is not returned again.
        """
        async with _translated(key.connection):
            token, connection = await self._find(key)
            if token.access_token != rejected.access_token and self._is_fresh(token) and not token.dead:
                return self._answer(token, connection, is_refreshed=False)
            if token.access_token != rejected.access_token:
                token, is_refreshed = await self._serve(token, connection, is_forced=False)
                return self._answer(token, connection, is_refreshed=is_refreshed)
            self._refuse_hopeless(token, connection, is_usable=True)
            if not _can_refresh(token, connection):
                return self._answer(token, connection, is_refreshed=False)
            refreshed = await self._refresher.refresh(token, connection, is_usable=False)
            token = self._usable(refreshed.token, connection)
            if token.access_token == rejected.access_token and not refreshed.is_exchanged:
                raise ConnectionRequired(EXPIRED, connection=key.connection)
            return self._answer(token, connection, is_refreshed=refreshed.is_exchanged)

    async def upload(self, draft: TokenDraft, *, verify_refresh: bool = False) -> StoredToken:
        """
        Store a token that somebody brings, and return it.

        *verify_refresh* exchanges its refresh token first; nothing is written if the provider refuses.

        Raises:
            ConnectionUnknown: no such connection.
            RefreshFailed: the verification failed.
            TokenServiceUnavailable: the database failed.
        """
        async with _translated(draft.connection, is_refresh_told=True):
            connection = await self.connections.load(draft.connection)
            if connection is None:
                raise ConnectionUnknown(connection=draft.connection)
            if verify_refresh and draft.refresh_token is not None:
                return await self._refresher.adopt(draft, connection)
            return await self.tokens.put(draft)

    # --- deciding --------------------------------------------------------------------------------------------------

    async def _fetch(self, key: TokenKey, *, is_forced: bool) -> tuple[StoredToken, Connection, bool]:
        async with _translated(key.connection):
            token, connection = await self._find(key)
            token, is_refreshed = await self._serve(token, connection, is_forced=is_forced)
            return token, connection, is_refreshed

    async def _find(self, key: TokenKey) -> tuple[StoredToken, Connection]:
        async with self._store.read() as db:
            connection = await self.connections.load_in(db, key.connection)
            if connection is None:
                raise ConnectionUnknown(connection=key.connection)
            token = await self.tokens.find_in(db, key)
        if token is None:
            raise ConnectionRequired(NEVER_CONNECTED, connection=key.connection)
        return token, connection

    async def _serve(self, token: StoredToken, connection: Connection, *, is_forced: bool) -> tuple[StoredToken, bool]:
        """Return the token to hand out, and whether the provider was asked for it."""
        is_usable = token.is_valid(self._clock())
        self._refuse_hopeless(token, connection, is_usable=is_usable)
        if not _can_refresh(token, connection) or (self._is_fresh(token) and not is_forced):
            return token, False
        try:
            refreshed = await self._refresher.refresh(token, connection, is_usable=is_usable)
        except RefreshFailed:
            now = await self.tokens.get(token.id)
            if now is not None and not now.dead and now.is_valid(self._clock()):
                return now, False
            raise
        return self._usable(refreshed.token, connection), refreshed.is_exchanged

    def _is_fresh(self, token: StoredToken) -> bool:
        now = self._clock()
        return token.is_valid(now) and (token.refresh_at is None or now < token.refresh_at)

    def _refuse_hopeless(self, token: StoredToken, connection: Connection, *, is_usable: bool) -> None:
        if token.dead:
            raise ConnectionRequired(GRANT_DEAD, connection=connection.id)
        if not is_usable and not _can_refresh(token, connection):
            raise ConnectionRequired(EXPIRED, connection=connection.id)

    def _usable(self, token: StoredToken, connection: Connection) -> StoredToken:
        """Return the row that a job left, if it can be served."""
        is_valid = token.is_valid(self._clock())
        self._refuse_hopeless(token, connection, is_usable=is_valid)
        if not is_valid:
            raise RefreshFailed("expired_again", retry_after=RETRY_SECONDS)
        return token

    def _answer(self, token: StoredToken, connection: Connection, *, is_refreshed: bool) -> ConnectionToken:
        if token.access_token is None:
            raise ConnectionRequired(EXPIRED, connection=connection.id)
        return ConnectionToken(
            id=token.id,
            access_token=token.access_token,
            token_type=token.token_type,
            expires_at=token.expires_at,
            refresh_at=self._ask_again_at(token),
            scopes=token.granted_scopes,
            origins=connection.origins,
            refreshed=is_refreshed,
        )

    def _ask_again_at(self, token: StoredToken) -> float | None:
        """When a cache must ask again: when a refresh is due; where none is possible or one has failed, later."""
        if token.expires_at is None or token.refresh_at is None:
            return None
        if token.refresh_token is None:
            return token.expires_at
        return min(token.expires_at, max(token.refresh_at, self._clock() + RETRY_SECONDS))


def _can_refresh(token: StoredToken, connection: Connection) -> bool:
    return token.refresh_token is not None and bool(connection.token_url)


async def check_sealing_key(store: Store, sealer: Sealer) -> None:
    """
    Do nothing if what is sealed in *store* was sealed with the key of *sealer*, or nothing is sealed in it.

    Raises:
        SealingKeyError: another key was used.
    """
    tokens, connections = schema.tokens.c, schema.connections.c
    columns = (connections.sealed_client_secret, tokens.sealed_access_token, tokens.sealed_refresh_token)
    async with store.read() as db:
        for column in columns:
            sealed = (await db.execute(select(column).where(column.is_not(None)).limit(1))).scalar_one_or_none()
            if sealed is None:
                continue
            key_id = bytes(sealed)[1:HEADER_BYTES]
            if key_id != sealer.key_id:
                raise SealingKeyError(
                    f"this database was sealed with key {key_id.hex()}, and the sealing key given is "
                    f"{sealer.key_id.hex()}: give the gateway the key that belongs to this data (GATEWAY_SEALING_KEY, "
                    "GATEWAY_SEALING_KEY_FILE, or sealing.key in the data directory)"
                )


@asynccontextmanager
async def _translated(connection_id: str, *, is_refresh_told: bool = False) -> AsyncIterator[None]:
    """Turn what the parts raise into refusals, here and nowhere else."""
    try:
        yield
    except RefreshFailed as exc:
        if is_refresh_told:
            raise
        raise TokenServiceUnavailable(NOT_REFRESHED, connection=connection_id, retry_after=exc.retry_after) from exc
    except TokenGone as exc:
        raise ConnectionRequired(NEVER_CONNECTED, connection=connection_id) from exc
    except SealBroken as exc:
        log.critical("seal_broken", connection=connection_id, reason=str(exc))
        raise TokenServiceUnavailable(NOT_OPENED, connection=connection_id, retry_after=RETRY_SECONDS) from exc
    except (SQLAlchemyError, OSError) as exc:
        log.critical("vault_database_failed", error=type(exc).__name__)
        raise TokenServiceUnavailable(NOT_READ, connection=connection_id, retry_after=RETRY_SECONDS) from exc
