"""Which fields of an answer cross the gateway."""

from __future__ import annotations

import pytest

from gateway.models import Origin, Route
from gateway.proxy.answer_fields import AnswerRules

Fields = tuple[tuple[bytes, bytes], ...]

ROUTE = Route(name="api", prefix="/api", origin=Origin("https", "api.example.com", 443), connection="c")
PUBLIC = b"https://gateway.test"


def answered(*fields: tuple[bytes, bytes], route: Route = ROUTE) -> bytes:
    """Return what of an answer's *fields* is sent on."""
    return b"".join(AnswerRules(route).read(fields, public_url=PUBLIC).lines)


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


BASED = Route(name="b", prefix="/b", origin=Origin("https", "api.example.com", 443), connection="c", base_path="/v1")
PORT = Route(name="p", prefix="/p", origin=Origin("http", "api.example.com", 8080), connection="c")

LOCATIONS: dict[str, tuple[Route, bytes, bytes]] = {
    "the route's own origin": (ROUTE, b"https://api.example.com/x?y#z", PUBLIC + b"/api/x?y#z"),
    "with the default port": (ROUTE, b"https://api.example.com:443/x", PUBLIC + b"/api/x"),
    "in capitals": (ROUTE, b"HTTPS://API.Example.Com/X", PUBLIC + b"/api/X"),
    "without a scheme": (ROUTE, b"//api.example.com/x", PUBLIC + b"/api/x"),
    "the origin alone": (ROUTE, b"https://api.example.com", PUBLIC + b"/api"),
    "the origin and a query": (ROUTE, b"https://api.example.com?q", PUBLIC + b"/api?q"),
    "a path": (ROUTE, b"/x/y", PUBLIC + b"/api/x/y"),
    "a relative path": (ROUTE, b"y?z", b"y?z"),
    "a query alone": (ROUTE, b"?page=2", b"?page=2"),
    "another host": (ROUTE, b"https://other.example/x", b"https://other.example/x"),
    "another scheme": (ROUTE, b"http://api.example.com/x", b"http://api.example.com/x"),
    "another port": (ROUTE, b"https://api.example.com:444/x", b"https://api.example.com:444/x"),
    "a host that begins alike": (ROUTE, b"https://api.example.com.evil.test/x", b"https://api.example.com.evil.test/x"),
    "a host behind userinfo": (ROUTE, b"https://api.example.com@evil.test/x", b"https://api.example.com@evil.test/x"),
    "a port that begins alike": (ROUTE, b"https://api.example.com:4433/x", b"https://api.example.com:4433/x"),
    "a backslash": (ROUTE, b"https://api.example.com\\.evil.test/", b"https://api.example.com\\.evil.test/"),
    "another host without a scheme": (ROUTE, b"//evil.test/x", b"//evil.test/x"),
    "below the base path": (BASED, b"https://api.example.com/v1/x", PUBLIC + b"/b/x"),
    "the base path itself": (BASED, b"/v1", PUBLIC + b"/b"),
    "the base path and a query": (BASED, b"/v1?q", PUBLIC + b"/b?q"),
    "beside the base path": (BASED, b"https://api.example.com/v2/x", b"https://api.example.com/v2/x"),
    "a path that begins like the base path": (BASED, b"https://api.example.com/v10", b"https://api.example.com/v10"),
    "a port of its own": (PORT, b"http://api.example.com:8080/x", PUBLIC + b"/p/x"),
    "without that port": (PORT, b"http://api.example.com/x", b"http://api.example.com/x"),
}


@pytest.mark.parametrize("case", LOCATIONS)
@pytest.mark.parametrize("name", [b"Location", b"content-location"])
def test_reference_to_the_route_comes_back_through_the_gateway(name: bytes, case: str) -> None:
    """
    A reference to the route's own origin leads to the gateway; one that leads elsewhere is left as it is.
    """
    route, given, expected = LOCATIONS[case]

    assert b"%b: %b\r\n" % (name, expected) == answered((name, given), route=route)


def test_each_target_of_a_link_field_is_looked_at_alone() -> None:
    """
    Of a Link field those targets change that lead to the route; parameters and other hosts stay.
    """
    given = b'<https://api.example.com/x?page=2>; rel="next", <https://other.test/>; rel="x", </y>; rel="last"'

    assert (
        b'Link: <https://gateway.test/api/x?page=2>; rel="next", <https://other.test/>; rel="x", '
        b'<https://gateway.test/api/y>; rel="last"\r\n'
    ) == answered((b"Link", given))


def test_challenges_are_kept_apart() -> None:
    """
    Every WWW-Authenticate is collected; the one who relays decides.
    """
    found = AnswerRules(ROUTE).read(((b"www-authenticate", b"A"), (b"WWW-Authenticate", b"B")), public_url=PUBLIC)

    assert ([b"A", b"B"], []) == (found.challenges, found.lines)
