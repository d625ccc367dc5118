"""A JSON Web Token taken apart. The hostile forms are in the table of test_issuers.py."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access.tokens import MAX_TOKEN_CHARS, TokenRefused, take_apart

from .idp import b64


def spell(header: str, payload: str, signature: str = "sig!") -> str:
    """A token of these parts."""
    return ".".join(b64(part.encode()) for part in (header, payload, signature))


def test_takes_apart_what_is_signed() -> None:
    """
    The signature covers the first two parts as they were spelled.
    """
    token = spell('{"alg":"ES256","kid":"k","typ":"AT+JWT"}', '{"sub":"alice"}')
    parts = take_apart(token)

    assert ("ES256", "k", True) == (parts.algorithm, parts.kid, parts.is_access_token)
    assert {"sub": "alice"} == parts.claims
    assert token.rpartition(".")[0].encode() == parts.signed
    assert b"sig!" == parts.signature


def test_keeps_claims_and_signature_out_of_its_repr() -> None:
    """
    A logged token tells its algorithm and key id, nothing that could be used.
    """
    text = repr(take_apart(spell('{"alg":"ES256"}', '{"sub":"alice"}')))

    assert "alice" not in text
    assert "sig" not in text.replace("signed", "").replace("signature", "")


@given(st.text(st.sampled_from("abcAB01-_.={}é\n "), max_size=60))
def test_anything_else_is_refused(text: str) -> None:
    """
    Whatever a stranger sends, the outcome is `TokenRefused`.
    """
    with pytest.raises(TokenRefused):
        take_apart(text)


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_header_and_payload_are_read_or_refused(header: str, payload: str) -> None:
    """
    Rightly spelled parts of anything never fail otherwise.
    """
    for token in (spell(header, payload), spell('{"alg":"RS256"}', payload), spell(header, "{}")):
        try:
            take_apart(token)
        except TokenRefused as exc:
            assert len(str(exc)) < 60


def test_length_is_judged_before_anything_is_decoded() -> None:
    """
    The longest token is read, one character more is not.
    """
    fitting = spell('{"alg":"RS256"}', "{}", "x")
    room = MAX_TOKEN_CHARS - len(fitting)
    longest = spell('{"alg":"RS256"}', "{}", "x" + "x" * (room * 3 // 4))
    assert len(longest) <= MAX_TOKEN_CHARS
    take_apart(longest)
    with pytest.raises(TokenRefused, match="too long"):
        take_apart(longest + "A" * (MAX_TOKEN_CHARS + 1 - len(longest)))
