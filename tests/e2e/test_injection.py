"""Where callers put their credential, where the connection's token goes, and that it is nowhere else."""

from __future__ import annotations

import asyncio
import base64
import copy
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.proxy.wire import call, gateway_with, request
from tests.world import PROJECT, Issuer, Provider, Received, Running, Upstream, answer, create_connection, running
from tests.world import settings as configuration

TOKEN = "canary/0+f=="  # what base64 and URLs write in another way

CREDENTIALS: dict[str, tuple[Any, Callable[[str], str]]] = {
    "Bearer": ("authorization", lambda key: f"Authorization: Bearer {key}"),
    "bearer in lower case": ("authorization", lambda key: f"authorization: bearer {key}"),
    "token, as PyGithub sends it": ("authorization", lambda key: f"Authorization: token {key}"),
    "Bearer with the project": ("authorization", lambda key: f"Authorization: Bearer {PROJECT}:{key}"),
    "Gateway-Authorization": ("authorization", lambda key: f"Gateway-Authorization: Bearer {key}"),
    "a field of the route's": ({"header": "X-Api-Key"}, lambda key: f"X-API-key: {key}"),
    "Gateway-Authorization instead of that": (
        {"header": "X-Api-Key"},
        lambda key: f"Gateway-Authorization: token {key}",
    ),
    "the password of Basic": (
        "basic",
        lambda key: f"Authorization: Basic {base64.b64encode(f'any:{key}'.encode()).decode()}",
    ),
}
INJECTIONS: dict[str, tuple[dict[str, str] | None, str, str | None, str]] = {
    # name: (inject, the field that carries the token, its value, the request target)
    "absent": (None, "Authorization", f"Bearer {TOKEN}", "/x?a=b"),
    "a format": ({"format": "token {token}"}, "Authorization", f"token {TOKEN}", "/x?a=b"),
    "a field": ({"header": "X-Api-Key", "format": "{token}"}, "X-Api-Key", TOKEN, "/x?a=b"),
    "a password": (
        {"basic": "user:{token}"},
        "Authorization",
        f"Basic {base64.b64encode(f'user:{TOKEN}'.encode()).decode()}",
        "/x?a=b",
    ),
    "a user": (
        {"basic": "{token}:"},
        "Authorization",
        f"Basic {base64.b64encode(f'{TOKEN}:'.encode()).decode()}",
        "/x?a=b",
    ),
    "a parameter": ({"query": "key"}, "Authorization", None, "/x?a=b&key=canary%2F0%2Bf%3D%3D"),
    "a parameter with a format": (
        {"query": "auth", "format": "tok:{token}"},
        "Authorization",
        None,
        "/x?a=b&auth=tok%3Acanary%2F0%2Bf%3D%3D",
    ),
}


@asynccontextmanager
async def every_form(data: Path, upstream: Upstream) -> AsyncIterator[Running]:
    """Run a gateway with a route for each pair of a credential's place and an injection, all of one connection."""
    routes = []
    for place, (credential, _) in enumerate(CREDENTIALS.values()):
        for way, (inject, *_) in enumerate(INJECTIONS.values()):
            route = {"name": f"r{place}-{way}", "prefix": f"/r{place}-{way}", "upstream": upstream.url}
            more = {"inject": inject} if inject is not None else {}
            # Copied: YAML would write what two routes share as an alias.
            routes.append(copy.deepcopy({**route, "connection": "api", "credential": credential, **more}))
    async with running(configuration(*routes), data) as gateway:
        await create_connection(gateway, None)
        await gateway.connect("ada", access_token=TOKEN)
        yield gateway


async def test_every_credential_meets_every_injection(tmp_path: Path, upstream: Upstream) -> None:
    """
    Wherever the caller's credential stands, the token goes where the route says, once, and the credential nowhere.
    """
    async with every_form(tmp_path / "data", upstream) as gateway:
        key = await gateway.agent_key("ada")
        for place, (_, field) in enumerate(CREDENTIALS.values()):
            for way, (_, name, value, target) in enumerate(INJECTIONS.values()):
                got = await call(gateway, request("GET", f"/r{place}-{way}/x?a=b", fields=(field(key), "X-Mine: 1")))
                received = upstream.received.pop()

                assert 200 == got.status, (place, way)
                assert f"GET {target} HTTP/1.1" == received.request_line
                assert ([] if value is None else [value]) == received.values(name)
                carried = [each for each in received.fields if each[0].lower() in ("authorization", "x-api-key")]
                assert (value is not None) == len(carried), carried
                assert ["1"] == received.values("X-Mine")
                assert key.encode() not in received.head
                assert base64.b64encode(f"any:{key}".encode()) not in received.head


async def test_known_caller_learns_what_the_route_refuses_wherever_its_credential_stands(
    tmp_path: Path, upstream: Upstream
) -> None:
    """
    A path or method that the route does not allow is told to its callers, also where the credential has its own field.
    """
    seen = []
    for number, (credential, field) in enumerate(CREDENTIALS.values()):
        entry = {"name": "api", "prefix": "/api", "upstream": upstream.url, "connection": "api", "allow": ["GET /x"]}
        route = copy.deepcopy({**entry, "credential": credential})
        async with running(configuration(route), tmp_path / str(number)) as gateway:
            key = await gateway.agent_key("ada")
            for method, target in (("GET", "/api/y"), ("POST", "/api/x"), ("OPTIONS", "/api/x")):
                got = await call(gateway, request(method, target, fields=(field(key),)))
                stranger = await call(gateway, request(method, target, fields=(field("gwa_x"),)))
                seen.append((got.code, stranger.code))

    codes = ("path_not_allowed", "method_not_allowed", "method_not_allowed")
    assert [(code, "caller_unauthenticated") for code in codes] * len(CREDENTIALS) == seen


async def test_token_in_the_query_is_told_to_nobody_else(
    tmp_path: Path, upstream: Upstream, provider: Provider, issuer: Issuer, capfd: pytest.CaptureFixture[str]
) -> None:
    """
    Redirects, links, a rejection, a broken answer: no answer, record or log holds the token; the upstream alone does.
    """

    async def respond(received: Received, writer: asyncio.StreamWriter) -> None:
        target = received.request_line.split(" ")[1]
        if target.startswith("/broken"):
            writer.write(b"HTTP/9.9 " + target.encode() + b"\r\n\r\n")
            writer.close()
            return
        if target.startswith("/rejected"):
            writer.write(answer(401))
            return
        fields = (
            f"Location: {upstream.url}{target}&page=2\r\nContent-Location: {target}\r\nLink: <{target}>; rel=self\r\n"
        )
        writer.write(answer(302, b"", fields))

    upstream.respond = respond
    async with gateway_with(tmp_path, upstream, issuer, provider, inject={"query": "key"}) as gateway:
        await gateway.connect("bob", access_token=TOKEN, refresh_token=provider.issue())
        credential = issuer.token("bob")
        heads = []
        for target in ("/api/moved?a=1", "/api/moved?key=mine&a=1", "/api/broken", "/api/rejected", "/api/x?key=m#"):
            got = await call(gateway, request("GET", target, credential=credential))
            heads.append(got.head + got.body)
        record = gateway.gateway.record_path.read_bytes()
        lines = gateway.lines("intent")

    sent = [each.request_line.split(" ")[1] for each in upstream.received]
    assert ["/moved?a=1&key=canary%2F0%2Bf%3D%3D"] * 2 == sent[:2]
    assert 5 == len(sent)  # the rejected one twice, with the refreshed token; the last one not at all
    assert "access-1" in sent[4]
    assert b"Location: http://gateway.test/api/moved?a=1&page=2\r\n" in heads[0]
    assert [["a"], ["a"], [], []] == [line["query_keys"] for line in lines]
    printed = "".join(capfd.readouterr())
    for told in (*heads, record, printed.encode()):
        assert b"canary" not in told
        assert b"access-1" not in told


UNUSABLE = {
    "a quote in Bearer": (None, 'a"b'),
    "a backslash in Bearer": (None, "a\\b"),
    "a comma in a field": ({"header": "X-Key", "format": "{token}"}, "a,b"),
    "a colon in a user": ({"basic": "{token}:x"}, "a:b"),
}


@pytest.mark.parametrize("case", UNUSABLE)
async def test_unusable_token_is_never_written(
    tmp_path: Path, upstream: Upstream, issuer: Issuer, case: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """
    A token that cannot stand where the route puts it is answered 502; nothing leaves, and nothing says that it would.
    """
    inject, token = UNUSABLE[case]
    more = {"inject": inject} if inject is not None else {}
    async with gateway_with(tmp_path, upstream, issuer, None, **more) as gateway:
        await gateway.connect("bob", access_token=token)
        got = await call(gateway, request("GET", "/api/x", credential=issuer.token("bob")))
        lines = gateway.lines()
        record = gateway.gateway.record_path.read_text()

    assert (502, "token_unusable", "api") == (got.status, got.code, json.loads(got.body)["connection"])
    assert [("outcome", "token_unusable", 0)] == [(line["event"], line["error"], line["attempts"]) for line in lines]
    assert [] == upstream.received
    assert not any(token in told for told in (got.body.decode(), record, *capfd.readouterr()))


FOREIGN = {
    "access_token": ("/google/x?access_token=t", (), "remove", "credential_not_passed"),
    "access_token, encoded": ("/google/x?a=b&access%5ftoken=t", (), "remove", "credential_not_passed"),
    "the API's own parameter": ("/google/x?key=AIza", (), "remove", "credential_not_passed"),
    "fields in a parameter": ("/google/x?%24httpHeaders=Authorization%3Ax", (), "remove", "credential_not_passed"),
    "the API's own field": ("/google/x", ("X-Goog-Api-Key: AIza", "x-goog-USER-project: p"), "remove", None),
    "the API's own field, refused": ("/google/x", ("x-goog-api-key: AIza",), "refuse", "credential_not_passed"),
    "a cookie": ("/google/x", ("Cookie: SID=1",), "refuse", None),
    "nothing": ("/google/x?keys=1&q=key", (), "refuse", None),
}


@pytest.mark.parametrize("case", FOREIGN)
async def test_callers_credential_for_the_api_stays_here(
    tmp_path: Path, upstream: Upstream, issuer: Issuer, case: str
) -> None:
    """
    What the catalogue knows as a credential of an API is removed or refused; the connection's token alone arrives.
    """
    target, fields, foreign, code = FOREIGN[case]
    async with google(tmp_path, upstream, issuer, foreign_credentials=foreign) as gateway:
        got = await call(gateway, request("GET", target, credential=issuer.token("ada"), fields=fields))

    assert code == got.code
    if code is not None:
        assert (400, []) == (got.status, upstream.received)
        return
    (received,) = upstream.received
    assert ["Bearer T1"] == received.values("Authorization")
    assert {"Host", "Authorization", "Via", "traceparent"} == {name for name, _ in received.fields}
    assert f"GET {target.removeprefix('/google')} HTTP/1.1" == received.request_line


PATHS: dict[str, tuple[str, str, dict[str, Any], str | None]] = {
    "minting": ("POST", "/v1/projects/-/serviceAccounts/a@b.example:generateAccessToken", {}, "minting_not_allowed"),
    "minting, spelled oddly": (
        "POST",
        "/v1/projects/-/serviceaccounts/a:GenerateAccessToken/",
        {},
        "minting_not_allowed",
    ),
    "minting, opened": ("POST", "/v1/projects/-/serviceAccounts/a:signJwt", {"minting": "pass"}, None),
    "batch, nothing to pass by": ("POST", "/batch/drive/v3", {}, None),
    "batch beside an allow list": ("POST", "/batch/drive/v3", {"allow": ["POST /**"]}, "multiplex_not_allowed"),
    "batch, opened": ("POST", "/batch/drive/v3", {"allow": ["POST /batch/**"], "multiplex": True}, None),
    "OData's batch": ("POST", "/v1.0/$batch", {"allow": ["* /**"]}, "multiplex_not_allowed"),
}


@pytest.mark.parametrize("case", PATHS)
async def test_paths_that_give_more_than_an_answer(
    tmp_path: Path, upstream: Upstream, issuer: Issuer, case: str
) -> None:
    """
    Paths that mint credentials, or carry calls past the route's list, are refused unless the route opens them.
    """
    method, path, more, code = PATHS[case]
    async with google(tmp_path, upstream, issuer, **more) as gateway:
        got = await call(gateway, request(method, f"/google{path}", credential=issuer.token("ada"), body=b"{}"))

    assert (403 if code else 200, code) == (got.status, got.code)
    assert ([] if code else [f"{method} {path} HTTP/1.1"]) == [each.request_line for each in upstream.received]


async def test_batch_does_not_pass_conditional_policies_by(tmp_path: Path, upstream: Upstream, issuer: Issuer) -> None:
    """
    A policy that looks at methods closes batch paths; one that looks at the caller alone leaves them open.
    """
    call_it = request("POST", "/google/batch", credential=issuer.token("ada"), body=b"{}")
    codes = []
    for number, keys in enumerate(({"methods": ["POST"]}, {"users": ["ada"]})):
        policies = [{"id": "one", "effect": "allow", **keys}]
        async with google(tmp_path / str(number), upstream, issuer, policies=policies) as gateway:
            codes.append((await call(gateway, call_it)).code)

    assert ["multiplex_not_allowed", None] == codes


@asynccontextmanager
async def google(
    tmp_path: Path, upstream: Upstream, issuer: Issuer, policies: list[dict[str, Any]] | None = None, **route: Any
) -> AsyncIterator[Running]:
    """Run a gateway whose route /google is of a connection made from the template, the API standing here."""
    entry = {"name": "google", "prefix": "/google", "upstream": upstream.url, "connection": "goog", **route}
    made = {"id": "goog", "template": "google", "client_id": "c", "client_secret": "s", "origins": [upstream.url]}
    more = {"policies": policies} if policies is not None else {}
    async with running(
        configuration(entry, issuers=(issuer,), connections=[made], **more), tmp_path / "data"
    ) as gateway:
        await gateway.connect("ada", access_token="T1", connection="goog")
        yield gateway
