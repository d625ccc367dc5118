"""
One run of the benchmark: what was started for it, how much is measured, and what had to be left out.

1. A proxy is started when a work asks for it, once, and runs until the end: those that are not measured are idle.
2. What is not installed, has no time left or is at fault is left out by name, never silently.
"""

from __future__ import annotations

import os
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import gateway
from bench.contestants import LOAD_CORE, Issuer, Proxy, Upstream, make_issuer, running_upstream
from bench.load import Load, request, run_load, write_requests
from bench.measure import Contestant, Result, Send, in_turn
from bench.peers import Peer, TlsFiles, make_tls_files, upstream_nginx
from bench.peers.lineup import PEERS

PATH = "/api/people"
PEERS_BY_NAME = {peer.NAME: peer for peer in PEERS}


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured: rounds of *seconds* (the first row's are longer), which peers, and how long in all."""

    name: str
    rounds: int
    first_seconds: float
    seconds: float
    peers: tuple[str, ...]
    limit_seconds: float
    has_every_load: bool = False  # each peer under each load, not only those that the gateway is held against


PLANS = {
    "quick": Plan("quick", 3, 2.0, 2.0, ("plain-aiohttp",), 120.0),
    "": Plan("default", 5, 3.0, 1.5, ("nginx", "nginx-lua", "haproxy", "envoy", "plain-aiohttp"), 600.0),
    "full": Plan("full", 5, 3.0, 3.0, tuple(PEERS_BY_NAME), 3_600.0, has_every_load=True),
}


@dataclass(slots=True)
class Session:
    """A run of the benchmark. Made by `open_session`."""

    plan: Plan
    directory: Path
    issuer: Issuer
    upstream: Upstream
    _owned: ExitStack
    began: float = field(default_factory=time.monotonic)
    left_out: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)  # of the gateway: these works have no result
    _proxies: dict[str, Proxy] = field(default_factory=dict)
    _requests: dict[bytes, Path] = field(default_factory=dict)
    _sent: Counter[Path] = field(default_factory=Counter)  # of each file
    _tls: tuple[TlsFiles, Upstream] | None = None

    @property
    def seconds_left(self) -> float:
        """How much of the plan's time is left."""
        return self.began + self.plan.limit_seconds - time.monotonic()

    @property
    def has_bodies(self) -> bool:
        """Whether the API behind the proxies has more than 1 KB to give: Python's has not."""
        return isinstance(self.upstream, upstream_nginx.NginxUpstream)

    def tls(self) -> tuple[TlsFiles, Upstream]:
        """Return certificates, and the API behind TLS."""
        if self._tls is None:
            files = make_tls_files(self.directory)
            serving = upstream_nginx.running(
                self.issuer, token=self.upstream.token, directory=self.directory, tls=files
            )
            self._tls = files, self._owned.enter_context(serving)
        return self._tls

    def peer(self, name: str, *, over_tls: bool = False) -> Proxy | None:
        """Return the peer *name*, running; None where it cannot run, which is then told."""
        key = f"{name} over TLS" if over_tls else name
        if key not in self._proxies:
            peer: Peer = PEERS_BY_NAME[name]
            if (lacks := peer.missing()) is not None:
                self._leave_out(f"{name}: not installed: {lacks}")
                return None
            files, upstream = self.tls() if over_tls else (None, self.upstream)
            serving = peer.running(upstream, self.issuer, directory=self.directory, tls=files)
            try:
                self._proxies[key] = self._owned.enter_context(serving)
            except SystemExit as exc:  # the others can be measured without it
                self._leave_out(f"{key}: {exc}")
                return None
        return self._proxies[key]

    def gateway(self, variant: str = "", **options: Any) -> Proxy:
        """Return a gateway, running; *variant* names one with *options* of its own."""
        key = f"gateway {variant}"
        if key not in self._proxies:
            serving = gateway.running(self.upstream, self.issuer, directory=self.directory, **options)
            self._proxies[key] = self._owned.enter_context(serving)
        return self._proxies[key]

    def gateway_over_tls(self) -> Proxy:
        """Return a gateway with TLS on both sides, running."""
        key = "gateway over TLS"
        if key not in self._proxies:
            files, upstream = self.tls()
            serving = gateway.running(upstream, self.issuer, directory=self.directory, tls=files)
            self._proxies[key] = self._owned.enter_context(serving)
        return self._proxies[key]

    def sending(
        self,
        method: str = "GET",
        path: str = PATH,
        *,
        body: bytes = b"",
        connections: int = 32,
        rate: float = 0.0,
        seconds: float | None = None,
    ) -> Send:
        """Return what sends one request over and over."""
        wanted = request(method, path, credential=self.issuer.credential, body=body)
        if wanted not in self._requests:
            file = self.directory / f"requests-{len(self._requests)}"
            self._requests[wanted] = write_requests(file, [wanted])
        return self.sending_file(self._requests[wanted], connections=connections, rate=rate, seconds=seconds)

    def sending_file(
        self, requests: Path, *, connections: int = 32, rate: float = 0.0, seconds: float | None = None
    ) -> Send:
        """
        Return what sends the *requests* of a file in turn, each time on from where the last has ended: else those at
        the end of a long file would be new to the proxy for ever.
        """
        how_long = self.plan.seconds if seconds is None else seconds

        def send(proxy: Proxy) -> Load:
            first = self._sent[requests]
            load = run_load(proxy.port, requests, connections=connections, seconds=how_long, rate=rate, first=first)
            self._sent[requests] += load.requests
            return load

        return send

    def contestants(self, names: tuple[str, ...], send: Send) -> list[Contestant]:
        """Return those of *names* that can run, each under the load of *send*; "gateway" is the plain one."""
        found = ((name, self.gateway() if name == "gateway" else self.peer(name)) for name in names)
        return [Contestant(name, proxy, self.upstream, send) for name, proxy in found if proxy is not None]

    def measure(self, what: str, contestants: list[Contestant], *, rounds: int | None = None) -> list[Result]:
        """Return the results of *contestants*, each warmed up for a moment and then measured in turn."""
        return in_turn(contestants, rounds=rounds or self.plan.rounds, what=what, left_out=self.left_out)

    def warm_up(self, contestants: list[Contestant]) -> None:
        """Send for a second: imports, caches and connections are not what is measured."""
        warming = self.sending(seconds=1.0)
        for contestant in contestants:
            warming(contestant.proxy)

    def _leave_out(self, what: str) -> None:
        if what not in self.left_out:
            self.left_out.append(what)


@contextmanager
def open_session(plan: Plan, directory: Path) -> Iterator[Session]:
    """Yield a run of *plan* below *directory*; end all that was started for it."""
    with ExitStack() as owned:
        issuer = make_issuer(directory)
        token = secrets.token_hex(20)
        lacks = upstream_nginx.missing()
        if lacks is None:
            serving: Any = upstream_nginx.running(issuer, token=token, directory=directory)
        else:
            serving = running_upstream(issuer, token=token)
        session = Session(plan, directory, issuer, owned.enter_context(serving), owned)
        if lacks is not None:
            session.left_out.append(f"post, bodies, streams and TLS: their API needs {lacks}")
        yield session


@contextmanager
def on_load_core() -> Iterator[None]:
    """Run what this process does meanwhile on the core of the load."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {LOAD_CORE})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
