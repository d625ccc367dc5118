"""
The proxy that a tutorial builds with aiohttp (`bench/baseline.py`): what the gateway has to beat several times over.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.contestants import AUDIENCE, ISSUER, ROOT, Issuer, Proxy, Upstream, free_port
from bench.peers import TlsFiles
from bench.peers.processes import own_directory, serving

NAME = "plain-aiohttp"
RECORD, LINE = "access.jsonl", b'"status"'


def missing() -> str | None:
    """Return None: it is made of what the gateway is made of."""
    return None


def install() -> None:
    """Do nothing: there is nothing to fetch."""


@contextmanager
def running(upstream: Upstream, issuer: Issuer, *, directory: Path, tls: TlsFiles | None = None) -> Iterator[Proxy]:
    """Run the plain proxy before *upstream*."""
    port = free_port()
    own = own_directory(directory, name=NAME)
    words = [
        *("--port", str(port), "--upstream", f"{'https' if tls else 'http'}://127.0.0.1:{upstream.port}"),
        *("--token", upstream.token, "--issuer", ISSUER, "--audience", AUDIENCE),
        *("--jwks-file", str(issuer.jwks_file), "--record", RECORD),
        *(("--cert", str(tls.cert), "--key", str(tls.key), "--ca", str(tls.ca)) if tls else ()),
    ]
    command = (sys.executable, "-m", "bench.baseline", *words)
    with serving(*command, port=port, directory=own, environment={"PYTHONPATH": str(ROOT)}) as pid:
        yield Proxy(NAME, port, pid, own, RECORD, LINE)
