"""
What one route needs at run time: its rules, the pool of its upstream, and what is the same for each of its requests.
"""

from __future__ import annotations

import base64
import sys
from dataclasses import replace
from functools import lru_cache

from gateway.errors import OriginNotAllowed, TokenUnusable
from gateway.models import AllowPattern, ConnectionToken, Origin, Route, UpstreamRules
from gateway.proxy.answer_fields import AnswerRules
from gateway.proxy.answers import NAME
from gateway.proxy.echo import Needles, needles_of
from gateway.proxy.limits import ConcurrencyLimit, RateLimit
from gateway.proxy.pool import UpstreamPool
from gateway.proxy.query import with_param
from gateway.proxy.request_fields import RequestRules
from gateway.proxy.target_rules import TargetRules

NOTHING_KNOWN = UpstreamRules()
ANYTHING = (AllowPattern("*", "/**"),)


class Injected:
    """
    A *token* that may be sent on one route: the field *line* that carries it, and the *needles* by which an answer is
    searched for it.
    """

    __slots__ = ("line", "needles", "token")

    def __init__(self, token: ConnectionToken, line: bytes, needles: Needles) -> None:
        self.token = token
        self.line = line
        self.needles = needles

    def __repr__(self) -> str:
        return "<Injected>"


class Lane:
    """
    A route in service. Made once by `server.py`.

    *pool* holds the connections to its upstream, which others may share; *upstream_rules* say what is known of the API
    behind it. *has_conditions*: policies look at methods or paths of its requests. *via* is the name of this
    installation in Via; *trusts_proxies*: some callers stand behind proxies whose word on them is believed.
    *injects_field*: the token stands in a field, else in the query. Of the calls *under_way*, counted by who sends
    them, there are *most_under_way* at most.
    """

    __slots__ = (
        "_is_user_id",
        "_needs_field_token",
        "_origin",
        "answer_rules",
        "caller_limit",
        "host_line",
        "injects_field",
        "limit",
        "most_under_way",
        "pool",
        "records_durably",
        "request_rules",
        "route",
        "target_rules",
        "under_way",
        "upstream_rules",
        "via_lines",
    )

    def __init__(
        self,
        route: Route,
        pool: UpstreamPool,
        upstream_rules: UpstreamRules = NOTHING_KNOWN,
        *,
        via: str = NAME,
        has_conditions: bool = False,
        trusts_proxies: bool = False,
    ) -> None:
        self.route = route
        self.pool = pool
        self.upstream_rules = upstream_rules
        said = _said(route)
        self.request_rules = _request_rules(said, via, upstream_rules, trusts_proxies)
        self.target_rules = _target_rules(said, upstream_rules, has_conditions)
        self.answer_rules = AnswerRules(route)
        self.host_line = _host_line(route.origin.host_field, cuts=route.echo_guard == "cut")
        self.via_lines = _via_lines(via)
        self.under_way = 0
        self.most_under_way = route.limits.concurrent if route.limits.concurrent is not None else sys.maxsize
        self.records_durably = route.audit == "required"
        at_once = route.limits.concurrent_per_caller
        self.caller_limit = ConcurrencyLimit(at_once) if at_once is not None else None
        per_minute = route.limits.requests_per_minute
        self.limit = RateLimit(per_minute) if per_minute is not None else None
        self._origin = str(route.origin)
        self.injects_field = route.inject.kind != "query"
        self._needs_field_token = route.inject.kind == "header"
        # RFC 7617 section 2: the first ":" ends the user-id.
        before, _, _ = route.inject.format.partition(":")
        self._is_user_id = route.inject.kind == "basic" and "{token}" in before

    def injected(self, token: ConnectionToken) -> Injected:
        """
        Return how *token* is written, and how it is found again.

        Raises:
            OriginNotAllowed: its connection lists origins (DESIGN section 7), and this upstream's is not one.
            TokenUnusable: it has characters that would end it where it is written, or are none of a token's.
        """
        # Askers hold what this returns for usual tokens: it is not on the way of each call (2 to 3 microseconds).
        self._check(token)
        return Injected(token, self._line(token.access_token), needles_of(token.access_token))

    def _check(self, token: ConnectionToken) -> None:
        if token.origins is not None and self._origin not in token.origins:
            raise OriginNotAllowed(connection=self.route.connection)
        if token.form != "field" and (self._needs_field_token or token.form == "unusable"):
            raise TokenUnusable(connection=self.route.connection)
        if self._is_user_id and ":" in token.access_token:
            raise TokenUnusable(connection=self.route.connection)

    def _line(self, token: str) -> bytes:
        """Return the field line that carries *token*; none where the query does."""
        inject = self.route.inject
        if not self.injects_field:
            return b""
        value = inject.format.replace("{token}", token)
        if inject.kind == "basic":
            value = "Basic " + base64.b64encode(value.encode("ascii")).decode("ascii")
        return f"{inject.name}: {value}\r\n".encode("ascii")

    def target(self, target: str, token: str) -> str:
        """Return *target* with *token* in its query, for a route that injects it there."""
        inject = self.route.inject
        return with_param(target, inject.name, inject.format.replace("{token}", token))


# Routes that differ in nothing that rules for requests look at have them in common: what is the same for all of them is
# in the processor's caches, and fields that were read on one of them need not be read again on another.
_NOWHERE = Route(name="", prefix="", origin=Origin("https", "", 443), connection="")
_shared = lru_cache(maxsize=1_024)


def _said(route: Route) -> Route:
    """Return what the rules for requests look at of *route*, and nothing else of it."""
    return replace(
        _NOWHERE,
        allow=ANYTHING if route.allow else (),
        credential=route.credential,
        inject=route.inject,
        upgrade=route.upgrade,
        echo_guard=route.echo_guard,
        method_override=route.method_override,
        foreign_credentials=route.foreign_credentials,
        multiplex=route.multiplex,
        minting=route.minting,
        jsonp=route.jsonp,
    )


@_shared
def _request_rules(said: Route, via: str, known: UpstreamRules, trusts_proxies: bool) -> RequestRules:
    return RequestRules(said, via=via, known=known, trusts_proxies=trusts_proxies)


@_shared
def _target_rules(said: Route, known: UpstreamRules, has_conditions: bool) -> TargetRules:
    return TargetRules(said, known, has_conditions=has_conditions)


@_shared
def _host_line(host_field: str, *, cuts: bool) -> str:
    line = f" HTTP/1.1\r\nHost: {host_field}\r\n"
    # RFC 9110 12.5.3; without the field an upstream may take any coding
    return line + "Accept-Encoding: identity\r\n" if cuts else line


@_shared
def _via_lines(via: str) -> tuple[bytes, bytes]:
    return f"Via: 1.1 {via}\r\n".encode("ascii"), f"Via: 1.0 {via}\r\n".encode("ascii")
