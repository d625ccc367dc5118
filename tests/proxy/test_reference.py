"""Where a reference in an answer leads."""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from yarl import URL

from gateway.models import Origin, Route
from gateway.proxy.reference import References

ROUTE = Route(name="api", prefix="/api", origin=Origin("https", "api.example.com", 443), connection="c")
BASED = Route(name="b", prefix="/b", origin=Origin("https", "api.example.com", 443), connection="c", base_path="/v1")
PORT = Route(name="p", prefix="/p", origin=Origin("http", "api.example.com", 8080), connection="c")
SIX = Route(name="s", prefix="/s", origin=Origin("https", "2001:db8::1", 443), connection="c")
ROOT = Route(name="r", prefix="", origin=Origin("https", "api.example.com", 443), connection="c")
PUBLIC = b"https://gateway.test"
TARGET = {"api": "/a/b?x=/y/", "b": "/v1/a/b", "p": "/", "s": "/", "r": "/a"}

Case = tuple[Route, bytes, bytes | None]
LEADS: dict[str, Case] = {
    "the route's own origin": (ROUTE, b"https://api.example.com/x?y#z", PUBLIC + b"/api/x?y#z"),
    "with the default port": (ROUTE, b"https://api.example.com:443/x", PUBLIC + b"/api/x"),
    "in capitals": (ROUTE, b"HTTPS://API.Example.Com/X", PUBLIC + b"/api/X"),
    "without a scheme": (ROUTE, b"//api.example.com/x", PUBLIC + b"/api/x"),
    "the origin alone": (ROUTE, b"https://api.example.com", PUBLIC + b"/api"),
    "the origin and a query": (ROUTE, b"https://api.example.com?q", PUBLIC + b"/api?q"),
    "an IPv6 address": (SIX, b"https://[2001:db8::1]:443/x", PUBLIC + b"/s/x"),
    "the gateway with its port in other digits": (ROUTE, b"https://gateway.test:0443/other", None),
    "the gateway with a port that is none": (ROUTE, b"https://gateway.test:x/other", None),
    "the gateway with an ideographic full stop": (ROUTE, "https://gateway\u3002test/other".encode(), None),
    "the gateway with a soft hyphen": (ROUTE, "https://gate\u00adway.test/other".encode(), None),
    "the gateway with an end that is the root's": (ROUTE, b"https://gateway.test./other", None),
    "an address written as one number": (ROUTE, b"http://2130706433:8080/x", None),
    "an address written short": (ROUTE, b"http://127.1:8080/x", None),
    "an address in hexadecimal": (ROUTE, b"http://0x7f.1/x", None),
    "another address": (ROUTE, b"http://192.0.2.1:8080/x", b"http://192.0.2.1:8080/x"),
    "another IPv6 address": (ROUTE, b"http://[2001:db8::7]:1/x", b"http://[2001:db8::7]:1/x"),
    "a path": (ROUTE, b"/x/y", PUBLIC + b"/api/x/y"),
    "a path of a route at the root": (ROOT, b"/x/y", PUBLIC + b"/x/y"),
    "a relative path": (ROUTE, b"y?z", PUBLIC + b"/api/a/y?z"),
    "a relative path that climbs": (ROUTE, b"../y", PUBLIC + b"/api/y"),
    "a relative path that climbs too far": (ROUTE, b"../../../other/y", PUBLIC + b"/api/other/y"),
    "a relative path out of the base path": (BASED, b"../../y", b"https://api.example.com/y"),
    "a path that climbs": (ROUTE, b"/x/../../other/y", PUBLIC + b"/api/other/y"),
    "a path that climbs, encoded": (ROUTE, b"/%2e%2E/.%2e/other", PUBLIC + b"/api/other"),
    "a path that climbs at the origin": (ROUTE, b"https://api.example.com/../../x", PUBLIC + b"/api/x"),
    "a path that climbs around tabs": (ROUTE, b"/.\t./.\t./x", PUBLIC + b"/api/x"),
    "a path that ends in dots": (ROUTE, b"/x/y/..", PUBLIC + b"/api/x/"),
    "dots in names": (ROUTE, b"/x.json/...", PUBLIC + b"/api/x.json/..."),
    "dots in a query": (ROUTE, b"/x?/../y", PUBLIC + b"/api/x?/../y"),
    "a query alone": (ROUTE, b"?page=2", b"?page=2"),
    "a fragment alone": (ROUTE, b"#x", b"#x"),
    "nothing": (ROUTE, b"", b""),
    "no host": (ROUTE, b"///x", None),
    "another host": (ROUTE, b"https://other.example/x", b"https://other.example/x"),
    "another scheme": (ROUTE, b"http://api.example.com/x", b"http://api.example.com/x"),
    "another port": (ROUTE, b"https://api.example.com:444/x", b"https://api.example.com:444/x"),
    "a host that begins alike": (ROUTE, b"https://api.example.com.evil.test/x", b"https://api.example.com.evil.test/x"),
    "a host behind userinfo": (ROUTE, b"https://api.example.com@evil.test/x", b"https://api.example.com@evil.test/x"),
    "userinfo before the host": (ROUTE, b"https://u:p@api.example.com/x", b"https://u:p@api.example.com/x"),
    "a port that begins alike": (ROUTE, b"https://api.example.com:4433/x", b"https://api.example.com:4433/x"),
    "a backslash after the host": (
        ROUTE,
        b"https://api.example.com\\.evil.test/",
        b"https://api.example.com\\.evil.test/",
    ),
    "another host without a scheme": (ROUTE, b"//evil.test/x", b"//evil.test/x"),
    "another kind of reference": (ROUTE, b"mailto:x@y.test", b"mailto:x@y.test"),
    "below the base path": (BASED, b"https://api.example.com/v1/x", PUBLIC + b"/b/x"),
    "the base path itself": (BASED, b"/v1", PUBLIC + b"/b"),
    "the base path and a query": (BASED, b"/v1?q", PUBLIC + b"/b?q"),
    "beside the base path": (BASED, b"https://api.example.com/v2/x", b"https://api.example.com/v2/x"),
    "a path beside the base path": (BASED, b"/v2/x", b"https://api.example.com/v2/x"),
    "a path that climbs out of the base path": (BASED, b"/v1/../v2/x", b"https://api.example.com/v2/x"),
    "a path that begins like the base path": (BASED, b"https://api.example.com/v10", b"https://api.example.com/v10"),
    "a port of its own": (PORT, b"http://api.example.com:8080/x", PUBLIC + b"/p/x"),
    "without that port": (PORT, b"http://api.example.com/x", b"http://api.example.com/x"),
    "the gateway": (ROUTE, b"https://gateway.test/other/x", None),
    "the gateway, this route": (ROUTE, b"https://gateway.test/api/x", None),
    "the gateway without a scheme": (ROUTE, b"//gateway.test/other", None),
    "the gateway by another scheme": (ROUTE, b"http://gateway.test:80/other", None),
    "the gateway in capitals with its port": (ROUTE, b"HTTPS://GATEWAY.test:443/other", None),
    "the gateway with a dot": (ROUTE, b"https://gateway.test./other", None),
    "dots with an empty parameter, which urllib takes away": (ROUTE, b"/..;", None),
    "encoded dots with a parameter": (ROUTE, b"/x/%2e%2E;a=b/y", None),
    "the gateway behind userinfo": (ROUTE, b"https://api.example.com@gateway.test/other", None),
    "the gateway, encoded": (ROUTE, b"https://g%61teway.test/other", None),
    "the gateway before a backslash": (ROUTE, b"https://gateway.test\\@evil.test/other", None),
    "the gateway with a tab": (ROUTE, b"https://gate\tway.test/other", None),
    "another port of the gateway's host": (ROUTE, b"https://gateway.test:8443/x", b"https://gateway.test:8443/x"),
    "a web scheme without slashes": (ROUTE, b"https:/other/x", None),
    "a web scheme and a relative path": (ROUTE, b"https:other/x", None),
    "a backslash in a path": (ROUTE, b"/x\\..\\..\\other", None),
    "backslashes for slashes": (ROUTE, b"\\\\evil.test/x", None),
    "a backslash in a query": (ROUTE, b"/x?a\\b", PUBLIC + b"/api/x?a\\b"),
}


@pytest.mark.parametrize("case", LEADS)
def test_reference_leads_through_the_gateway_elsewhere_or_nowhere(case: str) -> None:
    """
    What is the route's own leads below its prefix, other origins stay, the gateway itself is no place to be sent to.
    """
    route, given, expected = LEADS[case]

    assert expected == References(route).lead(given, public_url=PUBLIC, target=TARGET[route.name])


PIECES = r"/ // .. . %2e %2E%2e x api other ? # \ : @ https: http: ; gateway.test api.example.com :443"


@settings(deadline=None, max_examples=500)
@given(st.lists(st.sampled_from(("\t", *PIECES.split())), max_size=9).map("".join))
def test_no_reference_leads_to_another_route(reference: str) -> None:
    """
    Whatever an upstream writes, two clients' readings of what is passed on are below the route's prefix, or elsewhere.
    """
    led = References(ROUTE).lead(reference.encode(), public_url=PUBLIC, target="/a/b")
    if led is None:
        return
    here = "https://gateway.test/api/a/b"
    joined = urlsplit(urljoin(here, led.decode()))
    try:
        is_here = joined.hostname == "gateway.test" and joined.port in (None, 443)
    except ValueError:  # a port that is none
        is_here = joined.hostname == "gateway.test"
    if is_here:
        assert URL(joined.geturl()).path.startswith("/api")
    try:
        url = URL(here).join(URL(led.decode()))
    except ValueError:
        return
    if url.host == "gateway.test" and url.port == 443:
        assert url.path == "/api" or url.path.startswith("/api/")
