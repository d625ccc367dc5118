"""What a request says about its way and its method: proxies before the gateway, gateways behind it, overrides."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.proxy.wire import call, calling, request
from tests.world import Issuer, Running, Upstream, create_connection, running, settings

CLAIMS = (
    "X-Forwarded-For: 203.0.113.9, 198.51.100.7",
    "Forwarded: for=203.0.113.9, for=198.51.100.7;proto=https",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: gw.example",
    "X-Forwarded-Prefix: /evil",
    "X-Real-IP: 203.0.113.9",
    "Connection: X-Forwarded-For",
)


@asynccontextmanager
async def gateway_behind(
    data: Path, upstream_url: str, issuer: Issuer, *, trusted: list[str] | None = None, token: str = "T1", **route: Any
) -> AsyncIterator[Running]:
    """Run a gateway with the route /api; *route* are further keys of it, *trusted* its trusted proxies."""
    policies = route.pop("policies", None)
    entry = {"name": "api", "prefix": "/api", "upstream": upstream_url, "connection": "api", **route}
    configuration = settings(entry, issuers=(issuer,), **({"policies": policies} if policies is not None else {}))
    if trusted is not None:
        configuration["listeners"]["traffic"]["trusted_proxies"] = trusted
    async with running(configuration, data) as gateway:
        await create_connection(gateway, None)
        await gateway.connect("ada", access_token=token)
        yield gateway


async def test_same_request_from_a_trusted_and_an_untrusted_peer(
    tmp_path: Path, upstream: Upstream, issuer: Issuer
) -> None:
    """
    A trusted proxy names the caller, and the API learns the chain; of anybody else nothing is believed or passed on.
    """
    credential = issuer.token("ada")
    told = {}
    for case, trusted in {"none": None, "others": ["10.0.0.0/8"], "trusted": ["127.0.0.0/8"]}.items():
        async with gateway_behind(tmp_path / case, upstream.url, issuer, trusted=trusted) as gateway:
            got = await call(gateway, request("GET", "/api/x", credential=credential, fields=CLAIMS))
            assert 200 == got.status
            (outcome,) = gateway.lines("outcome")
        received = upstream.received.pop()
        forwarded = [each for each in received.fields if each[0].startswith(("X-", "Forwarded"))]
        told[case] = (outcome["peer"], forwarded)

    chain = [
        ("X-Forwarded-For", "203.0.113.9, 198.51.100.7, 127.0.0.1"),
        ("Forwarded", "for=203.0.113.9, for=198.51.100.7;proto=https, for=127.0.0.1"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "gw.example"),
    ]
    assert {"none": ("127.0.0.1", []), "others": ("127.0.0.1", []), "trusted": ("198.51.100.7", chain)} == told


async def test_two_claims_about_the_caller_are_refused_to_known_callers(
    tmp_path: Path, upstream: Upstream, issuer: Issuer
) -> None:
    """
    A trusted proxy that lets its caller's Forwarded through gets 400; a stranger learns nothing by it.
    """
    fields = ("X-Forwarded-For: 198.51.100.7", "Forwarded: for=203.0.113.9")
    async with gateway_behind(tmp_path / "data", upstream.url, issuer, trusted=["127.0.0.1"]) as gateway:
        known = await call(gateway, request("GET", "/api/x", credential=issuer.token("ada"), fields=fields))
        stranger = await call(gateway, request("GET", "/api/x", credential="wrong", fields=fields))

    assert [(400, "invalid_request"), (401, "caller_unauthenticated")] == [
        (got.status, got.code) for got in (known, stranger)
    ]
    assert [] == upstream.received


async def test_equal_heads_of_several_peers_are_each_peers_own(
    tmp_path: Path, upstream: Upstream, issuer: Issuer
) -> None:
    """
    Heads that are the same to the letter share what was read of them, but never whose word they are.

    Two trusted proxies and a stranger's host bring two heads in turn, in several rounds: each time the record names the
    caller, and the API learns the chain, as if no other peer had sent them.
    """
    peers = {
        "127.0.0.1": ("198.51.100.7", ["198.51.100.7, 127.0.0.1"]),
        "127.0.0.2": ("127.0.0.2", []),
        "127.0.0.3": ("198.51.100.7", ["198.51.100.7, 127.0.0.3"]),
    }
    claim = ("X-Forwarded-For: 198.51.100.7",)
    disagreeing = ("X-Forwarded-For: 198.51.100.7", "Forwarded: for=203.0.113.9")
    told, refused = [], []
    async with AsyncExitStack() as opened:
        trusted = ["127.0.0.1", "127.0.0.3"]
        gateway = await opened.enter_async_context(
            gateway_behind(tmp_path / "data", upstream.url, issuer, trusted=trusted)
        )
        await gateway.connect("bob", access_token="T2")
        heads = [request("GET", "/api/x", credential=issuer.token(user), fields=claim) for user in ("ada", "bob")]
        bad = request("GET", "/api/x", credential=issuer.token("ada"), fields=disagreeing)
        callers = {peer: await opened.enter_async_context(calling(gateway, address=peer)) for peer in peers}
        for _ in range(4):
            for peer, caller in callers.items():
                for head, token in zip(heads, ("T1", "T2"), strict=True):
                    await caller.send(head)
                    assert 200 == (await caller.answer()).status
                    received = upstream.received.pop()
                    assert [f"Bearer {token}"] == received.values("Authorization")
                    told.append((peer, received.values("X-Forwarded-For")))
        for _ in range(4):
            for peer in peers:
                async with calling(gateway, address=peer) as caller:
                    for head in (bad, heads[0]) if peer not in trusted else (bad,):
                        await caller.send(head)
                        refused.append((peer, (await caller.answer()).status))
        recorded = [outcome["peer"] for outcome in gateway.lines("outcome") if outcome["status"] == 200]

    assert [(peer, peers[peer][1]) for _ in range(4) for peer in peers for _ in heads] == told
    assert [peers[peer][0] for peer, _ in told] == recorded[: len(told)]
    assert {("127.0.0.1", 400), ("127.0.0.2", 200), ("127.0.0.3", 400)} == set(refused)


async def test_gateways_can_be_chained_and_a_loop_is_refused(
    tmp_path: Path, upstream: Upstream, issuer: Issuer
) -> None:
    """
    A request passes two installations, each in Via; one that comes back to an installation is answered 508.
    """
    async with gateway_behind(tmp_path / "inner", upstream.url, issuer) as inner:
        key = await inner.agent_key("ada")
        async with gateway_behind(tmp_path / "outer", f"{inner.url}/api", issuer, token=key) as outer:
            through = await call(outer, request("GET", "/api/x", credential=issuer.token("ada")))
            (received,) = upstream.received
            vias = received.values("Via")
            back = tuple(f"Via: {via}" for via in vias)
            again = [await call(each, request("GET", "/api/x", credential=key, fields=back)) for each in (inner,)]
            again += [await call(outer, request("GET", "/api/x", credential=issuer.token("ada"), fields=back))]
            stranger = await call(inner, request("GET", "/api/x", credential="wrong", fields=back))

    assert (200, 2, 2) == (through.status, len(vias), len(set(vias)))
    assert "GET /x HTTP/1.1" == received.request_line
    assert [(508, "loop_detected")] * 2 == [(got.status, got.code) for got in again]
    assert 401 == stranger.status
    assert 1 == len(upstream.received)


OVERRIDE = "X-HTTP-Method-Override: "
ALL = [{"id": "all", "effect": "allow"}]
DELETES_DENIED = [*ALL, {"id": "no", "effect": "deny", "methods": ["DELETE"]}]
GET_ALONE = [{"id": "get", "effect": "allow", "methods": ["GET"]}]
OVERRIDES: dict[str, tuple[str, str, tuple[str, ...], dict[str, Any], str | None]] = {
    # method, target, fields, keys of the route, code
    "refused by default": ("POST", "/x", (f"{OVERRIDE}GET",), {}, "invalid_request"),
    "refused by default, in the query": ("POST", "/x?_method=GET", (), {}, "invalid_request"),
    "a long GET": ("POST", "/x", (f"{OVERRIDE}GET",), {"method_override": "judge"}, None),
    "in another field": ("POST", "/x", ("X-HTTP-Method: PATCH",), {"method_override": "judge"}, None),
    "in the query": ("POST", "/x?$httpMethod=DELETE", (), {"method_override": "judge"}, None),
    "in lower case": ("POST", "/x", (f"{OVERRIDE}get",), {"method_override": "judge"}, "invalid_request"),
    "TRACE": ("POST", "/x", (f"{OVERRIDE}TRACE",), {"method_override": "judge"}, "invalid_request"),
    "HEAD": ("GET", "/x", (f"{OVERRIDE}HEAD",), {"method_override": "judge"}, "invalid_request"),
    "of a HEAD": ("HEAD", "/x?_method=GET", (), {"method_override": "judge"}, "invalid_request"),
    "twice": ("POST", "/x", (f"{OVERRIDE}GET",) * 2, {"method_override": "judge"}, "invalid_request"),
    "in a field and the query": (
        "POST",
        "/x?_method=GET",
        (f"{OVERRIDE}GET",),
        {"method_override": "judge"},
        "invalid_request",
    ),
    "the effective method is not on the list": (
        "POST",
        "/x",
        (f"{OVERRIDE}DELETE",),
        {"method_override": "judge", "allow": ["POST /**", "GET /**"]},
        "method_not_allowed",
    ),
    "the real method is not on the list": (
        "POST",
        "/x",
        (f"{OVERRIDE}GET",),
        {"method_override": "judge", "allow": ["GET /**"]},
        "method_not_allowed",
    ),
    "both are on the list": (
        "POST",
        "/x",
        (f"{OVERRIDE}GET",),
        {"method_override": "judge", "allow": ["GET /**", "POST /**"]},
        None,
    ),
    "a policy denies the effective method": (
        "POST",
        "/x",
        (f"{OVERRIDE}DELETE",),
        {"method_override": "judge", "policies": DELETES_DENIED},
        "denied_by_policy",
    ),
    "a policy allows only the effective method": (
        "POST",
        "/x",
        (f"{OVERRIDE}GET",),
        {"method_override": "judge", "policies": GET_ALONE},
        "denied_by_policy",
    ),
    "a policy allows both": (
        "POST",
        "/x",
        (f"{OVERRIDE}PUT", "Connection: x-http-method-override"),
        {"method_override": "judge", "policies": DELETES_DENIED},
        None,
    ),
}


@pytest.mark.parametrize("case", OVERRIDES)
async def test_method_override_is_judged_beside_the_method(
    tmp_path: Path, upstream: Upstream, issuer: Issuer, case: str
) -> None:
    """
    An override passes once, as it came, where both methods are allowed; the record names the effective one.
    """
    method, target, fields, route, code = OVERRIDES[case]
    async with gateway_behind(tmp_path / "data", upstream.url, issuer, **route) as gateway:
        head = request(method, f"/api{target}", credential=issuer.token("ada"), fields=fields)
        await call(gateway, head, method)
        (outcome,) = gateway.lines("outcome")

    assert code == outcome["error"]
    if code is not None:
        assert [] == upstream.received
        return
    (received,) = upstream.received
    named = (fields[0].partition(": ")[2:] if fields else target.partition("=")[2:])[0]
    assert f"{method} {target} HTTP/1.1" == received.request_line
    assert [each for each in fields if "Connection" not in each] == [
        f"{name}: {value}" for name, value in received.fields if "Method" in name
    ]
    assert (method, named) == (outcome["method"], outcome["effective_method"])


async def test_overridden_get_is_not_repeated_on_a_stale_connection(
    tmp_path: Path, upstream: Upstream, issuer: Issuer
) -> None:
    """
    A GET that means DELETE is sent once: a connection that the upstream has closed is no reason to send it again.
    """
    credential = issuer.token("ada")
    async with gateway_behind(tmp_path / "data", upstream.url, issuer, method_override="judge") as gateway:
        await call(gateway, request("GET", "/api/x", credential=credential))
        respond = upstream.respond

        async def hang_up(_: Any, writer: Any) -> None:
            upstream.respond = respond
            writer.close()

        upstream.respond = hang_up
        fields = (f"{OVERRIDE}DELETE",)
        got = await call(gateway, request("GET", "/api/x", credential=credential, fields=fields))

    assert (502, "upstream_unreachable") == (got.status, got.code)
    assert 2 == len(upstream.received)
