"""
What an authorization code is worth: tokens, and whose account they are for.

Rules:
1. A code is sent once, with its redirect URI and verifier (RFC 6749 section 4.1.3, RFC 7636 section 4.5).
2. Whose account it is, the provider says: the id token's `sub`, else the user info's. Where it says neither, it is "".
3. An id token of another issuer or for another client makes the whole answer unusable. Where each tenant has an issuer
   of its own, it is the one of the tenant that the token itself names (`tid`).
4. The record has a line before the code leaves, and one with what came of it.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass, replace

import orjson

from gateway.access.names import is_name
from gateway.errors import RecordUnavailable
from gateway.net.client import OutboundClient, OutboundError
from gateway.providers.quirks import TENANT
from gateway.vault.attempts import Attempt
from gateway.vault.client_auth import KeyUnusable
from gateway.vault.connection import Connection
from gateway.vault.discovery import Provider, is_issuer
from gateway.vault.oauth import MAX_ANSWER_BYTES, Granted, GrantRefused, code_request, read_token_answer
from gateway.vault.record import Record, conclude

EXCHANGE_SECONDS = 15.0
USERINFO_SECONDS = 5.0
MAX_SUB_CHARS = 440  # store/schema.py has 512; a tenant's id may come before it


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
    """Redeems codes."""

    def __init__(
        self,
        client: OutboundClient,
        *,
        clock: Callable[[], float],
        random_bytes: Callable[[int], bytes],
        record: Record,
    ) -> None:
        self._client = client
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
            raise CodeRefused("record_unavailable") from None
        outcome = "cut_short"
        try:
            granted = await self._ask(provider.connection, attempt, code)
            outcome = "granted"
        except CodeRefused as exc:
            outcome = exc.error
            raise
        finally:
            conclude(self._record, "exchange_outcome", **about, outcome=outcome)
        held = _held(granted)
        try:
            return replace(held, token_sub=await self._subject(provider, granted))
        except _SubjectMismatch:
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
            raise CodeRefused("key_unusable") from None
        except OutboundError as exc:
            raise CodeRefused(exc.reason) from exc
        outcome = read_token_answer(answer.status, answer.body, now=self._clock(), quirks=connection.quirks)
        if isinstance(outcome, Granted):
            return outcome
        raise CodeRefused("invalid_grant" if isinstance(outcome, GrantRefused) else outcome.error)

    async def _subject(self, provider: Provider, granted: Granted) -> str:
        """
        Return whose account it is: `sub` of the id token, else of the user info, else "".

        The id token came straight from the token endpoint: TLS stands in for its signature (OpenID Connect Core 1.0
        section 3.1.3.7, rule 6); issuer and audience are checked all the same.
        """
        claims = _claims(granted.id_token)
        if claims is not None:
            audience = claims.get("aud")
            audiences = audience if isinstance(audience, list) else [audience]
            if not _is_issued_by(provider.issuer, claims) or provider.connection.client_id not in audiences:
                raise _SubjectMismatch
            sub = _sub(claims)
            # Where tenants have issuers of their own, a `sub` tells accounts apart within one of them only.
            return f"{claims['tid']}:{sub}" if sub and TENANT in provider.issuer else sub
        url = provider.metadata.userinfo_url if provider.metadata is not None else ""
        if not url or "openid" not in (granted.scopes or ()):
            return ""
        try:
            answer = await self._client.request(
                "GET",
                url,
                headers={"Authorization": f"Bearer {granted.access_token}", "Accept": "application/json"},
                timeout_seconds=USERINFO_SECONDS,
            )
            said = answer.json() if answer.status == 200 else None
        except OutboundError:
            return ""
        return _sub(said) if isinstance(said, dict) else ""


class _SubjectMismatch(Exception):
    """The id token is another issuer's, or for another client."""


def _held(granted: Granted) -> Held:
    return Held(
        granted.access_token, granted.refresh_token, granted.token_type, granted.expires_at, granted.scopes, ""
    )  # fmt: skip


def _claims(id_token: str | None) -> dict[str, object] | None:
    """Return the claims of *id_token*, unverified; None for what is no JWT."""
    parts = (id_token or "").split(".")
    if len(parts) != 3:
        return None
    try:
        claims = orjson.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return None
    return claims if isinstance(claims, dict) else None


def _is_issued_by(known: str, claims: dict[str, object]) -> bool:
    """Tell whether *claims* are of the issuer *known*; "" is nobody's, and anybody's."""
    if not known:
        return True
    said, tenant = claims.get("iss"), claims.get("tid")
    return is_issuer(known, said) and said == known.replace(TENANT, tenant if isinstance(tenant, str) else "")


def _sub(said: dict[str, object]) -> str:
    sub = said.get("sub")
    return sub if isinstance(sub, str) and is_name(sub, MAX_SUB_CHARS) else ""
