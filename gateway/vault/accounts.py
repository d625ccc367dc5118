"""
Whose account a grant is, as its provider says.

Rules:
1. The id token's `sub` says it, else the user info's (OpenID Connect), else what the catalogue names: a place in the
   token answer (`account_path`), or in the answer of one API call (`userinfo_url`, `userinfo_path`). Else it is "".
2. An id token of another issuer or for another client makes the whole answer unusable. Where each tenant has an issuer
   of its own, it is the one of the tenant that the token itself names (`tid`).
3. The catalogue's API call takes the fresh token where the connection's tokens may go: to one of its origins, and only
   where the token came from the catalogue's own token URL, not from a server of somebody else's.
4. A provider that cannot be asked costs no grant: the account is unknown then.
"""

from __future__ import annotations

import base64
from urllib.parse import urlsplit

import orjson
import structlog

from gateway.access.names import is_name
from gateway.net.client import OutboundClient, OutboundError
from gateway.providers.quirks import TENANT
from gateway.vault.connection import Connection
from gateway.vault.discovery import Provider, is_issuer
from gateway.vault.oauth import MAX_ANSWER_BYTES, MAX_SUB_CHARS, USER_AGENT, Granted, account_at

USERINFO_SECONDS = 5.0

log = structlog.get_logger()


class SubjectMismatch(Exception):
    """The id token is another issuer's, or for another client."""


class Accounts:
    """Finds out whose account a grant is. A provider has *seconds* to answer."""

    def __init__(self, client: OutboundClient, *, seconds: float = USERINFO_SECONDS) -> None:
        self._client = client
        self._seconds = seconds

    async def account_of(self, provider: Provider, granted: Granted) -> str:
        """
        Return whose account *granted* is for, "" where it cannot be known.

        The id token came straight from the token endpoint: TLS stands in for its signature (OpenID Connect Core 1.0
        section 3.1.3.7, rule 6); issuer and audience are checked all the same.

        Raises:
            SubjectMismatch: rule 2.
        """
        sub = _named_by(provider, granted.id_token)
        url = provider.metadata.userinfo_url if provider.metadata is not None else ""
        if not sub and url and "openid" in (granted.scopes or ()):
            sub = _sub(await self._asked(url, granted.access_token))
        if sub or granted.account:
            return sub or granted.account
        url = userinfo_url(provider.connection)
        return await self.told_at(url, provider.connection.quirks.userinfo_path, granted.access_token) if url else ""

    async def told_at(self, url: str, pointer: str, access_token: str) -> str:
        """Return what stands at the JSON pointer *pointer* in the answer of *url*; "" where there is no such name."""
        return account_at(await self._asked(url, access_token), pointer)

    async def _asked(self, url: str, access_token: str) -> object:
        headers = {"Authorization": f"Bearer {access_token}", "Accept": "application/json", "User-Agent": USER_AGENT}
        try:
            answer = await self._client.request(
                "GET", url, headers=headers, timeout_seconds=self._seconds, max_bytes=MAX_ANSWER_BYTES
            )
            if answer.status == 200:
                return answer.json()
            reason = f"status_{answer.status}"
        except OutboundError as exc:
            reason = exc.reason
        log.warning("account_not_told", host=urlsplit(url).hostname, reason=reason)
        return None


def userinfo_url(connection: Connection) -> str:
    """Return where the catalogue says that the account is told, "" where *connection* sends no token there (rule 3)."""
    url = connection.quirks.userinfo_url
    if not url or not connection.has_templates_token_url:
        return ""
    parts = urlsplit(url)
    is_allowed = connection.origins is None or f"{parts.scheme}://{parts.netloc}" in connection.origins
    return url if is_allowed else ""


def _named_by(provider: Provider, id_token: str | None) -> str:
    claims = _claims(id_token)
    if claims is None:
        return ""
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    if not _is_issued_by(provider.issuer, claims) or provider.connection.client_id not in audiences:
        raise SubjectMismatch
    sub = _sub(claims)
    # Where tenants have issuers of their own, a `sub` tells accounts apart within one of them only.
    return f"{claims['tid']}:{sub}" if sub and TENANT in provider.issuer else sub


def _sub(said: object) -> str:
    """Return the `sub` of an OpenID provider: text, never a number."""
    sub = said.get("sub") if isinstance(said, dict) else None
    return sub if isinstance(sub, str) and is_name(sub, MAX_SUB_CHARS) else ""


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
