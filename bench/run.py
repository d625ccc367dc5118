"""
`make bench`: requests per second of one core, this gateway beside the proxy that a tutorial would build.

1. Both run at the same time, each pinned to core 0, and are measured in turn (A B A B …): what the machine does
   meanwhile meets both. Upstream and load generator share core 1.
2. A round counts only if the upstream saw the injected token in every request, nothing failed, and the record has its
   line for each; otherwise the benchmark fails.
3. Medians over the rounds. BENCH=quick makes three rounds of 2 s instead of five of 3 s and writes no report.

The load comes from wrk; without it from bench/load.py, and the report says so.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median

from bench.contestants import (
    LOAD_CORE,
    ROOT,
    Proxy,
    Upstream,
    make_issuer,
    running_baseline,
    running_gateway,
    running_upstream,
)

CONNECTIONS = 32
ROUNDS, ROUND_SECONDS = (3, 2) if os.environ.get("BENCH") == "quick" else (5, 3)
SETTLE_SECONDS = 5.0
REPORT = ROOT / "docs" / "benchmarks.md"
MICROSECONDS: Mapping[str, float] = {"us": 1.0, "ms": 1e3, "s": 1e6}
PATH = "/api/people"
HEADING = """\
# Benchmarks

Made by `make bench` on {day}, in one run. Run it on your own machine: figures of two machines do not compare."""
EXPLANATION = """\
- **gateway**: this gateway, whole: the caller's JWT verified (and cached), policy and `allow` pattern, the user's
  connection token from the vault (and cached), header rules, deadlines, the record, metrics.
- **baseline** (`bench/baseline.py`): `web.Application` and `ClientSession` as tutorials use them: JWT verified on each
  request, token injected, a JSON line and metrics for each. No policy, no refresh, no streaming.

Medians over the rounds. Each proxy has core 0 for itself while it is measured; upstream and load generator share
core 1. A round counts only if every request reached the upstream with the injected token and no other credential, none
failed, and the record has a line for each.
"""
COMPARED: Mapping[tuple[str, str], str] = {
    ("gateway", "baseline"): "The gateway serves {:.1f} times as many requests as the baseline.",
    ("required", "gateway"): "With `audit: required` the gateway serves {:.2f} times as many requests as without.",
}


@dataclass(frozen=True, slots=True)
class Load:
    """What a load generator reports of one round; *failures* are answers other than 2xx and broken connections."""

    requests: int
    seconds: float
    failures: int
    p50_us: float
    p99_us: float


@dataclass(frozen=True, slots=True)
class Round:
    """One proxy measured for one round; *cpu_percent* of one core, *cpu_us* per request."""

    requests_per_second: float
    cpu_percent: float
    cpu_us: float
    p50_us: float
    p99_us: float


def run_wrk(port: int, *, credential: str, seconds: float) -> Load:
    """Return what wrk reports of *seconds* against *port*."""
    words = ["-t1", f"-c{CONNECTIONS}", f"-d{seconds:.0f}s", "--latency", "-H", f"Authorization: Bearer {credential}"]
    text = on_load_core(["wrk", *words, f"http://127.0.0.1:{port}{PATH}"], seconds=seconds)
    total = re.search(r"(\d+) requests in ([\d.]+)(us|ms|s)", text)
    shares = re.findall(r"(50|99)%\s+([\d.]+)(us|ms|s)", text)
    percentiles = {int(share): float(value) * MICROSECONDS[unit] for share, value, unit in shares}
    if total is None or len(percentiles) != 2:
        raise SystemExit(f"wrk said something unexpected:\n{text}")
    failed = re.findall(r"(?:connect|read|write|timeout|Non-2xx or 3xx responses:) (\d+)", text)
    took = float(total[2]) * MICROSECONDS[total[3]] / 1e6
    return Load(int(total[1]), took, sum(map(int, failed)), percentiles[50], percentiles[99])


def run_bundled(port: int, *, credential: str, seconds: float) -> Load:
    """Return what bench/load.py reports of *seconds* against *port*."""
    words = ["--port", str(port), "--path", PATH, "--seconds", str(seconds), "--connections", str(CONNECTIONS)]
    command = [sys.executable, "-m", "bench.load", *words, "--header", f"Authorization: Bearer {credential}"]
    return Load(**json.loads(on_load_core(command, seconds=seconds)))


def on_load_core(command: Sequence[str], *, seconds: float) -> str:
    """Return what *command* prints, run on the core of the load."""
    pinned = ["taskset", "--cpu-list", str(LOAD_CORE), *command]
    return subprocess.run(pinned, cwd=ROOT, check=True, capture_output=True, text=True, timeout=seconds + 30).stdout


def measure(proxy: Proxy, upstream: Upstream, *, send: Callable[[int], Load]) -> Round:
    """Return one round of *proxy* under the load of *send*, or end the benchmark where it does not count (rule 2)."""
    accepted, refused = upstream.seen()
    recorded, cpu_seconds = proxy.recorded(), proxy.cpu_seconds()
    load = send(proxy.port)
    cpu_seconds = proxy.cpu_seconds() - cpu_seconds
    give_up = time.monotonic() + SETTLE_SECONDS
    while (lines := proxy.recorded() - recorded) < load.requests and time.monotonic() < give_up:
        time.sleep(0.1)
    passed, stopped = upstream.seen()
    faults = [
        *([f"{load.failures} requests failed"] if load.failures else []),
        *([f"{stopped - refused} requests reached the upstream without the token"] if stopped != refused else []),
        *([f"the upstream saw {passed - accepted} of {load.requests}"] if passed - accepted < load.requests else []),
        *([f"the record has {lines} lines for {load.requests} requests"] if lines < load.requests else []),
    ]
    if faults:
        raise SystemExit(f"bench: {proxy.name}: {'; '.join(faults)}")
    return Round(
        requests_per_second=load.requests / load.seconds,
        cpu_percent=100 * cpu_seconds / load.seconds,
        cpu_us=1e6 * cpu_seconds / load.requests,
        p50_us=load.p50_us,
        p99_us=load.p99_us,
    )


def table(rounds: Mapping[str, Sequence[Round]]) -> str:
    """Return the medians as a Markdown table, and the ratio below it."""
    rows = [
        "| proxy | requests/s | lowest to highest | CPU % | CPU µs a request | p50 µs | p99 µs |",
        "| --- " * 7 + "|",
    ]
    for name, measured in rounds.items():
        speeds = sorted(each.requests_per_second for each in measured)
        cells = [
            name,
            f"{median(speeds):,.0f}",
            f"{speeds[0]:,.0f} to {speeds[-1]:,.0f}",
            f"{median(each.cpu_percent for each in measured):.0f}",
            f"{median(each.cpu_us for each in measured):.0f}",
            f"{median(each.p50_us for each in measured):,.0f}",
            f"{median(each.p99_us for each in measured):,.0f}",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def ratio(rounds: Mapping[str, Sequence[Round]]) -> str:
    """Return the sentences that compare the medians, as far as both were measured."""
    medians = {name: median(each.requests_per_second for each in measured) for name, measured in rounds.items()}
    said = [text.format(medians[a] / medians[b]) for (a, b), text in COMPARED.items() if {a, b} <= medians.keys()]
    return " ".join(said) or "Nothing was compared."


def environment(tool: str) -> str:
    """Return where and with what the figures were made."""
    cpu = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    libraries = ", ".join(f"{name} {version(name)}" for name in ("aiohttp", "uvloop", "pyjwt"))
    return (
        f"{cpu[1] if cpu else platform.machine()}, {os.cpu_count()} cores; Python {platform.python_version()}, "
        f"{libraries}; {tool}; GET, 1 KB of JSON, keep-alive, {CONNECTIONS} connections, "
        f"{ROUNDS} rounds of {ROUND_SECONDS} s in turn."
    )


def write_report(rounds: Mapping[str, Sequence[Round]], *, tool: str) -> None:
    """Write docs/benchmarks.md."""
    day = time.strftime("%Y-%m-%d", time.gmtime())
    parts = (HEADING.format(day=day), environment(tool), table(rounds), ratio(rounds), EXPLANATION)
    REPORT.write_text("\n\n".join(parts))


def main() -> None:
    """Measure what the command line names: gateway and baseline, which are the report; required, the gateway so."""
    names = sys.argv[1:] or ["gateway", "baseline"]
    if (os.cpu_count() or 1) < 2 or shutil.which("taskset") is None:
        raise SystemExit("bench: this needs two cores and taskset (apt-get install util-linux)")
    run_load, tool = (run_wrk, "load from wrk") if shutil.which("wrk") else (run_bundled, "load from bench/load.py")
    if run_load is run_bundled:
        print("wrk is not installed (apt-get install wrk): the load comes from bench/load.py", file=sys.stderr)
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gateway-bench-")))
        issuer = make_issuer(directory)
        upstream = stack.enter_context(running_upstream(issuer, token=secrets.token_hex(20)))
        proxies = []
        if "baseline" in names:
            proxies.append(stack.enter_context(running_baseline(upstream, issuer, directory=directory)))
        if "gateway" in names:
            proxies.append(stack.enter_context(running_gateway(upstream, directory=directory)))
        if "required" in names:
            required = running_gateway(upstream, directory=directory, name="required", audit="required")
            proxies.append(stack.enter_context(required))
        rounds: dict[str, list[Round]] = {proxy.name: [] for proxy in proxies}
        for proxy in proxies:  # imports, caches and connections are not what is measured
            run_load(proxy.port, credential=issuer.credential, seconds=1)
        for number in range(1, ROUNDS + 1):
            for proxy in proxies:
                send = partial(run_load, credential=issuer.credential, seconds=ROUND_SECONDS)
                measured = measure(proxy, upstream, send=send)
                rounds[proxy.name].append(measured)
                print(f"round {number} {proxy.name}: {measured.requests_per_second:,.0f} requests/s", file=sys.stderr)
    print(f"\n{table(rounds)}\n\n{ratio(rounds)}\n{environment(tool)}")
    if set(rounds) == {"gateway", "baseline"} and os.environ.get("BENCH") != "quick":
        write_report(rounds, tool=tool)
        print(f"Written to {REPORT.relative_to(ROOT)}.")


if __name__ == "__main__":
    main()
