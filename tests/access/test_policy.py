"""Whether a caller may make a call."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.access.policy import Policy, PolicySet
from gateway.models import Caller, Decision, Subject

ALICE = Caller(
    kind="jwt",
    user="alice",
    client="mail-agent",
    tenants=frozenset({"acme"}),
    roles=frozenset({"sales", "staff"}),
    permissions=frozenset({"contacts.read"}),
    scopes=frozenset({"outbound.token.fetch"}),
)
HERS = Subject("alice", None)


def allow(policy_id: str = "a", **keys: object) -> Policy:
    """An allow policy."""
    return Policy(id=policy_id, effect="allow", **_sets(keys))  # type: ignore[arg-type]  # checked by the table's cases


def deny(policy_id: str = "d", **keys: object) -> Policy:
    """A deny policy."""
    return Policy(id=policy_id, effect="deny", **_sets(keys))  # type: ignore[arg-type]  # as above


def _sets(keys: dict[str, object]) -> dict[str, object]:
    return {name: frozenset(value) if isinstance(value, list) else value for name, value in keys.items()}


# The sets whose price is quoted in `PolicySet.decide`.
TIMED = (
    [deny(roles=["contractor"], methods=["POST"]), allow(connections=["contacts"], roles=["sales"])],
    [deny(roles=["sales"], paths=("/v1/admin/**",)), allow(connections=["contacts"], paths=("/v1/*/me",))],
)

DECISIONS = {
    "no policies configured": (None, True, None, "no policies are configured"),
    "an empty list of policies": ([], False, None, "no allow policy matches"),
    "an allow without keys": ([allow()], True, "a", 'policy "a" allows'),
    "a deny alone": ([deny()], False, "d", 'policy "d" denies'),
    "a deny that does not match allows nothing": ([deny(roles=["contractor"])], False, None, "no allow policy"),
    "a deny wins over an allow before it": ([allow(), deny()], False, "d", "denies"),
    "a deny wins over an allow after it": ([deny(), allow()], False, "d", "denies"),
    "a deny that does not match leaves the allow": ([deny(roles=["contractor"]), allow()], True, "a", "allows"),
    "the first allow that matches is named": ([allow("a1", roles=["x"]), allow("a2")], True, "a2", "allows"),
    "a role": ([allow(roles=["sales"])], True, "a", "allows"),
    "one role of several": ([allow(roles=["boss", "staff"])], True, "a", "allows"),
    "another role": ([allow(roles=["boss"])], False, None, "no allow"),
    "a role in another case": ([allow(roles=["Sales"])], False, None, "no allow"),
    "no role fits an empty set": ([allow(roles=[])], False, None, "no allow"),
    "a permission": ([allow(permissions=["contacts.read"])], True, "a", "allows"),
    "another permission": ([allow(permissions=["contacts"])], False, None, "no allow"),
    "a scope": ([allow(scopes=["outbound.token.fetch"])], True, "a", "allows"),
    "another scope": ([allow(scopes=["outbound"])], False, None, "no allow"),
    "the client": ([allow(clients=["mail-agent"])], True, "a", "allows"),
    "another client": ([allow(clients=["mail"])], False, None, "no allow"),
    "the user": ([allow(users=["alice"])], True, "a", "allows"),
    "another user": ([allow(users=["bob"])], False, None, "no allow"),
    "a tenant where none is acted in": ([allow(tenants=["acme"])], False, None, "no allow"),
    "the connection": ([allow(connections=["contacts"])], True, "a", "allows"),
    "another connection": ([allow(connections=["mail"])], False, None, "no allow"),
    "the route": ([allow(routes=["people"])], True, "a", "allows"),
    "another route": ([allow(routes=["mail"])], False, None, "no allow"),
    "the method": ([allow(methods=["GET"])], True, "a", "allows"),
    "another method": ([allow(methods=["POST"])], False, None, "no allow"),
    "the path": ([allow(paths=("/v1/people/**",))], True, "a", "allows"),
    "one path of several": ([allow(paths=("/x", "/v1/people/*"))], True, "a", "allows"),
    "another path": ([allow(paths=("/v1/People/**",))], False, None, "no allow"),
    "two keys, both fit": ([allow(roles=["sales"], clients=["mail-agent"])], True, "a", "allows"),
    "two keys, one fits": ([allow(roles=["sales"], clients=["other"])], False, None, "no allow"),
    "a deny on the path, written otherwise": ([allow(), deny(paths=("/V1/People/ME",))], False, "d", "denies"),
    "a deny on the method": ([allow(), deny(methods=["GET"])], False, "d", "denies"),
    "a deny on another path": ([allow(), deny(paths=("/v1/admin/**",))], True, "a", "allows"),
    "a deny with two keys, one fits": ([allow(), deny(roles=["sales"], methods=["POST"])], True, "a", "allows"),
    "the first set that is timed": (TIMED[0], True, "a", "allows"),
    "the second set that is timed": (TIMED[1], True, "a", "allows"),
}


def decide(policies: list[Policy] | None, caller: Caller = ALICE, subject: Subject = HERS, **changes: str) -> Decision:
    """Decide about GET /v1/people/me of the route people, with *changes*."""
    call = {"route": "people", "connection": "contacts", "method": "GET", "path": "/v1/people/me"} | changes
    method, path = call.pop("method"), call.pop("path")
    return PolicySet(policies).applicable(caller, subject, **call).decide(method, path)


@pytest.mark.parametrize(("policies", "allowed", "rule", "reason"), DECISIONS.values(), ids=DECISIONS)
def test_decides(policies: list[Policy] | None, allowed: bool, rule: str | None, reason: str) -> None:
    """
    Default deny, deny wins, keys are ANDed and values ORed; the decision says which rule and why.
    """
    decision = decide(policies)

    assert (allowed, rule) == (decision.allowed, decision.rule)
    assert reason in decision.reason


METHODS = {
    "an allow of GET is none of HEAD": ([allow(methods=["GET"])], "HEAD", False),
    "an allow of HEAD": ([allow(methods=["HEAD"])], "HEAD", True),
    "an allow of GET is none of get": ([allow(methods=["GET"])], "get", False),
    "a deny of GET is one of HEAD": ([allow(), deny(methods=["GET"])], "HEAD", False),
    "a deny of HEAD is none of GET": ([allow(), deny(methods=["HEAD"])], "GET", True),
    "a deny of DELETE is one of DeLeTe": ([allow(), deny(methods=["DELETE"])], "DeLeTe", False),
    "a deny in lower case": ([allow(), deny(methods=["delete"])], "DELETE", False),
}


@pytest.mark.parametrize(("policies", "method", "allowed"), METHODS.values(), ids=METHODS)
def test_reads_methods_strictly_to_allow_and_laxly_to_deny(policies: list[Policy], method: str, allowed: bool) -> None:
    """
    HEAD tells what GET would: denying GET denies it, and allowing GET does not allow it.
    """
    assert allowed is decide(policies, method=method).allowed


SUBJECTS = {
    "a tenant acted in": (allow(tenants=["acme"]), Subject("alice", "acme"), True),
    "a tenant's own token": (allow(tenants=["acme"]), Subject(None, "acme"), True),
    "another tenant than the caller's current one": (allow(tenants=["acme"]), Subject("alice", "other"), False),
    "the subject's user, not the caller's": (allow(users=["bob"]), Subject("bob", None), True),
    "no user": (allow(users=["alice"]), Subject(None, "acme"), False),
}


@pytest.mark.parametrize(("policy", "subject", "allowed"), SUBJECTS.values(), ids=SUBJECTS)
def test_judges_users_and_tenants_by_the_subject(policy: Policy, subject: Subject, allowed: bool) -> None:
    """
    `users` and `tenants` mean whose token is asked for.
    """
    assert allowed is decide([policy], subject=subject).allowed


def test_management_key_bypasses_policies() -> None:
    """
    A management key is not subject to policies, and the decision says so.
    """
    caller = Caller(kind="management", user=None)

    assert Decision(True, "management_key", "a management key is not subject to policies") == decide([deny()], caller)
    assert PolicySet([deny()]).decide_raw(caller, HERS, connection="contacts").allowed


def test_what_is_kept_decides_each_call_anew() -> None:
    """
    What applies to a caller is asked once; which method and path it wants, each time.
    """
    policies = [deny(methods=["DELETE"]), deny(paths=("/admin/**",)), allow(methods=["GET", "DELETE"])]
    kept = PolicySet([replace(policy, id=str(number)) for number, policy in enumerate(policies)]).applicable(
        ALICE, HERS, route="people", connection="contacts"
    )

    calls = [("GET", "/x"), ("DELETE", "/x"), ("GET", "/admin/x"), ("POST", "/x"), ("GET", "/x")]
    assert [True, False, False, False, True] == [kept.decide(*call).allowed for call in calls]


def test_tells_callers_and_places_apart_when_asked_again() -> None:
    """
    What was compiled for one route and connection is not used for another one, or for another caller.
    """
    policies = PolicySet([allow(routes=["people"], connections=["contacts"], users=["alice"])])

    def ask(route: str, connection: str, user: str) -> bool:
        who = replace(ALICE, user=user), Subject(user, None)
        return policies.applicable(*who, route=route, connection=connection).decide("GET", "/").allowed

    asked = [("people", "contacts", "alice"), ("people", "mail", "alice"), ("mail", "contacts", "alice")]
    assert [True, False, False] == [ask(*call) for call in asked]
    assert [True, False] == [ask("people", "contacts", user) for user in ("alice", "bob")]


RAW = {
    "no policies configured": (None, False, None, "no policies are configured"),
    "no policy": ([], False, None, "no allow policy without"),
    "an allow without conditions": ([allow()], True, "a", "allows"),
    "an allow of the connection": ([allow(connections=["contacts"])], True, "a", "allows"),
    "an allow of another connection": ([allow(connections=["mail"])], False, None, "no allow"),
    "an allow by role": ([allow(roles=["sales"])], True, "a", "allows"),
    "an allow with a route": ([allow(routes=["people"])], False, None, "no allow"),
    "an allow with methods": ([allow(methods=["GET"])], False, None, "no allow"),
    "an allow with paths": ([allow(paths=("/**",))], False, None, "no allow"),
    "a deny": ([allow(), deny()], False, "d", "denies"),
    "a deny with methods": ([allow(), deny(methods=["DELETE"])], False, "d", "denies"),
    "a deny with paths": ([allow(), deny(paths=("/admin",))], False, "d", "denies"),
    "a deny with a route": ([allow(), deny(routes=["x"])], False, "d", "denies"),
    "a deny of another connection": ([allow(), deny(connections=["mail"])], True, "a", "allows"),
    "a deny of another role": ([allow(), deny(roles=["contractor"], methods=["DELETE"])], True, "a", "allows"),
}


@pytest.mark.parametrize(("policies", "allowed", "rule", "reason"), RAW.values(), ids=RAW)
def test_decides_about_raw_tokens(policies: list[Policy] | None, allowed: bool, rule: str | None, reason: str) -> None:
    """
    A raw token needs an allow that no route's conditions limit, and any deny that could apply denies it.
    """
    decision = PolicySet(policies).decide_raw(ALICE, HERS, connection="contacts")

    assert (allowed, rule) == (decision.allowed, decision.rule)
    assert reason in decision.reason


@pytest.mark.parametrize("policies", [None, [allow()]])
def test_never_hands_a_raw_token_to_an_agent_key(policies: list[Policy] | None) -> None:
    """
    An agent key gets no raw token, whatever the policies say.
    """
    decision = PolicySet(policies).decide_raw(replace(ALICE, kind="agent"), HERS, connection="contacts")

    assert not decision.allowed
    assert "agent keys never" in decision.reason


def test_refuses_two_policies_with_one_id() -> None:
    """
    A rule named in the record must be one rule.
    """
    with pytest.raises(ValueError, match="an id of its own"):
        PolicySet([allow("same"), deny("same")])


def test_refuses_a_path_it_cannot_read() -> None:
    """
    A glob that never fits is an error when policies are loaded, not a rule without effect.
    """
    with pytest.raises(ValueError, match="whole segment"):
        PolicySet([deny(paths=("/admin**",))])


CONDITIONS: dict[str, tuple[list[Policy] | None, bool]] = {
    "no policies": (None, False),
    "no policy": ([], False),
    "an allow by role": ([allow(roles=["sales"])], False),
    "an allow by route": ([allow(routes=["google"])], False),
    "an allow by method": ([allow(methods=["GET"])], True),
    "a deny by path": ([allow(), deny(paths=("/v1/**",))], True),
    "of this connection": ([allow(connections=["contacts"], methods=["GET"])], True),
    "of another connection": ([allow(connections=["mail"], methods=["GET"])], False),
    "of another route": ([deny(routes=["mail"], paths=("/x",)), allow()], False),
}


@pytest.mark.parametrize("case", CONDITIONS)
def test_conditions_are_what_looks_at_methods_or_paths(case: str) -> None:
    """
    A route has conditions where some policy that applies to it looks at each call.
    """
    policies, has_conditions = CONDITIONS[case]

    assert has_conditions is PolicySet(policies).has_conditions("google", "contacts")
