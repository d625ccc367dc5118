"""
Cold start: `gateway version`, and `gateway serve` until it is ready, both as processes on the proxy's core.

`serve` finds the state of the start before it: a database that stands, a key that seals. Bytecode is there, as after an
installation.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from statistics import median

from bench import gateway
from bench.contestants import PROXY_CORE, ROOT, free_port
from bench.peers.processes import own_directory
from bench.report import Table
from bench.session import Session, on_load_core

TIMES = 5
GIVE_UP_SECONDS = 30.0
PINNED = ["taskset", "--cpu-list", str(PROXY_CORE), sys.executable, "-m", "gateway"]


def version_seconds() -> float:
    """Return how long `gateway version` takes."""
    began = time.perf_counter()
    subprocess.run([*PINNED, "version"], cwd=ROOT, check=True, capture_output=True, timeout=GIVE_UP_SECONDS)
    return time.perf_counter() - began


def ready_seconds(own: Path, console_port: int) -> float:
    """Return how long `gateway serve` takes until /readyz answers 200; end it."""
    words = [*PINNED, "serve", "-c", str(own / "routes.yaml"), "--data", str(own / "state")]
    began = time.perf_counter()
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while time.perf_counter() - began < GIVE_UP_SECONDS:
            if _is_ready(console_port):
                return time.perf_counter() - began
            if process.poll() is not None:
                raise SystemExit(f"bench: gateway serve ended with {process.returncode}")
            time.sleep(0.005)
    finally:
        process.terminate()
        process.wait(timeout=GIVE_UP_SECONDS)
    raise SystemExit(f"bench: gateway serve was not ready within {GIVE_UP_SECONDS:.0f} seconds")


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with suppress(OSError):
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    connection.close()
    return False


def run(session: Session) -> list[Table]:
    """Return the table of both."""
    own = own_directory(session.directory, name="start")
    ports = {name: free_port() for name in ("traffic", "token_api", "console")}
    said = gateway.routes_file(session.upstream, ports, routes=gateway.ONE_ROUTE, tls=None, users=None)
    (own / "routes.yaml").write_text(json.dumps(said))
    with on_load_core():  # who asks whether it is ready must not slow it down
        ready_seconds(own, ports["console"])  # makes the database
        version_seconds()
        taken = {
            "`gateway version`": [version_seconds() for _ in range(TIMES)],
            "`gateway serve` until /readyz says 200": [ready_seconds(own, ports["console"]) for _ in range(TIMES)],
        }
    rows = [[what, f"{median(times):.2f}", f"{min(times):.2f} to {max(times):.2f}"] for what, times in taken.items()]
    return [Table("Cold start", ["command", "seconds", "lowest to highest"], rows, [f"Medians of {TIMES}."])]
