"""
The proxy to compare with: what a tutorial builds with aiohttp in an afternoon, and nothing to slow it down.

1. `web.Application` with a catch-all handler, one shared `ClientSession`, uvloop.
2. The caller's JWT is verified on each request (PyJWT, RS256), the token is injected, hop-by-hop fields are dropped.
3. A JSON line per request goes to a file, and Prometheus counts and times it.
4. With --cert, --key and --ca it listens with TLS and calls an https --upstream.

It decides nothing, refreshes nothing and streams nothing: it does less than the gateway does.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import jwt
import uvloop
from aiohttp import web
from prometheus_client import Counter, Histogram

HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-authorization", "te", "trailer", "transfer-encoding", "upgrade", "host"}
)
REQUESTS = Counter("proxy_requests_total", "Requests", ["method", "status"])
SECONDS = Histogram("proxy_request_seconds", "Duration", ["method"])

MAX_BODY_BYTES = 1 << 28  # aiohttp's own limit, 1 MiB, is below what the benchmark sends

ARGUMENTS = web.AppKey("arguments", argparse.Namespace)
KEYS = web.AppKey("keys", jwt.PyJWKSet)
RECORD = web.AppKey("record", logging.Logger)
SESSION = web.AppKey("session", aiohttp.ClientSession)


def verify(request: web.Request) -> str:
    """Return the user that the request's JWT names, or refuse with 401."""
    arguments, keys = request.app[ARGUMENTS], request.app[KEYS]
    credential = request.headers.get("Authorization", "").removeprefix("Bearer ")
    try:
        key = keys[jwt.get_unverified_header(credential)["kid"]]
        claims = jwt.decode(credential, key, algorithms=["RS256"], audience=arguments.audience, issuer=arguments.issuer)
    except (jwt.PyJWTError, KeyError) as exc:
        raise web.HTTPUnauthorized from exc
    return str(claims["sub"])


async def handle(request: web.Request) -> web.Response:
    """Verify, inject, send, record, answer."""
    started = time.perf_counter()
    user = verify(request)
    arguments, session = request.app[ARGUMENTS], request.app[SESSION]
    headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
    headers["Authorization"] = f"Bearer {arguments.token}"
    path = request.path_qs.removeprefix("/api")
    body = await request.read()
    async with session.request(
        request.method, f"{arguments.upstream}{path}", headers=headers, data=body or None, allow_redirects=False
    ) as response:
        content = await response.read()
        kept = {name: value for name, value in response.headers.items() if name.lower() not in HOP_BY_HOP}
    seconds = time.perf_counter() - started
    REQUESTS.labels(request.method, str(response.status)).inc()
    SECONDS.labels(request.method).observe(seconds)
    line = {"time": time.time(), "user": user, "method": request.method, "path": request.path}
    request.app[RECORD].info(json.dumps({**line, "status": response.status, "seconds": seconds}))
    return web.Response(status=response.status, headers=kept, body=content)


async def client_session(app: web.Application) -> AsyncIterator[None]:
    """The shared session, as long as the application lives."""
    arguments = app[ARGUMENTS]
    context = ssl.create_default_context(cafile=arguments.ca) if arguments.ca else None
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context or True)) as session:
        app[SESSION] = session
        yield


async def announce(app: web.Application) -> None:
    """Tell the driver what to measure: this process, and the lines of its record."""
    print(json.dumps({"pid": os.getpid(), "record": app[ARGUMENTS].record.name, "line": '"status"'}), flush=True)


def listening_with_tls(arguments: argparse.Namespace) -> ssl.SSLContext | None:
    """Return the server's side of TLS, where a certificate is given."""
    if arguments.cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(arguments.cert, arguments.key)
    return context


def build(arguments: argparse.Namespace) -> web.Application:
    """Return the application, its record opened."""
    record = logging.getLogger("record")
    record.setLevel(logging.INFO)
    record.propagate = False
    record.addHandler(logging.FileHandler(arguments.record))
    app = web.Application(client_max_size=MAX_BODY_BYTES)
    app[ARGUMENTS] = arguments
    app[KEYS] = jwt.PyJWKSet.from_json(arguments.jwks_file.read_text())
    app[RECORD] = record
    app.cleanup_ctx.append(client_session)
    app.router.add_route("*", "/{path:.*}", handle)
    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--token", required=True)
    parser.add_argument("--issuer", required=True)
    parser.add_argument("--audience", required=True)
    parser.add_argument("--jwks-file", type=Path, required=True)
    parser.add_argument("--record", type=Path, required=True)
    for name in ("cert", "key", "ca"):
        parser.add_argument(f"--{name}", type=Path)
    application = build(parser.parse_args())
    application.on_startup.append(announce)
    uvloop.install()
    web.run_app(
        application,
        host="127.0.0.1",
        port=application[ARGUMENTS].port,
        ssl_context=listening_with_tls(application[ARGUMENTS]),
        access_log=None,
        print=lambda *_: None,
    )
