"""
The record in `required` mode (a line is on the disk before the request leaves) beside the default.
"""

from __future__ import annotations

from bench import gateway
from bench.measure import Contestant, by_name
from bench.report import BOUND, BUSY, CPU, P50, P99, RANGE, SPEED, VERIFIED, Table, table
from bench.session import Session

REQUIRED = {"audit": "required"}


def run(session: Session) -> list[Table]:
    """Return the table of the two; none where this version has no such mode."""
    if not gateway.accepts(REQUIRED, session.upstream, directory=session.directory):
        session.left_out.append("audit: required: this version of the gateway does not know it")
        return []
    required = session.gateway("required", routes=[{**gateway.ONE_ROUTE[0], **REQUIRED}])
    name = "gateway, audit: required"
    contestants = [
        Contestant("gateway", session.gateway(), session.upstream, session.sending()),
        Contestant(name, required, session.upstream, session.sending()),
    ]
    session.warm_up(contestants)
    results = session.measure("record", contestants)
    found = by_name(results)
    notes = [f"`required` serves {found[name].per_second / found['gateway'].per_second:.2f} times as many requests."]
    columns = [SPEED, RANGE, CPU, P50, P99, BUSY, VERIFIED, BOUND]
    return [table("The record in `required` mode, 1 KB GET, 32 connections", results, columns, notes)]
