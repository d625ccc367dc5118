"""
Everything the gateway depends on fails, slowly and in the middle: what the caller gets, what is recorded, and that the
next call after the fault is served again.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.e2e.gateway_process import serving
from tests.fault_proxy import Fault, fault_proxy
from tests.postgres import PostgresServer
from tests.proxy.wire import WireAnswer, calling, request
from tests.world import Issuer, Provider, Received, Running, Upstream, answer, create_connection, running, settings

TIMEOUTS = {"connect_seconds": 1, "response_seconds": 1, "idle_seconds": 1}
GUARD_SECONDS = 30.0  # nothing hangs: a silent database is waited for longest, for a transaction and its end (22 s)
BODY = json.dumps({"numbers": list(range(40))}).encode()
LONG_AGO = 1_700_000_000
HEAD_BYTES = len(answer(200, BODY)) - len(BODY)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the caller got (*code*: of a refusal), whether it was whole, and the error that the outcome line names."""

    status: int
    code: str | None
    is_whole: bool
    error: str | None


def refused(status: int, code: str) -> Seen:
    return Seen(status, code, True, code)


PASSED = Seen(200, None, True, None)
CUT = Seen(200, None, False, "upstream_cut")


# --- the upstream ----------------------------------------------------------------------------------------------------

UPSTREAM = {
    "nothing": (Fault(), PASSED),
    "a connection that is reset at once": (Fault("accept"), refused(502, "upstream_unreachable")),
    "a connection that is closed at once": (Fault("accept", "close"), refused(502, "upstream_unreachable")),
    "a reset when the request comes": (Fault("request"), refused(502, "upstream_unreachable")),
    "an end when the request comes": (Fault("request", "close"), refused(502, "upstream_unreachable")),
    "silence when the request comes": (Fault("request", "hang"), refused(504, "upstream_timeout")),
    "a reset in the middle of the head": (Fault("answer", "reset", 20), refused(502, "upstream_unreachable")),
    "an end in the middle of the head": (Fault("answer", "close", 20), refused(502, "upstream_unreachable")),
    "silence in the middle of the head": (Fault("answer", "hang", 20), refused(504, "upstream_timeout")),
    "a reset in the middle of the body": (Fault("answer", "reset", HEAD_BYTES + 20), CUT),
    "an end in the middle of the body": (Fault("answer", "close", HEAD_BYTES + 20), CUT),
    "silence in the middle of the body": (Fault("answer", "hang", HEAD_BYTES + 20), CUT),
    "a head that drips": (Fault(drip_seconds=0.1), refused(504, "upstream_timeout")),
    "an answer that drips but comes": (Fault(drip_seconds=0.001), PASSED),
    "a length that is too large": (Fault(rewrite=lambda data: data.replace(b"Length: ", b"Length: 9")), CUT),
    "a length that is no number": (
        Fault(rewrite=lambda data: data.replace(b"Length: ", b"Length: x")),
        refused(502, "upstream_protocol_error"),
    ),
    "garbage": (Fault(rewrite=lambda _: b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), refused(502, "upstream_protocol_error")),
}


@pytest.mark.parametrize("fault", UPSTREAM)
async def test_upstream_with(tmp_path: Path, upstream: Upstream, issuer: Issuer, fault: str) -> None:
    """
    Each fault of the upstream has its answer and its outcome, and the next call on the route is served.
    """
    how, expected = UPSTREAM[fault]
    upstream.respond = _numbers
    async with (
        asyncio.timeout(GUARD_SECONDS),
        fault_proxy(port=upstream.port) as proxy,
        _gateway(tmp_path, proxy.url, issuer) as gateway,
    ):
        proxy.fault = how
        got = await _call(gateway, issuer.token("ada"))
        proxy.fault = Fault()
        after = await _call(gateway, issuer.token("ada"))
        errors = [line["error"] for line in gateway.lines("outcome")]

    assert expected == Seen(got.status, got.code, got.is_whole, errors[0])
    assert (200, BODY, None) == (after.status, after.body, errors[1])
    if not expected.is_whole:
        assert BODY.startswith(got.body)


async def test_upstream_with_a_truncated_gzip_stream(tmp_path: Path, upstream: Upstream, issuer: Issuer) -> None:
    """
    What a coding holds is not the gateway's to judge: the bytes pass as they came.
    """
    packed = gzip.compress(BODY)[:-9]

    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(200, packed, "Content-Encoding: gzip\r\n"))

    upstream.respond = respond
    async with asyncio.timeout(GUARD_SECONDS), _gateway(tmp_path, upstream.url, issuer) as gateway:
        got = await _call(gateway, issuer.token("ada"))

    assert (200, packed, ["gzip"]) == (got.status, got.body, got.values("Content-Encoding"))


# --- the provider ----------------------------------------------------------------------------------------------------

UNAVAILABLE = refused(503, "token_service_unavailable")
LOST = refused(403, "connection_required")
PROVIDER = {
    "an answer that drips but comes": (Fault(drip_seconds=0.001), PASSED, True),
    "a connection that is reset at once": (Fault("accept"), UNAVAILABLE, True),
    "a reset when the request comes": (Fault("request"), UNAVAILABLE, True),
    "an end when the request comes": (Fault("request", "close"), UNAVAILABLE, True),
    "garbage": (Fault(rewrite=lambda _: b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), UNAVAILABLE, False),
    "a reset in the middle of the answer": (Fault("answer", "reset", 20), UNAVAILABLE, False),
}


@pytest.mark.parametrize("fault", PROVIDER)
async def test_provider_with(
    tmp_path: Path, upstream: Upstream, provider: Provider, issuer: Issuer, fault: str
) -> None:
    """
    A refresh that fails is told as such; a grant that the provider has not heard of survives, and is used again.
    """
    how, expected, survives = PROVIDER[fault]
    upstream.respond = _numbers
    async with (
        asyncio.timeout(GUARD_SECONDS * 2),
        fault_proxy(port=urlsplit(provider.url).port) as proxy,
        _gateway(
            tmp_path, upstream.url, issuer, token_url=f"{proxy.url}/token", refresh_token=provider.issue()
        ) as gateway,
    ):
        proxy.fault = how
        got = await _call(gateway, issuer.token("ada"))
        proxy.fault = Fault()
        proxy.cut()
        after = await _until_served(gateway, issuer.token("ada"))
        error = gateway.lines("outcome")[0]["error"]

    assert expected == Seen(got.status, got.code, got.is_whole, error)
    assert (200 if survives else 403) == after.status
    assert (1 if survives else 0) <= provider.exchanges


# --- the issuer's keys -----------------------------------------------------------------------------------------------

KEYS = {
    "a connection that is reset at once": Fault("accept"),
    "silence when the request comes": Fault("request", "hang"),
    "a reset in the middle of the answer": Fault("answer", "reset", 40),
    "garbage": Fault(rewrite=lambda _: b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
    "an answer that is no key set": Fault(rewrite=lambda data: data.replace(b'"keys"', b'"kyes"')),
}


@pytest.mark.parametrize("fault", KEYS)
async def test_key_server_with(tmp_path: Path, upstream: Upstream, issuer: Issuer, fault: str) -> None:
    """
    Keys that cannot be had are 503, not 401, and nothing leaves; they are asked for again when they can be had.
    """
    upstream.respond = _numbers
    async with asyncio.timeout(60), fault_proxy(port=urlsplit(issuer.url).port) as proxy:
        entry = {**issuer.settings(), "jwks_uri": f"{proxy.url}/keys"}
        async with _gateway(tmp_path, upstream.url, issuer, callers={"issuers": [entry]}) as gateway:
            proxy.fault = KEYS[fault]
            got = await _call(gateway, issuer.token("ada"))
            reached = len(upstream.received)
            proxy.fault = Fault()
            proxy.cut()
            after = await _until_served(gateway, issuer.token("ada"), seconds=45)

    assert (503, "keys_unavailable", 0) == (got.status, got.code, reached)
    assert 200 == after.status


# --- the database ----------------------------------------------------------------------------------------------------


DATABASE = {
    "connections that are reset at once": Fault("accept"),
    "a reset when a statement comes": Fault("request"),
    "silence": Fault("request", "hang"),
    "a reset in the middle of an answer": Fault("answer", "reset", 10),
}


@pytest.mark.parametrize("fault", DATABASE)
async def test_database_with(
    tmp_path: Path, postgres: PostgresServer, upstream: Upstream, issuer: Issuer, fault: str
) -> None:
    """
    A database that cannot be asked is 503 for a token that is not in memory, in bounded time, and recovers by itself.
    """
    upstream.respond = _numbers
    url = postgres.new_database()
    route = {"name": "api", "prefix": "/api", "upstream": upstream.url, "connection": "api", "timeouts": TIMEOUTS}
    async with asyncio.timeout(3 * GUARD_SECONDS), fault_proxy(path=postgres.socket_path) as proxy:
        through = f"postgresql+psycopg://gateway@127.0.0.1:{proxy.port}{urlsplit(url).path}"
        environ = {"GATEWAY_DATABASE_URL": through}
        configuration = settings(route, issuers=(issuer,))
        async with serving(configuration, tmp_path / "data", environ=environ) as gateway:
            await create_connection(gateway, None)
            await gateway.connect("ada", access_token="T1")
            proxy.fault = DATABASE[fault]
            if proxy.fault.how != "hang":
                proxy.cut()
            got = await _call(gateway, issuer.token("ada"))
            reached = len(upstream.received)
            proxy.fault = Fault()
            proxy.cut()
            after = await _until_served(gateway, issuer.token("ada"), seconds=45)
    postgres.give_back(url)

    assert (503, "token_service_unavailable", 0) == (got.status, got.code, reached)
    assert 200 == after.status


# --- what the tests share --------------------------------------------------------------------------------------------


async def _numbers(_: Received, writer: asyncio.StreamWriter) -> None:
    writer.write(answer(200, BODY))


@asynccontextmanager
async def _gateway(
    tmp_path: Path,
    upstream_url: str,
    issuer: Issuer,
    *,
    token_url: str | None = None,
    refresh_token: str | None = None,
    **more: object,
) -> AsyncIterator[Running]:
    """Yield a gateway with the route /api; user "ada" has a token, to be refreshed where *token_url* is given."""
    route = {"name": "api", "prefix": "/api", "upstream": upstream_url, "connection": "api", "timeouts": TIMEOUTS}
    async with running(settings(route, issuers=(issuer,), **more), tmp_path / "data") as gateway:
        await create_connection(gateway, None, **({"tokenUrl": token_url} if token_url else {}))
        expiry = LONG_AGO if token_url else int(time.time()) + 3600
        await gateway.connect("ada", access_token="T1", refresh_token=refresh_token, accessTokenExpiry=expiry)
        yield gateway


async def _call(gateway: Running, credential: str) -> WireAnswer:
    async with calling(gateway, wait_seconds=GUARD_SECONDS) as caller:
        await caller.send(request("GET", "/api/numbers", credential=credential))
        return await caller.answer()


async def _until_served(gateway: Running, credential: str, *, seconds: float = 15.0) -> WireAnswer:
    """Return the first answer that is no 503, or what it is after *seconds*."""
    until = time.monotonic() + seconds
    while True:
        got = await _call(gateway, credential)
        if got.status != 503 or time.monotonic() > until:
            return got
        await asyncio.sleep(0.5)
