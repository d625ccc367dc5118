"""What one route adds to each of its requests."""

from __future__ import annotations

import asyncio

import pytest

from gateway.errors import OriginNotAllowed, Refusal, UpstreamUnreachable
from gateway.models import ConnectionToken, Injection, Origin, Route
from gateway.proxy.connection import UpstreamConnection
from gateway.proxy.lane import Lane
from gateway.proxy.pool import UpstreamPool


def lane(inject: Injection | None = None) -> Lane:
    route = Route("api", "/api", Origin("https", "api.example.com", 8443), "c", inject=inject or Injection())

    async def nowhere() -> UpstreamConnection:
        raise UpstreamUnreachable

    return Lane(route, UpstreamPool(route, open_connection=nowhere, loop=asyncio.get_running_loop()))


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
        lane().check_origin(token)
    else:
        with pytest.raises(OriginNotAllowed):
            lane().check_origin(token)


async def test_token_is_injected_as_the_route_says() -> None:
    """
    The token stands in the route's own field and format, or is the password of HTTP Basic.
    """
    assert b"Authorization: Bearer t\r\n" == lane().injected("t")
    assert b"X-Key: t\r\n" == lane(Injection(name="X-Key", format="{token}")).injected("t")
    assert b"Authorization: Basic dTp0\r\n" == lane(Injection(kind="basic", format="u:{token}")).injected("t")


@pytest.mark.parametrize("token", ["a\r\nX: y", "a\nb", "a\0b", "a\u00e9", "a\x7f"])
async def test_token_cannot_break_out_of_its_field(token: str) -> None:
    """
    A token with a line break or another character that no field holds is refused, and not shown.
    """
    with pytest.raises(Refusal) as caught:
        lane().injected(token)

    assert token not in str(caught.value)
