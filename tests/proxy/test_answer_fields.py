"""Which fields of an answer cross the gateway."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.models import CredentialPlace, Injection, Origin, Route
from gateway.proxy.answer_fields import AnswerRules, Sorted, place

Fields = tuple[tuple[bytes, bytes], ...]

ROUTE = Route(name="api", prefix="/api", origin=Origin("https", "api.example.com", 443), connection="c")
PUBLIC = "https://gateway.test"


OWN = (
    b"Vary: Authorization, Gateway-Authorization\r\nX-Content-Type-Options: nosniff\r\n"
    b"Content-Security-Policy: sandbox\r\nCache-Control: private, no-store\r\n"
)


def read(*fields: tuple[bytes, bytes], route: Route = ROUTE) -> Sorted:
    """Return an answer's *fields* as they are sorted."""
    placed = [place(name, value) for name, value in fields]
    lines = [line for line, _ in placed if line is not None]
    return AnswerRules(route).read(lines, [judged for _, judged in placed if judged is not None], PUBLIC)


def answered(*fields: tuple[bytes, bytes], route: Route = ROUTE) -> bytes:
    """Return what of an answer's *fields* is sent on; what every answer gets must follow."""
    lines = b"".join(read(*fields, route=route)[0])
    assert lines.endswith(OWN)
    return lines.removesuffix(OWN)


ANSWER_ENDS_HERE: dict[str, Fields] = {
    "Set-Cookie": ((b"Set-Cookie", b"a=b"), (b"set-cookie2", b"c")),
    "Connection and what it names": ((b"X-Hop", b"1"), (b"Connection", b"close, x-hop")),
    "Keep-Alive": ((b"Keep-Alive", b"timeout=5"),),
    "Upgrade": ((b"Upgrade", b"h2c"),),
    "Trailer": ((b"Trailer", b"x"),),
    "Proxy-Authenticate": ((b"Proxy-Authenticate", b"Basic"),),
    "Proxy-Status": ((b"Proxy-Status", b"connection-gateway; error=x"),),
    "Transfer-Encoding": ((b"Transfer-Encoding", b"chunked"),),
    "Content-Length": ((b"Content-Length", b"5"), (b"content-length", b"5")),
    "WWW-Authenticate": ((b"WWW-Authenticate", b"Bearer"),),
}


@pytest.mark.parametrize("case", ANSWER_ENDS_HERE)
def test_answers_field_of_the_other_hop_ends_here(case: str) -> None:
    """
    An answer's framing, hop-by-hop fields and cookies are not the caller's.
    """
    assert b"ETag: x\r\n" == answered(*ANSWER_ENDS_HERE[case], (b"ETag", b"x"))


DROPPED = """
    Set-Cookie Set-Cookie2
    Transfer-Encoding Content-Length Keep-Alive Upgrade Trailer TE Proxy-Connection
    Proxy-Authenticate Proxy-Authentication-Info
    Age Expires Pragma Surrogate-Control Surrogate-Key Cache-Tag Edge-Control Edge-Cache-Tag
    CDN-Cache-Control Cloudflare-CDN-Cache-Control Vercel-CDN-Cache-Control
    Alt-Svc Strict-Transport-Security Clear-Site-Data Service-Worker-Allowed Refresh NEL Report-To Reporting-Endpoints
    Public-Key-Pins Expect-CT Timing-Allow-Origin Content-Security-Policy Content-Security-Policy-Report-Only
    X-Content-Type-Options Access-Control-Allow-Origin Access-Control-Allow-Credentials Access-Control-Expose-Headers
    X-Accel-Redirect X-Accel-Expires X-Sendfile X-LIGHTTPD-send-file X-Reproxy-URL
    Proxy-Status Server-Timing traceparent tracestate Gateway-User Gateway-Anything WWW-Authenticate
"""
PASSED = """
    Content-Type Content-Encoding Content-Disposition Content-Language Content-Range Accept-Ranges Digest
    ETag Last-Modified Date Server Vary Allow Retry-After Warning Via X-RateLimit-Remaining X-GitHub-Request-Id
    X-Accel-Buffering X-Frame-Options Referrer-Policy Authentication-Info X-Gateway
"""


@pytest.mark.parametrize("name", DROPPED.split())
def test_field_ends_here(name: str) -> None:
    """
    What is the other hop's, a cache's, another origin's or ours does not cross, however it is spelled.
    """
    for spelled in (name, name.lower(), name.upper()):
        assert b"ETag: x\r\n" == answered((spelled.encode(), b"max-age=5"), (b"ETag", b"x"))


@pytest.mark.parametrize("name", PASSED.split())
def test_field_crosses(name: str) -> None:
    """
    What tells the caller of the answer crosses as it came.
    """
    assert f"{name}: a, b\r\n".encode() == answered((name.encode(), b"a, b"))


CACHING: dict[str, tuple[tuple[bytes, ...], bytes]] = {
    "nothing": ((), b"private, no-store"),
    "public": ((b"public, max-age=600, s-maxage=9",), b"private, no-store"),
    "private": ((b"private",), b"private, no-store"),
    "two fields": ((b"public", b"max-age=1"), b"private, no-store"),
    "a stream's": ((b"no-cache, No-Transform",), b"private, no-store, no-transform"),
}


@pytest.mark.parametrize("case", CACHING)
def test_no_cache_may_keep_an_answer(case: str) -> None:
    """
    One Cache-Control, ours, whatever the upstream's allows; that nothing repacks a stream stays.
    """
    given, expected = CACHING[case]
    found = read(*((b"Cache-Control", value) for value in given))

    assert b"Cache-Control: " + expected + b"\r\n" in b"".join(found[0])
    assert 1 == b"".join(found[0]).count(b"Cache-Control")


def test_what_every_answer_gets_cannot_be_taken_off() -> None:
    """
    An upstream that names our fields in Connection loses its own, not ours.
    """
    nominated = (b"Connection", b"cache-control, vary, content-security-policy, x-content-type-options")

    assert b"" == answered((b"Vary", b"Accept"), nominated)


def test_answer_varies_with_the_routes_own_credential() -> None:
    """
    Where callers put their credential elsewhere, caches are told that place.
    """
    route = replace(ROUTE, credential=CredentialPlace("header", "X-Api-Key"))
    found = read(route=route)

    assert b"Vary: Authorization, Gateway-Authorization, X-Api-Key\r\n" in b"".join(found[0])


def test_references_lead_through_the_gateway() -> None:
    """
    Location, Content-Location and each Link are looked at; a field that must lead nowhere is left out.
    """
    own = (b"https://api.example.com/x", b"https://gateway.test/other/x")
    for name in (b"Location", b"content-location"):
        assert b"%b: https://gateway.test/api/x\r\n" % name == answered((name, own[0]), (name, own[1]))
    links = ((b"Link", b"<%b>; rel=next" % target) for target in own)
    assert b"Link: <https://gateway.test/api/x>; rel=next\r\n" == answered(*links)


def test_each_target_of_a_link_field_is_looked_at_alone() -> None:
    """
    Of a Link field those targets change that lead to the route; parameters and other hosts stay.
    """
    given = (
        b'<https://api.example.com/x?page=2>; rel="next", <https://other.test/>; rel="x", </y>; rel="last"; title="<z>"'
    )

    assert (
        b'Link: <https://gateway.test/api/x?page=2>; rel="next", <https://other.test/>; rel="x", '
        b'<https://gateway.test/api/y>; rel="last"; title="<z>"\r\n'
    ) == answered((b"Link", given))


def test_challenges_are_kept_apart() -> None:
    """
    Every WWW-Authenticate is collected; the one who relays decides.
    """
    found = read((b"www-authenticate", b"A"), (b"WWW-Authenticate", b"B"))

    assert ((b"A", b"B"), [OWN]) == (found[1], found[0])


def test_injected_parameter_is_in_no_reference() -> None:
    """
    An upstream that repeats the query it got tells nobody the token: here or elsewhere, in Location or Link.
    """
    route = replace(ROUTE, inject=Injection("query", "key", "{token}"))
    fields = (
        (b"Location", b"https://api.example.com/v2?a=1&key=T"),
        (b"Content-Location", b"/v2?key=T"),
        (b"Link", b'<https://api.example.com/v2?page=2&key=T>; rel="next", <https://other.test/?key=T&b>; rel="x"'),
        (b"Location", b"https://other.test/x?KEY=T#f"),
        (b"Location", b"?page=2&k%65y=T"),
    )

    assert (
        b"Location: https://gateway.test/api/v2?a=1\r\n"
        b"Content-Location: https://gateway.test/api/v2\r\n"
        b'Link: <https://gateway.test/api/v2?page=2>; rel="next", <https://other.test/?b>; rel="x"\r\n'
        b"Location: https://other.test/x#f\r\n"
        b"Location: ?page=2\r\n"
    ) == answered(*fields, route=route)


def test_what_every_answer_gets_is_shared_by_routes() -> None:
    """
    Routes whose callers stand in the same fields add the same lines, not equal ones: they are in the caches already.
    """
    other = AnswerRules(replace(ROUTE, name="other", prefix="/other"))
    elsewhere = AnswerRules(replace(ROUTE, credential=CredentialPlace("header", "X-Key")))

    assert OWN == other.own_lines
    assert other.own_lines is AnswerRules(ROUTE).own_lines
    assert OWN.replace(b"Gateway-Authorization", b"Gateway-Authorization, X-Key") == elsewhere.own_lines
