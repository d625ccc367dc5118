"""
One exchange with a provider: asked once, between two lines of the record, and read as one of three outcomes.

Rules:
1. Nothing is sent before the exchange has its turn (`token_endpoint.py`) and the record its line; without them nothing
   is, and nothing is lost.
2. Every step is bounded, and so is their sum. Whatever goes wrong is an outcome: `is_outcome_unknown` where the
   provider may have rotated the refresh token.
3. The second line tells what became of it: what the provider said, and whether its answer was stored.

What is sent and what an answer means, `grants.py` knows; when to ask, `refresh.py`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import structlog

from gateway.errors import RecordUnavailable
from gateway.net.client import NOT_SENT, OutboundClient, OutboundError
from gateway.vault.backoff import RefreshFailed
from gateway.vault.client_auth import KeyUnusable
from gateway.vault.connection import Connection
from gateway.vault.discovery import Discovery, DiscoveryFailed
from gateway.vault.grants import endpoint_of, exchange_request, grant_of, read_exchange_answer
from gateway.vault.oauth import MAX_ANSWER_BYTES, ExchangeFailed, Granted, Outcome
from gateway.vault.record import Record, conclude, whose
from gateway.vault.stored_token import StoredToken
from gateway.vault.token_endpoint import TokenEndpoints, Turn

log = structlog.get_logger()


class Exchanges:
    """Asks providers. *counts* are this process' exchanges by outcome; *clock* gives POSIX seconds."""

    def __init__(
        self,
        client: OutboundClient,
        *,
        discovery: Discovery | None,
        record: Record,
        seconds: float,
        clock: Callable[[], float],
        random_bytes: Callable[[int], bytes],
        counts: Counter[str],
        endpoints: TokenEndpoints,
    ) -> None:
        self._client = client
        self._discovery = discovery
        self._record = record
        self._seconds = seconds
        self._clock = clock
        self._random_bytes = random_bytes
        self._counts = counts
        self._endpoints = endpoints

    async def turn(self, connection: Connection, token: StoredToken, *, wait_seconds: float) -> Turn:
        """
        Return the turn for an exchange of *token*, for `ask`, or to be ended unused; waits *wait_seconds* at most.

        Raises:
            RefreshFailed: the provider is not asked for now. Nothing has begun.
        """
        try:
            return await self._endpoints.turn(endpoint_of(connection), token.id, wait_seconds=wait_seconds)
        except RefreshFailed as exc:
            self._counts[exc.error] += 1
            raise

    async def ask(self, connection: Connection, token: StoredToken, *, exchange_id: str, turn: Turn) -> Outcome:
        """Ask the provider of *connection* once for the token after *token*, which ends *turn*. `ended` must follow."""
        about = _about(token, exchange_id)
        with turn:
            try:
                self._record("exchange_intent", **about, grant=_grant(connection, token), version=token.version)
            except RecordUnavailable:
                outcome: Outcome = ExchangeFailed("record_unavailable", is_outcome_unknown=False)
            else:
                outcome = await self._ask(connection, token)
            turn.end(outcome)
        self._counts[word_of(outcome)] += 1
        log.info("token_exchanged", token=token.id, connection=connection.id, outcome=word_of(outcome))
        return outcome

    def ended(self, token: StoredToken, outcome: Outcome, *, exchange_id: str, stored: bool, error: str = "") -> None:
        """Record what became of an exchange; *error* is what the row says from now on."""
        about = _about(token, exchange_id)
        conclude(self._record, "exchange_outcome", **about, outcome=word_of(outcome), stored=stored, error=error)

    async def _ask(self, connection: Connection, token: StoredToken) -> Outcome:
        try:
            if self._discovery is not None:
                connection = await self._discovery.with_urls(connection, "token_url")
            request = exchange_request(connection, token, now=self._clock(), random_bytes=self._random_bytes)
            # The client bounds every step; this bounds their sum.
            async with asyncio.timeout(self._seconds + 1.0):
                answer = await self._client.request(
                    "POST",
                    request.url,
                    headers=request.headers,
                    body=request.body,
                    timeout_seconds=self._seconds,
                    max_bytes=MAX_ANSWER_BYTES,
                )
        except DiscoveryFailed as exc:
            return ExchangeFailed(exc.reason, is_outcome_unknown=False)
        except KeyUnusable:
            return ExchangeFailed("client_key_unusable", is_outcome_unknown=False)
        except OutboundError as exc:
            return ExchangeFailed(exc.reason, is_outcome_unknown=exc.reason not in NOT_SENT)
        except TimeoutError:
            return ExchangeFailed("timeout", is_outcome_unknown=True)
        except Exception as exc:  # a fault of the client must not leave the lease behind, nor a spent token in use
            log.critical("token_exchange_broke", connection=connection.id, error=type(exc).__name__)
            return ExchangeFailed("internal_error", is_outcome_unknown=True)
        retry_after = next((value for name, value in answer.headers.items() if name.lower() == "retry-after"), None)
        return read_exchange_answer(connection, answer.status, answer.body, now=self._clock(), retry_after=retry_after)


def word_of(outcome: Outcome) -> str:
    """Return *outcome* as one word, for metrics, log and record."""
    if isinstance(outcome, ExchangeFailed):
        return outcome.error
    return "granted" if isinstance(outcome, Granted) else "invalid_grant"


def _about(token: StoredToken, exchange_id: str) -> dict[str, object]:
    subject = whose(token.user, token.tenant, token.account)
    return {"id": exchange_id, "connection": token.connection, "token": token.id or None, **subject}


def _grant(connection: Connection, token: StoredToken) -> str:
    return "refresh_token" if token.refresh_token is not None else grant_of(connection)
