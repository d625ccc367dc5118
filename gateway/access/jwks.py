"""
Which keys of a published key set (RFC 7517) may verify a token.

Rules:
1. A key is for signatures (`use`, `key_ops`), asymmetric, public only, and strong: RSA from 2048 to 8192 bits with an
   odd exponent from 65537 on, EC on P-256, P-384 or P-521 with the point on the curve, or Ed25519. Others are ignored.
2. A key verifies the algorithms of its type and curve, and only its own where it names one (RFC 8725 section 3.1).
3. Of two keys with one id neither counts: which one a token means could be read in two ways.

Source: threats B1, B12, B13.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

MAX_KEYS = 100
MAX_KID_CHARS = 200
RSA_BITS = range(2048, 8193)  # NIST SP 800-131A; above, one verification costs milliseconds
MIN_RSA_EXPONENT = 65537  # FIPS 186-5 section A.1.1
MAX_RSA_EXPONENT = 2**32

_RSA_ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_EC_ALGORITHMS = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}

# Every algorithm that can be configured: asymmetric ones only, never none, never HS*.
ALGORITHMS = _RSA_ALGORITHMS | frozenset(_EC_ALGORITHMS.values()) | {"EdDSA"}

# The members of a key that are published again (/v2/keys): the public ones of RFC 7518 section 6 and RFC 8037.
_PUBLIC_MEMBERS = ("kty", "kid", "crv", "x", "y", "n", "e")
_PRIVATE_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A public key of an issuer, and the *algorithms* whose signatures it verifies. *jwk* can be published."""

    kid: str | None
    algorithms: frozenset[str]
    key: Any = field(repr=False)  # a cryptography public key
    jwk: dict[str, str] = field(repr=False)


def read_key_set(document: dict[str, Any], allowed: Iterable[str]) -> tuple[VerificationKey, ...]:
    """
    Return the usable keys of the key set *document* for the algorithms *allowed*; empty where none is usable.

    Raises:
        ValueError: *document* is no key set, or has more than MAX_KEYS keys.
    """
    entries = document.get("keys")
    if not isinstance(entries, list) or len(entries) > MAX_KEYS:
        raise ValueError("not a key set")
    algorithms = frozenset(allowed) & ALGORITHMS
    kids = Counter(entry["kid"] for entry in entries if isinstance(entry, dict) and isinstance(entry.get("kid"), str))
    found = (_read_key(entry, algorithms) for entry in entries if isinstance(entry, dict))
    return tuple(key for key in found if key is not None and (key.kid is None or kids[key.kid] == 1))


def _read_key(entry: dict[str, Any], allowed: frozenset[str]) -> VerificationKey | None:
    kid = entry.get("kid")
    if not (kid is None or (isinstance(kid, str) and 0 < len(kid) <= MAX_KID_CHARS)):
        return None
    if entry.get("use", "sig") != "sig" or not _PRIVATE_MEMBERS.isdisjoint(entry):
        return None
    operations = entry.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    algorithms = _algorithms_of(entry) & allowed
    if "alg" in entry:
        algorithms = frozenset(algorithm for algorithm in algorithms if algorithm == entry["alg"])
    members = {name: entry[name] for name in _PUBLIC_MEMBERS if name in entry}
    if not algorithms or not all(isinstance(value, str) for value in members.values()):
        return None
    try:
        key = jwt.PyJWK(members, algorithm=min(algorithms)).key
    except (jwt.PyJWTError, ValueError, TypeError):  # off the curve, not base64url, a member missing
        return None
    if not _is_strong(key):
        return None
    published_as = "RS256" if "RS256" in algorithms else min(algorithms)
    return VerificationKey(kid, algorithms, key, {**members, "use": "sig", "alg": published_as})


def _algorithms_of(entry: dict[str, Any]) -> frozenset[str]:
    match entry.get("kty"), entry.get("crv"):
        case "RSA", _:
            return _RSA_ALGORITHMS
        case "EC", str(curve) if curve in _EC_ALGORITHMS:
            return frozenset({_EC_ALGORITHMS[curve]})
        case "OKP", "Ed25519":
            return frozenset({"EdDSA"})
        case _:
            return frozenset()


def _is_strong(key: object) -> bool:
    match key:
        case RSAPublicKey():
            exponent = key.public_numbers().e
            return key.key_size in RSA_BITS and exponent % 2 == 1 and MIN_RSA_EXPONENT <= exponent < MAX_RSA_EXPONENT
        case EllipticCurvePublicKey() | Ed25519PublicKey():
            return True
        case _:
            return False
