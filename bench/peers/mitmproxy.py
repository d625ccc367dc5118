"""
mitmproxy as a reverse proxy, with an add-on (`mitmproxy_addon.py`) that verifies, injects and records.

It has an environment of its own: it pins older versions of packages that the gateway uses.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.contestants import AUDIENCE, ISSUER, Issuer, Proxy, Upstream, free_port
from bench.peers import CACHED_CALLERS, UPSTREAM_NAME, TlsFiles
from bench.peers.processes import TOOLS, install_wheels, own_directory, serving

NAME = "mitmproxy"
RECORD, LINE = "access.log", b'" status='
ENVIRONMENT = TOOLS / NAME
PROGRAM = ENVIRONMENT / "bin" / "mitmdump"
LOCK = Path(__file__).with_name("mitmproxy.lock")
ADDON = Path(__file__).with_name("mitmproxy_addon.py")


def missing() -> str | None:
    """Return what is not installed and how it is got."""
    return None if PROGRAM.exists() else f"mitmproxy (pip install -r {LOCK.name}, an environment of its own)"


def install() -> None:
    """Install the wheels into an environment of its own."""
    if missing():
        install_wheels(ENVIRONMENT, lock=LOCK)


@contextmanager
def running(upstream: Upstream, issuer: Issuer, *, directory: Path, tls: TlsFiles | None = None) -> Iterator[Proxy]:
    """Run mitmproxy before *upstream*."""
    port = free_port()
    own = own_directory(directory, name=NAME)
    options = {
        "token": upstream.token,
        "issuer": ISSUER,
        "audience": AUDIENCE,
        "jwks_file": str(issuer.jwks_file),
        "cached_callers": CACHED_CALLERS,
        "record": RECORD,
    }
    (own / "options.json").write_text(json.dumps(options))
    called = f"https://{UPSTREAM_NAME}" if tls else "http://127.0.0.1"
    words = ["--mode", f"reverse:{called}:{upstream.port}", "--listen-host", "127.0.0.1", "--listen-port", str(port)]
    # flow_detail 0: its own lines on the terminal stand for nothing that the record does not hold.
    settings = ["confdir=.", "flow_detail=0", "termlog_verbosity=error", "connection_strategy=lazy"]
    if tls:
        pair = own / "pair.pem"
        pair.write_bytes(tls.key.read_bytes() + tls.cert.read_bytes())
        settings += [f"certs=*={pair}", f"ssl_verify_upstream_trusted_ca={tls.ca}"]
    words += [word for setting in settings for word in ("--set", setting)]
    with serving(PROGRAM, *words, "--scripts", ADDON, port=port, directory=own) as pid:
        yield Proxy(NAME, port, pid, own, RECORD, LINE)
