"""Which targets are taken, and that what is matched is what is sent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import (
    AmbiguousTarget,
    MethodNotAllowed,
    PathNotAllowed,
    Refusal,
    RouteNotFound,
    TargetTooLong,
)
from gateway.models import AllowPattern, Origin, Route
from gateway.proxy.routing import NEVER_PASSED, RouteTable

ORIGIN = Origin("https", "api.example.com", 443)


def route(name: str, prefix: str, **more: object) -> Route:
    return Route(name=name, prefix=prefix, origin=ORIGIN, connection="c", **more)  # type: ignore[arg-type]  # table rows


TABLE = RouteTable(
    [
        route("gh", "/gh"),
        route("deep", "/gh/deep/er"),
        route("based", "/based", base_path="/v1/x"),
        route("loose", "/loose", encoded=frozenset({"slash", "percent"})),
        route("slash", "/slash", encoded=frozenset({"slash"})),
        route("allowed", "/allowed", allow=(AllowPattern("GET", "/a/**"), AllowPattern("POST", "/a/b"))),
        route("any", "/any", allow=(AllowPattern("*", "/x"),)),
        route("dav", "/dav", allow=(AllowPattern("PROPFIND", "/x"), AllowPattern("*", "/y"))),
        route("hosted", "/gh", host="one.test"),
    ]
)

ACCEPTED = {
    # target: (route, path below the prefix, upstream target)
    "/gh": ("gh", "/", "/"),
    "/gh/": ("gh", "/", "/"),
    "/gh?a=b": ("gh", "/", "/?a=b"),
    "/gh?": ("gh", "/", "/?"),
    "/gh/user": ("gh", "/user", "/user"),
    "/gh/user/": ("gh", "/user/", "/user/"),
    "/gh/a.b": ("gh", "/a.b", "/a.b"),
    "/gh/...": ("gh", "/...", "/..."),
    "/gh/.hidden": ("gh", "/.hidden", "/.hidden"),
    "/gh/..x": ("gh", "/..x", "/..x"),
    "/gh/a%20b": ("gh", "/a%20b", "/a%20b"),
    "/gh/%C3%A9": ("gh", "/%C3%A9", "/%C3%A9"),
    "/gh/%E2%82%AC": ("gh", "/%E2%82%AC", "/%E2%82%AC"),
    "/gh/a:b@c,d+e=f": ("gh", "/a:b@c,d+e=f", "/a:b@c,d+e=f"),
    "/gh/!$&'()*": ("gh", "/!$&'()*", "/!$&'()*"),
    "/gh/a%3Fb": ("gh", "/a%3Fb", "/a%3Fb"),
    "/gh/a%23b": ("gh", "/a%23b", "/a%23b"),
    "/gh/x?q=a%2Fb%2fc": ("gh", "/x", "/x?q=a%2Fb%2fc"),
    "/gh/x?q=../..": ("gh", "/x", "/x?q=../.."),
    "/gh/x?q=a;b\\c//d": ("gh", "/x", "/x?q=a;b\\c//d"),
    "/gh/x?a=1&a=2&&=": ("gh", "/x", "/x?a=1&a=2&&="),
    "/gh/x?q=%zz%2": ("gh", "/x", "/x?q=%zz%2"),
    "/gh/x??": ("gh", "/x", "/x??"),
    "/gh/deep": ("gh", "/deep", "/deep"),
    "/gh/deep/er": ("deep", "/", "/"),
    "/gh/deep/er/x": ("deep", "/x", "/x"),
    "/gh/deep/erx": ("gh", "/deep/erx", "/deep/erx"),
    "/based": ("based", "/", "/v1/x"),
    "/based?q": ("based", "/", "/v1/x?q"),
    "/based/": ("based", "/", "/v1/x/"),
    "/based/y": ("based", "/y", "/v1/x/y"),
    "/loose/a%2Fb": ("loose", "/a%2Fb", "/a%2Fb"),
    "/loose/a%25b": ("loose", "/a%25b", "/a%25b"),
    "/loose/100%25": ("loose", "/100%25", "/100%25"),
    "/slash/o%2Fr": ("slash", "/o%2Fr", "/o%2Fr"),
}

AMBIGUOUS = {
    "a dot segment": "/gh/../admin",
    "a dot segment at the end": "/gh/..",
    "a single dot": "/gh/./x",
    "a single dot at the end": "/gh/.",
    "dots before the prefix": "/../gh/x",
    "an encoded dot segment": "/gh/%2E%2E/admin",
    "an encoded dot segment in lower case": "/gh/%2e%2e/admin",
    "half an encoded dot segment": "/gh/.%2E/admin",
    "the other half": "/gh/%2E./admin",
    "an encoded single dot": "/gh/%2E",
    "dots encoded twice": "/gh/%252E%252E/admin",
    "dots encoded three times": "/gh/%25252E%25252E/admin",
    "dots with an encoded slash": "/gh/..%2Fadmin",
    "dots with an encoded backslash": "/gh/..%5Cadmin",
    "dots with a parameter": "/gh/..;/admin",
    "dots with an encoded parameter": "/gh/..%3B/admin",
    "dots and NUL": "/gh/..%00/admin",
    "overlong dots": "/gh/%C0%AE%C0%AE/admin",
    "overlong slash": "/gh/..%C0%AFadmin",
    "full-width dots": "/gh/%EF%BC%8E%EF%BC%8E/admin",
    "full-width solidus between dots": "/gh/..%EF%BC%8Fadmin",
    "one-dot leaders": "/gh/%E2%80%A4%E2%80%A4/admin",
    "a two-dot leader": "/gh/%E2%80%A5/admin",
    "a doubled slash": "/gh//x",
    "a doubled slash first": "//gh/x",
    "a doubled slash at the end": "/gh/x//",
    "a host in authority position": "//evil.example/gh",
    "userinfo in authority position": "//user@evil.example/gh",
    "absolute form": "http://evil.example/gh/x",
    "absolute form of ours": "https://gateway.test/gh/x",
    "asterisk form": "*",
    "authority form": "evil.example:443",
    "nothing": "",
    "no slash first": "gh/x",
    "a backslash": "/gh\\x",
    "a backslash first": "\\gh/x",
    "an encoded backslash": "/gh/a%5Cb",
    "a parameter": "/gh/a;b=c",
    "an encoded semicolon": "/gh/a%3Bb",
    "an encoded slash": "/gh/a%2Fb",
    "an encoded slash in lower case": "/gh/a%2fb",
    "an encoded percent": "/gh/a%25b",
    "double encoding": "/gh/a%2520b",
    "double encoding of a slash": "/gh/a%252Fb",
    "an encoded letter": "/gh/%61dmin",
    "an encoded digit": "/gh/%31",
    "an encoded tilde": "/gh/%7Ex",
    "an encoded hyphen": "/gh/a%2Db",
    "lower-case hex": "/gh/%c3%a9",
    "mixed-case hex": "/gh/%C3%a9",
    "half an encoding": "/gh/a%2",
    "no hex": "/gh/a%zz",
    "IIS encoding": "/gh/a%u002e",
    "a percent alone": "/gh/100%",
    "not UTF-8": "/gh/%FF",
    "half a character": "/gh/%C3",
    "a surrogate": "/gh/%ED%A0%80",
    "NUL": "/gh/a%00",
    "a line break": "/gh/a%0D%0AX:y",
    "DEL": "/gh/a%7F",
    "a raw character outside of ASCII": "/gh/\u00e9",
    "a raw byte": "/gh/\udcff",
    "a raw control character": "/gh/a\tb",
    "a space": "/gh/a b",
    "a line feed at the end": "/gh/a\n",
    "a fragment": "/gh/a#b",
    "a fragment in the query": "/gh/a?b#c",
    "a query outside of ASCII": "/gh/a?\u00e9",
    "a space in the query": "/gh/a?b c",
    "brackets": "/gh/[a]",
    "angle brackets": "/gh/<a>",
    "a quote": '/gh/"a"',
    "a caret": "/gh/a^b",
    "a pipe": "/gh/a|b",
    "slash allowed, dots behind it": "/slash/..%2Fadmin",
    "slash allowed, dots between": "/slash/a%2F..%2Fb",
    "slash allowed, dot at the end": "/slash/a%2F.",
    "slash allowed, doubled": "/slash/a%2F%2Fb",
    "slash allowed, doubled with a plain one": "/slash/a%2F/b",
    "slash allowed, in lower case": "/slash/a%2fb",
    "slash allowed, percent not": "/slash/a%25b",
    "both allowed, dots encoded twice": "/loose/%252E%252E/x",
    "both allowed, slash encoded twice between dots": "/loose/..%252Fx",
    "both allowed, backslash encoded twice between dots": "/loose/..%255Cx",
}


@pytest.mark.parametrize("target", ACCEPTED)
def test_canonical_target_is_sent_as_it_came(target: str) -> None:
    """
    A canonical target finds its route; the upstream's target is base path, path and query, byte for byte.
    """
    match = TABLE.match("GET", target)

    assert ACCEPTED[target] == (match.route.name, match.path, match.target)


@pytest.mark.parametrize("case", AMBIGUOUS)
def test_target_that_reads_in_two_ways_is_refused(case: str) -> None:
    """
    What two servers may read differently is refused, not guessed.
    """
    with pytest.raises(AmbiguousTarget):
        TABLE.match("GET", AMBIGUOUS[case])


OTHERS: dict[str, tuple[str, str, type[Refusal]]] = {
    "no route": ("GET", "/nowhere", RouteNotFound),
    "the root": ("GET", "/", RouteNotFound),
    "a prefix ends at a segment": ("GET", "/ghost", RouteNotFound),
    "a prefix is compared with its letter case": ("GET", "/GH/x", RouteNotFound),
    "too long": ("GET", "/gh/" + "a" * 9000, TargetTooLong),
    "a path that is not allowed": ("GET", "/allowed/b", PathNotAllowed),
    "the prefix where only paths below are allowed": ("GET", "/allowed", PathNotAllowed),
    "a method that is not allowed": ("DELETE", "/allowed/a/x", MethodNotAllowed),
    "a method in another letter case": ("get", "/allowed/a/x", MethodNotAllowed),
    "an unusual method where nothing is listed": ("PROPFIND", "/gh/x", MethodNotAllowed),
    "a usual method in lower case where nothing is listed": ("delete", "/gh/x", MethodNotAllowed),
    "a usual method in mixed case where any is allowed": ("DeLeTe", "/any/x", MethodNotAllowed),
    "an unusual method where any is allowed": ("PROPFIND", "/any/x", MethodNotAllowed),
    "an unusual method that another path names": ("PROPFIND", "/dav/y", MethodNotAllowed),
    "a usual method where an unusual one is named": ("GET", "/dav/x", MethodNotAllowed),
    "HEAD where only GET is allowed": ("HEAD", "/allowed/a/x", MethodNotAllowed),
}


@pytest.mark.parametrize("case", OTHERS)
def test_refusal_names_its_reason(case: str) -> None:
    """
    A target without a route, or one that its route does not allow, has a refusal of its own.
    """
    method, target, refusal = OTHERS[case]

    with pytest.raises(refusal):
        TABLE.match(method, target)


def test_method_not_allowed_names_those_that_are() -> None:
    """
    405 carries the methods that the path would take.
    """
    with pytest.raises(MethodNotAllowed) as caught:
        TABLE.match("PUT", "/allowed/a/b")

    assert ("GET", "POST") == caught.value.allowed_methods


def test_any_method_means_the_usual_ones() -> None:
    """
    405 spells out what "*" and an absent list mean; an unusual method passes where it is named.
    """
    for target in ("/any/x", "/gh/x", "/dav/y"):
        with pytest.raises(MethodNotAllowed) as caught:
            TABLE.match("PROPFIND", target)
        assert ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT") == caught.value.allowed_methods
    assert "/x" == TABLE.match("PROPFIND", "/dav/x").target


@pytest.mark.parametrize("method", sorted(NEVER_PASSED))
@pytest.mark.parametrize("target", ["/gh/x", "/any/x"])
def test_method_that_echoes_or_tunnels_is_never_passed(method: str, target: str) -> None:
    """
    TRACE, TRACK and CONNECT are refused on every route, also where any method is allowed.
    """
    with pytest.raises(MethodNotAllowed):
        TABLE.match(method, target)


HOSTS = {"one.test": "hosted", "other.test": "gh", None: "gh"}


@pytest.mark.parametrize("host", HOSTS)
def test_route_with_a_host_beats_one_without(host: str | None) -> None:
    """
    A route of the request's Host wins; others are found where it has none.
    """
    assert HOSTS[host] == TABLE.match("GET", "/gh/x", host).route.name


def test_root_prefix_takes_what_no_other_takes() -> None:
    """
    The route with the empty prefix is the last one asked.
    """
    table = RouteTable([route("root", ""), route("gh", "/gh")])

    found = [table.match("GET", target) for target in ("/", "/x/y?z", "/gh/x", "/ghost")]

    assert [("root", "/"), ("root", "/x/y?z"), ("gh", "/x"), ("root", "/ghost")] == [
        (match.route.name, match.target) for match in found
    ]


PIECES = st.sampled_from(
    [
        "/",
        "//",
        ".",
        "..",
        "a",
        "Z9",
        "%2F",
        "%25",
        "%2E",
        "%2e",
        "%C3%A9",
        "%FF",
        ";",
        "\\",
        "?",
        "#",
        "@",
        ":",
        "=",
        "&",
        "%",
        "é",
    ]
)


@given(st.lists(PIECES, max_size=12).map("".join), st.sampled_from(["/gh", "/based", "/loose", "/slash"]))
def test_accepted_target_is_sent_byte_for_byte(rest: str, prefix: str) -> None:
    """
    Whatever is accepted: the upstream's target is the base path and what followed the prefix, unchanged.
    """
    try:
        match = TABLE.match("GET", prefix + rest)
    except Refusal:
        return
    path, _, query = (prefix + rest).partition("?")
    below = path[len(match.route.prefix) :]
    sent_path, _, sent_query = match.target.partition("?")

    assert query == sent_query
    assert sent_path == match.route.base_path + (below or ("" if match.route.base_path else "/"))
    assert match.path == (below or "/")
    assert not any(segment in (".", "..") for segment in sent_path.split("/"))


@given(st.text(max_size=60))
def test_no_text_breaks_the_match(text: str) -> None:
    """
    Any text is a match or a refusal, never an error.
    """
    try:
        TABLE.match("GET", "/" + text)
    except Refusal:
        return
