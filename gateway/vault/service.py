"""
The vault as a token service: which stored token answers, when it is refreshed, and what is said where there is none.

Rules (descope-contract.md section 11; DESIGN sections 2 and 7):
1. A token is served as it is until min(60 s, 10 % of its lifetime) before its expiry; then it is refreshed. With an
   unknown expiry it is never refreshed by time.
2. A refresh that fails for a passing cause leaves a valid token in service. An expired one, or one that the provider's
   API has rejected, is not served: `TokenServiceUnavailable`, worth repeating.
3. A dead grant, and an expired or rejected token without refresh token, are `ConnectionRequired`: somebody must act.
4. `replace` asks the provider only while the stored token still is the rejected one.
5. A token that is still valid is never waited for: one that is due is refreshed in the background before (`ahead.py`),
   and a caller who meets it all the same has it after a few seconds at most, whatever the provider does.
6. While the store leaves a database alone that does not answer (`store/engine.py`), callers are refused at once.
7. What cannot be opened is not served and not repaired: it is logged by id, and the service counts as unavailable.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import structlog
from sqlalchemy.exc import SQLAlchemyError

from gateway.errors import ConnectionRequired, ConnectionUnknown, TokenServiceUnavailable
from gateway.models import Caller, ConnectionToken, TokenKey
from gateway.net.client import OutboundClient
from gateway.store.engine import DatabasePaused, Store
from gateway.vault.adoption import Adoption
from gateway.vault.ahead import RefreshAhead
from gateway.vault.backoff import RefreshFailed
from gateway.vault.connections import Connection, Connections
from gateway.vault.discovery import Discovery
from gateway.vault.grants import can_exchange, may_mint
from gateway.vault.holdings import Holdings
from gateway.vault.key_census import check_keys
from gateway.vault.lease import Timing
from gateway.vault.record import Record, to_log
from gateway.vault.recovery import Recovery
from gateway.vault.refresh import IN_PROGRESS, GiveBack, Refresher, TokenGone
from gateway.vault.removal import Removal
from gateway.vault.sealing import SealBroken, Sealer
from gateway.vault.stored_token import ANSWER_LOST, StoredToken, TokenDraft
from gateway.vault.tokens import Tokens
from gateway.vault.uploads import Uploads

DATABASE_FAILED = "database_failed"  # what an answer says whose token could not even be leased
REFRESH_IN_PROGRESS = "refresh_in_progress"  # what an answer says whose caller has waited enough: the job goes on
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
        monotonic: Callable[[], float] = time.monotonic,
        timing: Timing | None = None,
        discovery: Discovery | None = None,
        record: Record = to_log,
        recovery: Recovery | None = None,
    ) -> None:
        self._store = store
        self._sealer = sealer
        self.record = record
        self._clock = clock
        self.connections = Connections(store, sealer, clock=clock, random_bytes=random_bytes)
        self.tokens = Tokens(store, sealer, clock=clock, random_bytes=random_bytes)
        self.holdings = Holdings(store, clock=clock)
        self.uploads = Uploads(store, self.tokens, sealer, clock=clock, random_bytes=random_bytes)
        self.removal = Removal(store, self.tokens, self.connections, clock=clock)
        self._refresher = Refresher(
            self.tokens,
            client,
            clock=clock,
            random_bytes=random_bytes,
            monotonic=monotonic,
            timing=timing,
            discovery=discovery,
            record=record,
            recovery=recovery,
        )
        self._adoption = Adoption(store, self.tokens, self._refresher, clock=clock, random_bytes=random_bytes)
        self._ahead = RefreshAhead(self._refresh_ahead, clock=clock, random_bytes=random_bytes)

    async def start(self) -> None:
        """
        Make sure that this database was sealed with this key, store what an earlier process could not, and begin to
        refresh ahead of expiry in the background.

        Raises:
            SealingKeyError: it was not; says which keys.
        """
        await check_sealing_key(self._store, self._sealer)
        await self._refresher.recover()
        self._ahead.start()

    async def close(self) -> None:
        """Begin no more refreshes ahead of expiry, and let the exchanges under way finish."""
        await asyncio.gather(self._ahead.close(), self._refresher.close())

    def give_back_with(self, give_back: GiveBack) -> None:
        """Have grants revoked with *give_back* that were refreshed while somebody deleted their token."""
        self._refresher.give_back = give_back

    @property
    def exchange_counts(self) -> Counter[str]:
        """How often each outcome of an exchange came to this process, and what went wrong around them."""
        return self._refresher.counts

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
            if not can_exchange(connection, token):
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
            RefreshFailed: the verification failed, or another one of the same refresh token is under way.
            RefreshTokenStored: another token of the same user or tenant has this refresh token.
            TokenServiceUnavailable: the database failed.
        """
        async with _translated(draft.connection, is_refresh_told=True):
            connection = await self.connections.load(draft.connection)
            if connection is None:
                raise ConnectionUnknown(connection=draft.connection)
            if verify_refresh and draft.refresh_token is not None:
                return await self._adoption.adopt(draft, connection)
            return await self.uploads.put(draft)

    async def revive(self, token_id: str) -> None:
        """Let a grant that was called dead be tried once more (an operator's `gateway tokens refresh`)."""
        token = await self.tokens.get(token_id)
        if token is not None and token.dead:
            await self.tokens.rows.revive(token)

    def connection_changed(self, connection_id: str) -> None:
        """The connection of this id was changed, here or in another process."""
        self._refresher.forget_failures(connection_id)

    # --- deciding --------------------------------------------------------------------------------------------------

    async def _fetch(self, key: TokenKey, *, is_forced: bool) -> tuple[StoredToken, Connection, bool]:
        async with _translated(key.connection):
            token, connection = await self._find(key)
            token, is_refreshed = await self._serve(token, connection, is_forced=is_forced)
            self._ahead.used(token)
            return token, connection, is_refreshed

    async def _find(self, key: TokenKey) -> tuple[StoredToken, Connection]:
        async with self._store.read(is_lookup=True) as db:
            connection = await self.connections.load_in(db, key.connection)
            token = None if connection is None else await self.tokens.find_in(db, key)
        if connection is None:
            raise ConnectionUnknown(connection=key.connection)
        if token is None and may_mint(connection, key):
            scopes = connection.default_scopes if key.scopes is None else key.scopes
            # The row first, without a token: then the first exchange is a job like every other, one for all processes.
            token = await self.tokens.ensure(TokenDraft(connection.id, tenant=key.tenant or "", scopes=scopes))
        if token is None:
            raise ConnectionRequired(NEVER_CONNECTED, connection=key.connection)
        return token, connection

    async def _serve(self, token: StoredToken, connection: Connection, *, is_forced: bool) -> tuple[StoredToken, bool]:
        """Return the token to hand out, and whether the provider was asked for it."""
        is_usable = token.is_valid(self._clock())
        self._refuse_hopeless(token, connection, is_usable=is_usable)
        if not can_exchange(connection, token) or (self._is_fresh(token) and not is_forced):
            return token, False
        # Without a known expiry nothing but somebody's wish ever refreshes: it is then worth the risk of a lost answer.
        is_risked = is_forced and token.expires_at is None
        try:
            refreshed = await self._refresher.refresh(
                token, connection, is_usable=is_usable and not is_risked, is_patient=is_forced or not is_usable
            )
        except (SQLAlchemyError, OSError) as exc:
            if not is_usable:
                raise
            log.warning("refresh_not_begun", token=token.id, connection=connection.id, error=type(exc).__name__)
            return replace(token, last_refresh_error=DATABASE_FAILED), False
        except RefreshFailed as exc:
            now = await self.tokens.get(token.id)
            if now is not None and not now.dead and now.is_valid(self._clock()):
                return now if now.version != token.version else _not_newer(now, exc), False
            raise
        return self._usable(refreshed.token, connection), refreshed.is_exchanged

    async def _refresh_ahead(self, seen: StoredToken) -> int | None:
        """Refresh *seen* if it still is what is stored; return after how many seconds to try again, None for never."""
        try:
            token = await self.tokens.get(seen.id)
            if token is None or token.dead or token.version != seen.version or not token.is_valid(self._clock()):
                return None
            connection = await self.connections.load(token.connection)
            if connection is None or not can_exchange(connection, token):
                return None
            await self._refresher.refresh(token, connection, is_usable=True)
        except RefreshFailed as exc:
            return None if exc.error == ANSWER_LOST else exc.retry_after
        except TokenGone:
            return None
        except SealBroken as exc:
            log.critical("seal_broken", connection=seen.connection, reason=str(exc))
            return None
        except (SQLAlchemyError, OSError) as exc:
            log.warning("refresh_ahead_failed", error=type(exc).__name__)
            return RETRY_SECONDS
        return None

    def _is_fresh(self, token: StoredToken) -> bool:
        now = self._clock()
        return token.is_valid(now) and (token.refresh_at is None or now < token.refresh_at)

    def _refuse_hopeless(self, token: StoredToken, connection: Connection, *, is_usable: bool) -> None:
        if token.dead:
            raise ConnectionRequired(GRANT_DEAD, connection=connection.id)
        if not is_usable and not can_exchange(connection, token):
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
            refresh_at=self._ask_again_at(token, connection),
            scopes=token.granted_scopes,
            origins=connection.origins,
            refreshed=is_refreshed,
        )

    def _ask_again_at(self, token: StoredToken, connection: Connection) -> float | None:
        """When a cache must ask again: when a refresh is due; where none is possible or one has failed, later."""
        if token.expires_at is None or token.refresh_at is None:
            return None
        if not can_exchange(connection, token):
            return token.expires_at
        return min(token.expires_at, max(token.refresh_at, self._clock() + RETRY_SECONDS))


def _not_newer(token: StoredToken, failed: RefreshFailed) -> StoredToken:
    """Return *token*, which serves although no newer one came, as it says why: by its row, or by *failed*."""
    error = REFRESH_IN_PROGRESS if failed.error == IN_PROGRESS else token.last_refresh_error or failed.error
    return replace(token, last_refresh_error=error)


async def check_sealing_key(store: Store, sealer: Sealer) -> None:
    """
    Do nothing if *sealer* has every key that something in *store* was sealed with.

    Raises:
        SealingKeyError: some are missing.
    """
    await check_keys(store, sealer)


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
    except DatabasePaused as exc:
        raise TokenServiceUnavailable(NOT_READ, connection=connection_id, retry_after=exc.retry_after) from exc
    except (SQLAlchemyError, OSError) as exc:
        log.critical("vault_database_failed", error=type(exc).__name__)
        raise TokenServiceUnavailable(NOT_READ, connection=connection_id, retry_after=RETRY_SECONDS) from exc
