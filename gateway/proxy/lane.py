"""
What one route needs at run time: its rules, its pool, and the bytes that are the same for each of its requests.
"""

from __future__ import annotations

import base64

from gateway.errors import OriginNotAllowed, UpstreamProtocolError
from gateway.models import ConnectionToken, Route, UpstreamRules
from gateway.proxy.answer_fields import AnswerRules
from gateway.proxy.answers import NAME
from gateway.proxy.limits import RateLimit
from gateway.proxy.pool import UpstreamPool
from gateway.proxy.request_fields import RequestRules

NOTHING_KNOWN = UpstreamRules()


class Lane:
    """
    A route in service. Made once by `server.py`.

    *pool* holds its connections; *upstream_rules* say what is known of the API behind it.
    """

    __slots__ = ("_origin", "answer_rules", "host_line", "limit", "pool", "request_rules", "route", "upstream_rules")

    def __init__(self, route: Route, pool: UpstreamPool, upstream_rules: UpstreamRules = NOTHING_KNOWN) -> None:
        self.route = route
        self.pool = pool
        self.upstream_rules = upstream_rules
        self.request_rules = RequestRules(route, via=NAME)
        self.answer_rules = AnswerRules(route)
        self.host_line = f" HTTP/1.1\r\nHost: {route.origin.host_field}\r\nVia: 1.1 {NAME}\r\n"
        per_minute = route.limits.requests_per_minute
        self.limit = RateLimit(per_minute) if per_minute is not None else None
        self._origin = str(route.origin)

    def check_origin(self, token: ConnectionToken) -> None:
        """Raise OriginNotAllowed where *token*'s connection lists origins and this upstream is not one (DESIGN 7)."""
        if token.origins is not None and self._origin not in token.origins:
            raise OriginNotAllowed(connection=self.route.connection)

    def injected(self, token: str) -> bytes:
        """Return the field line that carries *token*; raise UpstreamProtocolError where it could break out of it."""
        if not (token.isascii() and token.isprintable()):
            raise UpstreamProtocolError("The token service handed out a token that cannot stand in a header field.")
        inject = self.route.inject
        value = inject.format.replace("{token}", token)
        if inject.kind == "basic":
            value = "Basic " + base64.b64encode(value.encode("ascii")).decode("ascii")
        return f"{inject.name}: {value}\r\n".encode("ascii")
