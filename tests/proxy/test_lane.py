"""What one route adds to each of its requests."""

from __future__ import annotations

import asyncio

import pytest

from gateway.errors import OriginNotAllowed, TokenUnusable, UpstreamUnreachable
from gateway.models import ConnectionToken, Injection, Origin, Route
from gateway.proxy.connection import UpstreamConnection
from gateway.proxy.lane import Lane
from gateway.proxy.pool import UpstreamPool


def lane(inject: Injection | None = None) -> Lane:
    route = Route("api", "/api", Origin("https", "api.example.com", 8443), "c", inject=inject or Injection())

    async def nowhere() -> UpstreamConnection:
        raise UpstreamUnreachable

    return Lane(route, UpstreamPool(route.origin, open_connection=nowhere, loop=asyncio.get_running_loop()))


ORIGINS: dict[str, tuple[tuple[str, ...] | None, bool]] = {
    "no list": (None, True),
    "an empty list": ((), False),
    "the origin": (("https://other.test", "https://api.example.com:8443"), True),
    "another port": (("https://api.example.com",), False),
    "another scheme": (("http://api.example.com:8443",), False),
}


@pytest.mark.parametrize("case", ORIGINS)
async def test_token_goes_only_to_origins_of_its_connection(case: str) -> None:
    """
    A connection that lists origins lets its token go to those and nowhere else.
    """
    origins, allowed = ORIGINS[case]
    token = ConnectionToken("g", "t", origins=origins)
    if allowed:
        assert token is lane().injected(token).token
    else:
        with pytest.raises(OriginNotAllowed):
            lane().injected(token)


async def test_token_is_injected_as_the_route_says() -> None:
    """
    The token stands in the route's own field and format, is a part of HTTP Basic, or a parameter of the query.
    """
    query = lane(Injection(kind="query", name="key", format="{token}"))
    token = ConnectionToken("g", "t")

    assert b"Authorization: Bearer t\r\n" == lane().injected(token).line
    assert b"X-Key: t\r\n" == lane(Injection(name="X-Key", format="{token}")).injected(token).line
    assert b"Authorization: Basic dTp0\r\n" == lane(Injection(kind="basic", format="u:{token}")).injected(token).line
    assert (b"", "/x?a&key=t%2F") == (query.injected(ConnectionToken("g", "t/")).line, query.target("/x?a", "t/"))
    assert (True, False) == (lane().injects_field, query.injects_field)


FIELD = Injection()
OWN = Injection(name="X-Key", format="{token}")
PASSWORD = Injection(kind="basic", format="user:{token}")
USER = Injection(kind="basic", format="{token}:x")
QUERY = Injection(kind="query", name="key", format="{token}")
EVERYWHERE = (FIELD, OWN, PASSWORD, USER, QUERY)
ENCODED = (PASSWORD, USER, QUERY)
TOKENS: dict[str, tuple[str, tuple[Injection, ...]]] = {
    "RFC 6750's characters": ("Az09-._~+/==", EVERYWHERE),
    "Salesforce's": ("00Dx!AR8AQP0jITN80ESE", EVERYWHERE),
    "Atlassian's": ("ATATT3xFf=1A2B3C4D", EVERYWHERE),
    "a colon": ("2/119:abc", (FIELD, OWN, PASSWORD, QUERY)),
    "a quote": ('a"b', ENCODED),
    "a backslash": ("a\\b", ENCODED),
    "a space": ("a b", ENCODED),
    "a comma": ("a,b", ENCODED),
    "a semicolon": ("a;b", ENCODED),
    "a line break": ("a\r\nX: y", ()),
    "a line feed at the end": ("a\n", ()),
    "NUL": ("a\0b", ()),
    "DEL": ("a\x7f", ()),
    "a tab": ("a\tb", ()),
    "no ASCII": ("a\u00e9", ()),
    "a surrogate": ("a\udcff", ()),
    "nothing": ("", ()),
}


@pytest.mark.parametrize("case", TOKENS)
async def test_token_is_written_only_where_it_can_stand(case: str) -> None:
    """
    A token with characters that would end or change what it stands in is refused there, and not shown.
    """
    token, places = TOKENS[case]

    taken = []
    for place in EVERYWHERE:
        try:
            injected = lane(place).injected(ConnectionToken("g", token))
        except TokenUnusable as refusal:
            assert not token or token not in str(refusal)
        else:
            taken.append(place)
            assert injected.line.count(b"\r\n") == (0 if place.kind == "query" else 1)
    assert list(places) == taken


async def test_token_is_judged_by_what_was_said_with_it_last() -> None:
    """
    The same token again, with other origins: what was let through once is not let through by its characters.
    """
    there = lane()
    before = there.injected(ConnectionToken("g", "t", origins=None))

    with pytest.raises(OriginNotAllowed):
        there.injected(ConnectionToken("g", "t", origins=("https://elsewhere.example.com",)))
    again = ConnectionToken("g", "t", origins=None)
    assert again is there.injected(again).token
    assert before.line == there.injected(again).line
