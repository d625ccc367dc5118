"""
A JSON Web Token taken apart: one reading only, nothing believed yet (RFC 7515, RFC 7519, RFC 8725).

Rules:
1. At most MAX_TOKEN_CHARS, before anything is decoded; three parts of base64url without padding or stray bits.
2. Header and payload are strict JSON objects (`strict_json.py`).
3. The header's `typ` is absent or one of TYPES; `crit`, `b64`, `enc`, `zip` and `cty` are refused, since nothing here
   understands them; `jwk`, `jku`, `x5u` and `x5c` are ignored: no token brings its own key (threats B2, B9).
4. A kid is an opaque string of 1 to 200 characters.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from typing import Any

from gateway.access.jwks import MAX_KID_CHARS
from gateway.access.strict_json import NotStrictJson, load_object

MAX_TOKEN_CHARS = 8192  # fits into one header field, and ten times what issuers send
TYPES = frozenset(
    {"jwt", "at+jwt", "application/at+jwt"}
)  # RFC 7519 section 5.1, RFC 9068 section 2.1; any letter case

_COMPACT = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
_REFUSED_MEMBERS = ("crit", "b64", "enc", "zip", "cty")


class TokenRefused(Exception):
    """The token does not hold what it must. The message is a constant for the log and has nothing of the token."""


@dataclass(frozen=True, slots=True)
class UnverifiedToken:
    """What a token says, and the bytes that its signature covers. *is_access_token* tells a typ of "at+jwt"."""

    algorithm: str
    kid: str | None
    is_access_token: bool
    claims: dict[str, Any] = field(repr=False)
    signed: bytes = field(repr=False)
    signature: bytes = field(repr=False)


def take_apart(token: str) -> UnverifiedToken:
    """
    Return the parts of *token*, unverified.

    Raises:
        TokenRefused: it breaks a rule of this module.
    """
    if len(token) > MAX_TOKEN_CHARS:
        raise TokenRefused("too long")
    parts = _COMPACT.fullmatch(token)
    if parts is None:
        raise TokenRefused("not three base64url parts")
    header = _object(parts[1])
    if any(name in header for name in _REFUSED_MEMBERS):
        raise TokenRefused("header with an extension")
    algorithm, kid, typ = header.get("alg"), header.get("kid"), header.get("typ", "JWT")
    if not isinstance(algorithm, str):
        raise TokenRefused("header without alg")
    if not isinstance(typ, str) or typ.lower() not in TYPES:
        raise TokenRefused("another type of token")
    if "kid" in header and not (isinstance(kid, str) and 0 < len(kid) <= MAX_KID_CHARS):
        raise TokenRefused("kid is no short string")
    return UnverifiedToken(
        algorithm=algorithm,
        kid=kid,
        is_access_token=typ.lower() != "jwt",
        claims=_object(parts[2]),
        signed=token[: parts.end(2)].encode("ascii"),
        signature=_decode(parts[3]),
    )


def _object(part: str) -> dict[str, Any]:
    try:
        return load_object(_decode(part))
    except NotStrictJson as exc:
        raise TokenRefused(f"part is {exc}") from exc


def _decode(part: str) -> bytes:
    if len(part) % 4 == 1:
        raise TokenRefused("not base64url")
    data = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    # Bits beyond the last byte must be zero, or one token has several spellings (RFC 4648 section 3.5).
    if base64.urlsafe_b64encode(data).rstrip(b"=") != part.encode("ascii"):
        raise TokenRefused("not canonical base64url")
    return data
