"""
TLS on both sides: the caller's connection and the upstream's, 1 KB GET.

The load comes from wrk, which shares its core with an upstream that speaks TLS too.
"""

from __future__ import annotations

import shutil

from bench.contestants import Proxy
from bench.load import Load, run_wrk
from bench.measure import Contestant
from bench.report import BOUND, BUSY, CPU, P50, P99, RANGE, SPEED, VERIFIED, Table, ratios, table
from bench.session import PATH, Session

CONNECTIONS = 32


def run(session: Session) -> list[Table]:
    """Return the table of those that can run; none without wrk."""
    if shutil.which("wrk") is None:
        session.left_out.append("TLS: its load needs wrk (apt-get install wrk)")
        return []

    def send(proxy: Proxy) -> Load:
        credential, seconds = session.issuer.credential, session.plan.seconds
        return run_wrk(proxy.port, PATH, credential=credential, connections=CONNECTIONS, seconds=seconds)

    names = session.plan.peers if session.plan.has_every_load else ("nginx", "envoy")
    peers = {name: session.peer(name, over_tls=True) for name in names if name in session.plan.peers}
    proxies = {"gateway": session.gateway_over_tls(), **peers}
    _, upstream = session.tls()
    contestants = [Contestant(name, proxy, upstream, send) for name, proxy in proxies.items() if proxy is not None]
    for contestant in contestants:
        send(contestant.proxy)
    results = session.measure("TLS on both sides", contestants)
    notes = [ratios(results, lambda result: result.per_second, what="throughput over TLS")]
    columns = [SPEED, RANGE, CPU, P50, P99, BUSY, VERIFIED, BOUND]
    return [table(f"TLS on both sides, 1 KB GET, {CONNECTIONS} connections", results, columns, notes)]
