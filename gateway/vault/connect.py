"""
How a user connects an account: from a link, over our own page and the provider's, to a stored token.

Rules (threats.md 1J; descope-contract.md section 6; RFC 9700):
1. A link is for one user, tenant, connection and set of scopes, works once, and belongs to the first browser that opens
   it: everything after that needs this browser's cookie.
2. Nothing is asked of the provider before the user has said yes on our page, which names for whom the grant is kept.
   `state` and the PKCE verifier are made by that step and used up by the next.
3. The exchange runs in a task of its own: a browser that goes away costs no grant. A code is exchanged once.
4. What the provider granted is kept as granted, beside what was asked. Another account than before is not stored until
   the user has said yes to that, too; said no, its tokens are revoked.

Who may begin, and where the browser ends: `links.py`. States and bounds: `attempts.py`. Messages: `authorization.py`,
`code_exchange.py`. What is done with the tokens, and how attempts end: `settlement.py`. What people see: `pages.py`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import structlog

from gateway.net.client import OutboundClient
from gateway.store.engine import Store
from gateway.vault.attempts import Attempt, Attempts, ConnectStopped, Status, digest_of, new_secret
from gateway.vault.authorization import (
    SECRET,
    AnswerMalformed,
    AuthorizationAnswer,
    authorization_url,
    is_issuer_right,
    read_answer,
    uses_pkce,
)
from gateway.vault.code_exchange import CodeExchange, CodeRefused, GrantUnusable, Held
from gateway.vault.connection import Connection, check
from gateway.vault.connections import Connections
from gateway.vault.discovery import Discovery, DiscoveryFailed, Provider, is_endpoint
from gateway.vault.grant_store import GrantStore
from gateway.vault.jobs import Jobs
from gateway.vault.links import Links
from gateway.vault.oauth import is_token
from gateway.vault.record import Record
from gateway.vault.registration import register
from gateway.vault.revocation import Revocation
from gateway.vault.sealing import Sealer
from gateway.vault.settlement import FAILED, Settlement, held_of
from gateway.vault.tokens import Tokens

# How long a stop waits for an attempt: metadata 20 s, the code 15, the account 10, revocations 20, and the writes.
CLOSE_SECONDS = 75.0

T = TypeVar("T")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class View:
    """What a page shows: the attempt, its connection, where the user consents, and what was *granted* in the end."""

    attempt: Attempt
    connection: Connection
    authorization_url: str = ""
    granted: tuple[str, ...] = ()


class Connecting:
    """The flow. One object per process; `close` waits for the exchanges under way."""

    def __init__(
        self,
        store: Store,
        sealer: Sealer,
        client: OutboundClient,
        *,
        connections: Connections,
        tokens: Tokens,
        discovery: Discovery,
        revocation: Revocation,
        base_url: Callable[[], str],
        redirect_urls: Iterable[str] = (),
        allow_http: bool,
        clock: Callable[[], float],
        random_bytes: Callable[[int], bytes],
        record: Record,
        counts: Counter[str],
    ) -> None:
        """
        *base_url* gives the traffic listener's public URL, without a trailing slash: never made of a request's Host.

        *redirect_urls* are where a browser may be sent in the end, each compared exactly.
        *counts* are this process' exchanges by outcome.
        """
        self._connections = connections
        self._tokens = tokens
        self._discovery = discovery
        self._client = client
        self._allow_http = allow_http
        self._random_bytes = random_bytes
        self._attempts = Attempts(store, sealer, clock=clock, random_bytes=random_bytes)
        self._codes = CodeExchange(client, clock=clock, random_bytes=random_bytes, record=record, counts=counts)
        self._grants = GrantStore(tokens, revocation)
        self._jobs = Jobs("connect-step", expected=(ConnectStopped,))
        self._settlement = Settlement(
            self._attempts, self._grants, self._jobs, connections=connections, clock=clock, record=record
        )
        self.links = Links(
            self._attempts,
            connections,
            tokens,
            base_url=base_url,
            redirect_urls=redirect_urls,
            allow_http=allow_http,
            clock=clock,
            began=self._settlement.give_back_abandoned,
        )
        self.forget = self._settlement.forget
        self.start = self.links.start
        self.link_for = self.links.link_for

    async def register(self, connection: Connection) -> Connection:
        """
        Return *connection* with the client that its provider registers where it says `useDcr`; else as it is.

        Raises:
            ConnectionInvalid: a field is not valid; the provider is not asked.
            RegistrationFailed: the provider registers none; says why, and what to do.
        """
        check(connection)
        return await register(
            connection,
            discovery=self._discovery,
            client=self._client,
            callback_url=self.links.callback_url(connection),
            allow_http=self._allow_http,
        )

    async def close(self, *, grace_seconds: float = CLOSE_SECONDS) -> None:
        """Wait for the exchanges under way, at most *grace_seconds*: longer than one with its account may take."""
        if count := len(self._jobs):
            log.info("waiting_for_connecting", count=count, at_most_seconds=grace_seconds)
        await self._jobs.close(grace_seconds=grace_seconds)

    # --- our page --------------------------------------------------------------------------------------------------

    async def open(self, secret: str, *, browser: str, binds: bool) -> View:
        """
        Return what the page of a link shows.

        *binds*: a person looks at this browser (not a chat's preview of the link), so from now on the link is its own.

        Raises:
            ConnectStopped: unknown, over, or another browser's.
        """
        attempt = await self._attempts.of_link(secret) if SECRET.match(secret) else None
        if attempt is None:
            raise ConnectStopped("link_unknown")
        if attempt.browser_digest and attempt.browser_digest != digest_of(browser):
            raise ConnectStopped("other_browser")
        if attempt.status == "expired":
            raise ConnectStopped("link_expired", attempt)
        # "asked" as well: whoever comes back from the provider without an answer may go there again.
        if attempt.status not in ("open", "asked"):
            raise ConnectStopped("link_used", attempt)
        if binds and not await self._attempts.bind(attempt, browser):
            raise ConnectStopped("other_browser")
        return await self._view(attempt)

    async def consent(self, secret: str, *, browser: str) -> str:
        """
        Take the user's yes, and return the URL at the provider to go to.

        Raises:
            ConnectStopped: as `open`, or the provider cannot be used.
        """
        view = await self.open(secret, browser=browser, binds=True)
        attempt = await self._again(view.attempt)
        try:
            provider = await self._discovery.resolve(view.connection)
        except DiscoveryFailed as exc:
            log.warning("connect_discovery_failed", connection=view.connection.id, reason=exc.reason)
            raise ConnectStopped("provider_unavailable", attempt) from exc
        self._check_provider(provider, attempt)
        state = new_secret(self._random_bytes)
        verifier = new_secret(self._random_bytes) if uses_pkce(provider.connection) else None
        callback_url = self.links.callback_url(provider.connection)
        url = authorization_url(
            provider, redirect_uri=callback_url, scopes=attempt.scopes, state=state, verifier=verifier
        )
        if not await self._attempts.ask(
            attempt, state=state, verifier=verifier, issuer=provider.issuer, callback_url=callback_url
        ):
            raise ConnectStopped("link_used", attempt)
        return url

    async def take_api_key(self, secret: str, *, browser: str, api_key: str) -> Attempt:
        """
        Store the API key that the user gave on our page.

        Raises:
            ConnectStopped: as `open`; "api_key_invalid" leaves the link open.
        """
        view = await self.open(secret, browser=browser, binds=True)
        attempt = await self._again(view.attempt)
        if view.connection.kind != "apikey":
            raise ConnectStopped("link_used", attempt)
        if not is_token(api_key):
            raise ConnectStopped("api_key_invalid", attempt)
        if not await self._attempts.move(attempt, "storing"):
            raise ConnectStopped("link_used", attempt)
        held = Held(api_key, None, "Bearer", None, None, "")
        return await self._detached(self._settlement.keep(replace(attempt, status="storing"), held, view.connection))

    async def refuse(self, secret: str, *, browser: str) -> Attempt:
        """
        Take the user's no, on our page.

        Raises:
            ConnectStopped: as `open`.
        """
        view = await self.open(secret, browser=browser, binds=True)
        return await self._settlement.end(await self._again(view.attempt), "refused", "refused_by_user")

    # --- the provider's answer -------------------------------------------------------------------------------------

    async def finish(self, query: str, *, browser: str) -> Attempt:
        """
        Take what the provider sent through the browser to our callback, and return the attempt as it then stands.

        *query* is the raw query. The attempt is connected, confirming, refused or failed.

        Raises:
            ConnectStopped: it is no answer to anything that this browser has asked.
        """
        try:
            answer = read_answer(query)
        except AnswerMalformed as exc:
            raise ConnectStopped("answer_malformed") from exc
        attempt = await self._attempts.of_state(answer.state)
        if attempt is None:
            raise ConnectStopped("state_unknown")
        if attempt.browser_digest != digest_of(browser):
            log.warning("connect_other_browser", attempt=attempt.id, connection=attempt.connection)
            raise ConnectStopped("other_browser")
        if attempt.status == "expired":
            raise ConnectStopped("link_expired", attempt)
        # The state is used up here, whatever follows: of a callback and its replay, one comes further.
        if attempt.status != "asked" or not await self._attempts.move(attempt, "exchanging"):
            raise ConnectStopped("state_used", attempt)
        return await self._detached(self._finish(replace(attempt, status="exchanging"), answer))

    async def confirm(self, attempt_id: str, *, browser: str, says_yes: bool) -> Attempt:
        """
        Take the user's answer to "this is another account than before".

        Raises:
            ConnectStopped: there is nothing to confirm, or it is another browser's.
        """
        view = await self.seen(attempt_id, browser=browser)
        attempt = view.attempt
        if attempt.status != "confirming" or attempt.tokens is None:
            raise ConnectStopped("link_used", attempt)
        if not await self._attempts.move(attempt, "storing"):
            raise ConnectStopped("link_used", attempt)
        held = held_of(attempt)
        attempt = replace(attempt, status="storing")
        if says_yes:
            log.info("connect_account_changed", attempt=attempt.id, connection=attempt.connection)
            return await self._detached(self._settlement.keep(attempt, held, view.connection))
        return await self._detached(self._settlement.discard(attempt, held, view.connection))

    async def seen(self, attempt_id: str, *, browser: str) -> View:
        """
        Return what the page after the callback shows: to the browser that the attempt belongs to.

        Raises:
            ConnectStopped: unknown, or another browser's.
        """
        attempt = await self._attempts.get(attempt_id)
        if attempt is None or attempt.browser_digest != digest_of(browser):
            raise ConnectStopped("link_unknown" if attempt is None else "other_browser")
        token = await self._tokens.get(attempt.token_id) if attempt.token_id else None
        view = await self._view(attempt)
        return replace(view, granted=token.granted_scopes) if token is not None else view

    async def _finish(self, attempt: Attempt, answer: AuthorizationAnswer) -> Attempt:
        try:
            connection = await self._connection(attempt)
        except FAILED as exc:
            log.critical("connection_not_read", attempt=attempt.id, error=type(exc).__name__)
            return await self._settlement.end(attempt, "failed", "not_stored")
        try:
            provider = await self._discovery.resolve(connection)
        except DiscoveryFailed as exc:
            return await self._settlement.end(attempt, "failed", exc.reason)
        # Before anything else, errors too: an answer of another issuer says nothing about this one (RFC 9207).
        if not is_issuer_right(provider, asked_issuer=attempt.issuer, said=answer.issuer):
            return await self._settlement.end(attempt, "failed", "issuer_mismatch")
        if answer.error:
            status: Status = "refused" if answer.error == "access_denied" else "failed"
            return await self._settlement.end(attempt, status, answer.error)
        try:
            held = await self._codes.redeem(provider, attempt, answer.code)
        except CodeRefused as exc:
            return await self._settlement.end(attempt, "failed", exc.error)
        except GrantUnusable as exc:
            await self._grants.give_back(exc.held, connection, attempt)
            return await self._settlement.end(attempt, "failed", exc.error)
        return await self._settlement.settle(attempt, held, connection)

    async def _detached(self, work: Coroutine[Any, Any, T]) -> T:
        """Run *work* to its end, whatever becomes of the browser that waits for it."""
        return await asyncio.shield(self._jobs.spawn(work))

    # --- checking --------------------------------------------------------------------------------------------------

    async def _connection(self, attempt: Attempt) -> Connection:
        connection = await self._connections.load(attempt.connection)
        if connection is None:
            raise ConnectStopped("link_unknown")
        return connection

    async def _view(self, attempt: Attempt) -> View:
        connection = await self._connection(attempt)
        if attempt.is_over or connection.kind == "apikey":
            return View(attempt, connection, connection.authorization_url)
        try:
            provider = await self._discovery.resolve(connection)
        except DiscoveryFailed as exc:
            log.warning("connect_discovery_failed", connection=connection.id, reason=exc.reason)
            raise ConnectStopped("provider_unavailable", attempt) from exc
        return View(attempt, connection, provider.connection.authorization_url)

    async def _again(self, attempt: Attempt) -> Attempt:
        """Return *attempt* as `bind` left it."""
        return await self._attempts.get(attempt.id) or attempt

    def _check_provider(self, provider: Provider, attempt: Attempt) -> None:
        connection, metadata = provider.connection, provider.metadata
        if not is_endpoint(connection.authorization_url, allow_http=self._allow_http) or not connection.token_url:
            raise ConnectStopped("provider_unavailable", attempt)
        methods = metadata.pkce_methods if metadata is not None else None
        if uses_pkce(connection) and methods is not None and "S256" not in methods:
            log.warning("connect_without_s256", connection=connection.id)
            raise ConnectStopped("provider_unavailable", attempt)
