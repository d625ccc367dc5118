"""
Express with http-proxy-middleware, jose and morgan: what an afternoon with Node builds (`express_proxy/`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.contestants import AUDIENCE, ISSUER, Issuer, Proxy, Upstream, free_port
from bench.peers import CACHED_CALLERS, TlsFiles
from bench.peers.processes import install_node_packages, own_directory, serving

NAME = "express"
RECORD, LINE = "access.log", b'" status='
PROJECT = Path(__file__).parent / "express_proxy"


def missing() -> str | None:
    """Return what is not installed and how it is got."""
    if shutil.which("node") is None:
        return "Node (apt-get install nodejs npm)"
    there = (PROJECT / "node_modules" / "http-proxy-middleware").is_dir()
    return None if there else f"Express (npm ci --prefix bench/peers/{PROJECT.name})"


def install() -> None:
    """Install what the lock pins; Node itself has to be there."""
    if missing():
        install_node_packages(PROJECT)


@contextmanager
def running(upstream: Upstream, issuer: Issuer, *, directory: Path, tls: TlsFiles | None = None) -> Iterator[Proxy]:
    """Run the Express application before *upstream*."""
    port = free_port()
    own = own_directory(directory, name=NAME)
    options = {
        "port": port,
        "upstream": f"{'https' if tls else 'http'}://127.0.0.1:{upstream.port}",
        "token": upstream.token,
        "issuer": ISSUER,
        "audience": AUDIENCE,
        "jwks_file": str(issuer.jwks_file),
        "cached_callers": CACHED_CALLERS,
        "record": RECORD,
        **({"cert": str(tls.cert), "key": str(tls.key), "ca": str(tls.ca)} if tls else {}),
    }
    (own / "options.json").write_text(json.dumps(options))
    command = ("node", PROJECT / "server.mjs", "options.json")
    with serving(*command, port=port, directory=own, environment={"NODE_ENV": "production"}) as pid:
        yield Proxy(NAME, port, pid, own, RECORD, LINE)
