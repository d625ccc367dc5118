"""
The load: bench/load.c, compiled at first use, or wrk where the proxy speaks TLS.

wrk has no open loop, and asks for one thing only; ours takes what it sends from a file, and costs the core that it
shares with the upstream no more (6.7 microseconds of CPU a request of 1 KB against 7.6, in turn, straight to nginx).
Over TLS there is only wrk.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import struct
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from bench.contestants import LOAD_CORE, ROOT

SOURCE = ROOT / "bench" / "load.c"
BUILT = ROOT / "bench" / ".built"
WARNINGS = ("-Wall", "-Wextra", "-Werror")
GRACE_SECONDS = 60.0
MICROSECONDS: Mapping[str, float] = {"us": 1.0, "ms": 1e3, "s": 1e6}


@dataclass(frozen=True, slots=True)
class Load:
    """
    What a load reports; *failures* are answers other than 2xx and those that were cut.

    *late_p99_us*: how late an open loop sent although a connection was free. Large, it was the limit, not the proxy.
    """

    requests: int
    seconds: float
    failures: int
    p50_us: float
    p99_us: float
    max_us: float = 0.0
    late_p99_us: float = 0.0
    received_bytes: int = 0


def missing() -> str | None:
    """Return what the load needs and is not installed, and how it is got."""
    return None if shutil.which("gcc") else "gcc (apt-get install gcc libc6-dev)"


def request(method: str, path: str, *, credential: str, body: bytes = b"") -> bytes:
    """Return a request as an agent would send it."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {credential}"]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def write_requests(path: Path, requests: Iterable[bytes]) -> Path:
    """Write *requests* to *path* as load.c reads them, and return it."""
    with path.open("wb") as file:
        for each in requests:
            file.write(struct.pack("=Q", len(each)) + each)
    return path


def run_load(port: int, requests: Path, *, connections: int, seconds: float, rate: float = 0.0, first: int = 0) -> Load:
    """
    Return what load.c reports of *seconds* against *port*: a closed loop, or an open one with *rate* a second.

    *first* is the number of the request that begins, counted on from the last to the first of the file.
    """
    words = [str(_program()), str(port), str(connections), str(seconds), str(rate), str(requests), str(first)]
    return Load(**json.loads(_on_load_core(words, seconds=seconds)))


def run_wrk(port: int, path: str, *, credential: str, connections: int, seconds: float) -> Load:
    """Return what wrk reports of *seconds* of GET over TLS, rounded up to whole ones."""
    words = ["wrk", "-t1", f"-c{connections}", f"-d{ceil(seconds)}s", "--latency"]
    field = ("-H", f"Authorization: Bearer {credential}")
    text = _on_load_core([*words, *field, f"https://127.0.0.1:{port}{path}"], seconds=seconds)
    total = re.search(r"(\d+) requests in ([\d.]+)(us|ms|s)", text)
    shares = re.findall(r"(50|99)%\s+([\d.]+)(us|ms|s)", text)
    percentiles = {int(share): float(value) * MICROSECONDS[unit] for share, value, unit in shares}
    if total is None or len(percentiles) != 2:
        raise SystemExit(f"wrk said something unexpected:\n{text}")
    failed = re.findall(r"(?:connect|read|write|timeout|Non-2xx or 3xx responses:) (\d+)", text)
    took = float(total[2]) * MICROSECONDS[total[3]] / 1e6
    return Load(int(total[1]), took, sum(map(int, failed)), percentiles[50], percentiles[99])


def _program() -> Path:
    """Return load.c compiled, as it stands."""
    source = SOURCE.read_bytes()
    program = BUILT / f"load-{hashlib.sha256(source).hexdigest()[:16]}"
    if not program.is_file():
        BUILT.mkdir(exist_ok=True)
        subprocess.run(["gcc", "-O2", *WARNINGS, "-o", str(program), str(SOURCE)], check=True, timeout=GRACE_SECONDS)
    return program


def _on_load_core(command: Sequence[str], *, seconds: float) -> str:
    """Return what *command* prints, run on the core of the load."""
    pinned = ["taskset", "--cpu-list", str(LOAD_CORE), *command]
    limit = seconds + GRACE_SECONDS
    ran = subprocess.run(pinned, cwd=ROOT, capture_output=True, text=True, timeout=limit)
    if ran.returncode:
        raise SystemExit(f"bench: {Path(command[0]).name} ended with {ran.returncode}: {ran.stderr[-500:]}")
    return ran.stdout
