"""
Whether a caller may make a call, as the operator's policies say.

Rules:
1. Without any policies every identified caller may use every route. With policies nothing is allowed by default, one
   matching allow suffices, and a matching deny wins over every allow.
2. The keys of one policy are ANDed, the values of one key ORed. `roles`, `permissions`, `scopes` and `clients` are
   the caller's; `users` and `tenants` are the subject's, so that a key which names its subject is judged by that.
3. An allow means exactly the methods and paths that it names. A deny is read laxly: its paths as `DenyPattern` does,
   its methods in any letter case, and GET covers HEAD, because HEAD's answer tells what GET's would (RFC 9110 section
   9.3.2).
4. A management key bypasses policies (DESIGN section 7).
5. A raw connection token, once handed out, can be used beyond every condition of a route, and whoever connects a tenant
   decides whose account all routes use. So a raw fetch, and connecting a tenant, need an allow without `routes`,
   `methods` and `paths`; a deny that has them denies it whatever they say; without policies there is no such allow;
   agent keys never get one.

Pure: no I/O, no clock. Leaves the routes' own `allow` to `proxy/routing.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from gateway.access.patterns import DenyPattern, PathPattern, lax_forms
from gateway.models import Caller, Decision, Subject

MAX_APPLICABLE = 1_024  # sets of policies that apply to somebody
MAX_PLACES = 4096  # (route, connection) pairs kept compiled: a gateway has fewer routes than this

MANAGEMENT = Decision(allowed=True, rule="management_key", reason="a management key is not subject to policies")
NO_POLICIES = Decision(
    allowed=True, rule=None, reason="no policies are configured: every identified caller may use every route"
)
NO_ALLOW = Decision(allowed=False, rule=None, reason="no allow policy matches this call")
RAW_AGENT = Decision(
    allowed=False, rule=None, reason="agent keys never get a raw connection token: call through the gateway"
)
RAW_NO_POLICIES = Decision(
    allowed=False,
    rule=None,
    reason="no policies are configured: a raw connection token needs an allow policy without routes, methods and paths",
)
RAW_NO_ALLOW = Decision(
    allowed=False,
    rule=None,
    reason="no allow policy without routes, methods and paths matches this raw connection token",
)


@dataclass(frozen=True, slots=True)
class Policy:
    """
    One entry of `policies:`, checked. A key that is None was not given and matches everything.

    *paths* are globs below the route's prefix (`access/patterns.py`), *methods* upper-case tokens.
    """

    id: str
    effect: Literal["allow", "deny"]
    roles: frozenset[str] | None = None
    permissions: frozenset[str] | None = None
    scopes: frozenset[str] | None = None
    clients: frozenset[str] | None = None
    users: frozenset[str] | None = None
    tenants: frozenset[str] | None = None
    connections: frozenset[str] | None = None
    routes: frozenset[str] | None = None
    methods: frozenset[str] | None = None
    paths: tuple[str, ...] | None = None

    @property
    def is_conditional(self) -> bool:
        """Whether it has a key that only a request through a route can meet."""
        return self.routes is not None or self.methods is not None or self.paths is not None


class _Who:
    """The keys of a policy that look at the caller and the subject."""

    __slots__ = ("decision", "policy")

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        verb = "allows" if policy.effect == "allow" else "denies"
        self.decision = Decision(policy.effect == "allow", policy.id, f'policy "{policy.id}" {verb} this call')

    def fits(self, caller: Caller, subject: Subject) -> bool:
        policy = self.policy
        return (
            (policy.roles is None or not policy.roles.isdisjoint(caller.roles))
            and (policy.users is None or subject.user in policy.users)
            and (policy.tenants is None or subject.tenant in policy.tenants)
            and (policy.clients is None or caller.client in policy.clients)
            and (policy.permissions is None or not policy.permissions.isdisjoint(caller.permissions))
            and (policy.scopes is None or not policy.scopes.isdisjoint(caller.scopes))
        )


class _Allow(_Who):
    """An allow: methods and paths exactly as written."""

    __slots__ = ("_methods", "_paths")

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        self._methods = policy.methods
        self._paths = None if policy.paths is None else tuple(map(PathPattern.compile, policy.paths))

    @property
    def covers_all(self) -> bool:
        """Whether it names neither methods nor paths."""
        return self._methods is None and self._paths is None

    def covers(self, method: str, path: str) -> bool:
        if self._methods is not None and method not in self._methods:
            return False
        if self._paths is None:
            return True
        for pattern in self._paths:  # noqa: SIM110 - any() of a generator costs 0.4 microseconds more
            if pattern.matches(path):
                return True
        return False


class _Deny(_Who):
    """A deny: methods and paths read laxly."""

    __slots__ = ("_methods", "_paths")

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        methods = None if policy.methods is None else {method.upper() for method in policy.methods}
        if methods is not None and "GET" in methods:
            methods.add("HEAD")
        self._methods = methods
        self._paths = None if policy.paths is None else tuple(map(DenyPattern.compile, policy.paths))

    def covers(self, method: str, path: str) -> bool:
        if self._methods is not None and method.upper() not in self._methods:
            return False
        if self._paths is None:
            return True
        forms = lax_forms(path)
        for pattern in self._paths:  # noqa: SIM110 - as above
            if pattern.matches(path, forms):
                return True
        return False


_Place = tuple[tuple[_Deny, ...], tuple[_Allow, ...]]  # what can apply at one route and connection


class Applicable:
    """
    The policies that apply to one caller and subject at one route and connection, if method and path are what they
    name. They follow from these four alone, so they may be kept with them. Made by `PolicySet.applicable`.

    *always* is what they decide where method and path decide nothing.
    """

    __slots__ = ("_allows", "_denies", "always")

    def __init__(
        self, denies: tuple[_Deny, ...] = (), allows: tuple[_Allow, ...] = (), *, always: Decision | None = None
    ) -> None:
        self._denies = denies
        self._allows = allows
        self.always = always

    def decide(self, method: str, path: str) -> Decision:
        """
        Return whether *method* may be sent to *path*, the canonical raw path below the route's prefix
        (`RouteMatch.path`), without the query.
        """
        # 0.1 microseconds where no deny looks at the path, 2.8 where one does (reading it laxly is most of that): by
        # timeit with the two sets of tests/access/test_policy.py, `TIMED`. A bounded cache of decisions costs 0.4 to
        # 1.0, and its key would hold the path, which the caller chooses.
        if self.always is not None:
            return self.always
        for deny in self._denies:
            if deny.covers(method, path):
                return deny.decision
        for allow in self._allows:
            if allow.covers(method, path):
                return allow.decision
        return NO_ALLOW


class PolicySet:
    """
    All policies of a gateway. *policies* None means that none are configured, which is not the same as an empty list.

    Raises:
        ValueError: a path glob cannot be read, or two policies have one id.
    """

    def __init__(self, policies: Iterable[Policy] | None) -> None:
        self._policies = None if policies is None else tuple(policies)
        entries = self._policies or ()
        ids = [policy.id for policy in entries]
        if len(set(ids)) != len(ids):
            raise ValueError("expected each policy to have an id of its own")
        self._denies = tuple(_Deny(policy) for policy in entries if policy.effect == "deny")
        self._allows = tuple(_Allow(policy) for policy in entries if policy.effect == "allow")
        self._places: dict[tuple[str, str], _Place] = {}
        self._applicable: dict[_Place, Applicable] = {}

    def applicable(self, caller: Caller, subject: Subject, *, route: str, connection: str) -> Applicable:
        """Return what is left to ask once it is known who calls with whose token, on which route."""
        if caller.kind == "management":
            return Applicable(always=MANAGEMENT)
        if self._policies is None:
            return Applicable(always=NO_POLICIES)
        place = self._places.get((route, connection)) or self._compile_place(route, connection)
        denies = tuple(deny for deny in place[0] if deny.fits(caller, subject))
        allows = tuple(allow for allow in place[1] if allow.fits(caller, subject))
        always: Decision | None = None
        if not denies and (not allows or allows[0].covers_all):  # then method and path decide nothing
            always = allows[0].decision if allows else NO_ALLOW
        # One object for all to whom the same applies: of 10,000 callers each has no other in the processor's caches.
        found = self._applicable.get((denies, allows))
        if found is None:
            if len(self._applicable) >= MAX_APPLICABLE:
                self._applicable.clear()
            found = self._applicable[denies, allows] = Applicable(denies, allows, always=always)
        return found

    def has_conditions(self, route: str, connection: str) -> bool:
        """Whether some policy looks at methods or paths of calls on *route* with tokens of *connection*."""
        return any(
            (policy.methods is not None or policy.paths is not None) and _is_at(policy, route, connection)
            for policy in self._policies or ()
        )

    def decide_raw(self, caller: Caller, subject: Subject, *, connection: str) -> Decision:
        """Return whether *caller* may be handed *subject*'s token of *connection* itself, or connect that (rule 5)."""
        if caller.kind == "management":
            return MANAGEMENT
        if caller.kind != "jwt":
            return RAW_AGENT
        if self._policies is None:
            return RAW_NO_POLICIES
        for deny in self._denies:
            if _names(deny.policy.connections, connection) and deny.fits(caller, subject):
                return deny.decision
        for allow in self._allows:
            policy = allow.policy
            if not policy.is_conditional and _names(policy.connections, connection) and allow.fits(caller, subject):
                return allow.decision
        return RAW_NO_ALLOW

    def _compile_place(self, route: str, connection: str) -> _Place:
        place = (
            tuple(rule for rule in self._denies if _is_at(rule.policy, route, connection)),
            tuple(rule for rule in self._allows if _is_at(rule.policy, route, connection)),
        )
        if len(self._places) < MAX_PLACES:
            self._places[route, connection] = place
        return place


def _is_at(policy: Policy, route: str, connection: str) -> bool:
    return _names(policy.routes, route) and _names(policy.connections, connection)


def _names(values: frozenset[str] | None, value: str) -> bool:
    return values is None or value in values
