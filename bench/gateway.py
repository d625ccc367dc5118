"""
The gateway as a contestant: it offers what a peer does (bench/peers), and can be set up with other routes.

Everything is on: policies, the record, metrics. It is set up as an operator would, by bench/gateway_under_test.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.contestants import AUDIENCE, ISSUER, PROXY_CORE, ROOT, USER, Issuer, Proxy, Upstream, announced, free_port
from bench.peers import TlsFiles
from bench.peers.processes import own_directory

NAME = "gateway"
PROJECT = "bench"
RECORD, LINE = "state/**/*.jsonl", b'"event":"outcome"'
ALLOW = ["GET /**", "POST /**"]
ONE_ROUTE: tuple[Mapping[str, Any], ...] = ({"name": "bench", "prefix": "/api"},)
MAX_CONNECTIONS = 30_000  # the limits that are on by default are below what one address opens here
CHECK_SECONDS = 30.0
CANNOT_BE_USED = 3  # what `gateway check` ends with then

Routes = Sequence[Mapping[str, Any]]


def missing() -> str | None:
    """Return None: this is its own tree."""
    return None


def install() -> None:
    """Do nothing."""


def routes_file(
    upstream: Upstream, ports: Mapping[str, int], *, routes: Routes, tls: TlsFiles | None, users: Sequence[str] | None
) -> dict[str, Any]:
    """Return what routes.yaml says: *routes*, each to *upstream* with the connection "bench" where it says nothing."""
    scheme = "http" if tls is None else "https"
    common = {"upstream": f"{scheme}://127.0.0.1:{upstream.port}", "connection": "bench", "allow": ALLOW}
    limits = {"connections": MAX_CONNECTIONS, "connections_per_address": MAX_CONNECTIONS}
    traffic: dict[str, Any] = {"bind": f"127.0.0.1:{ports['traffic']}", "limits": limits}
    if tls is not None:
        traffic["tls"] = {"cert": str(tls.cert), "key": str(tls.key)}
    issuer = {"issuer": ISSUER, "jwks_uri": upstream.jwks_uri, "audience": AUDIENCE, "algorithms": ["RS256"]}
    policy = {"id": "readers", "effect": "allow", "connections": ["bench"]}
    return {
        "version": 1,
        "project": PROJECT,
        "listeners": {
            "traffic": traffic,
            "token_api": {"bind": f"127.0.0.1:{ports['token_api']}"},
            "console": {"bind": f"127.0.0.1:{ports['console']}"},
        },
        "callers": {"issuers": [{**issuer, "required_scope": None}]},
        "egress": {
            "allow_private": ["127.0.0.0/8"],
            "allow_http": True,
            **({"ca_file": str(tls.ca)} if tls is not None else {}),
        },
        "policies": [policy if users is None else {**policy, "users": list(users)}],
        "routes": [{**common, **route} for route in routes],
    }


def accepts(route: Mapping[str, Any], upstream: Upstream, *, directory: Path) -> bool:
    """Return whether this version of the gateway knows what *route* says."""
    path = own_directory(directory, name="check") / "routes.yaml"
    ports = {"traffic": 1, "token_api": 2, "console": 3}
    said = routes_file(upstream, ports, routes=[{**ONE_ROUTE[0], **route}], tls=None, users=None)
    path.write_text(json.dumps(said))
    words = [sys.executable, "-m", "gateway", "check", str(path)]
    code = subprocess.run(words, cwd=ROOT, capture_output=True, timeout=CHECK_SECONDS).returncode
    if code not in (0, CANNOT_BE_USED):
        raise SystemExit(f"bench: gateway check ended with {code}")
    return code == 0


@contextmanager
def running(
    upstream: Upstream,
    issuer: Issuer,
    *,
    directory: Path,
    tls: TlsFiles | None = None,
    routes: Routes = ONE_ROUTE,
    users: Sequence[str] | None = (USER,),
) -> Iterator[Proxy]:
    """Run the gateway before *upstream*; *users* None: every user of the issuer is let through."""
    own = own_directory(directory, name=NAME)
    ports = {name: free_port() for name in ("traffic", "token_api", "console")}
    said = routes_file(upstream, ports, routes=routes, tls=tls, users=users)
    (own / "routes.yaml").write_text(json.dumps(said))  # JSON is YAML
    words = [
        *("--directory", str(own), "--token-api-port", str(ports["token_api"])),
        *("--origin", said["routes"][0]["upstream"], "--user", USER, "--token", upstream.token),
    ]
    with announced("bench.gateway_under_test", *words, core=PROXY_CORE) as ready:
        yield Proxy(NAME, ports["traffic"], ready["pid"], own, RECORD, LINE)
