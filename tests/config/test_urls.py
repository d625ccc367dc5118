"""The URLs of a configuration: one reading, or none."""

from __future__ import annotations

import pytest

from gateway.config.urls import UrlError, parse_host, parse_origin, parse_proxy, parse_url
from gateway.models import Origin, OutboundProxy


@pytest.mark.parametrize(
    ("text", "origin", "path"),
    [
        ("https://api.example", Origin("https", "api.example", 443), ""),
        ("HTTPS://API.Example/", Origin("https", "api.example", 443), ""),
        ("http://api.example", Origin("http", "api.example", 80), ""),
        ("https://api.example:8443/v1", Origin("https", "api.example", 8443), "/v1"),
        ("https://api.example/v1/", Origin("https", "api.example", 443), "/v1"),
        ("https://api.example/a/b.c/@me:x", Origin("https", "api.example", 443), "/a/b.c/@me:x"),
        ("https://localhost:1", Origin("https", "localhost", 1), ""),
        ("https://192.0.2.1:65535", Origin("https", "192.0.2.1", 65535), ""),
        ("https://[2001:DB8:0::1]:443", Origin("https", "2001:db8::1", 443), ""),
        ("https://xn--pople-bsa.example", Origin("https", "xn--pople-bsa.example", 443), ""),
    ],
)
def test_parse_url(text: str, origin: Origin, path: str) -> None:
    """
    A plain URL has an origin in lower case and a path without a trailing slash.
    """
    url = parse_url(text)

    assert (origin, path) == (url.origin, url.path)


@pytest.mark.parametrize(
    ("case", "text", "expected"),
    [
        ("nothing", "", "like https://"),
        ("no scheme", "api.example", "like https://"),
        ("no scheme, slashes", "//api.example", "like https://"),
        ("no slashes", "https:api.example", "like https://"),
        ("another scheme", "javascript://api.example", "begins with https://"),
        ("a space before the scheme", " https://api.example", "like https://"),
        ("a line break", "https://api.example\n", "like https://"),
        ("no host", "https:///v1", "with a host"),
        ("only a port", "https://:443", "with a host"),
        ("a user", "https://me@api.example", "user part"),
        ("a user that looks like a host", "https://api.example@evil.example", "user part"),
        ("a user behind a backslash", "https://api.example\\@evil.example", "user part"),
        ("a backslash for the slash", "https://api.example\\v1", "a host of letters"),
        ("a trailing dot", "https://api.example.", "a host of letters"),
        ("an empty label", "https://api..example", "a host of letters"),
        ("an underscore", "https://a_b.example", "a host of letters"),
        ("a hyphen first", "https://-a.example", "a host of letters"),
        ("a hyphen last", "https://a-.example", "a host of letters"),
        ("a label of 64", f"https://{'a' * 64}.example", "a host of letters"),
        ("a name of 254", "https://" + ".".join(["a" * 49] * 5) + ".abcd", "a host of letters"),
        ("a percent in the host", "https://api%2eexample", "a host of letters"),
        ("an international host", "https://p\u00e9ople.example", "xn--"),
        ("a full-width dot", "https://api\u3002example", "xn--"),
        ("a full-width digit", "https://\uff11\uff12\uff17.0.0.1", "xn--"),
        ("an address as a number", "https://2130706433", "dotted-quad"),
        ("an address in hex", "https://0x7f000001", "dotted-quad"),
        ("an address in octal", "https://0177.0.0.1", "dotted-quad"),
        ("a short address", "https://127.1", "dotted-quad"),
        ("five numbers", "https://1.2.3.4.5", "dotted-quad"),
        ("IPv6 without brackets", "https://::1", "a host of letters"),
        ("IPv6 with a zone", "https://[fe80::1%25eth0]", "without a zone"),
        ("no IPv6", "https://[127.0.0.1]", "an IPv6 address"),
        ("empty brackets", "https://[]", "an IPv6 address"),
        ("brackets that do not close", "https://[::1", "a host of letters"),
        ("text behind brackets", "https://[::1]x", "a host of letters"),
        ("port 0", "https://api.example:0", "a port"),
        ("a port too large", "https://api.example:65536", "a port"),
        ("a port with a zero", "https://api.example:0443", "a port"),
        ("a port with a sign", "https://api.example:+443", "a port"),
        ("no port", "https://api.example:", "a port"),
        ("a digit of another script", "https://api.example:\u0664\u0664\u0663", "xn--"),
        ("a dot segment", "https://api.example/..", "plain form"),
        ("a dot segment inside", "https://api.example/a/./b", "plain form"),
        ("an encoded dot segment", "https://api.example/%2e%2e/b", "plain form"),
        ("an encoded slash", "https://api.example/a%2fb", "plain form"),
        ("a doubled slash", "https://api.example/a//b", "plain form"),
        ("two slashes at the end", "https://api.example/a//", "plain form"),
        ("a backslash", "https://api.example/a\\..\\b", "plain form"),
        ("a path parameter", "https://api.example/a;b", "plain form"),
        ("a query", "https://api.example/?a=b", "without a query"),
        ("an empty query", "https://api.example/?", "without a query"),
        ("a fragment", "https://api.example/#a", "without a fragment"),
        ("too long", "https://api.example/" + "a" * 2048, "at most 2048"),
    ],
)
def test_parse_url_refuses(case: str, text: str, expected: str) -> None:
    """
    What two readers may take for different places is no URL, and the message holds nothing of it.
    """
    with pytest.raises(UrlError) as refused:
        parse_url(text)

    assert expected in str(refused.value), case
    assert "evil" not in str(refused.value)


def test_query_only_where_one_belongs() -> None:
    """
    An endpoint may have a query, and keeps it.
    """
    assert "https://a.example/authorize?prompt=consent" == str(
        parse_url("https://a.example/authorize?prompt=consent", query=True)
    )


def test_origin_has_no_path() -> None:
    """
    An origin is scheme, host and port; the slash behind it is none of its own.
    """
    assert "https://a.example" == str(parse_origin("https://a.example:443/"))
    with pytest.raises(UrlError, match="without a path"):
        parse_origin("https://a.example/v1")


def test_host_in_lower_case() -> None:
    """
    Hosts compare in lower case.
    """
    assert "api.example" == parse_host("API.example")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://proxy.example:3128", OutboundProxy("proxy.example", 3128)),
        ("http://PROXY.example:80/", OutboundProxy("proxy.example", 80)),
        ("http://10.0.0.1:3128", OutboundProxy("10.0.0.1", 3128)),
        ("http://[FD00::1]:3128", OutboundProxy("fd00::1", 3128)),
        ("http://ada:s3cret@proxy.example:1", OutboundProxy("proxy.example", 1, "ada:s3cret")),
        ("http://ada:@proxy.example:1", OutboundProxy("proxy.example", 1, "ada:")),
        ("http://ada:p%40%3A%2F%C3%A9@proxy.example:1", OutboundProxy("proxy.example", 1, "ada:p@:/\u00e9")),
    ],
)
def test_parse_proxy(text: str, expected: OutboundProxy) -> None:
    """
    A proxy is a host and a port, and perhaps a user with a password, percent-decoded.
    """
    assert expected == parse_proxy(text)


@pytest.mark.parametrize(
    ("case", "text"),
    [
        ("nothing", ""),
        ("no scheme", "proxy.example:3128"),
        ("https", "https://proxy.example:3128"),
        ("SOCKS", "socks5://proxy.example:1080"),
        ("no port", "http://proxy.example"),
        ("port 0", "http://proxy.example:0"),
        ("a port too large", "http://proxy.example:70000"),
        ("no host", "http://:3128"),
        ("a path", "http://proxy.example:3128/x"),
        ("a query", "http://proxy.example:3128?x"),
        ("a fragment", "http://proxy.example:3128#x"),
        ("a user without a password", "http://canary@proxy.example:3128"),
        ("no user", "http://:canary@proxy.example:3128"),
        ("two users", "http://ada:canary@evil:x@proxy.example:3128"),
        ("a slash in the password", "http://ada:can/ary@proxy.example:3128"),
        ("half an escape", "http://ada:canary%4@proxy.example:3128"),
        ("an escaped line break", "http://ada:canary%0D%0A@proxy.example:3128"),
        ("an escaped colon in the user", "http://a%3Ada:canary@proxy.example:3128"),
        ("an escape that is no UTF-8", "http://ada:canary%FF@proxy.example:3128"),
        ("a zone", "http://[fe80::1%25lo]:3128"),
        ("one number", "http://2130706433:3128"),
        ("a line break", "http://proxy.example:3128\n"),
        ("too long", f"http://ada:{'a' * 3000}@proxy.example:3128"),
    ],
)
def test_parse_proxy_refuses(case: str, text: str) -> None:
    """
    Anything else is an error that says the form, and nothing of the text.
    """
    with pytest.raises(UrlError) as caught:
        parse_proxy(text)

    assert "canary" not in str(caught.value), case
