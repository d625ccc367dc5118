"""Which key signs, how, and under which name."""

from __future__ import annotations

import json

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from jwt.algorithms import ECAlgorithm

from gateway.vault.client_auth import KeyUnusable, prove, read_key, sign
from gateway.vault.connection import Connection


def test_algorithm_follows_the_key() -> None:
    """An EC key signs ES256; without an id of its own it gets its thumbprint."""
    key = ec.generate_private_key(ec.SECP256R1())
    made = read_key(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())
    assert ("ES256", 43) == (made.algorithm, len(made.key_id))
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505  # that is the point
    with pytest.raises(KeyUnusable):
        read_key(weak.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())


def test_jwk_brings_its_id() -> None:
    """A JWK's kid is used, unless the connection names another."""
    key = ec.generate_private_key(ec.SECP384R1())
    jwk = json.dumps(ECAlgorithm.to_jwk(key, as_dict=True) | {"kid": "own"})
    assert [("ES384", "own"), ("ES384", "other")] == [
        (made.algorithm, made.key_id) for made in (read_key(jwk), read_key(jwk, key_id="other"))
    ]


def test_signature_verifies() -> None:
    """What is signed says when, and can be verified with the public key."""
    key = ed25519.Ed25519PrivateKey.generate()
    made = read_key(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())
    signed = sign(made, {"iss": "me"}, now=1_800_000_000.7, lives_seconds=60)
    options = {"verify_exp": False, "verify_iat": False}
    claims = jwt.decode(signed, key.public_key(), algorithms=["EdDSA"], options=options)  # type: ignore[arg-type]
    assert {"iss": "me", "iat": 1_800_000_000, "exp": 1_800_000_060} == claims


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post", "none"])
def test_one_way_at_a_time(method: str) -> None:
    """A client authenticates in one way, and nothing of it is in a repr (RFC 6749 section 2.3)."""
    connection = Connection("c", "c", client_id="id", client_secret="CANARY")
    proof = prove(connection, method=method, audience="https://p", now=0.0, random_bytes=lambda size: b"1" * size)
    ways = ["Authorization" in proof.headers, "client_secret" in dict(proof.params), "client_secret_none"]
    assert ("CANARY" in repr(proof), method == "client_secret_basic", method == "client_secret_post") == (
        False, ways[0], ways[1]
    )  # fmt: skip
