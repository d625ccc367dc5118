"""
`make bench-guard`: instructions of the hot path for one request, against those stored in bench/guard.json.

1. bench/hot_path.py runs under cachegrind with REQUESTS requests and with twice as many; the difference, by REQUESTS,
   is what one request costs. What start and end cost is in both and falls out.
2. Instructions are no time, but they are the same on a busy machine: two counts differ by less than 0.5 %.
3. More than TOLERANCE above the stored figure fails. Figures belong to a minor version of Python; where there is none,
   nothing is judged. `make bench-guard ARGS=--store` stores what was counted.

`perf stat` would count faster, and without a simulator; most virtual machines do not let it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.contestants import ROOT, keep_bytecode
from bench.hot_path import write_issuer

REQUESTS = 500
TOLERANCE = 0.03
STORED = ROOT / "bench" / "guard.json"
CASES: Mapping[str, tuple[str, ...]] = {
    "equal heads": (),
    "one field changes": ("--changes",),
    "many callers": ("--callers", "100", "--routes", "50"),
}
COUNTED = re.compile(r"I\s+refs:\s+([\d,]+)")
RUN_SECONDS = 900


def words(directory: Path, requests: int, case: str) -> list[str]:
    """Return the command that serves *requests* in one *case*."""
    own = ("--requests", str(requests), "--issuer", str(directory))
    return [sys.executable, "-m", "bench.hot_path", *own, *CASES[case]]


def count(directory: Path, requests: int, case: str) -> int:
    """Return the instructions of one whole run."""
    tool = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
    # Hashes of text decide how dicts probe: the same in each run.
    environ = {**os.environ, "PYTHONHASHSEED": "0"}
    ran = subprocess.run(
        [*tool, *words(directory, requests, case)],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
    )
    found = COUNTED.search(ran.stderr)
    if ran.returncode or found is None:
        raise SystemExit(f"bench: the hot path ended with {ran.returncode}:\n{ran.stderr[-2000:]}")
    return int(found[1].replace(",", ""))


def per_request() -> dict[str, int]:
    """Return the instructions of one request in each case."""
    with tempfile.TemporaryDirectory(prefix="gateway-guard-") as name:
        directory = Path(name)
        keep_bytecode(directory / "bytecode")
        write_issuer(directory, callers=100)  # one for all runs: how long it takes to find a prime is chance
        for case in CASES:  # without the simulator: what is wrong is said at once, and all is compiled
            subprocess.run(
                words(directory, REQUESTS, case), cwd=ROOT, check=True, stdout=subprocess.DEVNULL, timeout=RUN_SECONDS
            )
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            runs = {
                case: [pool.submit(count, directory, requests, case) for requests in (REQUESTS, 2 * REQUESTS)]
                for case in CASES
            }
            return {case: (twice.result() - once.result()) // REQUESTS for case, (once, twice) in runs.items()}


def judge(counted: Mapping[str, int], stored: Mapping[str, int] | None) -> bool:
    """Print a line for each case; return whether none is more than TOLERANCE above what is stored."""
    passes = True
    for case, instructions in counted.items():
        before = stored.get(case) if stored is not None else None
        if before is None:
            print(f"{case}: {instructions:,} instructions a request; nothing is stored to compare with")
            continue
        change = instructions / before - 1
        print(f"{case}: {instructions:,} instructions a request, {change:+.1%} of the {before:,} stored")
        passes = passes and change <= TOLERANCE
    return passes


def main() -> None:
    """Count, and judge or store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", action="store_true", help="write what was counted to bench/guard.json")
    arguments = parser.parse_args()
    if shutil.which("valgrind") is None:
        raise SystemExit("bench: this needs valgrind (apt-get install valgrind)")
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    figures = json.loads(STORED.read_text()) if STORED.is_file() else {}
    counted = per_request()
    passes = judge(counted, figures.get(python))
    if arguments.store:
        STORED.write_text(json.dumps({**figures, python: counted}, indent=2, sort_keys=True) + "\n")
        print(f"Stored in {STORED.relative_to(ROOT)} for Python {python}.")
    elif not passes:
        raise SystemExit(f"bench: the hot path has grown by more than {TOLERANCE:.0%}")


if __name__ == "__main__":
    main()
