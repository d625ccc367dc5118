"""
`make bench`: the gateway beside its peers on the same work, one core for the proxy.

1. Interleaved rounds, medians, verified requests: bench/measure.py has the rules.
2. BENCH=quick is the first row alone, the gateway beside the plain aiohttp proxy, in half a minute: to hold two trees
   against each other by hand. BENCH=full takes every peer under each load. Only a run that is not quick writes
   docs/benchmarks.md and docs/benchmarks.svg.
3. The time is bounded: a work for which none is left is left out by name, and so is a peer that is not installed
   (`make bench-peers` fetches them).

`make bench ARGS="streams storm"` measures these works alone and writes nothing.
"""

from __future__ import annotations

import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

from bench import load
from bench.contestants import ROOT, keep_bytecode
from bench.measure import Result
from bench.picture import Bar, Panel, draw
from bench.report import Table
from bench.session import PLANS, Session, open_session
from bench.works import bodies, callers, connections, record, requests, start, storm, tls

REPORT = ROOT / "docs" / "benchmarks.md"
PICTURE = ROOT / "docs" / "benchmarks.svg"
INTRODUCTION = """\
# Benchmarks

Made by `make bench` on {day}, in one run ({plan}). Run it on your own machine: figures of two machines do not compare.
What was measured and what the works mean is in [performance.md](performance.md).

![Requests a second of one core, and latency at a fixed rate](benchmarks.svg)

{environment}"""


def only_posts(session: Session) -> list[Table]:
    """Return the table of 1 KB each way."""
    return [requests.posts(session)]


# Each with the seconds that it takes at most in the default plan, and whether it needs more than Python's API.
WORKS: Mapping[str, tuple[Callable[[Session], list[Table]], float, bool]] = {
    "post": (only_posts, 30, True),
    "bodies": (bodies.run, 150, True),
    "tls": (tls.run, 50, True),
    "callers": (callers.run, 75, False),
    "record": (record.run, 25, False),
    "streams": (connections.run_streams, 40, True),
    "idle": (connections.run_idle, 20, False),
    "start": (start.run, 25, False),
    "storm": (storm.run, 15, False),
}


def measure(session: Session, names: list[str]) -> tuple[list[Table], list[Panel]]:
    """Return the tables and the picture of the works *names*; none named: of all, the first row included."""
    tables: list[Table] = []
    panels: list[Panel] = []
    if not names:
        first, results = requests.throughput(session)
        tables.append(first)
        panels.append(_speeds(results))
        if session.plan.name == "quick":
            return tables, panels
        table, fixed = requests.latencies(session, results)
        tables.append(table)
        panels.append(_latencies(fixed))
    for name in names or WORKS:
        work, seconds, needs_bodies = WORKS[name]
        if needs_bodies and not session.has_bodies:
            continue  # told at the start
        if not names and session.seconds_left < seconds:
            session.left_out.append(f"{name}: no time was left")
            continue
        try:
            tables += work(session)
        except SystemExit as exc:  # what was measured before is not lost
            session.faults.append(f"{name}: {exc}")
    return tables, panels


def _speeds(results: list[Result]) -> Panel:
    bars = [
        Bar(
            result.name,
            result.per_second,
            f"{result.per_second:,.0f}" + (" or more" if result.bound else ""),
            result.name == "gateway",
            bool(result.bound),
        )
        for result in sorted(results, key=lambda result: -result.per_second)
    ]
    return Panel("Requests a second of one core", "1 KB of JSON, GET, 32 connections; longer is better", bars)


def _latencies(results: list[Result]) -> Panel:
    bars = [
        Bar(result.name, result.p99_us, f"{result.p99_us:,.0f} µs", result.name == "gateway")
        for result in sorted(results, key=lambda result: result.p99_us)
    ]
    return Panel("p99 latency at a fixed rate", "half of the gateway's maximum, an open loop; shorter is better", bars)


def environment() -> str:
    """Return where and with what the figures were made."""
    cpu = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    libraries = ", ".join(f"{name} {version(name)}" for name in ("aiohttp", "uvloop", "pyjwt"))
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    tree = f"; the tree is {commit.stdout.strip()}" if commit.returncode == 0 else ""
    return (
        f"{cpu[1] if cpu else platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}; "
        f"Python {platform.python_version()}, {libraries}{tree}."
    )


def conditions(session: Session) -> str:
    """Return how the figures were made, and what is missing."""
    plan = session.plan
    said = (
        f"Medians of {plan.rounds} rounds in turn, of {plan.first_seconds:g} s in the first table and "
        f"{plan.seconds:g} s in the others; the proxy has core 0, load and API share core 1. Of every request counted "
        "here the API saw the injected token and no other credential, and the record or log has its line. "
        "“Generator-bound”: the proxy's core was less than 95 % busy, or the other more than 85 %; “disturbed”: others "
        "than the proxy took more than 10 % of its core."
    )
    left_out = "".join(f"\n- {what}" for what in (*session.faults, *session.left_out))
    return f"{said}\n\nLeft out:\n{left_out}" if left_out else said


def write(session: Session, tables: list[Table], panels: list[Panel]) -> None:
    """Write the report and the picture."""
    day = time.strftime("%Y-%m-%d", time.gmtime())
    begins = INTRODUCTION.format(day=day, plan=f"plan {session.plan.name}", environment=environment())
    parts = [begins, conditions(session), *(table.markdown() for table in tables)]
    REPORT.write_text("\n\n".join(parts) + "\n")
    PICTURE.write_text(draw(panels, foot=f"make bench, {day}: {environment().split(';')[0]}"))


def main() -> None:
    """Measure, print, and write the report of a whole run."""
    names = sys.argv[1:]
    kind = os.environ.get("BENCH", "")
    if kind not in PLANS or not set(names) <= set(WORKS):
        raise SystemExit(f"bench: BENCH is one of quick and full, or absent; works are {', '.join(WORKS)}")
    if (os.cpu_count() or 1) < 2 or shutil.which("taskset") is None:
        raise SystemExit("bench: this needs two cores and taskset (apt-get install util-linux)")
    if (lacks := load.missing()) is not None:
        raise SystemExit(f"bench: this needs {lacks}")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # thousands of connections, here and in what is started
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as name:
        keep_bytecode(Path(name) / "bytecode")
        with open_session(PLANS[kind], Path(name)) as session:
            tables, panels = measure(session, names)
    print("\n\n".join(["", *(table.markdown() for table in tables), conditions(session), environment()]))
    if not names and kind != "quick":
        write(session, tables, panels)
        print(f"\nWritten to {REPORT.relative_to(ROOT)} and {PICTURE.relative_to(ROOT)}.")
    if session.faults:
        raise SystemExit("\n".join(("bench: faults:", *session.faults)))


if __name__ == "__main__":
    main()
