"""Targets and methods against allow-lists, on the wire: what is accepted arrives as it was judged, the rest nowhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import hypothesis
from hypothesis import strategies as st

from tests.proxy.wire import WireAnswer, call, request, respond_with
from tests.world import Issuer, Received, Running, Upstream, answer, create_connection, running, settings

LISTED = ["GET /v1/people/**", "POST /v1/people", "* /v2/*", "GET /v3/*/items", "GET /v4/a*z", "PROPFIND /dav/**"]
AMBIGUOUS, PATH, METHOD = "ambiguous_target", "path_not_allowed", "method_not_allowed"
CREDENTIAL, INVALID, NOWHERE = "credential_not_passed", "invalid_request", "route_not_found"
MULTIPLEX = "multiplex_not_allowed"

# For each target of GET: the target that the upstream sees, or the code of the refusal.
TARGETS: dict[str, str] = {
    # --- the list
    "/api/v1/people/": "/v1/people/",
    "/api/v1/people/1": "/v1/people/1",
    "/api/v1/people/1/x/y": "/v1/people/1/x/y",
    "/api/v1/people/...": "/v1/people/...",
    "/api/v1/people/.well-known": "/v1/people/.well-known",
    "/api/v1/people/a%20b": "/v1/people/a%20b",
    "/api/v1/people/%C3%A9": "/v1/people/%C3%A9",
    "/api/v1/people/a:b@c,d+e=f": "/v1/people/a:b@c,d+e=f",
    "/api/v1/people/!$&'()*": "/v1/people/!$&'()*",
    "/api/v1/people/~a_b-c.d": "/v1/people/~a_b-c.d",
    "/api/v2/x": "/v2/x",
    "/api/v2/": "/v2/",
    "/api/v3/a/items": "/v3/a/items",
    "/api/v4/az": "/v4/az",
    "/api/v4/abcz": "/v4/abcz",
    "/api": PATH,
    "/api/": PATH,
    "/api/v1": PATH,
    "/api/v1/": PATH,
    "/api/v1/people": METHOD,
    "/api/v1/peoples/1": PATH,
    "/api/v1/People/1": PATH,
    "/api/V1/people/1": PATH,
    "/api/v1/peopl%C3%A9/1": PATH,
    "/api/v1/people%2F1": AMBIGUOUS,
    "/api/v2": PATH,
    "/api/v2/x/": PATH,
    "/api/v2/x/y": PATH,
    "/api/v3/items": PATH,
    "/api/v3/a/b/items": PATH,
    "/api/v3/a/items/": PATH,
    "/api/v3//items": AMBIGUOUS,
    "/api/v4/a": PATH,
    "/api/v4/a/z": PATH,
    "/api/v4/A1z": PATH,
    "/api/dav/x": METHOD,
    "/api/admin": PATH,
    "/api/x/v1/people/1": PATH,
    # --- dot segments, in every spelling
    "/api/v1/people/../../admin": AMBIGUOUS,
    "/api/v1/people/..": AMBIGUOUS,
    "/api/v1/people/.": AMBIGUOUS,
    "/api/v1/people/./1": AMBIGUOUS,
    "/api/v1/people/%2E%2E/%2E%2E/admin": AMBIGUOUS,
    "/api/v1/people/%2e%2e/admin": AMBIGUOUS,
    "/api/v1/people/.%2e/admin": AMBIGUOUS,
    "/api/v1/people/%2e./admin": AMBIGUOUS,
    "/api/v1/people/%2E": AMBIGUOUS,
    "/api/v1/people/%252E%252E/admin": AMBIGUOUS,
    "/api/v1/people/%25252E%25252E/admin": AMBIGUOUS,
    "/api/v1/people/..;/admin": AMBIGUOUS,
    "/api/v1/people/..;a=b/admin": AMBIGUOUS,
    "/api/v1/people/..%3B/admin": AMBIGUOUS,
    "/api/v1/people/..%00/admin": AMBIGUOUS,
    "/api/v1/people/..%0d/admin": AMBIGUOUS,
    "/api/v1/people/..%5Cadmin": AMBIGUOUS,
    "/api/v1/people/..\\admin": AMBIGUOUS,
    "/api/v1/people/..%2Fadmin": AMBIGUOUS,
    "/api/v1/people/%C0%AE%C0%AE/admin": AMBIGUOUS,
    "/api/v1/people/..%C0%AFadmin": AMBIGUOUS,
    "/api/v1/people/%E0%80%AE%E0%80%AE/admin": AMBIGUOUS,
    "/api/v1/people/%EF%BC%8E%EF%BC%8E/admin": AMBIGUOUS,
    "/api/v1/people/..%EF%BC%8Fadmin": AMBIGUOUS,
    "/api/v1/people/%E2%80%A5/admin": AMBIGUOUS,
    "/api/v1/people/%E2%80%A4%E2%80%A4/admin": AMBIGUOUS,
    "/api/../api/v1/people/1": AMBIGUOUS,
    "/../api/v1/people/1": AMBIGUOUS,
    "/api/v1/people/1/..": AMBIGUOUS,
    # --- slashes
    "/api//v1/people/1": AMBIGUOUS,
    "//api/v1/people/1": AMBIGUOUS,
    "/api/v1//people/1": AMBIGUOUS,
    "/api/v1/people//1": AMBIGUOUS,
    "/api/v1/people/1//": AMBIGUOUS,
    "/api/v1/people/a%2Fb": AMBIGUOUS,
    "/api/v1/people/a%2fb": AMBIGUOUS,
    "/api/v1/people/a%252Fb": AMBIGUOUS,
    "/api/v1/people\\1": AMBIGUOUS,
    "/api%2Fv1/people/1": NOWHERE,
    "\\api\\v1\\people\\1": AMBIGUOUS,
    # --- needless, double and broken encodings
    "/api/v1/%70eople/1": AMBIGUOUS,
    "/api/v1/people/%31": AMBIGUOUS,
    "/api/v1/people/%7E": AMBIGUOUS,
    "/api/v1/people/%2D": AMBIGUOUS,
    "/api/v1/people/%c3%a9": AMBIGUOUS,
    "/api/v1/people/%C3%a9": AMBIGUOUS,
    "/api/v1/people/%": AMBIGUOUS,
    "/api/v1/people/%2": AMBIGUOUS,
    "/api/v1/people/%zz": AMBIGUOUS,
    "/api/v1/people/%u002e": AMBIGUOUS,
    "/api/v1/people/%25": AMBIGUOUS,
    "/api/v1/people/%2541": AMBIGUOUS,
    "/api/v1/people/%FF": AMBIGUOUS,
    "/api/v1/people/%C3": AMBIGUOUS,
    "/api/v1/people/%ED%A0%80": AMBIGUOUS,
    "/api/v1/people/%00": AMBIGUOUS,
    "/api/v1/people/%0A": AMBIGUOUS,
    "/api/v1/people/%0D%0AX:y": AMBIGUOUS,
    "/api/v1/people/%7F": AMBIGUOUS,
    "/api/v1/people/a;b": AMBIGUOUS,
    "/api/v1/people/a%3Bb": AMBIGUOUS,
    "/api/v1/people/[1]": AMBIGUOUS,
    "/api/v1/people/<1>": AMBIGUOUS,
    '/api/v1/people/"1"': AMBIGUOUS,
    "/api/v1/people/a^b": AMBIGUOUS,
    "/api/v1/people/a|b": AMBIGUOUS,
    "/api/v1/people/{1}": AMBIGUOUS,
    "/api/v1/people/a`b": AMBIGUOUS,
    "/api/v1/people/a#b": AMBIGUOUS,
    "/api/v1/people/1?q#f": AMBIGUOUS,
    # --- other forms
    "http://evil.example/api/v1/people/1": "misdirected",
    "http://gateway.test/api/v1/people/1": AMBIGUOUS,
    "//user@evil.example/api/v1/people/1": AMBIGUOUS,
    "api/v1/people/1": AMBIGUOUS,
    "*": AMBIGUOUS,
    # --- the query is not judged by the list, and is sent as it came
    "/api/v1/people/1?": "/v1/people/1?",
    "/api/v1/people/1?a=b": "/v1/people/1?a=b",
    "/api/v1/people/1?a=1&a=2&&=": "/v1/people/1?a=1&a=2&&=",
    "/api/v1/people/1?q=%2F%2f%2C,": "/v1/people/1?q=%2F%2f%2C,",
    "/api/v1/people/1?q=../../admin": "/v1/people/1?q=../../admin",
    "/api/v1/people/1?q=a;b\\c//d": "/v1/people/1?q=a;b\\c//d",
    "/api/v1/people/1?q=%zz%2": "/v1/people/1?q=%zz%2",
    "/api/v1/people/1??": "/v1/people/1??",
    "/api/v1/people/1?/v1/people": "/v1/people/1?/v1/people",
    "/api/v1/people/1?q='<>\"{}|^`[]": "/v1/people/1?q='<>\"{}|^`[]",
    "/api/admin?/v1/people/1": PATH,
    "/api?/v1/people/1": PATH,
    "/api/v1/people/1?access_token=x": CREDENTIAL,
    "/api/v1/people/1?a&access%5Ftoken=x": CREDENTIAL,
    "/api/v1/people/1?ACCESS_TOKEN=x": CREDENTIAL,
    "/api/v1/people/1?a=b;access_token=x": CREDENTIAL,
    "/api/v1/people/1?access_token%5B%5D=x": CREDENTIAL,
    "/api/v1/people/1?_method=DELETE": INVALID,
    "/api/v1/people/1?%5Fmethod=DELETE": INVALID,
    "/api/v1/people/1?$httpMethod=DELETE": INVALID,
    "/api/v1/people/1?a;X-HTTP-Method-Override=PUT": INVALID,
    "/api/v2/$batch": MULTIPLEX,
    "/api/v2/$BATCH": MULTIPLEX,
    "/api/v2/%24batch": MULTIPLEX,
    # --- other routes
    "/open": "/",
    "/open/": "/",
    "/open/admin?x": "/admin?x",
    "/open/$batch": "/$batch",
    "/open/a/../b": AMBIGUOUS,
    "/openx": NOWHERE,
    "/OPEN/x": NOWHERE,
    "/": NOWHERE,
    "/v1/people/1": NOWHERE,
    "/based/x/y": "/base/v9/x/y",
    "/based/x/": "/base/v9/x/",
    "/based": PATH,
    "/based/x": PATH,
    "/based/x/..": AMBIGUOUS,
    "/based/../x/y": AMBIGUOUS,
    "/loose/files/a%2Fb": "/files/a%2Fb",
    "/loose/files/a%25b": "/files/a%25b",
    "/loose/files/a%2fb": AMBIGUOUS,
    "/loose/files/a%2F..%2Fb": AMBIGUOUS,
    "/loose/files/..%2Fb": AMBIGUOUS,
    "/loose/files/a%2F%2Fb": AMBIGUOUS,
    "/loose/files/%252E%252E": AMBIGUOUS,
    "/loose/files/..%252Fb": AMBIGUOUS,
    "/loose/files/..%255Cb": AMBIGUOUS,
    "/loose/files/a/b": PATH,
}
METHODS: dict[str, tuple[str, str, str | None]] = {
    "POST that is listed": ("POST", "/api/v1/people", None),
    "POST below": ("POST", "/api/v1/people/1", METHOD),
    "HEAD where GET is listed": ("HEAD", "/api/v1/people/1", METHOD),
    "OPTIONS where GET is listed": ("OPTIONS", "/api/v1/people/1", METHOD),
    "DELETE where any is listed": ("DELETE", "/api/v2/x", None),
    "PATCH where any is listed": ("PATCH", "/api/v2/x", None),
    "HEAD where any is listed": ("HEAD", "/api/v2/x", None),
    "PROPFIND where it is listed": ("PROPFIND", "/api/dav/x", None),
    "PROPFIND where any is listed": ("PROPFIND", "/api/v2/x", METHOD),
    "PROPFIND without a list": ("PROPFIND", "/open/x", METHOD),
    "MKCOL without a list": ("MKCOL", "/open/x", METHOD),
    "PURGE without a list": ("PURGE", "/open/x", METHOD),
    "M-SEARCH without a list": ("M-SEARCH", "/open/x", METHOD),
    "TRACE without a list": ("TRACE", "/open/x", METHOD),
    "TRACE where any is listed": ("TRACE", "/api/v2/x", METHOD),
    "PUT without a list": ("PUT", "/open/x", None),
    # What the parser does not know as a method is no HTTP/1.1 to it; the connection is closed.
    "get": ("get", "/open/x", INVALID),
    "DeLeTe": ("DeLeTe", "/api/v2/x", INVALID),
    "TRACK": ("TRACK", "/open/x", "method_not_allowed"),
    "an invented one": ("FOO", "/open/x", INVALID),
}
HOP_BY_HOP = {"connection", "keep-alive", "te", "trailer", "upgrade", "proxy-connection", "http2-settings"}


@asynccontextmanager
async def gateway_at(data: Path, upstream: Upstream, issuer: Issuer) -> AsyncIterator[Running]:
    """Run a gateway with the table's four routes; "ada" is connected with the token T1."""
    routes: list[dict[str, Any]] = [
        {"name": "api", "prefix": "/api", "upstream": upstream.url, "allow": LISTED},
        {"name": "open", "prefix": "/open", "upstream": upstream.url},
        {"name": "based", "prefix": "/based", "upstream": f"{upstream.url}/base/v9", "allow": ["GET /x/**"]},
        {
            "name": "loose",
            "prefix": "/loose",
            "upstream": upstream.url,
            "allow": ["GET /files/*"],
            "encoded": ["slash", "percent"],
        },
    ]
    configuration = settings(*({**route, "connection": "api"} for route in routes), issuers=(issuer,))
    async with running(configuration, data) as gateway:
        await create_connection(gateway, None)
        await gateway.connect("ada", access_token="T1")
        yield gateway


def lint(received: Received, credential: str) -> None:
    """Assert that a request which left is framed once, has our token alone, and nothing of the caller's hop."""
    assert 1 == len(received.values("Host"))
    assert ["Bearer T1"] == received.values("Authorization")
    assert 1 >= len(received.values("Content-Length")) + len(received.values("Transfer-Encoding"))
    names = [name for name, _ in received.fields]
    assert not HOP_BY_HOP & {name.lower() for name in names}
    assert not any("_" in name or name.lower().startswith(("gateway-", "x-forwarded-")) for name in names)
    assert credential.encode() not in received.head
    assert received.values("Via")[-1].startswith("1.1 connection-gateway-")


async def test_targets_on_the_wire(tmp_path: Path, upstream: Upstream, issuer: Issuer) -> None:
    """
    An accepted target is sent as the table says, and recorded so; a refused one has its code, and nothing leaves.
    """
    credential = issuer.token("ada")
    seen = {}
    async with gateway_at(tmp_path / "data", upstream, issuer) as gateway:
        for target in TARGETS:
            got = await call(gateway, request("GET", target, credential=credential))
            sent = [each.request_line for each in upstream.received]
            for each in upstream.received:
                lint(each, credential)
            upstream.received.clear()
            assert (got.code is None) == bool(sent), target
            seen[target] = got.code or "".join(sent).removeprefix("GET ").removesuffix(" HTTP/1.1")
        intents = [line["path"] for line in gateway.lines("intent")]

    assert 150 <= len(TARGETS)
    assert TARGETS == seen
    accepted = [sent.partition("?")[0] for sent in TARGETS.values() if sent.startswith("/")]
    assert accepted == intents


async def test_methods_on_the_wire(tmp_path: Path, upstream: Upstream, issuer: Issuer) -> None:
    """
    A method passes as it is spelled, where it is listed; otherwise nothing leaves.
    """
    credential = issuer.token("ada")
    seen = {}
    upstream.respond = respond_with(answer(200))
    async with gateway_at(tmp_path / "data", upstream, issuer) as gateway:
        for case, (method, target, _) in METHODS.items():
            got = await call(gateway, request(method, target, credential=credential), method)
            assert [f"{method} {below(target)} HTTP/1.1"] * (200 == got.status) == [
                each.request_line for each in upstream.received
            ]
            upstream.received.clear()
            seen[case] = (method, target, None if 200 == got.status else code_of(got))

    assert METHODS == seen


def code_of(got: WireAnswer) -> str:
    """Return the code of a refusal, which an answer to HEAD has in Proxy-Status only."""
    return got.values("Proxy-Status")[0].partition('details="')[2].rstrip('"')


def below(target: str) -> str:
    """Return what stands behind a route's prefix."""
    return "/" + target.split("/", 2)[2]


# --- random targets and fields -------------------------------------------------------------------------------------

SEGMENTS = st.sampled_from(
    (
        *("v1", "people", "secret", "SECRET", "secret.", "..", ".", "%2E%2E", "%2e%2e", "%73ecret", "se%63ret"),
        *("a%2Fb", "%25", "", "x;y", "\\", "$batch", "caf%C3%A9", "%C0%AE", "..;", "secret%20", "people%00", "~"),
        *("a b", "%EF%BC%8E"),
    )
)
QUERIES = st.sampled_from(
    (
        *("", "?", "?a=b", "?access_token=x", "?%61ccess_token=x", "?_method=DELETE", "?a=%2F&b=,;", "?q=/secret"),
        "?x#y",
    )
)
NAMES = st.sampled_from(
    (
        *("X-Mine", "Accept", "Connection", "TE", "Keep-Alive", "Upgrade", "Cookie", "X-Forwarded-For", "Forwarded"),
        *("X-Original-URL", "X-HTTP-Method-Override", "X_Mine", "Authorization", "Gateway-User", "Gateway-Tenant"),
        *("Content-Length", "Transfer-Encoding", "Expect", "Proxy-Authorization", "X-Rewrite-URL", "Range", "Via"),
        "traceparent",
    )
)
VALUES = st.sampled_from(
    ("", "1", "X-Mine, Authorization", "close, Host", "chunked", "0", "/secret/1", "DELETE", "1.1 x")
)
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=3)
PLAIN_FIELDS = ("X-Mine", "Accept", "Range")


def test_random_request_is_refused_or_sent_as_it_was_judged(tmp_path: Path) -> None:
    """
    Whatever a known caller sends: it is refused, or what the upstream got is what policy judged and the record says.
    """
    with asyncio.Runner() as runner:
        world = World(tmp_path / "data")
        runner.run(world.start())
        try:

            @hypothesis.settings(max_examples=400, deadline=None, database=None)
            @hypothesis.given(st.lists(SEGMENTS, max_size=5), QUERIES, FIELDS)
            def check(segments: list[str], query: str, fields: list[tuple[str, str]]) -> None:
                runner.run(world.check("/api" + "".join(f"/{each}" for each in segments) + query, fields))

            check()
        finally:
            runner.run(world.stop())
        assert 20 < world.accepted < world.tried


class World:
    """A gateway that denies /secret, beside the servers that it needs."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.accepted = 0
        self.tried = 0

    async def start(self) -> None:
        self.upstream, self.issuer = await Upstream().start(), await Issuer().start()
        route = {"name": "api", "prefix": "/api", "upstream": self.upstream.url, "connection": "api"}
        policies = [
            {"id": "all", "effect": "allow", "methods": ["GET"]},
            {"id": "no", "effect": "deny", "paths": ["/**/secret/**", "/**/secret"]},
        ]
        self._running = running(settings(route, issuers=(self.issuer,), policies=policies), self.data)
        self.gateway = await self._running.__aenter__()
        await create_connection(self.gateway, None)
        await self.gateway.connect("ada", access_token="T1")
        self.credential = self.issuer.token("ada")

    async def stop(self) -> None:
        await self._running.__aexit__(None, None, None)
        await self.upstream.stop()
        await self.issuer.stop()

    async def check(self, target: str, fields: list[tuple[str, str]]) -> None:
        self.tried += 1
        before = len(self.gateway.lines("intent"))
        lines = tuple(f"{name}: {value}" for name, value in fields)
        # The last chunk of a chunked body, and more than the one byte of another.
        body = b"0\r\n\r\n" if {"Content-Length", "Transfer-Encoding"} & {name for name, _ in fields} else b""
        head = request("GET", target, credential=self.credential, fields=lines)
        got = await call(self.gateway, head + body)
        intents = self.gateway.lines("intent")[before:]
        received, self.upstream.received = self.upstream.received, []
        assert len(intents) == len(received)
        if not received:
            assert 400 <= got.status
            return
        self.accepted += 1
        (sent,), (intent,) = received, intents
        lint(sent, self.credential)
        path, mark, query = target.removeprefix("/api").partition("?")
        assert f"GET {path or '/'}{mark}{query} HTTP/1.1" == sent.request_line
        assert (path or "/") == intent["path"]
        assert "secret" not in [segment.rstrip(". ") for segment in unquote(path).casefold().split("/")]
        mine = [value for name, value in fields if name in PLAIN_FIELDS]
        nominated = any(name == "Connection" and "X-Mine" in value for name, value in fields)
        kept = [value for name, value in sent.fields if name in PLAIN_FIELDS]
        assert nominated or mine == kept
