"""Who a JSON Web Token says is calling: a table of tokens, good and hostile, each against a running issuer."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
import structlog
from cryptography.hazmat.primitives import serialization

from gateway.access.issuers import Issuer, Issuers
from gateway.errors import CallerScopeMissing, CallerUnauthenticated, Refusal
from gateway.net.client import OutboundClient

from .idp import AUDIENCE, NOW, Clock, Idp, b64, compact, ec_key, ed_key, jwk, rsa_key, running

NOBODY = CallerUnauthenticated
RS = {"alg": "RS256", "kid": "k1"}
ES = {"alg": "ES256", "kid": "e1"}

Make = Callable[[Idp], str]


def header(**changes: Any) -> Make:
    """A good token whose header has *changes*; `...` leaves a member out."""
    members = {name: value for name, value in (RS | changes).items() if value is not ...}
    return lambda idp: compact(members, idp.claims(), key=rsa_key("one"))


def claims(**changes: Any) -> Make:
    """A good token whose claims have *changes*; `...` leaves a claim out."""
    return lambda idp: compact(RS, idp.claims(**changes), key=rsa_key("one"))


def typed(typ: str, **changes: Any) -> Make:
    """A good token of type *typ* whose claims have *changes*."""
    return lambda idp: compact(RS | {"typ": typ}, idp.claims(**changes), key=rsa_key("one"))


def payload(change: Callable[[str], str | bytes]) -> Make:
    """A token, rightly signed, over what *change* makes of the JSON of good claims."""
    return lambda idp: compact(RS, change(json.dumps(idp.claims())), key=rsa_key("one"))


def spelled(change: Callable[[str], str]) -> Make:
    """What *change* makes of a good token's text."""
    return lambda idp: change(compact(RS, idp.claims(), key=rsa_key("one")))


def _unsigned(idp: Idp, algorithm: str) -> str:
    return f"{b64(json.dumps({'alg': algorithm, 'kid': 'k1'}).encode())}.{b64(json.dumps(idp.claims()).encode())}."


def _hs256_with_public_key(idp: Idp) -> str:
    pem = (
        rsa_key("one")
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    signed = f"{b64(json.dumps({'alg': 'HS256', 'kid': 'k1'}).encode())}.{b64(json.dumps(idp.claims()).encode())}"
    return f"{signed}.{b64(hmac.digest(pem, signed.encode(), 'sha256'))}"


def _resigned(signature: bytes, algorithm: dict[str, str] = ES) -> Make:
    return lambda idp: (
        f"{b64(json.dumps(algorithm).encode())}.{b64(json.dumps(idp.claims()).encode())}.{b64(signature)}"
    )


def _claims_of_another(idp: Idp) -> str:
    good = compact(RS, idp.claims(), key=rsa_key("one")).split(".")
    return f"{good[0]}.{b64(json.dumps(idp.claims(sub='bob')).encode())}.{good[2]}"


def _stray_bits(token: str) -> str:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return (
        token[:-1] + alphabet[alphabet.index(token[-1]) + 1]
    )  # 256 bytes leave 4 stray bits: the next letter is theirs


TOKENS: dict[str, tuple[Make, str | type[Refusal] | None]] = {
    # the good ones
    "a good token": (claims(), "alice"),
    "typ JWT": (header(typ="JWT"), "alice"),
    "typ at+jwt": (header(typ="at+jwt"), "alice"),
    "typ application/at+jwt in another case": (header(typ="application/AT+JWT"), "alice"),
    "ES256": (lambda idp: compact(ES, idp.claims(), key=ec_key("one"), alg="ES256"), "alice"),
    "EdDSA": (
        lambda idp: compact({"alg": "EdDSA", "kid": "d1"}, idp.claims(), key=ed_key("one"), alg="EdDSA"),
        "alice",
    ),
    "aud in a list": (claims(aud=["x", AUDIENCE]), "alice"),
    "exp with a fraction": (claims(exp=NOW + 1.5), "alice"),
    "exp in thirty days": (claims(exp=NOW + 30 * 86_400), "alice"),
    "no iat": (claims(iat=...), "alice"),
    "iat within the leeway": (claims(iat=NOW + 59), "alice"),
    "nbf within the leeway": (claims(nbf=NOW + 59), "alice"),
    "scopes in a list": (claims(scope=["outbound.token.fetch", "x"]), "alice"),
    "several scopes": (claims(scope="a outbound.token.fetch b"), "alice"),
    "sub with separators": (claims(sub="a:b/c|d e"), "a:b/c|d e"),
    "sub not folded": (claims(sub="ALICE "), "ALICE "),
    "sub is the client": (claims(sub="job", azp="job"), None),
    "at+jwt with a nonce": (typed("at+jwt", nonce="n"), "alice"),
    "a Descope session": (claims(drn="DS"), "alice"),
    "jwk, jku, x5u and x5c in the header, ignored": (
        header(jwk=jwk(rsa_key("evil"), "k1"), jku="http://127.0.0.1:1/", x5u="http://127.0.0.1:1/", x5c=["AAAA"]),
        "alice",
    ),
    # B1: algorithms and keys
    "alg none": (lambda idp: _unsigned(idp, "none"), NOBODY),
    "alg nOnE": (lambda idp: _unsigned(idp, "nOnE"), NOBODY),
    "alg none with a signature": (header(alg="none"), NOBODY),
    "alg empty": (header(alg=""), NOBODY),
    "no alg": (header(alg=...), NOBODY),
    "alg null": (header(alg=None), NOBODY),
    "alg a list": (header(alg=["RS256"]), NOBODY),
    "alg in another case": (header(alg="rs256"), NOBODY),
    "HS256 with the public key as secret": (_hs256_with_public_key, NOBODY),
    "RS512, not configured": (
        lambda idp: compact(RS | {"alg": "RS512"}, idp.claims(), key=rsa_key("one"), alg="RS512"),
        NOBODY,
    ),
    "PS256, not configured": (
        lambda idp: compact(RS | {"alg": "PS256"}, idp.claims(), key=rsa_key("one"), alg="PS256"),
        NOBODY,
    ),
    "says ES256, key is RSA": (header(alg="ES256"), NOBODY),
    "says RS256, key is EC": (lambda idp: compact(RS | {"kid": "e1"}, idp.claims(), key=rsa_key("one")), NOBODY),
    "says EdDSA, key is EC": (header(alg="EdDSA", kid="e1"), NOBODY),
    "another key's signature": (lambda idp: compact(RS, idp.claims(), key=rsa_key("evil")), NOBODY),
    "claims changed after signing": (_claims_of_another, NOBODY),
    "ES256 with r = s = 0": (_resigned(b"\0" * 64), NOBODY),
    "ES256 with a short signature": (_resigned(b"\1" * 10), NOBODY),
    "RS256 with a short signature": (_resigned(b"\1" * 10, RS), NOBODY),
    "no signature": (spelled(lambda token: token.rpartition(".")[0] + "."), NOBODY),
    # B2: a token that brings its own key
    "its own jwk": (
        lambda idp: compact(RS | {"jwk": jwk(rsa_key("evil"), "k1")}, idp.claims(), key=rsa_key("evil")),
        NOBODY,
    ),
    "its own jku": (
        lambda idp: compact(RS | {"kid": "evil", "jku": idp.url + "/evil"}, idp.claims(), key=rsa_key("evil")),
        NOBODY,
    ),
    # B3: key ids
    "kid of nobody": (header(kid="k9"), NOBODY),
    "kid a path": (header(kid="../../../dev/null"), NOBODY),
    "kid with SQL": (header(kid="k1' OR '1'='1"), NOBODY),
    "kid with NUL": (header(kid="k1\0"), NOBODY),
    "kid empty": (header(kid=""), NOBODY),
    "kid null": (header(kid=None), NOBODY),
    "kid a number": (header(kid=1), NOBODY),
    "kid a list": (header(kid=["k1"]), NOBODY),
    "kid too long": (header(kid="k" * 201), NOBODY),
    "no kid, several keys": (header(kid=...), "alice"),  # one key only fits RS256
    # B9: form
    "nothing": (lambda _: "", NOBODY),
    "dots": (lambda _: "..", NOBODY),
    "one part": (lambda _: "eyJhbGciOiJSUzI1NiJ9", NOBODY),
    "four parts": (spelled(lambda token: token + ".AAAA"), NOBODY),
    "five parts, as a JWE": (spelled(lambda token: token + ".AAAA.AAAA"), NOBODY),
    "padding": (spelled(lambda token: token + "=="), NOBODY),
    "a space before": (spelled(lambda token: " " + token), NOBODY),
    "a line feed after": (spelled(lambda token: token + "\n"), NOBODY),
    "a NUL after": (spelled(lambda token: token + "\0"), NOBODY),
    "the other base64 alphabet": (spelled(lambda token: token.replace("_", "/").replace("-", "+") + "+"), NOBODY),
    "stray bits in the signature": (spelled(_stray_bits), NOBODY),
    "a letter outside of ASCII": (spelled(lambda token: token + "é"), NOBODY),
    "a surrogate": (spelled(lambda token: token + "\udcff"), NOBODY),
    "longer than 8 KiB": (claims(x="y" * 9000), NOBODY),
    "a megabyte": (lambda _: "A" * 1_000_000, NOBODY),
    "crit": (header(crit=["exp"]), NOBODY),
    "crit with b64 false": (header(crit=["b64"], b64=False), NOBODY),
    "b64 alone": (header(b64=True), NOBODY),
    "zip": (header(zip="DEF"), NOBODY),
    "cty JWT": (header(cty="JWT"), NOBODY),
    "header a list": (lambda idp: compact([], idp.claims(), key=rsa_key("one")), NOBODY),
    "header with alg twice": (
        lambda idp: compact('{"alg":"RS256","kid":"k1","alg":"none"}', idp.claims(), key=rsa_key("one")),
        NOBODY,
    ),
    "payload a string": (payload(lambda _: '"alice"'), NOBODY),
    "payload empty": (payload(lambda _: ""), NOBODY),
    "payload with sub twice": (payload(lambda text: text[:-1] + ',"sub":"root"}'), NOBODY),
    "payload with sub twice, one escaped": (payload(lambda text: text[:-1] + ',"s\\u0075b":"root"}'), NOBODY),
    "payload with a member twice inside": (payload(lambda text: text[:-1] + ',"x":{"a":1,"a":2}}'), NOBODY),
    "payload with a byte order mark": (payload(lambda text: "\ufeff" + text), NOBODY),
    "payload in UTF-16": (payload(lambda text: text.encode("utf-16")), NOBODY),
    "payload with NaN": (payload(lambda text: text[:-1] + ',"x":NaN}'), NOBODY),
    "payload nested deeply": (payload(lambda text: text[:-1] + ',"x":' + "[" * 2500 + "]" * 2500 + "}"), NOBODY),
    # B4: audience
    "no aud": (claims(aud=...), NOBODY),
    "aud null": (claims(aud=None), NOBODY),
    "aud of another": (claims(aud="https://other.example.com"), NOBODY),
    "aud a part of ours": (claims(aud=AUDIENCE[:-1]), NOBODY),
    "aud ours and more": (claims(aud=AUDIENCE + "/"), NOBODY),
    "aud in another case": (claims(aud=AUDIENCE.upper()), NOBODY),
    "aud an empty list": (claims(aud=[]), NOBODY),
    "aud a list in a list": (claims(aud=[[AUDIENCE]]), NOBODY),
    "aud a list with a number": (claims(aud=[AUDIENCE, 7]), NOBODY),
    "aud an object": (claims(aud={AUDIENCE: True}), NOBODY),
    "aud two in one string": (claims(aud=f"x {AUDIENCE}"), NOBODY),
    # B5: issuer
    "no iss": (claims(iss=...), NOBODY),
    "iss of another": (claims(iss="https://evil.example.com"), NOBODY),
    "iss with a slash more": (lambda idp: compact(RS, idp.claims(iss=idp.url + "/"), key=rsa_key("one")), NOBODY),
    "iss cut short": (lambda idp: compact(RS, idp.claims(iss=idp.url[:-1]), key=rsa_key("one")), NOBODY),
    "iss a list": (lambda idp: compact(RS, idp.claims(iss=[idp.url]), key=rsa_key("one")), NOBODY),
    "iss an object": (claims(iss={}), NOBODY),
    # B6, B7: other kinds of token
    "typ logout+jwt": (header(typ="logout+jwt"), NOBODY),
    "typ dpop+jwt": (header(typ="dpop+jwt"), NOBODY),
    "typ secevent+jwt": (header(typ="secevent+jwt"), NOBODY),
    "typ JOSE+JSON": (header(typ="JOSE+JSON"), NOBODY),
    "typ empty": (header(typ=""), NOBODY),
    "typ a number": (header(typ=1), NOBODY),
    "typ null": (header(typ=None), NOBODY),
    "an ID token with a nonce": (claims(nonce="n"), NOBODY),
    "an ID token with at_hash": (claims(at_hash="h"), NOBODY),
    "an ID token with c_hash": (claims(c_hash="h"), NOBODY),
    "a Descope refresh token": (claims(drn="DSR"), NOBODY),
    "a Cognito ID token": (claims(token_use="id"), NOBODY),
    "a Keycloak refresh token": (claims(typ="Refresh"), NOBODY),
    "a Keycloak ID token": (claims(typ="ID"), NOBODY),
    "a logout token": (claims(events={"http://schemas.openid.net/event/backchannel-logout": {}}), NOBODY),
    "a DPoP proof": (claims(htm="GET", htu="https://x"), NOBODY),
    "bound to a DPoP key": (claims(cnf={"jkt": "x"}), NOBODY),
    "bound to a certificate": (claims(cnf={"x5t#S256": "x"}), NOBODY),
    "bound to nothing, but says so": (claims(cnf=None), NOBODY),
    # B8: times
    "no exp": (claims(exp=...), NOBODY),
    "exp null": (claims(exp=None), NOBODY),
    "exp now": (claims(exp=NOW), NOBODY),
    "exp within the leeway": (claims(exp=NOW - 1), NOBODY),
    "exp long ago": (claims(exp=1), NOBODY),
    "exp negative": (claims(exp=-1), NOBODY),
    "exp a string": (claims(exp=str(NOW + 600)), NOBODY),
    "exp true": (claims(exp=True), NOBODY),
    "exp a list": (claims(exp=[NOW + 600]), NOBODY),
    "exp in ten years": (claims(exp=NOW + 315_360_000), NOBODY),
    "exp in milliseconds": (claims(exp=(NOW + 600) * 1000), NOBODY),
    "exp with 300 digits": (claims(exp=10**300), NOBODY),
    "exp with 400 digits": (claims(exp=10**400), NOBODY),
    "exp 1e400": (payload(lambda text: text.replace(str(NOW + 600), "1e400")), NOBODY),
    "exp NaN": (payload(lambda text: text.replace(str(NOW + 600), "NaN")), NOBODY),
    "nbf ahead": (claims(nbf=NOW + 61), NOBODY),
    "nbf a string": (claims(nbf="0"), NOBODY),
    "nbf null": (claims(nbf=None), NOBODY),
    "iat ahead": (claims(iat=NOW + 61), NOBODY),
    "iat a string": (claims(iat="now"), NOBODY),
    "iat infinite": (payload(lambda text: text.replace(str(NOW - 5), "Infinity")), NOBODY),
    # names
    "no sub": (claims(sub=...), NOBODY),
    "sub empty": (claims(sub=""), NOBODY),
    "sub null": (claims(sub=None), NOBODY),
    "sub a number": (claims(sub=7), NOBODY),
    "sub a list": (claims(sub=["alice"]), NOBODY),
    "sub with a line feed": (claims(sub="alice\nroot"), NOBODY),
    "sub with NUL": (claims(sub="alice\0"), NOBODY),
    "sub half a surrogate pair": (claims(sub="\ud800"), NOBODY),
    "sub too long": (claims(sub="a" * 513), NOBODY),
    "client a number": (claims(azp=7), NOBODY),
    "roles an object": (claims(roles={"admin": True}), NOBODY),
    "roles with a number": (claims(roles=["a", 1]), NOBODY),
    "permissions a number": (claims(permissions=1), NOBODY),
    "tenants a number": (claims(tenants=1), NOBODY),
    "tenants with an empty one": (claims(tenants=[""]), NOBODY),
    "tenant a list": (claims(dct=["a"]), NOBODY),
    # B19: scope
    "no scope": (claims(scope=...), CallerScopeMissing),
    "scope empty": (claims(scope=""), CallerScopeMissing),
    "another scope": (claims(scope="openid"), CallerScopeMissing),
    "scope a part of it": (claims(scope="outbound.token"), CallerScopeMissing),
    "scope it and more": (claims(scope="outbound.token.fetch.all"), CallerScopeMissing),
    "scope in another case": (claims(scope="Outbound.Token.Fetch"), CallerScopeMissing),
    "scope with a comma": (claims(scope="a,outbound.token.fetch"), CallerScopeMissing),
    "scope an object": (claims(scope={"outbound.token.fetch": True}), CallerScopeMissing),
    "scope a list in a list": (claims(scope=[["outbound.token.fetch"]]), CallerScopeMissing),
}


@pytest.fixture
def issuer(idp: Idp) -> Issuer:
    """The running issuer's configuration; its set has a key of each type."""
    idp.keys = [jwk(rsa_key("one"), "k1"), jwk(ec_key("one"), "e1"), jwk(ed_key("one"), "d1")]
    return Issuer(issuer=idp.url, audience=("urn:other", AUDIENCE), jwks_uri=f"{idp.url}/keys")


@pytest.fixture
async def issuers(client: OutboundClient, issuer: Issuer, clock: Clock, monotonic: Clock) -> AsyncIterator[Issuers]:
    """The running issuer, trusted."""
    issuers = Issuers([issuer], client, clock=clock, monotonic=monotonic)
    yield issuers
    await issuers.close()


@pytest.mark.parametrize(("make", "expected"), TOKENS.values(), ids=TOKENS)
async def test_verifies(issuers: Issuers, idp: Idp, make: Make, expected: str | type[Refusal] | None) -> None:
    """
    Each token names its user, or is refused with one and the same sentence; no address in a token is ever called.
    """
    token = make(idp)
    with structlog.testing.capture_logs() as logs:
        if isinstance(expected, type):
            with pytest.raises(expected) as caught:
                await issuers.verify(token)
            assert expected.detail_default == caught.value.detail
            assert caught.value.__cause__ is None
            assert caught.value.__context__ is None
        else:
            assert expected == (await issuers.verify(token)).caller.user

    assert {"/keys"} >= set(idp.hits)
    parts = [part for part in token.split(".") if len(part) > 3]
    assert not [part for part in [*parts, "alice"] if part in repr(logs)]


async def test_maps_claims_to_the_caller(issuers: Issuers, idp: Idp) -> None:
    """
    Client, roles, permissions, scopes, the current tenant and Descope's tenants object reach the caller.
    """
    token = claims(
        azp="mail-agent",
        roles=["sales", "sales"],
        permissions="read",
        dct="acme",
        tenants={"acme": {"roles": ["admin"]}, "other": {}},
        scope="outbound.token.fetch openid",
    )(idp)
    caller = (await issuers.verify(token)).caller

    assert ("jwt", "alice", "mail-agent", "acme") == (caller.kind, caller.user, caller.client, caller.tenant)
    assert {"acme", "other"} == caller.tenants
    assert {"sales"} == caller.roles  # a tenant's roles are not the caller's everywhere
    assert {"read"} == caller.permissions
    assert {"outbound.token.fetch", "openid"} == caller.scopes
    assert (NOW + 600, idp.url, None) == (caller.expires_at, caller.issuer, caller.key_id)


async def test_asks_for_no_scope_when_none_is_required(
    client: OutboundClient, issuer: Issuer, idp: Idp, clock: Clock, monotonic: Clock
) -> None:
    """
    With `required_scope: null` a token without scopes is a caller.
    """
    issuers = Issuers([replace(issuer, required_scope=None)], client, clock=clock, monotonic=monotonic)
    assert frozenset() == (await issuers.verify(claims(scope=...)(idp))).caller.scopes


async def test_same_sub_of_two_issuers_is_two_users(
    client: OutboundClient, issuer: Issuer, idp: Idp, clock: Clock, monotonic: Clock
) -> None:
    """
    The second issuer's users carry its prefix, and nobody of the first gets in among them by a name (threats D2).
    """
    async with running(Idp(keys=[jwk(rsa_key("two"), "k1")])) as second:
        other = Issuer(issuer=second.url, audience=(AUDIENCE,), jwks_uri=f"{second.url}/keys", user_prefix="second:")
        issuers = Issuers([issuer, other], client, clock=clock, monotonic=monotonic)

        assert "alice" == (await issuers.verify(claims()(idp))).caller.user
        assert "second:alice" == (await issuers.verify(compact(RS, second.claims(), key=rsa_key("two")))).caller.user
        for foreign in (
            claims(sub="second:alice")(idp),
            compact(RS, second.claims(), key=rsa_key("one")),
            compact(RS, idp.claims(), key=rsa_key("two")),
        ):
            with pytest.raises(CallerUnauthenticated):
                await issuers.verify(foreign)
        assert 3 + 1 == len(await issuers.public_keys())
        await issuers.close()


CONFIGURATIONS = {
    "an algorithm that is none": ([{"algorithms": ("none",)}], "algorithms"),
    "a shared-secret algorithm": ([{"algorithms": ("RS256", "HS256")}], "algorithms"),
    "no algorithm": ([{"algorithms": ()}], "algorithms"),
    "one issuer twice": ([{}, {"user_prefix": "b:"}], "each issuer once"),
    "two issuers without prefix": ([{}, {"issuer": "https://b.example"}], "user_prefix"),
    "two issuers with one prefix": (
        [{"user_prefix": "a:"}, {"issuer": "https://b.example", "user_prefix": "a:"}],
        "user_prefix",
    ),
    "a prefix that begins with another": (
        [{"user_prefix": "a:"}, {"issuer": "https://b.example", "user_prefix": "a:b:"}],
        "user_prefix",
    ),
}


@pytest.mark.parametrize(("changes", "expected"), CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_refuses_issuers_that_cannot_be_told_apart(
    client: OutboundClient, changes: list[dict[str, Any]], expected: str, clock: Clock
) -> None:
    """
    Algorithms are asymmetric, and every issuer has its own part of the users' namespace.
    """
    base = Issuer(issuer="https://a.example", audience=(AUDIENCE,))
    with pytest.raises(ValueError, match=expected):
        Issuers([replace(base, **change) for change in changes], client, clock=clock, monotonic=clock)


async def test_junk_costs_no_fetch(issuers: Issuers, idp: Idp) -> None:
    """
    What is refused without a key does not lead to the issuer.
    """
    for make in (header(alg="none"), claims(exp=1), claims(aud="x"), claims(iss="x"), header(typ="x")):
        with pytest.raises(CallerUnauthenticated):
            await issuers.verify(make(idp))

    assert [] == idp.hits


async def test_flood_of_unknown_kids_costs_two_fetches(issuers: Issuers, idp: Idp, monotonic: Clock) -> None:
    """
    A thousand tokens with made-up key ids, many at once, lead to one fetch beyond the first (threats B11).
    """
    await issuers.verify(claims()(idp))
    monotonic.now += 31
    template = claims()(idp).split(".")
    flood = [
        f"{b64(json.dumps({'alg': 'RS256', 'kid': f'x{number}'}).encode())}.{template[1]}.{template[2]}"
        for number in range(1000)
    ]
    results = await asyncio.gather(*map(issuers.verify, flood), return_exceptions=True)

    assert {CallerUnauthenticated} == {type(result) for result in results}
    assert 2 == idp.fetches
    assert "alice" == (await issuers.verify(claims()(idp))).caller.user


def test_table_is_long_enough() -> None:
    """
    At least sixty hostile tokens are tried.
    """
    assert 60 <= sum(isinstance(expected, type) for _, expected in TOKENS.values())
    assert base64.urlsafe_b64encode(b"\xff") == b"_w=="  # the alphabet that these tests spell tokens in
