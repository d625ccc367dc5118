"""
OAuth messages of a token endpoint: what is sent, and what its answer means. No I/O.

Rules:
1. How the client authenticates, `client_auth.py` decides; which grant is exchanged, `grants.py`.
2. An answer is one of three values: `Granted`, `GrantRefused` (invalid_grant, or what the provider says instead of it),
   `ExchangeFailed`.
3. Doubt about whether the provider has rotated the refresh token is told (`is_outcome_unknown`): no answer, an answer
   that cannot be read, a server error. A clear error answer leaves no doubt.
4. A token is visible ASCII up to 16 KiB: what could break a header field is refused here, stricter than RFC 6749
   appendix A.12. Nothing that the provider wrote is repeated in an error, but the error codes of the standards.
5. A provider's quirks change where things stand and how they are separated, never what is accepted as a token.

Source: RFC 6749 sections 2.3, 4.1.3, 5.1, 5.2 and 6; RFC 6750 section 2.1; RFC 6901 (JSON Pointer).
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from urllib.parse import urlencode

import orjson

from gateway.access.names import is_name
from gateway.providers.quirks import Params, Quirks
from gateway.vault.client_auth import basic_credentials, prove
from gateway.vault.connection import Connection

__all__ = [
    "BEARER",
    "ExchangeFailed",
    "GrantRefused",
    "Granted",
    "Outcome",
    "TokenRequest",
    "basic_credentials",
    "code_request",
    "is_token",
    "read_token_answer",
    "refresh_request",
    "token_request",
]

BEARER = "Bearer"
USER_AGENT = "connection-gateway"  # RFC 9110 10.1.5; Reddit and GitHub turn away who names none
# What a token that is sent as Bearer may be called: RFC 6750's name; Slack calls its bearer tokens by their holder.
BEARER_TYPES = frozenset({"bearer", "bot", "user"})
MAX_TOKEN_BYTES = 16 * 1024
MAX_ANSWER_BYTES = 262_144  # of a token endpoint: two tokens and an id token with many groups in it
MAX_SUB_CHARS = 440  # store/schema.py has 512; a tenant's id may come before it
MAX_LIFETIME_SECONDS = 10 * 365 * 86400.0  # a longer one is no promise that anybody keeps; it is cut to this
VISIBLE = re.compile(r"[\x21-\x7e]+\Z")
# RFC 6749 3.3 says space; GitHub and Slack write commas, which no scope of theirs has.
SCOPE_SEPARATORS = re.compile(r"[ ,]+")
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
    """A POST to a token endpoint: URL, header fields, body."""

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
    id_token: str | None = field(default=None, repr=False)
    account: str = field(default="", repr=False)  # whose it is, where the answer tells that beside the tokens


@dataclass(frozen=True, slots=True)
class GrantRefused:
    """The provider says invalid_grant: this refresh token is expired, revoked, or was used before."""


@dataclass(frozen=True, slots=True)
class ExchangeFailed:
    """
    No access token, for a cause that may pass. *error* is a word of ours or of RFC 6749; *retry_after* in seconds.

    *refresh_token* is there where the answer brought one beside an access token that cannot be used: it takes the place
    of the exchanged one.
    """

    error: str
    is_outcome_unknown: bool
    retry_after: int | None = None
    refresh_token: str | None = field(default=None, repr=False)


Outcome = Granted | GrantRefused | ExchangeFailed


def refresh_request(
    connection: Connection,
    refresh_token: str,
    *,
    scopes: Iterable[str] = (),
    now: float = 0.0,
    random_bytes: Callable[[int], bytes] = os.urandom,
) -> TokenRequest:
    """
    Return the request that exchanges *refresh_token*.

    *scopes* are named only to a provider that wants them; else the same stay granted (RFC 6749 section 6).
    *now* and *random_bytes* are for an assertion (private_key_jwt).

    Raises:
        KeyUnusable: the client secret is no private key where one is needed.
    """
    quirks = connection.quirks
    form = [("grant_type", "refresh_token"), ("refresh_token", refresh_token)]
    if quirks.refresh_scope and scopes:
        form.append((quirks.scopes_param, quirks.scope_separator.join(scopes)))
    return token_request(
        connection,
        form,
        url=quirks.refresh_url or connection.token_url,
        params=quirks.refresh_params,
        now=now,
        random_bytes=random_bytes,
    )


def code_request(
    connection: Connection,
    code: str,
    *,
    redirect_uri: str,
    verifier: str | None,
    now: float,
    random_bytes: Callable[[int], bytes],
) -> TokenRequest:
    """
    Return the request that exchanges an authorization code (RFC 6749 section 4.1.3), with its PKCE *verifier*.

    Raises:
        KeyUnusable: as `refresh_request`.
    """
    form = [("grant_type", "authorization_code"), ("code", code), ("redirect_uri", redirect_uri)]
    if verifier is not None:
        form.append(("code_verifier", verifier))
    params = tuple(_without(connection.quirks.code_params, connection.token_params))
    return token_request(connection, form, url=connection.token_url, params=params, now=now, random_bytes=random_bytes)


def token_request(
    connection: Connection,
    form: list[tuple[str, str]],
    *,
    url: str,
    now: float,
    random_bytes: Callable[[int], bytes],
    params: Params = (),
) -> TokenRequest:
    """
    Return *form* as a request to the token endpoint *url*, the client authenticated, further parameters added.

    Of parameters of the same name, *params* win over the connection's. What *form* and the client's authentication say
    is replaced by none of them.

    Raises:
        KeyUnusable: as `refresh_request`.
    """
    quirks = connection.quirks
    proof = prove(
        connection,
        method=connection.client_authentication,
        audience=connection.token_url,
        now=now,
        random_bytes=random_bytes,
    )
    fixed = [*form, *proof.params]
    # A list, not a dict: a connection may send one parameter several times (RFC 8707's `resource`).
    further = [*_without(connection.token_params, params), *params]
    content = [*fixed, *_without(tuple(further), tuple(fixed))]
    headers = {"Accept": quirks.accept_header, "User-Agent": USER_AGENT, **proof.headers}
    if quirks.token_body == "json":  # noqa: S105  # a format
        return TokenRequest(url, headers | {"Content-Type": "application/json"}, orjson.dumps(dict(content)))
    headers["Content-Type"] = "application/x-www-form-urlencoded"
    return TokenRequest(url, headers, urlencode(content).encode())


def _without(pairs: Params, others: Params) -> list[tuple[str, str]]:
    """Return *pairs* without those whose name is among *others*."""
    names = {name for name, _ in others}
    return [(name, value) for name, value in pairs if name not in names]


def read_token_answer(
    status: int, body: bytes, *, now: float, retry_after: str | None = None, quirks: Quirks | None = None
) -> Outcome:
    """Return what the answer of a token endpoint means. *retry_after* is that header field, as received."""
    quirks = quirks or Quirks()
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
    is_error = quirks.token_errors_with_status_200 and (isinstance(error, str) or answer.get("ok") is False)
    granted = _at(answer, quirks.token_path)
    if is_success and not is_error and granted.get("access_token") is not None:
        return _granted(granted, answer, now=now, quirks=quirks)
    if is_success and not is_error and error is None and is_token(granted.get("refresh_token")):
        return _unreadable(granted)
    if status >= 500 or (is_success and error is None):
        return ExchangeFailed(_status_error(status), is_outcome_unknown=True, retry_after=wait)
    # Some providers answer errors with 200; what they say is what counts.
    if error == "invalid_grant" or (isinstance(error, str) and error in quirks.dead_grant_errors):
        return GrantRefused()
    known = error if isinstance(error, str) and error in KNOWN_ERRORS else _status_error(status)
    return ExchangeFailed(known, is_outcome_unknown=False, retry_after=wait)


def is_token(value: object) -> bool:
    """Tell whether *value* is a token that can stand in a header field: visible ASCII, at most 16 KiB."""
    return isinstance(value, str) and len(value) <= MAX_TOKEN_BYTES and VISIBLE.match(value) is not None


def account_at(document: object, pointer: str) -> str:
    """Return the account that *document* names at the JSON pointer *pointer*, text or a whole number; "" for others."""
    value = _value_at(document, pointer)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return value if isinstance(value, str) and is_name(value, MAX_SUB_CHARS) else ""


def _value_at(document: object, pointer: str) -> object:
    """Return what lies at the JSON pointer *pointer* through objects; None where nothing does."""
    found = document
    for part in pointer.split("/")[1:]:
        found = found.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
    return found


def _at(answer: dict[str, object], pointer: str) -> dict[str, object]:
    """Return the object at the JSON pointer *pointer* that holds an access token, else the whole answer."""
    found = _value_at(answer, pointer)
    return found if isinstance(found, dict) and found.get("access_token") is not None else answer


def _granted(answer: dict[str, object], whole: dict[str, object], *, now: float, quirks: Quirks) -> Outcome:
    access_token, refresh_token = answer["access_token"], answer.get("refresh_token")
    token_type = answer.get("token_type")
    if not isinstance(access_token, str) or not is_token(access_token):
        return _unreadable(answer)
    if refresh_token == "":
        refresh_token = None
    if refresh_token is not None and (not isinstance(refresh_token, str) or not is_token(refresh_token)):
        return _unreadable(answer)
    if token_type is not None and (not isinstance(token_type, str) or token_type.lower() not in BEARER_TYPES):
        return _unreadable(answer)  # RFC 6749 7.1: a type that the client does not understand must not be used
    lifetime = _seconds(answer.get("expires_in"))
    if lifetime is None and quirks.default_expires_seconds is not None:
        lifetime = float(quirks.default_expires_seconds)
    id_token = whole.get("id_token")
    return Granted(
        access_token=access_token,
        refresh_token=refresh_token,
        token_type=BEARER,
        expires_at=None if lifetime is None else now + lifetime,
        scopes=_scopes(answer.get("scope"), quirks),
        id_token=id_token if isinstance(id_token, str) else None,
        account=account_at(whole, quirks.account_path) if quirks.account_path else "",
    )


def _unreadable(answer: dict[str, object]) -> ExchangeFailed:
    """Return that nothing of *answer* can be used, but the refresh token where that can be read."""
    refresh_token = answer.get("refresh_token")
    if isinstance(refresh_token, str) and is_token(refresh_token):
        return ExchangeFailed("malformed_answer", is_outcome_unknown=False, refresh_token=refresh_token)
    return ExchangeFailed("malformed_answer", is_outcome_unknown=True)


def _scopes(value: object, quirks: Quirks) -> tuple[str, ...] | None:
    """Return the granted scopes, sorted; None where the answer does not say them in a form that can be kept."""
    if not isinstance(value, str):
        return None
    text = value.replace(quirks.scope_separator, " ") if quirks.scope_separator else value
    scopes = tuple(sorted(set(filter(None, SCOPE_SEPARATORS.split(text)))))
    if not scopes or not all(VISIBLE.match(part) and len(part) <= 512 for part in scopes):
        return None
    return scopes


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
