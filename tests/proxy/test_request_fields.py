"""Which fields of a request cross the gateway."""

from __future__ import annotations

import pytest

from gateway.errors import AmbiguousCredential, FieldsTooLarge, InvalidRequest, LoopDetected, Refusal
from gateway.models import CredentialPlace, Injection, Origin, Route
from gateway.proxy.answers import NAME
from gateway.proxy.request_fields import RequestRules

Fields = tuple[tuple[bytes, bytes], ...]

ROUTE = Route(
    name="api",
    prefix="/api",
    origin=Origin("https", "api.example.com", 443),
    connection="c",
    credential=CredentialPlace("header", "X-Caller-Key"),
    inject=Injection(name="X-Api-Key", format="{token}"),
)


def read(*fields: tuple[bytes, bytes]) -> bytes:
    """Return what of *fields* is sent on."""
    return b"".join(RequestRules(ROUTE, via=NAME).read(fields).lines)


ENDS_HERE: dict[str, Fields] = {
    "Authorization": ((b"Authorization", b"Bearer x"),),
    "Proxy-Authorization": ((b"Proxy-Authorization", b"Basic x"),),
    "Proxy-Connection": ((b"Proxy-Connection", b"keep-alive"),),
    "any Proxy field": ((b"Proxy-Features", b"x"),),
    "Cookie": ((b"Cookie", b"a=b"), (b"COOKIE", b"c=d")),
    "the route's own credential": ((b"x-caller-key", b"x"),),
    "the injected field": ((b"x-API-key", b"mine"), (b"X-Api-Key", b"again")),
    "Gateway fields": ((b"Gateway-Authorization", b"x"), (b"Gateway-User", b"x"), (b"Gateway-Whatever", b"x")),
    "Connection": ((b"Connection", b"keep-alive"),),
    "what Connection names": ((b"X-Hop", b"1"), (b"Connection", b"close, X-HOP"), (b"x-hop", b"2")),
    "what a second Connection names": ((b"Connection", b"a"), (b"Connection", b"B"), (b"A", b"1"), (b"b", b"2")),
    "Connection naming nothing": ((b"Connection", b", ,"),),
    "Keep-Alive": ((b"Keep-Alive", b"timeout=5"),),
    "TE": ((b"TE", b"trailers"),),
    "Trailer": ((b"Trailer", b"X-T"),),
    "Upgrade": ((b"Upgrade", b"h2c"), (b"HTTP2-Settings", b"x"), (b"Connection", b"Upgrade, HTTP2-Settings")),
    "Forwarded": ((b"Forwarded", b"for=1.2.3.4"),),
    "X-Forwarded-*": ((b"X-Forwarded-For", b"1"), (b"X-Forwarded-Host", b"h"), (b"x-forwarded-anything", b"x")),
    "other claims about the peer": ((b"X-Real-IP", b"1"), (b"True-Client-IP", b"1"), (b"X-Original-URL", b"/")),
    "Host": ((b"Host", b"gateway.test"),),
    "framing": ((b"Content-Length", b"5"),),
    "chunked": ((b"Transfer-Encoding", b"Chunked"),),
    "Expect": ((b"Expect", b"100-Continue"),),
    "traceparent": ((b"traceparent", b"00-x"),),
}


@pytest.mark.parametrize("case", ENDS_HERE)
def test_field_of_this_hop_ends_here(case: str) -> None:
    """
    Credentials, hop-by-hop fields, framing and claims about this hop are not sent on; what stands beside them is.
    """
    assert b"Accept: */*\r\n" == read(*ENDS_HERE[case], (b"Accept", b"*/*"))


def test_other_fields_cross_as_they_came() -> None:
    """
    Every other field crosses in its order and spelling, doubled ones too.
    """
    fields = (
        (b"X-A", b"1"),
        (b"x-a", b"2"),
        (b"Content-Encoding", b"gzip"),
        (b"Via", b"1.1 other"),
        (b"X-Utf8", b"\xc3\xa9"),
    )

    assert b"X-A: 1\r\nx-a: 2\r\nContent-Encoding: gzip\r\nVia: 1.1 other\r\nX-Utf8: \xc3\xa9\r\n" == read(*fields)


REFUSED: dict[str, tuple[Fields, type[Refusal]]] = {
    "an underscore": (((b"X_User", b"1"),), InvalidRequest),
    "an underscore in a credential": (((b"Gateway_User", b"1"),), InvalidRequest),
    "a method override": (((b"X-HTTP-Method-Override", b"DELETE"),), InvalidRequest),
    "another method override": (((b"x-method-override", b"DELETE"),), InvalidRequest),
    "Content-Length twice": (((b"Content-Length", b"5"), (b"Content-Length", b"5")), InvalidRequest),
    "Content-Length as a list": (((b"Content-Length", b"5, 5"),), InvalidRequest),
    "Content-Length with a sign": (((b"Content-Length", b"-5"),), InvalidRequest),
    "Content-Length with other digits": (((b"Content-Length", "\u0665".encode()),), InvalidRequest),
    "Content-Length that is empty": (((b"Content-Length", b""),), InvalidRequest),
    "both framings": (((b"Content-Length", b"5"), (b"Transfer-Encoding", b"chunked")), InvalidRequest),
    "chunked twice": (((b"Transfer-Encoding", b"chunked"), (b"Transfer-Encoding", b"chunked")), InvalidRequest),
    "another coding": (((b"Transfer-Encoding", b"gzip, chunked"),), InvalidRequest),
    "no coding": (((b"Transfer-Encoding", b""),), InvalidRequest),
    "a quoted coding": (((b"Transfer-Encoding", b'"chunked"'),), InvalidRequest),
    "another expectation": (((b"Expect", b"x"),), InvalidRequest),
    "Host twice": (((b"Host", b"a"), (b"Host", b"a")), InvalidRequest),
    "Connection naming the framing": (((b"Connection", b"Content-Length"),), InvalidRequest),
    "Connection naming the coding": (((b"Connection", b"close, transfer-encoding"),), InvalidRequest),
    "Connection naming Host": (((b"Connection", b"host"),), InvalidRequest),
    "Authorization twice": (((b"Authorization", b"a"), (b"authorization", b"a")), AmbiguousCredential),
    "the route's credential twice": (((b"X-Caller-Key", b"a"), (b"x-caller-key", b"b")), AmbiguousCredential),
    "Gateway-Authorization twice": (((b"Gateway-Authorization", b"a"),) * 2, AmbiguousCredential),
    "Gateway-User twice": (((b"Gateway-User", b"a"),) * 2, AmbiguousCredential),
    "Gateway-Tenant twice": (((b"Gateway-Tenant", b"a"),) * 2, AmbiguousCredential),
    "Gateway-Account twice": (((b"Gateway-Account", b"a"),) * 2, AmbiguousCredential),
    "a credential that is no text": (((b"Authorization", b"Bearer \xff"),), InvalidRequest),
    "an own Via": (((b"Via", b"1.1 other, 1.1 " + NAME.encode()),), LoopDetected),
    "40 KB of fields": (tuple((b"X-%d" % number, b"v" * 4000) for number in range(10)), FieldsTooLarge),
}


@pytest.mark.parametrize("case", REFUSED)
def test_field_that_reads_in_two_ways_is_refused(case: str) -> None:
    """
    Framing, credentials and names that two servers may read differently are refused.
    """
    fields, refusal = REFUSED[case]

    with pytest.raises(refusal):
        read(*fields)


NOMINATIONS = (b"X-Api-Key", b"Authorization", b"X-Caller-Key", b"Gateway-User", b"Via", b"traceparent", b"Expect")


@pytest.mark.parametrize("name", NOMINATIONS)
def test_nominating_a_field_of_ours_changes_nothing(name: bytes) -> None:
    """
    Connection cannot make the gateway forget a credential that it reads.
    """
    fields = ((b"Connection", name), (b"X-Caller-Key", b"key"), (b"Gateway-User", b"ada"), (b"Accept", b"*/*"))
    found = RequestRules(ROUTE, via=NAME).read(fields)

    assert ("key", "ada", [b"Accept: */*\r\n"]) == (found.credential, found.user, found.lines)


def test_memo_of_names_is_bounded() -> None:
    """
    A caller who invents names does not make the gateway remember them all.
    """
    rules = RequestRules(ROUTE, via=NAME)
    for number in range(2000):
        rules.read(((b"X-%d" % number, b""),))

    assert 512 == len(rules._memo)
    assert [] == rules.read(((b"cOOkie", b"x"),)).lines
