"""
`make soak`: idle strangers, overload, and storms and kills on both engines, a line of figures for each, and exit code 1
if a promise was broken.

    python -m soak.run [--only traffic] [--seconds N] [--rounds N] [--seed N]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

import structlog

from gateway.store.engine import sqlite_url
from soak.idle import idle
from soak.killing import kill_and_judge
from soak.overload import overload
from soak.storm import storm
from tests.e2e.crowd import many_descriptors
from tests.oidc_provider_process import OidcProviderProcess
from tests.postgres import PostgresServer

PROCESSES = 8
CALLERS = 50
KILLED_WORKERS = 4
USERS = 100
STRANGERS = 10_000
SPARE_DESCRIPTORS = 1_000


async def _idle(data: Path) -> list[str]:
    with many_descriptors() as most:
        done = await idle(data, strangers=min(STRANGERS, most - SPARE_DESCRIPTORS))
    print(
        f"idle: {done.strangers} strangers, {done.bytes_each / 1024:.1f} KiB each; loop late by "
        f"{done.lag_when_they_leave * 1000:.0f} ms when all left at once, by {done.lag_when_let_go * 1000:.0f} ms when "
        f"all were let go after {done.seconds_until_let_go:.0f} s; {done.descriptors_left} descriptors left; "
        f"{done.calls} calls beside them, {done.calls_refused} refused, "
        f"the slowest took {done.slowest_call_seconds * 1000:.0f} ms",
        flush=True,
    )
    broken = []
    if done.descriptors_left > 0 or done.calls_refused:
        broken.append("idle: something was left of strangers, or a caller was refused")
    return broken


async def _overload(data: Path) -> list[str]:
    done = await overload(data)
    phases = {"before": done.before, "patient": done.patient, "hasty": done.hasty, "after": done.after}
    said = (
        f"{name} {phase.callers} callers: {phase.served_a_second:.0f} served, {phase.refused_a_second:.0f} refused"
        for name, phase in phases.items()
    )
    print(f"overload, a second: {'; '.join(said)}", flush=True)
    broken = [f"overload: {name}: {phase.wrong} wrong answers" for name, phase in phases.items() if phase.wrong]
    # A broad margin: the machine has other work.
    for name in ("patient", "after"):
        if phases[name].served_a_second < done.before.served_a_second / 2:
            broken.append(f"overload: {name}: less than half of what was served before")
    return broken


async def _storm(engine: str, database_url: str, rounds: int) -> list[str]:
    async with OidcProviderProcess() as provider:
        done = await storm(provider, database_url, processes=PROCESSES, callers=CALLERS, rounds=rounds)
    print(
        f"storm {engine}: {PROCESSES} processes x {CALLERS} callers x {rounds} rounds: {done.exchanges} exchanges, "
        f"{done.reuses} reuses, grant {'alive' if done.is_grant_alive else 'DEAD'}, answers {dict(done.answers)}, "
        f"{done.torn_rounds} torn rounds, {done.seconds / rounds * 1000:.0f} ms a round, {done.seconds:.0f} s",
        flush=True,
    )
    broken = []
    if (done.exchanges, done.reuses, done.is_grant_alive, done.torn_rounds) != (rounds, 0, True, 0):
        broken.append(f"storm {engine}: not one exchange per expiry with one answer for all")
    if dict(done.answers) != {"served": PROCESSES * CALLERS * rounds}:
        broken.append(f"storm {engine}: a caller was refused")
    return broken


async def _kill(engine: str, database_url: str, seconds: float, seed: int) -> list[str]:
    done = await kill_and_judge(database_url, workers=KILLED_WORKERS, users=USERS, seconds=seconds, seed=seed)
    print(
        f"kill -9 {engine}: {done.kills.total()} kills at {len(done.kills)} points, {done.exchanges} exchanges, "
        f"{done.grants} grants of which {done.lost} lost (answered, not written, told as rotation_interrupted), "
        f"{len(done.violations)} violations, {done.seconds:.0f} s",
        flush=True,
    )
    for point, count in sorted(done.kills.items()):
        print(f"    {count:5} {point}", flush=True)
    return [f"kill -9 {engine}: {violation}" for violation in done.violations]


async def _all(options: argparse.Namespace) -> list[str]:
    with tempfile.TemporaryDirectory(prefix="gateway-soak-") as directory:
        broken = await _idle(Path(directory) / "idle") + await _overload(Path(directory) / "overload")
        if options.only == "traffic":
            return broken
        with PostgresServer(is_durable=True) as server:
            return broken + await _engines(options, Path(directory), server)


async def _engines(options: argparse.Namespace, directory: Path, server: PostgresServer) -> list[str]:
    broken: list[str] = []
    for engine in ("sqlite", "postgresql"):
        urls = [
            sqlite_url(directory / name / "gateway.db") if engine == "sqlite" else server.new_database()
            for name in ("storm", "kill")
        ]
        broken += await _storm(engine, urls[0], options.rounds)
        broken += await _kill(engine, urls[1], options.seconds, options.seed)
    return broken


def main() -> int:
    """Run everything; return the exit code."""
    parser = argparse.ArgumentParser(prog="soak", description=__doc__.strip().splitlines()[0])
    parser.add_argument("--only", choices=["traffic"], help="what to run alone")
    parser.add_argument("--seconds", type=float, default=90.0, help="of killing, for each engine")
    parser.add_argument("--rounds", type=int, default=200, help="of each storm")
    parser.add_argument("--seed", type=int, default=1)
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    broken = asyncio.run(_all(parser.parse_args()))
    for sentence in broken:
        print(f"BROKEN {sentence}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
