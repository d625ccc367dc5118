"""
Telling a provider that a token is not needed any more (RFC 7009), as far as it listens.

Rules:
1. Best effort, once: a provider that cannot be reached does not keep anybody from deleting a token here.
2. The refresh token is named where there is one: a provider then ends the whole grant (RFC 7009 section 2.1).
3. What came of it is told as a value: "revoked", "not_supported", or why not. What is sent has a line in the record
   before it leaves and one with what came of it; without the first it is not sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from urllib.parse import urlencode

import structlog

from gateway.errors import RecordUnavailable
from gateway.net.client import OutboundClient, OutboundError
from gateway.vault.client_auth import KeyUnusable, prove
from gateway.vault.connection import Connection
from gateway.vault.connections import Connections
from gateway.vault.discovery import Discovery, DiscoveryFailed
from gateway.vault.oauth import USER_AGENT, TokenRequest
from gateway.vault.record import Record, conclude, whose
from gateway.vault.stored_token import StoredToken

REVOKE_SECONDS = 5.0
REVOKED = "revoked"
NOT_SUPPORTED = "not_supported"

log = structlog.get_logger()


class Revocation:
    """Revokes tokens at their providers."""

    def __init__(
        self,
        client: OutboundClient,
        discovery: Discovery,
        *,
        connections: Connections,
        clock: Callable[[], float],
        random_bytes: Callable[[int], bytes],
        record: Record,
    ) -> None:
        self._client = client
        self._record = record
        self._discovery = discovery
        self._connections = connections
        self._clock = clock
        self._random_bytes = random_bytes

    async def revoke(
        self,
        connection: Connection,
        *,
        access_token: str | None,
        refresh_token: str | None,
        about: Mapping[str, object] | None = None,
    ) -> str:
        """
        Revoke the grant of these tokens, and return what came of it (rule 3). Raises nothing of the provider's.

        *about* are fields of the record's lines that tell whose they are.
        """
        outcome = await self._revoke(connection, access_token, refresh_token, about or {})
        log.info("token_revoked" if outcome == REVOKED else "token_not_revoked", connection=connection.id, why=outcome)
        return outcome

    async def revoke_stored(self, token: StoredToken) -> bool:
        """Revoke the grant of a row, and tell whether the provider was told and took it."""
        connection = await self._connections.load(token.connection)
        return connection is not None and await self.revoke_of(connection, token)

    async def revoke_of(self, connection: Connection, token: StoredToken) -> bool:
        """Do the same for a row and a connection that may both be gone."""
        outcome = await self.revoke(
            connection,
            access_token=token.access_token,
            refresh_token=token.refresh_token,
            about={"token": token.id} | whose(token.user, token.tenant, token.account),
        )
        return outcome == REVOKED

    async def _revoke(
        self,
        connection: Connection,
        access_token: str | None,
        refresh_token: str | None,
        about: Mapping[str, object],
    ) -> str:
        try:
            connection = await self._discovery.with_urls(connection, "revocation_url", "token_url")
        except DiscoveryFailed as exc:
            return exc.reason
        token = refresh_token or access_token
        if not connection.revocation_url or token is None:
            return NOT_SUPPORTED
        try:
            request = revocation_request(
                connection,
                token,
                hint="refresh_token" if refresh_token else "access_token",
                now=self._clock(),
                random_bytes=self._random_bytes,
            )
        except KeyUnusable:
            return "key_unusable"
        about = {"id": self._random_bytes(8).hex(), "connection": connection.id, **about}
        try:
            self._record("revocation_intent", **about)
        except RecordUnavailable:
            return "record_unavailable"
        outcome = "cut_short"
        try:
            outcome = await self._send(request)
        finally:
            conclude(self._record, "revocation_outcome", **about, outcome=outcome)
        return outcome

    async def _send(self, request: TokenRequest) -> str:
        try:
            answer = await self._client.request(
                "POST", request.url, headers=request.headers, body=request.body, timeout_seconds=REVOKE_SECONDS
            )
        except OutboundError as exc:
            return exc.reason
        return REVOKED if 200 <= answer.status < 300 else f"status_{answer.status}"


def revocation_request(
    connection: Connection, token: str, *, hint: str, now: float, random_bytes: Callable[[int], bytes]
) -> TokenRequest:
    """
    Return the request that revokes *token*; *hint* is its token_type_hint.

    Raises:
        KeyUnusable: the client secret is no private key where one is needed.
    """
    method = connection.quirks.revocation_auth or connection.client_authentication
    form = [("token", token), ("token_type_hint", hint)]
    headers = {
        "Content-Type": "application/x-www-form-urlencoded",
        "Accept": "application/json",
        "User-Agent": USER_AGENT,
    }
    if method == "bearer":
        headers["Authorization"] = f"Bearer {token}"
    else:
        proof = prove(
            connection, method=method, audience=connection.token_url or connection.revocation_url,
            now=now, random_bytes=random_bytes,
        )  # fmt: skip
        headers |= proof.headers
        form += proof.params
    return TokenRequest(connection.revocation_url, headers, urlencode(form).encode())
