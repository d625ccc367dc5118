"""
What a request target asks for beside its path: parameters, another method, credentials, several calls at once.

Rules:
1. The query is read by `query.py`; the target that goes on to policy, record and upstream is the one that it leaves.
2. Paths at which this API hands out further credentials are refused, unless the route says `minting: pass`: a token
   that was minted there would be the caller's to keep.
3. Paths that take several calls in one request are refused where `allow`, or a policy with methods or paths, would have
   to see each of them (threats C7), unless the route says `multiplex: true`.
4. A method override is judged beside the real method: both must be allowed.
5. Paths are compared laxly, as a deny is (`access/patterns.py`): the whole path at the origin, base path included.

The catalogue knows the paths (`gateway/providers`); what it does not know, a route's `allow` must leave out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from gateway.access.patterns import DenySet
from gateway.errors import FieldNotPassed, MintingNotAllowed, MultiplexNotAllowed
from gateway.models import Route, RouteMatch, UpstreamRules
from gateway.proxy.query import QueryRules


class TargetRules:
    """The rules for targets of routes like *route*. *has_conditions*: policies look at its methods or paths."""

    __slots__ = ("_minting", "_multiplex", "_query")

    def __init__(self, route: Route, known: UpstreamRules, *, has_conditions: bool) -> None:
        self._query = QueryRules(route, known)
        is_narrowed = bool(route.allow) or has_conditions
        self._minting = _set_of(known.minting_paths if route.minting == "refuse" else ())
        refuses_multiplex = is_narrowed and not route.multiplex
        self._multiplex = _set_of(known.multiplex_paths if refuses_multiplex else ())

    def read(self, match: RouteMatch, override: str | None) -> tuple[RouteMatch, str | None]:
        """
        Return *match* with the target to send, and the method that the request names beside its own, if any.

        *override* is what a field named.

        Raises:
            CredentialNotPassed, FieldNotPassed, JsonpNotAllowed: as `QueryRules.read`; or field and query both name a
                method.
            MintingNotAllowed, MultiplexNotAllowed: by rules 2 and 3.
        """
        path, query = match.upstream_path, match.query
        if query:
            sent, named = self._query.read(query, match.method)
            if named is not None:
                if override is not None:
                    raise FieldNotPassed
                override = named
            if sent != query:
                match = replace(match, target=f"{path}?{sent}" if sent else path, query=sent)
        if self._minting is not None and self._minting.matches(path):
            raise MintingNotAllowed
        if self._multiplex is not None and self._multiplex.matches(path):
            raise MultiplexNotAllowed
        return match, override


def _set_of(globs: Iterable[str]) -> DenySet | None:
    """Return the set that *globs* write, or None where they are none: nothing to ask then."""
    return DenySet.compile(globs) or None
