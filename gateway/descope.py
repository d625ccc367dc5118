"""
Descope as the token service: connection tokens over HTTP, by the contract's rows 1 to 4.

Rules:
1. Without a management key the caller's own JWT asks, and Descope's policies hold; then an answer is for that caller
   only, and other kinds of credential cannot be used. With a key, Descope's policies are bypassed and ours alone hold.
2. A credential goes to the configured base URL and nowhere else. The refresh token is never asked for; of an answer,
   only the fields that are needed are read, and the rest is dropped (threats E4).
3. An answer is used when it is for the very connection, user, tenant and account that were asked for. Doubt refuses.
4. Compare and refresh: a rejected token is replaced by the stored one where that differs by now; only else Descope is
   told to refresh. One replacement of a token at a time in this process, whoever asks.
5. 404 with Descope's code and 403 are facts. Everything unexpected is `token_service_unavailable`, never a crash and
   never a guess, and one line a minute for the operator without a word of what was answered.
6. A service that does not answer several times in a row is left alone for a while (`breaker.py`).

Source: descope-contract.md sections 1 to 4; threats.md R7 to R9.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from weakref import WeakValueDictionary

import orjson
import structlog

from gateway.breaker import FAILURES, PAUSE_SECONDS, Breaker
from gateway.errors import (
    CallerKindUnsupported,
    ConnectionRequired,
    ConnectionUnknown,
    DeniedByPolicy,
    Refusal,
    SubjectRequired,
    TokenServiceUnavailable,
)
from gateway.models import Caller, ConnectionToken, TokenKey
from gateway.net.client import Answer, OutboundClient, OutboundError

MAX_CACHE_SECONDS = 60.0  # DESIGN section 7: how long a decision of Descope's may be stale
REFRESH_MARGIN_SECONDS = 60.0  # DESIGN section 7: min(60 s, 10 % of what is left)
REFRESH_MARGIN_SHARE = 0.1
TIMEOUT_SECONDS = 10.0
MAX_ANSWER_BYTES = 131_072  # a token of 16 KiB with its scopes, several times over
MAX_TOKEN_CHARS = 16_384
MAX_SCOPES = 1000
RETRY_AFTER_SECONDS = 5  # where the service names no time
MAX_RETRY_AFTER_SECONDS = 3600
TELL_AGAIN_SECONDS = 60.0  # one line a minute for one cause (threats G11)
MILLISECONDS_FROM = 1e12  # contract section 4: beyond it is a time in milliseconds
LATEST_EXPIRY = 253_402_300_799.0  # the end of the year 9999

TOKEN_NOT_FOUND = "E111504"  # noqa: S105  # contract section 3
APP_NOT_FOUND = "E151002"  # this gateway's own vault, when it is the token service of another gateway
REGIONAL_PROJECT_CHARS = 32  # contract section 1: ids from this length on carry their region

PROJECT = re.compile(r"[A-Za-z0-9_-]{1,128}")
ACCESS_TOKEN = re.compile(rf"[\x21-\x7e]{{1,{MAX_TOKEN_CHARS}}}")  # RFC 6749 A.12 without the space, as RFC 6750 2.1
TOKEN_TYPE = re.compile(r"[A-Za-z0-9._-]{1,32}")
TOKEN_ID = re.compile(r"[\x21-\x7e]{1,200}")
SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,1000}")  # RFC 6749 section 3.3
# Answers for a service that is not there. Not 500: that may be about one token, comes at once, and must not keep the
# others from theirs.
AWAY = frozenset({502, 503, 504})
SECONDS = re.compile(r"[0-9]{1,6}")

log = structlog.get_logger()


class Descope:
    """
    The token service of the data path, at Descope. *clock* gives POSIX seconds, *monotonic* those that never jump.

    *base_url* None means Descope's own, by the project's id. *management_key* None means that callers ask for
    themselves.

    Raises:
        ValueError: *project* is no project id.
    """

    max_cache_seconds: float | None = MAX_CACHE_SECONDS

    def __init__(
        self,
        client: OutboundClient,
        *,
        base_url: str | None,
        project: str,
        management_key: str | None,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        if not PROJECT.fullmatch(project):
            raise ValueError("token_service.project: expected letters, digits, _ and -")
        self._client = client
        self._base_url = (base_url or default_base_url(project)).rstrip("/")
        self._project = project
        self._management_key = management_key
        self._clock = clock
        self._monotonic = monotonic
        self._breaker = Breaker(monotonic=monotonic)
        self._flights: dict[object, asyncio.Task[ConnectionToken]] = {}
        self._turns: WeakValueDictionary[TokenKey, asyncio.Lock] = WeakValueDictionary()
        self._told: dict[str, float] = {}

    @property
    def shares_tokens_between_callers(self) -> bool:
        """Whether every caller gets the same answer: only where a management key asks."""
        return self._management_key is not None

    async def fetch(self, key: TokenKey, *, caller: Caller, credential: str) -> ConnectionToken:
        """
        Return the token of *key*. *credential* is the caller's own, as it came.

        Raises:
            ConnectionRequired, ConnectionUnknown, CallerKindUnsupported, DeniedByPolicy, TokenServiceUnavailable,
            SubjectRequired.
        """
        secret = self._secret(caller, credential)
        return await self._one_flight((key, secret), lambda: self._ask(key, secret, force=False))

    async def replace(
        self, key: TokenKey, *, rejected: ConnectionToken, caller: Caller, credential: str
    ) -> ConnectionToken:
        """
        Return a token other than *rejected*: the stored one if it differs by now, else a refreshed one.

        Where Descope has no other, the answer is the rejected token itself.

        Raises: as `fetch`.
        """
        secret = self._secret(caller, credential)
        flight = (key, secret, rejected.access_token)
        return await self._one_flight(flight, lambda: self._compare_and_refresh(key, rejected, secret))

    async def close(self) -> None:
        """Wait for what is under way: a refresh that was begun comes to its end."""
        if self._flights:
            await asyncio.wait(tuple(self._flights.values()))

    def _secret(self, caller: Caller, credential: str) -> str:
        if self._management_key is not None:
            return self._management_key
        if caller.kind != "jwt":
            raise CallerKindUnsupported
        return credential

    async def _compare_and_refresh(self, key: TokenKey, rejected: ConnectionToken, secret: str) -> ConnectionToken:
        # Callers with different credentials share the token: whoever comes second finds what the first one refreshed.
        turn = self._turns.setdefault(key, asyncio.Lock())
        async with turn:
            current = await self._ask(key, secret, force=False)
            if current.access_token != rejected.access_token:
                return current
            fresh = await self._ask(key, secret, force=True)
            return replace(fresh, refreshed=fresh.access_token != rejected.access_token)

    async def _one_flight(self, name: object, ask: Callable[[], Awaitable[ConnectionToken]]) -> ConnectionToken:
        """Join the flight of that name or start it. A caller that goes away leaves it running for the others."""
        task = self._flights.get(name)
        if task is None:

            async def fly() -> ConnectionToken:
                return await ask()

            task = asyncio.create_task(fly(), name="descope")
            self._flights[name] = task
            task.add_done_callback(lambda done: self._land(name, done))
        return await asyncio.shield(task)

    def _land(self, name: object, task: asyncio.Task[ConnectionToken]) -> None:
        del self._flights[name]
        if not task.cancelled():
            task.exception()  # seen: whoever waited has it

    async def _ask(self, key: TokenKey, secret: str, *, force: bool) -> ConnectionToken:
        path, message = fetch_request(key, force=force)
        if (wait := self._breaker.wait_seconds()) is not None:
            raise TokenServiceUnavailable(retry_after=wait)
        try:
            answer = await self._client.request(
                "POST",
                f"{self._base_url}{path}",
                headers={
                    "Authorization": f"Bearer {self._project}:{secret}",
                    "Content-Type": "application/json",
                    "Accept": "application/json",
                },
                body=orjson.dumps(message),
                timeout_seconds=TIMEOUT_SECONDS,
                max_bytes=MAX_ANSWER_BYTES,
            )
        except OutboundError as exc:
            self._count(is_failure=True)
            raise self._unavailable(exc.reason) from exc
        self._count(is_failure=answer.status in AWAY)
        if answer.status != 200:
            raise self._refusal(answer, key)
        try:
            return read_token(answer, key, now=self._clock())
        except AnswerUnusable as exc:
            raise self._unavailable(str(exc)) from None

    def _count(self, *, is_failure: bool) -> None:
        if not is_failure:
            self._breaker.succeeded()
        elif self._breaker.failed():
            log.warning("descope_paused", failures=FAILURES, pause_seconds=PAUSE_SECONDS, base_url=self._base_url)

    def _refusal(self, answer: Answer, key: TokenKey) -> Refusal:
        """Return what an answer other than 200 means to the caller."""
        status, code = answer.status, _error_code(answer)
        if status == 404 and code == TOKEN_NOT_FOUND:
            return ConnectionRequired(connection=key.connection)
        if status == 404 and code == APP_NOT_FOUND:
            return ConnectionUnknown(connection=key.connection)
        if status in (401, 403) and self._management_key is None:
            return DeniedByPolicy("The token service does not give this connection's token for your access token.")
        if status in (401, 403):
            return self._unavailable("management_key_refused", status=status)
        return self._unavailable("status", status=status, retry_after=_retry_after(answer))

    def _unavailable(
        self, cause: str, *, status: int | None = None, retry_after: int = RETRY_AFTER_SECONDS
    ) -> TokenServiceUnavailable:
        """Return the refusal, and tell the operator once a minute why."""
        now = self._monotonic()
        told = f"{cause} {status}"
        if self._told.get(told, -math.inf) + TELL_AGAIN_SECONDS <= now:
            self._told[told] = now  # bounded: causes are ours, statuses are 500
            log.warning("descope_unavailable", cause=cause, status=status, base_url=self._base_url)
        return TokenServiceUnavailable(retry_after=retry_after)


class AnswerUnusable(Exception):
    """A 200 that cannot be believed. The text is a word of ours."""


def default_base_url(project: str) -> str:
    """Return Descope's URL for *project*: that of its region, where the id carries one (contract section 1)."""
    if len(project) >= REGIONAL_PROJECT_CHARS:
        return f"https://api.{project[1:5]}.descope.com"
    return "https://api.descope.com"


def fetch_request(key: TokenKey, *, force: bool) -> tuple[str, dict[str, Any]]:
    """
    Return path and body of the fetch of *key*: rows 1 and 2 for a user's, 3 and 4 for a tenant's token.

    Raises:
        SubjectRequired: *key* names neither user nor tenant.
    """
    message: dict[str, Any] = {"appId": key.connection}
    if key.user is not None:
        message["userId"] = key.user
    elif key.tenant is None:
        raise SubjectRequired
    if key.tenant is not None:
        message["tenantId"] = key.tenant
    if key.account is not None:
        message["externalIdentifier"] = key.account
    if key.scopes is not None:
        message["scopes"] = list(key.scopes)
    message["options"] = {"withRefreshToken": False, "forceRefresh": force}
    level = "user" if key.user is not None else "tenant"
    suffix = "" if key.scopes is not None else "/latest"
    return f"/v1/mgmt/outbound/app/{level}/token{suffix}", message


def read_token(answer: Answer, key: TokenKey, *, now: float) -> ConnectionToken:
    """
    Return the token of a 200.

    Raises:
        AnswerUnusable: it is not in the contract's form, or it is somebody else's.
        ConnectionRequired: the access token is empty: disconnected (contract section 4).
    """
    try:
        body = answer.json()
    except OutboundError:
        raise AnswerUnusable("not_json") from None
    token = body.get("token") if isinstance(body, dict) else None
    if not isinstance(token, dict):
        raise AnswerUnusable("no_token")
    _check_identity(token, key)
    access_token = token.get("accessToken")
    if access_token == "":
        raise ConnectionRequired(connection=key.connection)
    if not isinstance(access_token, str) or not ACCESS_TOKEN.fullmatch(access_token):
        raise AnswerUnusable("token_malformed")
    expires_at = read_expiry(token.get("accessTokenExpiry"))
    return ConnectionToken(
        id=_matching(token.get("id"), TOKEN_ID) or _id_of(key),
        access_token=access_token,
        token_type=_matching(token.get("accessTokenType"), TOKEN_TYPE) or "Bearer",
        expires_at=expires_at,
        refresh_at=None if expires_at is None else _refresh_at(expires_at, now),
        scopes=_scopes(token.get("scopes")),
    )


def read_expiry(value: object) -> float | None:
    """
    Return POSIX seconds from what is seen in the wild, or None for unknown and for nonsense (contract section 4).

    Strings and numbers of seconds or milliseconds, RFC 3339; missing, empty and 0 are unknown.
    """
    match value:
        case bool() | None:
            return None
        case int() | float():
            seconds = float(value) if abs(value) < 1e18 else math.inf
        case str() if len(value) <= 64:
            seconds = _seconds_of(value.strip())
        case _:
            return None
    if seconds > MILLISECONDS_FROM:
        seconds /= 1000
    return seconds if 0 < seconds <= LATEST_EXPIRY else None  # NaN is not


def _seconds_of(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return math.nan


def _refresh_at(expires_at: float, now: float) -> float:
    left = max(0.0, expires_at - now)
    return expires_at - min(REFRESH_MARGIN_SECONDS, REFRESH_MARGIN_SHARE * left)


def _check_identity(token: dict[str, Any], key: TokenKey) -> None:
    """Refuse a token that says it is another's: one shifted answer, and a user would read a stranger's mail."""
    should_be = {"appId": key.connection, "userId": key.user or "", "tenantId": key.tenant or ""}
    for name, value in should_be.items():
        said = token.get(name)
        if said is not None and said != value:
            raise AnswerUnusable("token_of_another")
    if key.account is not None and token.get("externalIdentifier") not in (None, "", key.account):
        raise AnswerUnusable("token_of_another")


def _id_of(key: TokenKey) -> str:
    """Return a name for the token family where the service gives none: the same for the same key."""
    return hashlib.sha256(orjson.dumps(list(key))).hexdigest()


def _scopes(value: object) -> tuple[str, ...]:
    found = value.split() if isinstance(value, str) else value
    if not isinstance(found, list):
        return ()
    return tuple(each for each in found[:MAX_SCOPES] if isinstance(each, str) and SCOPE.fullmatch(each))


def _matching(value: object, pattern: re.Pattern[str]) -> str | None:
    return value if isinstance(value, str) and pattern.fullmatch(value) else None


def _error_code(answer: Answer) -> str | None:
    """Return the `errorCode` of a flat error, or None for anything else."""
    try:
        body = answer.json()
    except OutboundError:
        return None
    code = body.get("errorCode") if isinstance(body, dict) else None
    return code if isinstance(code, str) else None


def _retry_after(answer: Answer) -> int:
    """Return the whole seconds that the service asks for, within reason."""
    said = answer.headers.get("Retry-After", "").strip()
    if not SECONDS.fullmatch(said):
        return RETRY_AFTER_SECONDS
    return min(max(int(said), 1), MAX_RETRY_AFTER_SECONDS)
