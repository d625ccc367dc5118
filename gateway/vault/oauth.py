"""
OAuth messages of a refresh: what is sent to a token endpoint, and what its answer means. No I/O.

Rules:
1. Client authentication is `client_secret_basic` (id and secret form-encoded before base64, RFC 6749 2.3.1),
   `client_secret_post`, or `none`; never two of them in one request (2.3).
2. An answer is one of three values: `Granted`, `GrantRefused` (invalid_grant and nothing else), `ExchangeFailed`.
3. Doubt about whether the provider has rotated the refresh token is told (`is_outcome_unknown`): no answer, an answer
   that cannot be read, a server error. A clear error answer leaves no doubt.
4. A token is visible ASCII up to 16 KiB: what could break a header field is refused here, stricter than RFC 6749
   appendix A.12. Nothing that the provider wrote is repeated in an error, but the error codes of the standards.

Source: RFC 6749 sections 2.3, 5.1, 5.2 and 6; RFC 6750 section 2.1.
"""

from __future__ import annotations

import base64
import math
import re
from dataclasses import dataclass, field
from urllib.parse import quote_plus, urlencode

import orjson

from gateway.vault.connection import Connection

BEARER = "Bearer"
MAX_TOKEN_BYTES = 16 * 1024
MAX_LIFETIME_SECONDS = 10 * 365 * 86400.0  # a longer one is no promise that anybody keeps; it is cut to this
VISIBLE = re.compile(r"[\x21-\x7e]+\Z")
SCOPE_SEPARATORS = re.compile(
    r"[ ,]+"
)  # RFC 6749 3.3 says space; GitHub and Slack write commas, which no scope of theirs has
SECONDS = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,9})?\Z")
# RFC 6749 5.2, RFC 8628 3.5, and what servers send with a 5xx in RFC 6749 4.1.2.1's words.
KNOWN_ERRORS = frozenset(
    {
        "invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type",
        "invalid_scope", "server_error", "temporarily_unavailable", "slow_down", "access_denied",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """A POST to a token endpoint: URL, header fields, form body."""

    url: str
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Granted:
    """New tokens. *refresh_token* None: the old one stays; *scopes* None: unchanged; *expires_at* None: unknown."""

    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    token_type: str
    expires_at: float | None
    scopes: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class GrantRefused:
    """The provider says invalid_grant: this refresh token is expired, revoked, or was used before."""


@dataclass(frozen=True, slots=True)
class ExchangeFailed:
    """No tokens, for a cause that may pass. *error* is a word of ours or of RFC 6749; *retry_after* in seconds."""

    error: str
    is_outcome_unknown: bool
    retry_after: int | None = None


Outcome = Granted | GrantRefused | ExchangeFailed


def refresh_request(connection: Connection, refresh_token: str) -> TokenRequest:
    """Return the request that exchanges *refresh_token*. No scopes: the same as granted (RFC 6749 section 6)."""
    form = [("grant_type", "refresh_token"), ("refresh_token", refresh_token), *connection.token_params]
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
    secret = connection.client_secret or ""
    if connection.client_authentication == "client_secret_basic":
        headers["Authorization"] = basic_credentials(connection.client_id, secret)
    else:
        form.append(("client_id", connection.client_id))
        if connection.client_authentication == "client_secret_post":
            form.append(("client_secret", secret))
    return TokenRequest(url=connection.token_url, headers=headers, body=urlencode(form).encode())


def basic_credentials(client_id: str, client_secret: str) -> str:
    """Return the Authorization value of a client: both parts form-encoded first, as RFC 6749 2.3.1 says."""
    pair = f"{quote_plus(client_id, safe='')}:{quote_plus(client_secret, safe='')}"
    return f"Basic {base64.b64encode(pair.encode()).decode()}"


def read_token_answer(status: int, body: bytes, *, now: float, retry_after: str | None = None) -> Outcome:
    """Return what the answer of a token endpoint means. *retry_after* is that header field, as received."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        answer = None
    wait = int(retry_after) if retry_after and re.match(r"[0-9]{1,6}\Z", retry_after) else None
    if not isinstance(answer, dict):
        return ExchangeFailed(_status_error(status), is_outcome_unknown=_is_unclear(status), retry_after=wait)
    error = answer.get("error")
    # RFC 6749 5.1 says 200. Whoever says 201 has rotated the token all the same, and losing it would cost the grant.
    is_success = 200 <= status < 300
    if is_success and answer.get("access_token") is not None:
        return _granted(answer, now=now)
    if status >= 500 or (is_success and error is None):
        return ExchangeFailed(_status_error(status), is_outcome_unknown=True, retry_after=wait)
    # Some providers answer errors with 200; what they say is what counts.
    if error == "invalid_grant":
        return GrantRefused()
    known = error if isinstance(error, str) and error in KNOWN_ERRORS else _status_error(status)
    return ExchangeFailed(known, is_outcome_unknown=False, retry_after=wait)


def is_token(value: object) -> bool:
    """Tell whether *value* is a token that can stand in a header field: visible ASCII, at most 16 KiB."""
    return isinstance(value, str) and len(value) <= MAX_TOKEN_BYTES and VISIBLE.match(value) is not None


def _granted(answer: dict[str, object], *, now: float) -> Outcome:
    access_token, refresh_token = answer["access_token"], answer.get("refresh_token")
    token_type = answer.get("token_type")
    unreadable = ExchangeFailed("malformed_answer", is_outcome_unknown=True)
    if not isinstance(access_token, str) or not is_token(access_token):
        return unreadable
    if refresh_token == "":
        refresh_token = None
    if refresh_token is not None and (not isinstance(refresh_token, str) or not is_token(refresh_token)):
        return unreadable
    if token_type is not None and (not isinstance(token_type, str) or token_type.lower() != "bearer"):
        return unreadable  # RFC 6749 7.1: a type that the client does not understand must not be used
    scope = answer.get("scope")
    scopes = tuple(sorted(set(filter(None, SCOPE_SEPARATORS.split(scope))))) if isinstance(scope, str) else None
    if scopes is not None and (not scopes or not all(VISIBLE.match(part) and len(part) <= 512 for part in scopes)):
        scopes = None
    lifetime = _seconds(answer.get("expires_in"))
    return Granted(
        access_token=access_token,
        refresh_token=refresh_token,
        token_type=BEARER,
        expires_at=None if lifetime is None else now + lifetime,
        scopes=scopes,
    )


def _seconds(value: object) -> float | None:
    """Return a lifetime in seconds; None, unknown, for what is absent, unreadable, zero or negative."""
    if isinstance(value, str) and SECONDS.match(value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        return None
    return min(float(value), MAX_LIFETIME_SECONDS)


def _status_error(status: int) -> str:
    return "malformed_answer" if 200 <= status < 300 else f"status_{status}"


def _is_unclear(status: int) -> bool:
    return 200 <= status < 300 or status >= 500
