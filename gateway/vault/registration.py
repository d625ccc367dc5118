"""
Dynamic client registration (RFC 7591): the gateway makes itself a client of a provider, once, for a new connection.

Rules:
1. Only where the connection says `useDcr`. It is registered at `dcrUrl`, else where the provider's metadata says.
2. What is asked: the callback as the only redirect URI, authorization code with refresh, PKCE, the scopes, a name.
3. The client authentication is the strongest that both sides have: basic, post, none (a public client with PKCE).
4. The answer is believed only where it is a client that can be used: an id, a secret where one is needed, and the
   redirect URI that was asked for. A secret that expires is refused, instead of a day on which every grant of the
   connection stops refreshing: renewing it is the provider's own protocol where it has one (RFC 7592).
5. Connections of routes.yaml are registered in the background once the gateway serves, and only if they have no client
   yet: a start waits for no provider. Where nothing was sent, it is tried again; where the provider may have made a
   client, not before the next start.
6. What is refused says what an operator can do. Nothing that the provider wrote is in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

import orjson
import structlog
from sqlalchemy.exc import SQLAlchemyError

from gateway.net.client import NOT_SENT, OutboundClient, OutboundError
from gateway.providers.quirks import TokenAuth
from gateway.telemetry import place_of
from gateway.vault.client_auth import text_of
from gateway.vault.connection import MAX_VALUE_LENGTH, Connection
from gateway.vault.connections import Connections
from gateway.vault.discovery import Discovery, DiscoveryFailed, Metadata, is_endpoint

ANSWER_SECONDS = 15.0
MAX_ANSWER_BYTES = 65_536
PAUSES_SECONDS = (5.0, 30.0, 120.0, 600.0)  # between tries; the last one again and again
WRITE_PAUSES_SECONDS = (0.2, 0.4, 0.8, 1.6, 3.2)  # what was registered exists nowhere else
PREFERRED: tuple[TokenAuth, ...] = ("client_secret_basic", "client_secret_post", "none")


log = structlog.get_logger()

OWN_CLIENT = "register a client there yourself, and give its id and secret"
MEANINGS = {
    "no_registration_endpoint": f"nobody says where; set dcrUrl to its registration endpoint, or {OWN_CLIENT}",
    "private_key": f"a client that signs brings its key; {OWN_CLIENT} (the private key)",
    "status_401": f"it registers nobody whom it does not know; {OWN_CLIENT}",
    "status_403": f"it registers nobody whom it does not know; {OWN_CLIENT}",
    "malformed_answer": f"its answer is no client that can be used; {OWN_CLIENT}",
    "other_redirect_uri": f"it registered another redirect URI than this gateway's; {OWN_CLIENT}",
    "no_client_secret": "it gave no secret; set tokenEndpointAuthMethod (token_auth) to none where clients are public",
    "client_secret_expires": (
        "the client's secret expires (client_secret_expires_at), and the gateway does not renew it; either register a "
        "client there yourself whose secret stays, and give its id and secret, or set tokenEndpointAuthMethod "
        "(token_auth) to none if it takes public clients. The client that was just made stays there, unused"
    ),
}


class RegistrationFailed(Exception):
    """
    The provider registered no client. *reason* is a word of ours, the message a sentence with what can be done.

    *is_passing*: nothing was registered for sure, and the same may succeed later.
    """

    def __init__(self, reason: str, meaning: str | None = None, *, is_passing: bool = False) -> None:
        self.reason = reason
        self.is_passing = is_passing
        meaning = meaning or MEANINGS.get(reason) or f"it answered {reason.replace('_', ' ')}"
        super().__init__(f"The provider registered no client: {meaning}.")


async def register(
    connection: Connection, *, discovery: Discovery, client: OutboundClient, callback_url: str, allow_http: bool
) -> Connection:
    """
    Return *connection* with the client that its provider has just registered; unchanged where it does not say `useDcr`.

    A connection that has a client id already is unchanged as well: an update must not make a second client.

    Raises:
        RegistrationFailed
    """
    if not connection.awaits_registration:
        return connection
    try:
        metadata = (await discovery.resolve(connection)).metadata
    except DiscoveryFailed as exc:
        text = f"its metadata cannot be used ({exc.reason})"
        raise RegistrationFailed(exc.reason, text, is_passing=True) from exc
    url = text_of(connection, "dcrUrl") or (metadata.registration_url if metadata is not None else "")
    if not url or not is_endpoint(url, allow_http=allow_http):
        raise RegistrationFailed("no_registration_endpoint")
    auth = _auth(connection, metadata)
    if auth not in PREFERRED:
        raise RegistrationFailed("private_key")
    try:
        answer = await client.request(
            "POST",
            url,
            headers={"Content-Type": "application/json", "Accept": "application/json"},
            body=orjson.dumps(_asked(connection, callback_url, auth)),
            timeout_seconds=ANSWER_SECONDS,
            max_bytes=MAX_ANSWER_BYTES,
        )
        document = answer.json() if answer.status in (200, 201) else None
    except OutboundError as exc:
        raise RegistrationFailed(exc.reason, str(exc), is_passing=exc.reason in NOT_SENT) from exc
    if answer.status not in (200, 201):
        raise RegistrationFailed(f"status_{answer.status}", is_passing=answer.status in (429, 503))
    if not isinstance(document, dict):
        raise RegistrationFailed("malformed_answer")
    return _registered(connection, document, auth=auth, callback_url=callback_url)


def _auth(connection: Connection, metadata: Metadata | None) -> TokenAuth:
    """Return the client authentication to ask for (rule 3). Metadata that says nothing means basic (RFC 8414 2)."""
    if connection.token_auth is not None:
        return connection.token_auth
    offered = metadata.token_auths if metadata is not None and metadata.token_auths else ("client_secret_basic",)
    return next((auth for auth in PREFERRED if auth in offered), "none")


def _asked(connection: Connection, callback_url: str, auth: TokenAuth) -> dict[str, object]:
    asked: dict[str, object] = {
        "client_name": f"Connection Gateway: {connection.name}",
        "redirect_uris": [callback_url],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": auth,
        "application_type": "web",
    }
    if connection.default_scopes:
        asked["scope"] = " ".join(connection.default_scopes)
    return asked


def _registered(
    connection: Connection, document: dict[str, object], *, auth: TokenAuth, callback_url: str
) -> Connection:
    """Return *connection* with the client of the provider's answer, if that is one (rule 4)."""
    said_auth = document.get("token_endpoint_auth_method", auth)
    chosen = next((known for known in PREFERRED if known == said_auth), None)
    client_id, secret = document.get("client_id"), document.get("client_secret")
    redirect_uris = document.get("redirect_uris", [callback_url])
    if chosen is None or not isinstance(client_id, str) or not 0 < len(client_id) <= MAX_VALUE_LENGTH:
        raise RegistrationFailed("malformed_answer")
    if not isinstance(redirect_uris, list) or callback_url not in redirect_uris:
        raise RegistrationFailed("other_redirect_uri")
    if chosen == "none":
        return replace(connection, client_id=client_id, client_secret=None, token_auth=chosen)
    if not isinstance(secret, str) or not 0 < len(secret) <= MAX_VALUE_LENGTH:
        raise RegistrationFailed("no_client_secret")
    if document.get("client_secret_expires_at") not in (None, 0):
        raise RegistrationFailed("client_secret_expires")
    return replace(connection, client_id=client_id, client_secret=secret, token_auth=chosen)


class Registrar:
    """Registers the clients of connections that wait for theirs (rule 5). Owns one task between start and close."""

    def __init__(
        self,
        connections: Connections,
        register: Callable[[Connection], Awaitable[Connection]],
        *,
        pauses_seconds: tuple[float, ...] = PAUSES_SECONDS,
    ) -> None:
        self._connections = connections
        self._register = register
        self._pauses_seconds = pauses_seconds
        self._task: asyncio.Task[None] | None = None
        self._under_way: asyncio.Task[RegistrationFailed | None] | None = None

    def start(self) -> None:
        """Begin in the background."""
        self._task = asyncio.create_task(self._run(), name="register-clients")

    async def close(self) -> None:
        """Begin no more; one under way gets ANSWER_SECONDS: nobody else knows of the client that it may have made."""
        if self._task is None:
            return
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        if self._under_way is not None:
            await asyncio.wait((self._under_way,), timeout=ANSWER_SECONDS)
            self._under_way.cancel()

    async def run_once(self, given_up: set[str]) -> bool:
        """
        Register every connection that waits, and tell whether one of them is worth another try.

        Those in *given_up* are left out; added to it are those that are not to be tried again.
        """
        is_worth_it = False
        for connection in await self._connections.list():
            if not connection.awaits_registration or connection.id in given_up:
                continue
            self._under_way = asyncio.create_task(self._one(connection))
            error = await asyncio.shield(self._under_way)
            if error is not None and error.is_passing:
                is_worth_it = True
            else:
                given_up.add(connection.id)
        return is_worth_it

    async def _one(self, connection: Connection) -> RegistrationFailed | None:
        try:
            registered = await self._register(connection)
        except RegistrationFailed as exc:
            log.warning("client_not_registered", connection=connection.id, reason=exc.reason, hint=str(exc))
            return exc
        for pause in WRITE_PAUSES_SECONDS:
            try:
                is_used = await self._connections.store_client(registered)
            except (SQLAlchemyError, OSError) as exc:
                log.critical("client_not_stored", connection=connection.id, error=type(exc).__name__)
                await asyncio.sleep(pause)
                continue
            log.info("client_registered", connection=connection.id, is_used=is_used)
            break
        return None

    async def _run(self) -> None:
        given_up: set[str] = set()
        tries = 0
        while True:
            try:
                if not await self.run_once(given_up):
                    return
            except Exception as exc:  # the gateway serves all the same, and the next try may succeed
                log.error("clients_not_registered", error=type(exc).__name__, place=place_of(exc))
            await asyncio.sleep(self._pauses_seconds[min(tries, len(self._pauses_seconds) - 1)])
            tries += 1
