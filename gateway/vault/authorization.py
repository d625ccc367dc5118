"""
The two messages that travel through a browser: the authorization request, and the answer to it. No I/O.

Rules (RFC 6749 section 4.1, RFC 7636, RFC 9207, RFC 9700):
1. PKCE with S256, always, unless the connection or its provider's entry turns it off; never "plain". A provider that
   lists its methods and leaves S256 out is refused (threats.md J4).
2. What the gateway sets in the request, no other parameter replaces: not the URL's own query, not the connection's.
3. An answer is read once, strictly: a parameter that came twice, or with odd bytes, is no answer.
4. `iss` is compared exactly with the issuer that is known: where the provider says that it sends it, it must be there
   (RFC 9207 section 2.4), and the metadata's to the letter. Where it does not, and each tenant has an issuer of its
   own, it is some tenant's. Where no issuer is known, it must at least be of the authorization endpoint's own origin.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from gateway.vault.client_auth import text_of
from gateway.vault.connection import RESERVED_PARAMS, Connection
from gateway.vault.discovery import Provider, is_issuer

CODE = re.compile(r"[\x20-\x7e]{1,4096}\Z")  # RFC 6749 appendix A.11: VSCHAR; the length is ours
SECRET = re.compile(r"[A-Za-z0-9_-]{43}\Z")  # 256 bits, as `attempts.new_secret` writes them
ERROR = re.compile(r"[a-z_]{1,64}\Z")
MAX_ISSUER_LENGTH = 2048
MAX_ANSWER_FIELDS = 40  # providers add a few of their own (Google: 6)


class AnswerMalformed(Exception):
    """What came to the callback is no authorization answer."""


@dataclass(frozen=True, slots=True)
class AuthorizationAnswer:
    """The parameters of a callback. One of *code* and *error* is there; *error* is a word, no sentence."""

    state: str = field(repr=False)
    code: str = field(default="", repr=False)
    error: str = ""
    issuer: str | None = None


def uses_pkce(connection: Connection) -> bool:
    """Tell whether the connection's authorization requests carry a challenge (rule 1)."""
    return connection.pkce and connection.quirks.pkce


def authorization_url(
    provider: Provider, *, redirect_uri: str, scopes: tuple[str, ...], state: str, verifier: str | None
) -> str:
    """Return the URL that asks the user at the provider; *verifier* None: without PKCE."""
    connection = provider.connection
    quirks = connection.quirks
    ours = {"response_type": "code", "client_id": connection.client_id, "redirect_uri": redirect_uri, "state": state}
    if scopes:
        ours[quirks.scopes_param] = quirks.scope_separator.join(scopes)
    if verifier is not None:
        ours |= {"code_challenge": challenge_of(verifier), "code_challenge_method": "S256"}
    parts = urlsplit(connection.authorization_url)
    further = [
        *parse_qsl(parts.query, keep_blank_values=True),
        *_replaced(connection),
        *connection.authorization_params,
    ]
    taken = RESERVED_PARAMS | set(ours)
    kept = [(name, value) for name, value in further if name not in taken or _is_own_scope(name, ours)]
    query = urlencode([*ours.items(), *kept], quote_via=quote)  # %20, not "+": some providers take that literally
    return urlunsplit((parts.scheme, parts.netloc, parts.path, query, ""))


def read_answer(query: str) -> AuthorizationAnswer:
    """
    Return the answer in *query*, the callback's raw query.

    Raises:
        AnswerMalformed: rule 3.
    """
    try:
        pairs = parse_qsl(
            query, keep_blank_values=True, encoding="ascii", errors="strict", max_num_fields=MAX_ANSWER_FIELDS
        )
    except ValueError as exc:
        raise AnswerMalformed("the query cannot be read") from exc
    found: dict[str, str] = {}
    for name, value in pairs:
        if name in ("state", "code", "error", "iss"):
            if name in found:
                raise AnswerMalformed(f"{name} came twice")
            found[name] = value
    state, code, error = found.get("state", ""), found.get("code", ""), found.get("error", "")
    if not SECRET.match(state):
        raise AnswerMalformed("the state is missing or none of ours")
    if error:
        known = error if ERROR.match(error) else "unknown_error"
        return AuthorizationAnswer(state, error=known, issuer=found.get("iss"))
    if not CODE.match(code):
        raise AnswerMalformed("there is neither a code nor an error")
    return AuthorizationAnswer(state, code=code, issuer=found.get("iss"))


def is_issuer_right(provider: Provider, *, asked_issuer: str, said: str | None) -> bool:
    """Tell whether the answer's `iss` is the issuer's that was asked (rule 4)."""
    is_promised = provider.metadata is not None and provider.metadata.sends_issuer
    if said is None:
        return not is_promised
    if len(said) > MAX_ISSUER_LENGTH:
        return False
    if asked_issuer:
        return said == asked_issuer or (not is_promised and is_issuer(asked_issuer, said))
    try:
        told, asked = urlsplit(said), urlsplit(provider.connection.authorization_url)
    except ValueError:
        return False
    return (told.scheme, told.netloc.lower()) == (asked.scheme, asked.netloc.lower())


def challenge_of(verifier: str) -> str:
    """Return the S256 challenge of *verifier* (RFC 7636 section 4.2)."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def _replaced(connection: Connection) -> list[tuple[str, str]]:
    """The provider's parameters, the contract's accessType and prompt; of those, what the connection has no own for."""
    wished = [*connection.quirks.authorization_params]
    prompt = connection.extra.get("prompt")
    for name, value in (
        ("access_type", text_of(connection, "accessType")),
        ("prompt", " ".join(map(str, prompt)) if isinstance(prompt, list | tuple) else ""),
    ):
        if value:
            wished = [(key, other) for key, other in wished if key != name] + [(name, value)]
    own = {name for name, _ in connection.authorization_params}
    return [(name, value) for name, value in wished if name not in own]


def _is_own_scope(name: str, ours: dict[str, str]) -> bool:
    """Whether *name* is `scope` beside a provider's other parameter for scopes: then it is the provider's to add."""
    return name == "scope" and "scope" not in ours and "user_scope" in ours
