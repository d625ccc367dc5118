"""
The hot path alone, in one process and without a socket of its own: what `make bench-guard` counts (bench/guard.py).

`python -m bench.hot_path --requests 20000` tells the CPU of a request; with `-m cProfile -s tottime` before it, where.

1. Real parts, joined as `gateway/server.py` joins them: identity, policy, tokens, pool, record, metrics. The seams are
   those that the parts have: transports (asyncio), `Opener`, `TokenService`, and the clocks that come in as arguments.
2. A caller's transport hands over one whole request at a time, and the next when the answer was written; an upstream's
   answers what was written to it with the same bytes each time. Both call from the loop, as the network does.
3. Each answer must be a 200, and the record must have its outcome line; else the process ends with 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, cycle
from pathlib import Path
from random import Random
from typing import Any

import uvloop

from bench.contestants import AUDIENCE, ISSUER, USER, make_issuer
from bench.upstream import Connection, Upstream
from gateway import settings
from gateway.access.identity import Identity
from gateway.access.issuers import Issuers
from gateway.access.keys import KeyRing
from gateway.access.policy import PolicySet
from gateway.audit.log import LogFile
from gateway.config.load import parse
from gateway.config.values import Configuration
from gateway.models import Caller, ConnectionToken, Route, TokenKey
from gateway.net.backlog import Backlog
from gateway.net.client import OutboundClient
from gateway.proxy.connection import UpstreamConnection
from gateway.proxy.discovery import ProtectedResource
from gateway.proxy.exchange import Exchange
from gateway.proxy.lane import Lane
from gateway.proxy.pool import UpstreamPool
from gateway.proxy.tokens import ConnectionTokens
from gateway.proxy.traffic import TrafficServer
from gateway.server import settle_garbage
from gateway.store.changes import ChangeFeed
from gateway.store.engine import Store, sqlite_url
from gateway.telemetry import Metrics

WARM_UP = 200  # requests before the first that counts: caches, memos, the interpreter's own specialising
TOKEN = "bench-" + "0123456789abcdef" * 2
ORDERED = 65_536  # requests of many callers before their order is repeated
STARTED_AT = 1_800_000_000.0  # POSIX seconds, the same in each run
TICK_SECONDS = 1e-6  # by which each look at a clock moves it: 20,000 looks stay within every cache's time

HEAD = (
    "GET {prefix}/people?page=1 HTTP/1.1\r\nHost: gateway.bench.example\r\nUser-Agent: bench/1\r\nAccept: */*\r\n"
    "Authorization: Bearer {credential}\r\nX-Request-Id: "
)


class Clock:
    """Seconds that pass only when somebody looks."""

    def __init__(self, start: float) -> None:
        self.now = start

    def __call__(self) -> float:
        """Return the time, which is later each time."""
        self.now += TICK_SECONDS
        return self.now


class WireTransport(asyncio.Transport):
    """A connection without a network: *on_write* gets what is written."""

    def __init__(self, on_write: Callable[[bytes], None]) -> None:
        super().__init__()
        self._on_write = on_write
        self._ends = socket.socketpair()  # for who asks the system about the connection
        self._is_closing = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what a TCP connection of loopback says of itself."""
        if name in ("peername", "sockname"):
            return ("127.0.0.1", 40_000)
        return self._ends[0] if name == "socket" else default

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Pass *data* on."""
        self._on_write(bytes(data))

    def is_closing(self) -> bool:
        """Whether it was ended."""
        return self._is_closing

    def close(self) -> None:
        """End it."""
        self._is_closing = True
        for end in self._ends:
            end.close()

    def abort(self) -> None:
        """End it."""
        self.close()

    def get_write_buffer_size(self) -> int:
        """Return 0: all that was written has left."""
        return 0

    def pause_reading(self) -> None:
        """Do nothing: the other side sends nothing before it was answered."""

    def resume_reading(self) -> None:
        """Do nothing."""

    def can_write_eof(self) -> bool:
        """Return True, as TCP does."""
        return True


class TokenEach:
    """A token service that has one token for each user: it is asked once for it, then the cache answers."""

    shares_tokens_between_callers = True
    max_cache_seconds = None

    async def fetch(self, key: TokenKey, *, caller: Caller, credential: str) -> ConnectionToken:
        """Return the user's token; one user's alone is what it was when the first figures were stored."""
        return ConnectionToken("bench", TOKEN if key.user == USER else f"{TOKEN}-{key.user}")

    async def replace(
        self, key: TokenKey, *, rejected: ConnectionToken, caller: Caller, credential: str
    ) -> ConnectionToken:
        """Return the token: there is no other."""
        return rejected


class Agent:
    """Sends requests on one connection, each after the answer to the one before: *warm_up* and *total* of them."""

    def __init__(self, requests: Iterator[bytes], *, warm_up: int, total: int, loop: asyncio.AbstractEventLoop) -> None:
        self._requests = requests
        self._warm_up = warm_up
        self._left = warm_up + total
        self._loop = loop
        self.answered = 0
        self.failed = 0
        self.warm_at = 0.0  # process time
        self.protocol: Any = None
        self.done = loop.create_future()
        self.transport = WireTransport(self._take)

    def connect(self, server: TrafficServer) -> None:
        """Connect to *server*, and send the first request."""
        self.protocol = server()
        self.protocol.connection_made(self.transport)
        self._loop.call_soon(self._send)

    def _send(self) -> None:
        self.protocol.data_received(next(self._requests))

    def _take(self, data: bytes) -> None:
        self.answered += 1
        self.failed += not data.startswith(b"HTTP/1.1 200 ")
        self._left -= 1
        if self.answered == self._warm_up:
            self.warm_at = time.process_time()
        if self._left:
            self._loop.call_soon(self._send)
        else:
            self.done.set_result(None)


def opener(answer: bytes, loop: asyncio.AbstractEventLoop) -> Callable[[], Any]:
    """Return what opens connections to an upstream that gives *answer* to everything."""
    backlog = Backlog(loop)

    async def open_connection() -> UpstreamConnection:
        connection = UpstreamConnection(loop, backlog)

        def respond(_: bytes) -> None:
            loop.call_soon(connection.data_received, answer)

        connection.connection_made(WireTransport(respond))
        connection.address = "127.0.0.1:9"
        return connection

    return open_connection


def requests(credentials: Sequence[str], *, routes: int, changes: bool) -> Iterator[bytes]:
    """
    Yield requests without end: byte for byte the same, or (*changes*) with one field that is always another.

    Of several callers each calls the one of *routes* that is its own, in an order that no cache can guess; all of them
    once before any calls again.
    """
    heads = [
        HEAD.format(prefix=prefix_of(caller % routes, routes), credential=credential).encode()
        for caller, credential in enumerate(credentials)
    ]
    order = [number % len(heads) for number in range(max(len(heads), ORDERED))]
    once, rest = order[: len(heads)], order[len(heads) :]
    Random(0).shuffle(once)
    Random(1).shuffle(rest)
    callers = chain(once, cycle(rest or once))
    for number, caller in enumerate(callers):
        yield heads[caller] + b"%032x\r\n\r\n" % (number if changes else 0)


def prefix_of(route: int, routes: int) -> str:
    """Return the prefix of a route: of one alone, what it was when the first figures were stored."""
    return "/api" if routes == 1 else f"/api-{route}"


def configuration(directory: Path, jwks_port: int, *, routes: int, users: list[str]) -> Configuration:
    """Return what the gateway of bench/gateway_under_test.py has: *routes*, one issuer, one policy for *users*."""
    issuer = {
        "issuer": ISSUER,
        "jwks_uri": f"http://127.0.0.1:{jwks_port}/bench/jwks",
        "audience": AUDIENCE,
        "required_scope": None,
    }
    route = {"upstream": "http://127.0.0.1:9", "connection": "bench", "allow": ["GET /**"]}
    names = ["bench"] if routes == 1 else [f"bench-{number}" for number in range(routes)]
    document = {
        "version": 1,
        "project": "bench",
        "callers": {"issuers": [issuer]},
        "egress": {"allow_private": ["127.0.0.0/8"], "allow_http": True},
        "policies": [{"id": "readers", "effect": "allow", "connections": ["bench"], "users": users}],
        "routes": [{**route, "name": name, "prefix": prefix_of(number, routes)} for number, name in enumerate(names)],
    }
    return parse(json.dumps(document).encode(), name="routes.yaml", directory=directory, environ={})


def lane_of(route: Route, pool: UpstreamPool, *, policies: PolicySet) -> Lane:
    """Return *route* in service."""
    return Lane(route, pool, has_conditions=policies.has_conditions(route.name, route.connection))


def write_issuer(directory: Path, *, callers: int) -> Path:
    """Write the keys of a new issuer and the credentials of *callers* to *directory*, and return it."""
    issuer = make_issuer(directory, now=int(STARTED_AT))
    credentials = [issuer.credential, *(issuer.sign(user) for user in users_of(callers)[1:])]
    (directory / "credentials").write_text("\n".join(credentials))
    return directory


def users_of(callers: int) -> list[str]:
    """Return the users behind so many credentials."""
    return [USER, *(f"user-{number}" for number in range(1, callers))]


async def drive(
    directory: Path, *, jwks: bytes, credentials: Sequence[str], routes: int, total: int, changes: bool
) -> float:
    """
    Have the hot path serve those that warm it up and *total* requests; return the CPU of one of these, in seconds.

    Raises:
        SystemExit: one of them went wrong.
    """
    loop = asyncio.get_running_loop()
    clock, monotonic = Clock(STARTED_AT), Clock(0.0)
    canned = Upstream(token=TOKEN, jwks=jwks)
    keys_server = await loop.create_server(lambda: Connection(canned), "127.0.0.1", 0)
    warm_up = max(WARM_UP, 2 * len(credentials))
    users = users_of(len(credentials))
    config = configuration(directory, keys_server.sockets[0].getsockname()[1], routes=routes, users=users)
    policies = PolicySet([settings.policy(entry) for entry in config.policies or ()])
    store = await Store.open(sqlite_url(directory / "gateway.db"))
    feed = ChangeFeed(store, clock=clock, monotonic=monotonic)
    await feed.poll()  # once: its task would read every 0.4 seconds, however slow the machine, and be counted
    egress_log = LogFile.open(directory / "egress.jsonl")
    async with OutboundClient(config.egress) as client:
        issuers = Issuers(map(settings.issuer, config.issuers), client, clock=clock, monotonic=monotonic)
        keyring = KeyRing(store, feed, clock=clock, random_bytes=Random(0).randbytes)
        metrics = Metrics()
        pool = UpstreamPool(config.routes[0].origin, open_connection=opener(canned.ok, loop), loop=loop)
        lanes = {route.name: lane_of(route, pool, policies=policies) for route in config.routes}
        exchange = Exchange(
            lanes=lanes,
            identity=Identity(issuers, keyring, clock=clock, monotonic=monotonic, accepts_management=False),
            policies=policies,
            tokens=ConnectionTokens(TokenEach(), clock=clock, monotonic=monotonic, feed=feed),
            egress_log=egress_log,
            metrics=metrics,
            resource=ProtectedResource([ISSUER], []),
            project=config.project,
            public_url=lambda host: f"http://{host}",
            clock=clock,
            monotonic=monotonic,
            random_bits=Random(0).getrandbits,
        )
        server = TrafficServer(
            exchange.serve, on_refused=exchange.count_unread, loop=loop, limits=config.listeners.traffic.limits
        )
        sent = requests(credentials, routes=routes, changes=changes)
        agent = Agent(sent, warm_up=warm_up, total=total, loop=loop)
        agent.connect(server)
        await agent.done
        cpu_seconds = time.process_time() - agent.warm_at
        await asyncio.sleep(0)
        await server.shutdown(1.0)
        await pool.close()
        await issuers.close()
    keys_server.close()
    egress_log.close()
    await store.close()
    recorded = egress_log.path.read_bytes().count(b'"event":"outcome"')
    if agent.failed or not agent.answered == recorded == warm_up + total:
        sys.exit(f"bench: {agent.answered} answers, {agent.failed} of them not 200, {recorded} outcome lines")
    return cpu_seconds / total


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, required=True)
    parser.add_argument("--changes", action="store_true", help="one field of each request is another")
    parser.add_argument("--callers", type=int, default=1, help="each with a credential and a route of its own")
    parser.add_argument("--routes", type=int, default=1, help="shared by the callers where they are fewer")
    parser.add_argument("--issuer", type=Path, help="directory with jwks.json and credentials; absent: a new one")
    said = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a connection for each route
    settle_garbage()
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as name:
        own = said.issuer or write_issuer(Path(name), callers=said.callers)
        jwks, credentials = (own / "jwks.json").read_bytes(), (own / "credentials").read_text().split("\n")
        driven = drive(
            Path(name),
            jwks=jwks,
            credentials=credentials[: said.callers],
            routes=said.routes,
            total=said.requests,
            changes=said.changes,
        )
        seconds = uvloop.run(driven)
    print(f"{1e6 * seconds:.1f} microseconds of CPU a request")
