"""
How the gateway proves to a provider which client it is (RFC 6749 section 2.3, RFC 7523 section 2.2). No I/O.

Rules:
1. One way per request, never two (RFC 6749 2.3): `client_secret_basic` with both parts form-encoded before base64
   (2.3.1), `client_secret_post`, `private_key_jwt`, or `none`: the client's id alone.
2. Which way, `Connection.client_authentication` says: the connection, its provider's entry, or the standard's default.
3. A `private_key_jwt` assertion is for one token endpoint, lives a minute, and has an id of its own. Its key is the
   connection's client secret: PEM (line breaks may be written as \\n), or a JWK, which brings `kid` and `alg`.
4. The algorithm follows from the key (RSA: RS256, EC: ES256/384/512, Ed25519: EdDSA): none is ever taken from a peer.

The key of a Google service account and of a GitHub App is read by the same rules (`grants.py`).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote_plus

import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from gateway.vault.connection import Connection

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ASSERTION_SECONDS = 60  # one request; RFC 7523 section 3 leaves it to us
MIN_RSA_BITS = 2048  # NIST SP 800-131A
EC_ALGORITHMS = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


class KeyUnusable(Exception):
    """The connection's secret is no private key that can sign. Holds nothing of it."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key, its algorithm and its id ("" where it has none)."""

    key: PrivateKey = field(repr=False)
    algorithm: str
    key_id: str


@dataclass(frozen=True, slots=True)
class ClientProof:
    """What a request carries to say which client sends it: header fields and form parameters."""

    headers: dict[str, str] = field(default_factory=dict, repr=False)
    params: list[tuple[str, str]] = field(default_factory=list, repr=False)


def prove(
    connection: Connection, *, method: str, audience: str, now: float, random_bytes: Callable[[int], bytes]
) -> ClientProof:
    """
    Return what authenticates the connection's client by *method* at the endpoint *audience*.

    Raises:
        KeyUnusable: private_key_jwt, and the client secret is no private key.
    """
    client_id, secret = connection.client_id, connection.client_secret or ""
    match method:
        case "client_secret_basic":
            return ClientProof(headers={"Authorization": basic_credentials(client_id, secret)})
        case "client_secret_post":
            return ClientProof(params=[("client_id", client_id), ("client_secret", secret)])
        case "private_key_jwt":
            assertion = sign(
                read_key(secret, key_id=text_of(connection, "keyId")),
                {"iss": client_id, "sub": client_id, "aud": audience, "jti": random_bytes(16).hex()},
                now=now,
                lives_seconds=ASSERTION_SECONDS,
            )
            return ClientProof(
                params=[
                    ("client_id", client_id),
                    ("client_assertion_type", ASSERTION_TYPE),
                    ("client_assertion", assertion),
                ]
            )
        case _:
            return ClientProof(params=[("client_id", client_id)] if client_id else [])


def basic_credentials(client_id: str, client_secret: str) -> str:
    """Return the Authorization value of a client: both parts form-encoded first, as RFC 6749 2.3.1 says."""
    pair = f"{quote_plus(client_id, safe='')}:{quote_plus(client_secret, safe='')}"
    return f"Basic {base64.b64encode(pair.encode()).decode()}"


def sign(key: SigningKey, claims: dict[str, Any], *, now: float, lives_seconds: int) -> str:
    """Return *claims* with `iat` and `exp`, signed with *key*."""
    headers = {"kid": key.key_id} if key.key_id else None
    timed = {**claims, "iat": int(now), "exp": int(now) + lives_seconds}
    return jwt.encode(timed, key.key, algorithm=key.algorithm, headers=headers)


def read_key(secret: str, *, key_id: str = "") -> SigningKey:
    """
    Return the private key that *secret* is: PEM or JWK. *key_id* wins over the JWK's; without both, it is derived.

    Raises:
        KeyUnusable: it is none, or one that is too weak.
    """
    try:
        key, own_id = _from_jwk(secret) if secret.lstrip().startswith("{") else (_from_pem(secret), "")
    except (ValueError, TypeError, KeyError, jwt.PyJWTError, orjson.JSONDecodeError):
        raise KeyUnusable("the client secret is no private key (PEM or JWK)") from None  # the cause may hold it
    return SigningKey(key, _algorithm(key), key_id or own_id or _thumbprint(key))


def text_of(connection: Connection, name: str) -> str:
    """Return the connection's further field *name* where it is text, else ""."""
    value = connection.extra.get(name)
    return value if isinstance(value, str) else ""


def _from_pem(text: str) -> Any:
    return load_pem_private_key(text.replace("\\n", "\n").encode(), password=None)


def _from_jwk(text: str) -> tuple[Any, str]:
    jwk = orjson.loads(text)
    readers: dict[str, Any] = {"RSA": RSAAlgorithm, "EC": ECAlgorithm, "OKP": OKPAlgorithm}
    return readers[jwk["kty"]].from_jwk(jwk), str(jwk.get("kid", ""))


def _algorithm(key: Any) -> str:
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= MIN_RSA_BITS:
        return "RS256"
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in EC_ALGORITHMS:
        return EC_ALGORITHMS[key.curve.name]
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "EdDSA"
    raise KeyUnusable(
        "the client secret is no private key that can sign: RSA from 2048 bits, EC P-256 to P-521, Ed25519"
    )


def _thumbprint(key: Any) -> str:
    """Return the key's RFC 7638 thumbprint: an id that both sides can derive."""
    algorithm: Any = (
        RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey)
        else ECAlgorithm if isinstance(key, ec.EllipticCurvePrivateKey)
        else OKPAlgorithm
    )  # fmt: skip
    jwk = algorithm.to_jwk(key.public_key(), as_dict=True)
    required = {name: jwk[name] for name in ("crv", "e", "kty", "n", "x", "y") if name in jwk}
    digest = hashlib.sha256(orjson.dumps(required, option=orjson.OPT_SORT_KEYS)).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
