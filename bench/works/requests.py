"""
Requests of 1 KB: how many a second one core takes, and how long each waits, alone, among many, and at a fixed rate.

The fixed rate is half of what the gateway can take, the same for all, by an open loop: latency counts from when a
request was due (bench/load.c).
"""

from __future__ import annotations

from collections.abc import Mapping

from bench.load import request, run_load, write_requests
from bench.measure import Result, by_name
from bench.report import BOUND, BUSY, CPU, MEMORY, P50, P99, RANGE, SPEED, VERIFIED, Table, ratios, table
from bench.session import Session
from bench.upstream import people

CONNECTIONS = 32
FEW, MANY = 1, 128
OPEN_CONNECTIONS = 128  # of the open loop: more than are ever under way at half of the maximum
HELD_AGAINST = ("nginx", "envoy")
LATE_US = 500.0  # an open loop that is later than that at p99 measures itself


def throughput(session: Session) -> tuple[Table, list[Result]]:
    """Return the first row: everything on, 1 route and 1 caller, 32 connections; and its results."""
    send = session.sending(connections=CONNECTIONS, seconds=session.plan.first_seconds)
    contestants = session.contestants(("gateway", *session.plan.peers), send)
    session.warm_up(contestants)
    results = session.measure(f"GET 1 KB, {CONNECTIONS} connections", contestants)
    columns = [SPEED, RANGE, CPU, P50, P99, BUSY, MEMORY, VERIFIED, BOUND]
    notes = [ratios(results, lambda result: result.per_second, what="throughput")]
    return table(f"1 KB of JSON, GET, {CONNECTIONS} connections", results, columns, notes), results


def latencies(session: Session, first: list[Result]) -> tuple[Table, list[Result]]:
    """
    Return p50 and p99 at 1, 32 and 128 connections, and at a fixed rate; and the results of the last.

    *first* are those of 32 connections.
    """
    held = (*session.plan.peers,) if session.plan.has_every_load else HELD_AGAINST
    names = ("gateway", *(name for name in session.plan.peers if name in held))
    rate = by_name(first)["gateway"].per_second / 2
    fixed = f"{rate:,.0f} requests/s"
    loads = {
        f"{FEW} connection": session.sending(connections=FEW),
        f"{MANY} connections": session.sending(connections=MANY),
        fixed: session.sending(connections=OPEN_CONNECTIONS, rate=rate),
    }
    found = {f"{CONNECTIONS} connections": by_name(first)}
    for what, send in loads.items():
        able = names if what != fixed else tuple(name for name in names if _takes(found, name, rate))
        found[what] = by_name(session.measure(f"GET 1 KB, {what}", session.contestants(able, send)))
    order = (f"{FEW} connection", f"{CONNECTIONS} connections", f"{MANY} connections", fixed)
    columns = ["proxy", *(f"{what}: p50 / p99 µs" for what in order), "generator late p99 µs"]
    rows = [
        [name, *(_cell(found[what].get(name)) for what in order), _late(found[order[-1]].get(name))] for name in names
    ]
    notes = [
        "At 32 and 128 connections in a closed loop a latency is little more than connections by throughput.",
        f"{fixed} is half of the gateway's maximum, by an open loop: latency counts from when a request was due; who "
        "cannot take as many has no figure. How late the generator itself was stands beside it; above "
        f"{LATE_US:.0f} µs the figure is the generator's.",
        f"Straight to the API, {FEW} connection: p50 {_direct_us(session):,.0f} µs.",
        *(
            ratios(list(found[what].values()), figure, what=f"{share} at {what}")
            for what, share, figure in (
                (order[0], "p50", lambda result: result.p50_us),
                (order[3], "p99", lambda result: result.p99_us),
            )
        ),
    ]
    return Table("Latency, 1 KB GET", columns, rows, notes), list(found[order[-1]].values())


def _takes(found: Mapping[str, Mapping[str, Result]], name: str, rate: float) -> bool:
    """Return whether *name* can take *rate* at all: else its queue would only grow."""
    result = found[f"{CONNECTIONS} connections"].get(name)
    return result is not None and result.per_second > rate


def _direct_us(session: Session) -> float:
    """Return the p50 of the API itself, called with its own token."""
    asked = request("GET", "/people", credential=session.upstream.token)
    file = write_requests(session.directory / "requests-of-nobody", [asked])
    return run_load(session.upstream.port, file, connections=FEW, seconds=session.plan.seconds).p50_us


def posts(session: Session) -> Table:
    """Return the table of 1 KB each way."""
    names = ("gateway", *(session.plan.peers if session.plan.has_every_load else ("nginx", "envoy")))
    send = session.sending("POST", body=people().encode(), connections=CONNECTIONS)
    results = session.measure("POST 1 KB", session.contestants(names, send))
    notes = [ratios(results, lambda result: result.per_second, what="throughput")]
    title = f"1 KB of JSON each way, POST, {CONNECTIONS} connections"
    return table(title, results, [SPEED, CPU, P50, P99, BUSY, VERIFIED, BOUND], notes)


def _cell(result: Result | None) -> str:
    return "-" if result is None else f"{result.p50_us:,.0f} / {result.p99_us:,.0f}"


def _late(result: Result | None) -> str:
    return "-" if result is None else f"{result.median(lambda each: each.load.late_p99_us):,.0f}"
