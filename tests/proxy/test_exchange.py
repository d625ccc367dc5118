"""The order of the stages, refusals, and the record, over real sockets."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.proxy.wire import call, calling, eventually, gateway_with, request, respond_with
from tests.world import (
    Issuer,
    Provider,
    Received,
    Running,
    Upstream,
    answer,
    create_connection,
    key_ring,
    running,
    settings,
)


async def test_injects_the_users_token(gateway: Running, upstream: Upstream, issuer: Issuer) -> None:
    """
    A call of a known caller reaches the upstream with the user's connection token and without the caller's own.
    """
    credential = issuer.token("ada")
    headers = {"Authorization": f"Bearer {credential}", "Cookie": "session=1"}

    async with gateway.session.get(f"{gateway.url}/api/v1/me?fields=name", headers=headers) as response:
        body = await response.json()

    assert 200 == response.status
    assert {"path": "/v1/me?fields=name"} == body
    assert ["Bearer T1"] == upstream.authorizations
    assert credential.encode() not in upstream.received[0].head
    assert [] == upstream.received[0].values("Cookie")


# --- strangers ---------------------------------------------------------------------------------------------------

FOREIGN_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)

STRANGERS: dict[str, Callable[[Issuer], tuple[str, ...]]] = {
    "no credential": lambda issuer: (),
    "an empty one": lambda issuer: ("Authorization: Bearer ",),
    "a wrong one": lambda issuer: ("Authorization: Bearer wrong",),
    "an expired one": lambda issuer: (f"Authorization: Bearer {issuer.token('ada', exp=int(time.time()) - 1)}",),
    "one for another audience": lambda issuer: (f"Authorization: Bearer {issuer.token('ada', aud='https://other')}",),
    "one of another issuer": lambda issuer: (f"Authorization: Bearer {issuer.token('ada', iss='https://other')}",),
    "one that never expires": lambda issuer: (f"Authorization: Bearer {issuer.token('ada', exp=None)}",),
    "an unsigned one": lambda issuer: (f"Authorization: Bearer {unsigned(issuer)}",),
    "one signed by another key": lambda issuer: (f"Authorization: Bearer {forged(issuer)}",),
    "an agent key that does not exist": lambda issuer: ("Authorization: Bearer gwa_" + "a" * 40,),
    "a management key that does not exist": lambda issuer: ("Authorization: Bearer gwm_" + "a" * 40,),
    "the right one for another project": lambda issuer: (f"Authorization: Bearer other:{issuer.token('ada')}",),
    "the right one in another scheme": lambda issuer: (f"Authorization: Basic {issuer.token('ada')}",),
    "the right one in the wrong field": lambda issuer: (f"X-Api-Key: {issuer.token('ada')}",),
    "two wrong ones": lambda issuer: ("Authorization: Bearer wrong", "Authorization: Bearer wronger"),
    "a wrong one and a method override": lambda issuer: (
        "Authorization: Bearer wrong",
        "X-HTTP-Method-Override: DELETE",
    ),
    "a wrong one and a name with an underscore": lambda issuer: ("Authorization: Bearer wrong", "X_User: ada"),
    "a wrong one and a Via of such a gateway": lambda issuer: (
        "Authorization: Bearer wrong",
        "Via: 1.1 connection-gateway-0123456789abcdef",
    ),
    "a wrong one and one for the API": lambda issuer: ("Authorization: Bearer wrong", "X-Goog-Api-Key: AIza"),
    "a wrong one and two claims about its address": lambda issuer: (
        "Authorization: Bearer wrong",
        "X-Forwarded-For: 192.0.2.1",
        "Forwarded: for=192.0.2.2",
    ),
    "the right one beside a wrong Gateway-Authorization": lambda issuer: (
        f"Authorization: Bearer {issuer.token('ada')}",
        "Gateway-Authorization: Bearer wrong",
    ),
}
PLACES = (
    "/api/v1/me",
    "/api",
    "/nowhere",
    "/",
    "//",
    "/api/../x",
    "/api/%2e%2e/x",
    "/limited/no",
    "/api/v1/me?access_token=x",
    "/api/v1/me?_method=DELETE",
    "/api/$batch",
)


def unsigned(issuer: Issuer) -> str:
    claims = jwt.decode(issuer.token("ada"), options={"verify_signature": False})
    return jwt.encode(claims, "", algorithm="none", headers={"kid": "k1"})


def forged(issuer: Issuer) -> str:
    claims = jwt.decode(issuer.token("ada"), options={"verify_signature": False})
    return jwt.encode(claims, FOREIGN_KEY, algorithm="RS256", headers={"kid": "k1"})


@pytest.mark.parametrize("case", STRANGERS)
async def test_stranger_is_always_answered_401(gateway: Running, upstream: Upstream, issuer: Issuer, case: str) -> None:
    """
    Without a valid credential the answer is the same 401 whatever the method and path, and nothing leaves.
    """
    fields = STRANGERS[case](issuer)
    seen = set()
    async with calling(gateway) as caller:
        for method in ("GET", "POST", "DELETE"):
            for target in PLACES:
                await caller.send(request(method, target, fields=fields))
                got = await caller.answer()
                problem = {**json.loads(got.body), "trace_id": ""}
                head = re.sub(rb"traceparent: .*", b"", got.head)
                seen.add((got.status, head, json.dumps(problem)))

    assert 1 == len(seen)
    assert (401, "caller_unauthenticated") == (got.status, got.code)
    # RFC 6750 3.1: the error is told to those who sent a credential.
    error = "" if case in ("no credential", "the right one in the wrong field") else 'error="invalid_token", '
    metadata = 'resource_metadata="http://gateway.test/.well-known/oauth-protected-resource"'
    assert [f"Bearer {error}{metadata}"] == got.values("WWW-Authenticate")
    assert [] == upstream.received
    assert await eventually(lambda: 33 == sum(line["count"] for line in gateway.lines("unauthenticated")))
    assert [] == gateway.lines("intent") + gateway.lines("outcome")


IDENTIFIED = {
    "no route": ("GET", "/nowhere", 404, "route_not_found"),
    "the root": ("GET", "/", 404, "route_not_found"),
    "a dot segment": ("GET", "/api/../x", 400, "ambiguous_target"),
    "a doubled slash": ("GET", "/api//x", 400, "ambiguous_target"),
    "a path that is not allowed": ("GET", "/api/v2/x", 403, "path_not_allowed"),
    "a method that is not allowed": ("DELETE", "/api/v1/x", 405, "method_not_allowed"),
}


async def test_identified_caller_learns_the_reason(
    tmp_path: Path, upstream: Upstream, provider: Provider, issuer: Issuer
) -> None:
    """
    A known caller is told why: 404, 400, 403, and 405 with the methods that are allowed; nothing leaves.
    """
    seen = {}
    async with gateway_with(tmp_path, upstream, issuer, provider, allow=["GET /v1/**", "POST /v1/x"]) as gateway:
        credential = issuer.token("ada")
        for case, (method, target, *_) in IDENTIFIED.items():
            got = await call(gateway, request(method, target, credential=credential))
            seen[case] = (method, target, got.status, got.code)
            assert "error=" in got.values("Proxy-Status")[0]
            if case == "a method that is not allowed":
                assert ["GET, POST"] == got.values("Allow")
        lines = gateway.lines()

    assert IDENTIFIED == seen
    assert [] == upstream.received
    assert ["outcome"] * len(IDENTIFIED) == [line["event"] for line in lines]
    assert [row[3] for row in IDENTIFIED.values()] == [line["error"] for line in lines]


async def test_missing_connection_is_told(gateway: Running, upstream: Upstream, issuer: Issuer) -> None:
    """
    A user without a connection is told that it is required, and nothing leaves.
    """
    got = await call(gateway, request("GET", "/api/x", credential=issuer.token("bob")))

    assert (403, "connection_required") == (got.status, got.code)
    assert [] == upstream.received


# --- the record ----------------------------------------------------------------------------------------------------


async def test_unwritable_record_lets_nothing_leave(
    gateway: Running, upstream: Upstream, issuer: Issuer, tmp_path: Path
) -> None:
    """
    Where the record cannot be written the call is refused with record_unavailable, before anything leaves.
    """
    full = os.open("/dev/full", os.O_WRONLY)
    before = gateway.gateway.record_path.stat()
    for number in range(3, 256):
        try:
            found = os.fstat(number)
        except OSError:
            continue
        if (found.st_dev, found.st_ino) == (before.st_dev, before.st_ino):
            os.dup2(full, number)
    os.close(full)

    got = await call(gateway, request("GET", "/api/x", credential=issuer.token("ada")))

    assert (503, "record_unavailable", ["5"]) == (got.status, got.code, got.values("Retry-After"))
    assert [] == upstream.received


async def test_every_call_has_one_intent_and_one_outcome(gateway: Running, upstream: Upstream, issuer: Issuer) -> None:
    """
    A call that leaves has exactly one intent and one outcome with its id, whatever became of it; query values stay out.
    """
    credential = issuer.token("ada")
    answers = [
        answer(200, b"{}"),
        answer(500, b"{}"),
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfive!",
        b"",
    ]
    for data in answers:
        upstream.respond = respond_with(data, close=True)
        await call(gateway, request("GET", "/api/x?name=value-in-query", credential=credential))
    assert await eventually(lambda: len(answers) == len(gateway.lines("outcome")))

    intents = [line["id"] for line in gateway.lines("intent")]
    assert intents == [line["id"] for line in gateway.lines("outcome")]
    assert [(200, None), (500, None), (502, "upstream_protocol_error")] == [
        (line["status"], line["error"]) for line in gateway.lines("outcome")
    ][:3]
    assert ["name"] == gateway.lines("intent")[0]["query_keys"]
    assert "value-in-query" not in gateway.gateway.record_path.read_text()


SUBJECTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "usual": ("/api/x?a=1", ()),
    "a quote in the query": ('/api/x?q="1"', ()),
    "a backslash in the query": ("/api/x?q=a\\b", ()),
    "a method override in a field": ("/api/x", ("X-HTTP-Method-Override: DELETE",)),
    "a method override in the query": ("/api/x?_method=DELETE", ()),
}


@pytest.mark.parametrize("case", SUBJECTS)
async def test_record_says_whose_token_left(
    tmp_path: Path, upstream: Upstream, provider: Provider, issuer: Issuer, case: str
) -> None:
    """
    Intent and outcome name the user whose token was sent, whatever the caller writes into its request.
    """
    target, fields = SUBJECTS[case]
    entry = {"name": "api", "prefix": "/api", "upstream": upstream.url, "connection": "api"}
    configuration = settings({**entry, "method_override": "judge"}, issuers=(issuer,))
    configuration["callers"]["management_keys"] = True
    async with running(configuration, tmp_path / "data") as gateway:
        await create_connection(gateway, provider)
        await gateway.connect("ada", access_token="T1")
        named = (*fields, "Gateway-User: ada")
        got = await call(gateway, request("GET", target, credential=gateway.management_key, fields=named))
        lines = gateway.lines()

    assert (200, ["Bearer T1"]) == (got.status, upstream.authorizations)
    assert ["intent", "outcome"] == [line["event"] for line in lines]
    assert [{"user": "ada", "tenant": None, "account": None}] * 2 == [line.get("subject") for line in lines]


# --- limits and keys -----------------------------------------------------------------------------------------------


async def test_rate_limit_is_per_caller(tmp_path: Path, upstream: Upstream, provider: Provider, issuer: Issuer) -> None:
    """
    A caller above the route's requests_per_minute is answered 429 with Retry-After; another one is not.
    """
    async with gateway_with(tmp_path, upstream, issuer, provider, limits={"requests_per_minute": 3}) as gateway:
        await gateway.connect("bob", access_token="B1")
        data = request("GET", "/api/x", credential=issuer.token("ada"))
        answers = [await call(gateway, data) for _ in range(4)]
        other = await call(gateway, request("GET", "/api/x", credential=issuer.token("bob")))

    assert [200, 200, 200, 429] == [got.status for got in answers]
    assert ("rate_limited", ["20"]) == (answers[-1].code, answers[-1].values("Retry-After"))
    assert 200 == other.status


async def test_concurrent_limit_is_per_route(
    tmp_path: Path, upstream: Upstream, provider: Provider, issuer: Issuer
) -> None:
    """
    A call above the route's concurrent is refused with 503 at once; when one has ended, the next one goes.
    """
    go = asyncio.Event()

    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        await go.wait()
        writer.write(answer(200, b"{}"))

    upstream.respond = respond
    async with gateway_with(tmp_path, upstream, issuer, provider, limits={"concurrent": 2}) as gateway:
        data = request("GET", "/api/x", credential=issuer.token("ada"))
        held = [asyncio.create_task(call(gateway, data)) for _ in range(2)]
        assert await eventually(lambda: 2 == len(upstream.received))
        refused = await call(gateway, data)
        go.set()
        statuses = [(await each).status for each in held]
        after = await call(gateway, data)

    assert (503, "upstream_overloaded", ["1"]) == (refused.status, refused.code, refused.values("Retry-After"))
    assert ([200, 200], 200) == (statuses, after.status)


async def test_callers_do_not_take_all_of_a_route(
    tmp_path: Path, upstream: Upstream, provider: Provider, issuer: Issuer
) -> None:
    """
    A caller with as many calls under way as the route allows one is told 429; another is served, and so is it later.
    """
    go = asyncio.Event()

    async def respond(received: Received, writer: asyncio.StreamWriter) -> None:
        if "slow" in received.request_line:
            await go.wait()
        writer.write(answer(200, b"{}"))

    upstream.respond = respond
    limits = {"concurrent_per_caller": 2}
    async with gateway_with(tmp_path, upstream, issuer, provider, limits=limits) as gateway:
        await gateway.connect("bob", access_token="T2")
        ada = issuer.token("ada")
        held = [asyncio.create_task(call(gateway, request("GET", "/api/slow", credential=ada))) for _ in range(2)]
        assert await eventually(lambda: 2 == len(upstream.received))
        refused = await call(gateway, request("GET", "/api/x", credential=ada))
        other = await call(gateway, request("GET", "/api/x", credential=issuer.token("bob")))
        go.set()
        statuses = [(await each).status for each in held]
        after = await call(gateway, request("GET", "/api/x", credential=ada))

    assert (429, "rate_limited", ["1"]) == (refused.status, refused.code, refused.values("Retry-After"))
    assert (200, [200, 200], 200) == (other.status, statuses, after.status)


async def test_management_key_needs_the_setting(
    tmp_path: Path, upstream: Upstream, provider: Provider, issuer: Issuer
) -> None:
    """
    On the traffic listener a management key is a stranger's, unless the setting is on; then it names its user.
    """
    entry = {"name": "api", "prefix": "/api", "upstream": upstream.url, "connection": "api"}
    seen = {}
    for accepted in (False, True):
        configuration = settings(entry, issuers=(issuer,))
        configuration["callers"]["management_keys"] = accepted
        async with running(configuration, tmp_path / str(accepted)) as gateway:
            await create_connection(gateway, provider)
            await gateway.connect("ada", access_token="T1")
            key = gateway.management_key
            alone = await call(gateway, request("GET", "/api/x", credential=key))
            named = await call(gateway, request("GET", "/api/x", credential=key, fields=("Gateway-User: ada",)))
            seen[accepted] = (alone.status, alone.code, named.status)

    assert (401, "caller_unauthenticated", 401) == seen[False]
    assert (400, "subject_required", 200) == seen[True]


async def test_gateway_fields_of_others_are_checked(gateway: Running, upstream: Upstream, issuer: Issuer) -> None:
    """
    A JWT's caller cannot name another user or a tenant that is not its own.
    """
    credential = issuer.token("bob", tenants=["t1"])
    for fields in (("Gateway-User: ada",), ("Gateway-Tenant: t2",)):
        got = await call(gateway, request("GET", "/api/x", credential=credential, fields=fields))
        assert (403, "subject_not_allowed") == (got.status, got.code)
    assert [] == upstream.received


async def test_revoked_agent_key_is_refused_within_a_second(
    gateway: Running, upstream: Upstream, issuer: Issuer
) -> None:
    """
    A key that another process revokes is refused soon after, on a connection that has used it, and on one that has not.
    """
    async with key_ring(gateway.data) as ring:
        created = await ring.create_agent(
            "agent", user="ada", tenants=(), roles=(), permissions=(), scopes=(), expires_at=None
        )
        data = request("GET", "/api/x", credential=created.secret)
        async with calling(gateway) as caller:
            await caller.send(data)
            before = (await caller.answer()).status
            for _ in range(2):  # so that connections share what was read of its head
                await repeat_on_another_connection(gateway, data)
            await ring.revoke(created.id)
            statuses = []
            for _ in range(20):
                await asyncio.sleep(0.1)
                await caller.send(data)
                statuses.append((await caller.answer()).status)
                if statuses[-1] == 401:
                    break
        elsewhere = await repeat_on_another_connection(gateway, data)

    assert (200, 401) == (before, statuses[-1])
    assert [401, 401] == elsewhere


async def repeat_on_another_connection(gateway: Running, data: bytes) -> list[int]:
    """Send *data* twice on a new connection, a head of nobody's between, and return how that was answered."""
    statuses = []
    async with calling(gateway) as caller:
        for sent in (data, request("GET", "/api/x"), data):
            await caller.send(sent)
            statuses.append((await caller.answer()).status)
    return statuses[::2]


async def test_protected_resource_is_public(gateway: Running, issuer: Issuer) -> None:
    """
    The metadata that a challenge points to is answered to anybody, and names the trusted issuer.
    """
    got = await call(gateway, request("GET", "/.well-known/oauth-protected-resource"))
    head = await call(gateway, request("HEAD", "/.well-known/oauth-protected-resource"), "HEAD")

    assert (200, [issuer.url]) == (got.status, json.loads(got.body)["authorization_servers"])
    assert (200, b"") == (head.status, head.body)
