"""
What the demo provider has granted: codes, access tokens, refresh tokens and when each of them dies.

Rules:
1. A code is used once, with its redirect URI and its PKCE verifier (RFC 7636). Its second use revokes the grant that
   came of the first (RFC 6749 section 4.1.2).
2. A refresh rotates the refresh token. An old one that comes back means that two hold it: the grant is revoked,
   whoever asked (RFC 9700 section 4.14.2).
3. An access token is said to live for SAID_SECONDS and dies after `token_lifetime_seconds`: the demo wants the gateway
   to learn of it the hard way, by a 401.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field

SAID_SECONDS = 3600
CODE_SECONDS = 60.0  # RFC 6749 4.1.2 allows ten minutes


class GrantInvalid(Exception):
    """The code or refresh token is not (or no longer) good for anything: RFC 6749's invalid_grant."""


@dataclass(slots=True)
class Counts:
    """What the provider has done so far."""

    logins: int = 0
    code_exchanges: int = 0
    refreshes: int = 0
    reuses: int = 0
    revocations: int = 0

    @property
    def exchanges(self) -> int:
        """Successful calls of the token endpoint."""
        return self.code_exchanges + self.refreshes


@dataclass(frozen=True, slots=True)
class Issued:
    """An answer of the token endpoint, before it is JSON."""

    scope: str
    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)


@dataclass(slots=True)
class Grant:
    """What one user has granted to the client; *refresh_token* is the only one that is good."""

    user: str
    scope: str
    refresh_token: str = field(default="", repr=False)
    is_revoked: bool = False


@dataclass(slots=True)
class Code:
    """An authorization code on its way; *grant* is what its first use made."""

    user: str
    scope: str
    redirect_uri: str
    challenge: str
    dies_at: float
    grant: Grant | None = None


class Grants:
    """The provider's memory. *clock* gives POSIX seconds, *random_token* an unguessable URL-safe text."""

    def __init__(
        self, *, clock: Callable[[], float], random_token: Callable[[], str], token_lifetime_seconds: float
    ) -> None:
        self._clock = clock
        self._random_token = random_token
        self._lifetime_seconds = token_lifetime_seconds
        self._codes: dict[str, Code] = {}
        self._access: dict[str, tuple[Grant, float]] = {}
        self._refresh: dict[str, Grant] = {}
        self.counts = Counts()

    def authorize(self, *, user: str, scope: str, redirect_uri: str, challenge: str) -> str:
        """Return a code for what *user* has just granted; *challenge* is PKCE's, S256."""
        self._forget_dead()
        code = self._random_token()
        self._codes[code] = Code(user, scope, redirect_uri, challenge, self._clock() + CODE_SECONDS)
        self.counts.logins += 1
        return code

    def exchange(self, code: str, *, redirect_uri: str, verifier: str) -> Issued:
        """
        Return the first tokens of a grant.

        Raises:
            GrantInvalid: rule 1.
        """
        known = self._codes.get(code)
        if known is None or known.dies_at <= self._clock():
            raise GrantInvalid
        if known.grant is not None:
            self._revoke(known.grant)
            self.counts.reuses += 1
            raise GrantInvalid
        if known.redirect_uri != redirect_uri or not hmac.compare_digest(known.challenge, challenge_of(verifier)):
            del self._codes[code]  # one guess
            raise GrantInvalid
        known.grant = Grant(known.user, known.scope)
        self.counts.code_exchanges += 1
        return self._issue(known.grant)

    def refresh(self, refresh_token: str) -> Issued:
        """
        Return new tokens and forget the old ones' worth.

        Raises:
            GrantInvalid: rule 2.
        """
        grant = self._refresh.get(refresh_token)
        if grant is None or grant.is_revoked:
            raise GrantInvalid
        if grant.refresh_token != refresh_token:
            self._revoke(grant)
            self.counts.reuses += 1
            raise GrantInvalid
        self.counts.refreshes += 1
        return self._issue(grant)

    def revoke(self, token: str) -> None:
        """Revoke the grant of a refresh token, or one access token (RFC 7009 section 2.1). Others are no error."""
        if token in self._refresh:
            self._revoke(self._refresh[token])
        elif self._access.pop(token, None) is not None:
            self.counts.revocations += 1

    def kill_access_tokens(self) -> None:
        """Let every access token die now, the grants live on: what 20 seconds of waiting do."""
        self._access.clear()

    def user_of(self, access_token: str) -> str | None:
        """Return whose token *access_token* is, or None for one that is dead or never was."""
        grant, dies_at = self._access.get(access_token, (None, 0.0))
        if grant is None or grant.is_revoked or dies_at <= self._clock():
            return None
        return grant.user

    def _issue(self, grant: Grant) -> Issued:
        self._forget_dead()
        issued = Issued(grant.scope, self._random_token(), self._random_token())
        grant.refresh_token = issued.refresh_token
        self._refresh[issued.refresh_token] = grant
        self._access[issued.access_token] = (grant, self._clock() + self._lifetime_seconds)
        return issued

    def _revoke(self, grant: Grant) -> None:
        if not grant.is_revoked:
            grant.is_revoked = True
            self.counts.revocations += 1

    def _forget_dead(self) -> None:
        now = self._clock()
        self._codes = {code: known for code, known in self._codes.items() if known.dies_at > now}
        self._access = {token: known for token, known in self._access.items() if known[1] > now}


def challenge_of(verifier: str) -> str:
    """Return the S256 challenge of *verifier* (RFC 7636 section 4.2)."""
    digest = hashlib.sha256(verifier.encode("utf-8", "replace")).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
