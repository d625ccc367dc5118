"""Which keys of a published set may verify a token."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.access.jwks import read_key_set

from .idp import b64, ec_key, ed_key, jwk, rsa_key

ALLOWED = ("RS256", "PS256", "ES256", "EdDSA")
RSA = jwk(rsa_key("one"), "k")
EC = jwk(ec_key("one"), "k")
ED = jwk(ed_key("one"), "k")

KEYS: dict[str, tuple[list[Any], set[str] | None]] = {
    "an RSA key": ([RSA], {"RS256", "PS256"}),
    "an RSA key with its algorithm": ([RSA | {"alg": "RS256"}], {"RS256"}),
    "an EC key": ([EC], {"ES256"}),
    "an Ed25519 key": ([ED], {"EdDSA"}),
    "a key for signatures": ([RSA | {"use": "sig", "key_ops": ["verify"]}], {"RS256", "PS256"}),
    "a key without an id": ([jwk(rsa_key("one"))], {"RS256", "PS256"}),
    "a key for encryption": ([RSA | {"use": "enc"}], None),
    "a key for other operations": ([RSA | {"key_ops": ["encrypt"]}], None),
    "operations that are no list": ([RSA | {"key_ops": "verify"}], None),
    "a shared secret": ([{"kty": "oct", "k": b64(b"x" * 32), "kid": "k"}], None),
    "a shared secret that says RSA": ([RSA | {"k": "AAAA"}], None),
    "a private key": ([RSA | {"d": "AAAA"}], None),
    "an algorithm that is not configured": ([RSA | {"alg": "RS512"}], None),
    "an algorithm of another type": ([RSA | {"alg": "ES256"}], None),
    "an algorithm HS256": ([RSA | {"alg": "HS256"}], None),
    "an algorithm that is a list": ([RSA | {"alg": ["RS256"]}], None),
    "RSA of 1024 bits": ([jwk(rsa_key("weak", 1024), "k")], None),
    "an exponent of 1": ([RSA | {"e": b64(b"\x01")}], None),
    "an exponent of 3": ([RSA | {"e": b64(b"\x03")}], None),
    "an even exponent": ([RSA | {"e": b64(b"\x01\x00\x00")}], None),
    "a huge exponent": ([RSA | {"e": b64(b"\x01" + b"\x00" * 7 + b"\x01")}], None),
    "a huge modulus": ([RSA | {"n": b64(b"\xff" * 4096)}], None),
    "a modulus of 0": ([RSA | {"n": ""}], None),
    "a point off the curve": ([EC | {"x": b64(b"\x01" * 32)}], None),
    "a point at nowhere": ([EC | {"x": b64(b"\x00" * 32), "y": b64(b"\x00" * 32)}], None),
    "a curve that is not configured": ([jwk(ec_key("big", "P-384"), "k")], None),
    "a curve nobody knows": ([EC | {"crv": "P-0"}], None),
    "a curve that is a list": ([EC | {"crv": ["P-256"]}], None),
    "Ed25519, cut short": ([ED | {"x": "AAAA"}], None),
    "X25519": ([ED | {"crv": "X25519"}], None),
    "a type that is missing": ([{"kid": "k"}], None),
    "a type that is a list": ([RSA | {"kty": ["RSA"]}], None),
    "a member that is a number": ([RSA | {"n": 7}], None),
    "an id that is a number": ([RSA | {"kid": 7}], None),
    "an id that is empty": ([RSA | {"kid": ""}], None),
    "an id that is long": ([RSA | {"kid": "k" * 201}], None),
    "two keys with one id": ([RSA, jwk(rsa_key("two"), "k")], None),
    "a weak key with the id of a good one": ([RSA, {"kty": "oct", "k": "AAAA", "kid": "k"}], None),
    "no object": (["key", None, 7, []], None),
    "nothing": ([], None),
}


@pytest.mark.parametrize(("keys", "expected"), KEYS.values(), ids=KEYS)
def test_takes_only_strong_public_keys_for_signatures(keys: list[Any], expected: set[str] | None) -> None:
    """
    Whatever else a set holds is ignored; what is taken verifies only its own algorithms.
    """
    found = read_key_set({"keys": keys}, ALLOWED)

    assert ([] if expected is None else [expected]) == [set(key.algorithms) for key in found]


def test_takes_the_good_keys_of_a_bad_set() -> None:
    """
    A bad key does not spoil the others.
    """
    found = read_key_set({"keys": [None, RSA | {"kid": "bad", "use": "enc"}, RSA, EC | {"kid": "e"}]}, ALLOWED)

    assert ["k", "e"] == [key.kid for key in found]


@pytest.mark.parametrize("document", [{}, {"keys": {}}, {"keys": None}, {"keys": "x"}, {"keys": [RSA] * 101}])
def test_refuses_what_is_no_key_set(document: dict[str, Any]) -> None:
    """
    A document without a list of keys, or with too many, is an error.
    """
    with pytest.raises(ValueError, match="not a key set"):
        read_key_set(document, ALLOWED)


def test_publishes_public_members_only() -> None:
    """
    What is published again has type, id, use, algorithm and the public numbers, nothing else.
    """
    (key,) = read_key_set({"keys": [RSA | {"x5u": "https://elsewhere.example", "name": "x"}]}, ALLOWED)

    assert {"kty": "RSA", "kid": "k", "n": RSA["n"], "e": RSA["e"], "use": "sig", "alg": "RS256"} == key.jwk
