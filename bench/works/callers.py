"""
10,000 callers and 1,000 routes beside 1 caller and 1 route: caches that do not fit one line.

Each caller has a JWT and a stored token of its own, which begins as all of them do, so that the API can verify what it
saw. The requests come in an order that no cache can guess.
"""

from __future__ import annotations

import sys
from random import Random

from bench.load import request, write_requests
from bench.measure import Contestant, by_name
from bench.report import BOUND, BUSY, CPU, MEMORY, P50, P99, RANGE, SPEED, VERIFIED, Table, table
from bench.session import Session
from bench.vault import fill

CALLERS, ROUTES = 10_000, 1_000
WARM_UP_SECONDS, WARM_UPS = 5.0, 12
CALLS = 3  # of each before it is measured: what is remembered of a head is remembered when it came twice


def run(session: Session) -> list[Table]:
    """Return the table of the two."""
    routes = [{"name": f"route-{number}", "prefix": f"/api-{number}"} for number in range(ROUTES)]
    wide = session.gateway("wide", routes=routes, users=None)
    fill(wide.directory / "state", 0, CALLERS, connection="bench", token=session.upstream.token)
    order = [(caller, caller % ROUTES) for caller in range(CALLERS)]
    Random(0).shuffle(order)
    credentials = {caller: session.issuer.sign(f"user-{caller}") for caller, _ in order}
    requests = write_requests(
        session.directory / "requests-of-many",
        (request("GET", f"/api-{route}/people", credential=credentials[caller]) for caller, route in order),
    )
    warm_up = session.sending_file(requests, seconds=WARM_UP_SECONDS)
    for _ in range(WARM_UPS):
        if wide.recorded() >= CALLS * CALLERS:
            break
        print(f"callers: {wide.recorded():,} of {CALLS * CALLERS:,} calls have been made", file=sys.stderr)
        warm_up(wide)
    else:
        session.left_out.append(
            f"{CALLERS:,} callers: they had not called {CALLS} times after {WARM_UPS * WARM_UP_SECONDS:.0f} s"
        )
        return []
    many = f"gateway, {CALLERS:,} callers, {ROUTES:,} routes"
    contestants = [
        Contestant("gateway", session.gateway(), session.upstream, session.sending()),
        Contestant(many, wide, session.upstream, session.sending_file(requests)),
    ]
    results = session.measure("many callers and routes", contestants)
    found = by_name(results)
    notes = [f"With many: {found[many].per_second / found['gateway'].per_second:.2f} times as many requests a second."]
    columns = [SPEED, RANGE, CPU, P50, P99, BUSY, MEMORY, VERIFIED, BOUND]
    return [table("Many callers and routes, 1 KB GET, 32 connections", results, columns, notes)]
