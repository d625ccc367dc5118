"""
What an authorization code is worth: tokens, and whose account they are for (`accounts.py`).

Rules:
1. A code is sent once, with its redirect URI and verifier (RFC 6749 section 4.1.3, RFC 7636 section 4.5).
2. What must not be kept (an id token that is meant for somebody else) is told with its tokens, to be revoked.
3. The record has a line before the code leaves, and one with what came of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from gateway.errors import RecordUnavailable
from gateway.net.client import OutboundClient, OutboundError
from gateway.vault.accounts import Accounts, SubjectMismatch
from gateway.vault.attempts import Attempt
from gateway.vault.client_auth import KeyUnusable
from gateway.vault.connection import Connection
from gateway.vault.discovery import Provider
from gateway.vault.oauth import MAX_ANSWER_BYTES, Granted, GrantRefused, code_request, read_token_answer
from gateway.vault.record import Record, conclude

EXCHANGE_SECONDS = 15.0


class GrantUnusable(Exception):
    """The provider granted something that must not be kept: *held* is to be revoked. *error* is a word of ours."""

    def __init__(self, error: str, held: Held) -> None:
        self.error = error
        self.held = held
        super().__init__(error)


class CodeRefused(Exception):
    """The code brought nothing. *error* is a word of ours or of RFC 6749."""

    def __init__(self, error: str) -> None:
        self.error = error
        super().__init__(error)


@dataclass(frozen=True, slots=True)
class Held:
    """Tokens between exchange and row."""

    access_token: str
    refresh_token: str | None
    token_type: str
    expires_at: float | None
    scopes: tuple[str, ...] | None
    token_sub: str

    def __repr__(self) -> str:
        return "Held()"


class CodeExchange:
    """Redeems codes. *counts* are this process' exchanges by outcome."""

    def __init__(
        self,
        client: OutboundClient,
        *,
        clock: Callable[[], float],
        random_bytes: Callable[[int], bytes],
        record: Record,
        counts: Counter[str],
    ) -> None:
        self._counts = counts
        self._client = client
        self._accounts = Accounts(client)
        self._record = record
        self._clock = clock
        self._random_bytes = random_bytes

    async def redeem(self, provider: Provider, attempt: Attempt, code: str) -> Held:
        """
        Return the tokens that *code* brings, with the account's `sub`.

        Raises:
            CodeRefused: there are none.
            GrantUnusable: there are, and they must not be kept.
        """
        about = {"id": self._random_bytes(8).hex(), "grant": "authorization_code", **attempt.for_the_record()}
        try:
            self._record("exchange_intent", **about)
        except RecordUnavailable:
            self._counts["record_unavailable"] += 1
            raise CodeRefused("record_unavailable") from None
        outcome = "cut_short"
        try:
            granted = await self._ask(provider.connection, attempt, code)
            outcome = "granted"
        except CodeRefused as exc:
            outcome = exc.error
            raise
        finally:
            self._counts[outcome] += 1
            conclude(self._record, "exchange_outcome", **about, outcome=outcome)
        held = _held(granted)
        try:
            return replace(held, token_sub=await self._accounts.account_of(provider, granted))
        except SubjectMismatch:
            raise GrantUnusable("id_token_mismatch", held) from None

    async def _ask(self, connection: Connection, attempt: Attempt, code: str) -> Granted:
        try:
            request = code_request(
                connection,
                code,
                redirect_uri=attempt.callback_url,
                verifier=attempt.verifier,
                now=self._clock(),
                random_bytes=self._random_bytes,
            )
            answer = await self._client.request(
                "POST",
                request.url,
                headers=request.headers,
                body=request.body,
                timeout_seconds=EXCHANGE_SECONDS,
                max_bytes=MAX_ANSWER_BYTES,
            )
        except KeyUnusable:
            raise CodeRefused("client_key_unusable") from None
        except OutboundError as exc:
            raise CodeRefused(exc.reason) from exc
        outcome = read_token_answer(answer.status, answer.body, now=self._clock(), quirks=connection.quirks)
        if isinstance(outcome, Granted):
            return outcome
        raise CodeRefused("invalid_grant" if isinstance(outcome, GrantRefused) else outcome.error)


def _held(granted: Granted) -> Held:
    return Held(
        granted.access_token, granted.refresh_token, granted.token_type, granted.expires_at, granted.scopes, ""
    )  # fmt: skip
