"""Which fields of a request cross the gateway."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.errors import (
    AmbiguousCredential,
    CredentialNotPassed,
    FieldNotPassed,
    FieldsTooLarge,
    InvalidRequest,
    LoopDetected,
    Refusal,
)
from gateway.models import CredentialPlace, Injection, Origin, Route, UpstreamRules
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


NAME = "gateway-0123456789abcdef"
KNOWN = UpstreamRules(credential_fields=frozenset({"private-token", "x-goog-api-key"}))


def read(*fields: tuple[bytes, bytes], route: Route = ROUTE) -> bytes:
    """Return what of *fields* is sent on."""
    return b"".join(RequestRules(route, via=NAME, known=KNOWN).read(fields).lines)


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
    "other claims about the peer": ((b"X-Real-IP", b"1"), (b"True-Client-IP", b"1"), (b"CF-Connecting-IP", b"1")),
    "another target": ((b"X-Original-URL", b"/"), (b"X-Rewrite-Url", b"/"), (b"X-Forwarded-Prefix", b"/")),
    "another method": ((b"X-Original-Method", b"DELETE"),),
    "another host": ((b"X-Host", b"evil.test"), (b"X-Forwarded-Host", b"evil.test"), (b"X-Original-Host", b"h")),
    "what the API takes as a credential": ((b"Private-Token", b"x"), (b"X-GOOG-API-KEY", b"y")),
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
    "an own Via in another letter case": (((b"Via", b"1.0 " + NAME.upper().encode()),), LoopDetected),
    "an own Via before others": (((b"Via", b"HTTP/1.1  " + NAME.encode() + b" (x), 1.1 other"),), LoopDetected),
    "an own Via that Connection names": (((b"Via", b"1.1 " + NAME.encode()), (b"Connection", b"via")), LoopDetected),
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


FOREIGN: dict[str, Fields] = {
    "of this API": ((b"Private-Token", b"x"),),
    "of this API, in another letter case": ((b"PRIVATE-token", b"x"),),
    "the injected field": ((b"X-Api-Key", b"x"),),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_foreign_credential_is_refused_where_the_route_says_so(case: str) -> None:
    """
    With `foreign_credentials: refuse` a credential of the caller's own for the API ends the request.
    """
    with pytest.raises(CredentialNotPassed):
        read(*FOREIGN[case], route=replace(ROUTE, foreign_credentials="refuse"))


def test_callers_own_credential_is_never_foreign() -> None:
    """
    A field that the route takes the caller's credential from is that, whatever the API would make of it.
    """
    route = replace(ROUTE, foreign_credentials="refuse", credential=CredentialPlace("header", "X-Goog-Api-Key"))
    fields = RequestRules(route, via=NAME, known=KNOWN).read(((b"x-goog-api-key", b"key"), (b"Authorization", b"a")))

    assert ("key", "a", []) == (fields.credential, fields.authorization, fields.lines)


def test_via_of_another_gateway_crosses() -> None:
    """
    Two installations can be chained: only the name as a whole is ours.
    """
    other = b"1.1 gateway-0123456789abcdee, 1.1 x" + NAME.encode() + b", 1.1 y (gateway)"

    assert b"Via: " + other + b"\r\n" == read((b"Via", other))


OVERRIDES: dict[str, tuple[Fields, str | None]] = {
    "none": ((), None),
    "a method": (((b"X-HTTP-Method-Override", b"DELETE"),), "DELETE"),
    "in another field": (((b"x-http-method", b"GET"),), "GET"),
    "nominated": (((b"X-Method-Override", b"PUT"), (b"Connection", b"x-method-override")), "PUT"),
}


@pytest.mark.parametrize("case", OVERRIDES)
def test_judged_override_is_told_and_crosses_once(case: str) -> None:
    """
    Where the route judges overrides, the field crosses as it came, and Connection does not take it away.
    """
    fields, method = OVERRIDES[case]
    found = RequestRules(replace(ROUTE, method_override="judge"), via=NAME).read(fields)

    assert method == found.method_override
    assert [b"%b: %b\r\n" % fields[0]] * (method is not None) == found.lines if fields else not found.lines


UNCLEAR: dict[str, Fields] = {
    "in lower case": ((b"X-HTTP-Method-Override", b"delete"),),
    "a method that never passes": ((b"X-HTTP-Method-Override", b"TRACE"),),
    "a method that no list names": ((b"X-HTTP-Method-Override", b"PURGE"),),
    "HEAD, whose answer has no body": ((b"X-HTTP-Method-Override", b"HEAD"),),
    "nothing": ((b"X-HTTP-Method-Override", b""),),
    "a list": ((b"X-HTTP-Method-Override", b"GET, DELETE"),),
    "twice": ((b"X-HTTP-Method-Override", b"GET"), (b"X-HTTP-Method-Override", b"GET")),
    "in two fields": ((b"X-HTTP-Method-Override", b"GET"), (b"X-HTTP-Method", b"DELETE")),
}


@pytest.mark.parametrize("case", UNCLEAR)
def test_unclear_override_is_refused_where_it_is_judged(case: str) -> None:
    """
    Only one override, of a method that passes, can be judged.
    """
    with pytest.raises(FieldNotPassed):
        read(*UNCLEAR[case], route=replace(ROUTE, method_override="judge"))


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

    assert 0 < len(rules._memo) <= 512
    assert [] == rules.read(((b"cOOkie", b"x"),)).lines
