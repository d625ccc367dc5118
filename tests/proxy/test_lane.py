"""What one route adds to each of its requests."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import OriginNotAllowed, TokenUnusable, UpstreamUnreachable
from gateway.models import AllowPattern, ConnectionToken, CredentialPlace, Injection, Origin, Route, UpstreamRules
from gateway.proxy.connection import UpstreamConnection
from gateway.proxy.lane import Lane
from gateway.proxy.pool import UpstreamPool
from gateway.proxy.request_fields import RequestRules
from gateway.proxy.target_rules import TargetRules
from tests.proxy.wire import calling, request
from tests.world import Issuer, Upstream, create_connection, running, settings

ROUTE = Route("api", "/api", Origin("https", "api.example.com", 8443), "c")


def lane(inject: Injection | None = None, *, route: Route = ROUTE) -> Lane:
    async def nowhere() -> UpstreamConnection:
        raise UpstreamUnreachable

    pool = UpstreamPool(route.origin, open_connection=nowhere, loop=asyncio.get_running_loop())
    return Lane(replace(route, inject=inject or route.inject), pool)


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


class Watched:
    """A route that tells what was read of it."""

    def __init__(self, route: Route) -> None:
        self._route = route
        self.read: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        self.read.add(name)
        return getattr(self._route, name)


OTHERWISE: dict[str, Any] = {
    "allow": (AllowPattern("GET", "/x"),),
    "credential": CredentialPlace("header", "X-Key"),
    "inject": Injection(name="X-Token"),
    "upgrade": frozenset({"websocket"}),
    "echo_guard": "cut",
    "method_override": "judge",
    "foreign_credentials": "refuse",
    "multiplex": True,
    "minting": "pass",
    "jsonp": "pass",
}


async def test_routes_have_rules_in_common_where_those_look_at_nothing_else() -> None:
    """
    What the rules for requests read of a route tells them apart; a name, a prefix or another upstream does not.
    """
    watched: Any = Watched(replace(ROUTE, **OTHERWISE))
    RequestRules(watched, via="v")
    TargetRules(watched, UpstreamRules(), has_conditions=True)
    one = lane()
    same = lane(route=Route("other", "/other", Origin("http", "other.test", 80), "d", host="h", audit="required"))

    assert set(OTHERWISE) == watched.read
    assert (one.request_rules, one.target_rules) == (same.request_rules, same.target_rules)
    for name, value in OTHERWISE.items():
        other = lane(route=replace(ROUTE, **{name: value}))
        assert one.request_rules is not other.request_rules
        assert one.target_rules is not other.target_rules


async def test_rules_differ_with_what_is_known_of_the_upstream() -> None:
    """
    The fields of a credential are those of the API behind the route.
    """
    pool = lane().pool
    known = UpstreamRules(credential_fields=frozenset({"x-api-key"}))

    assert Lane(ROUTE, pool).request_rules is Lane(ROUTE, pool).request_rules
    assert Lane(ROUTE, pool, known).request_rules is not Lane(ROUTE, pool).request_rules
    assert Lane(ROUTE, pool, trusts_proxies=True).request_rules is not Lane(ROUTE, pool).request_rules
    assert Lane(ROUTE, pool, via="another").request_rules is not Lane(ROUTE, pool).request_rules


async def test_equal_fields_on_two_routes_get_the_token_of_each(
    tmp_path: Path, upstream: Upstream, issuer: Issuer
) -> None:
    """
    A caller that goes from route to route with the very same fields, on one connection, is judged on each: its token
    there, and what policies say there.
    """
    names = ("one", "two", "closed")
    routes = [
        {"name": name, "prefix": f"/{name}", "upstream": upstream.url, "connection": f"api-{name}"} for name in names
    ]
    policies = [{"id": "open", "effect": "allow", "routes": ["one", "two"]}]
    configuration = settings(*routes, issuers=(issuer,), policies=policies)
    credential = issuer.token("ada")
    async with running(configuration, tmp_path / "data") as gateway:
        for name in names:
            await create_connection(gateway, None, id=f"api-{name}", name=name)
            await gateway.connect("ada", access_token=f"T-{name}", connection=f"api-{name}")
        async with calling(gateway) as caller:
            statuses = []
            for name in names * 4:
                await caller.send(request("GET", f"/{name}/x", credential=credential))
                statuses.append((await caller.answer()).status)
        outcomes = gateway.lines("outcome")

    assert [200, 200, 403] * 4 == statuses
    assert ["Bearer T-one", "Bearer T-two"] * 4 == upstream.authorizations
    assert [f"api-{name}" for name in names] * 4 == [line["connection"] for line in outcomes]
