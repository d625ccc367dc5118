"""
Bodies of 64 KB to 100 MB: what one core passes on, with the echo guard looking into them and without.

The guard looks for the token in what an API answers (docs/answers.md); nginx, which is what it is held against, does
not.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.contestants import Proxy
from bench.measure import Contestant, Result
from bench.report import Table
from bench.session import Session

KB, MB = 1_024, 1_048_576
GETS = (("64 KB GET", 64 * KB, 32), ("1 MB GET", MB, 8), ("100 MB GET", 100 * MB, 4))  # what, bytes, connections
UPLOAD = ("100 MB POST", 100 * MB, 4)
GUARD_OFF = ({"name": "bench", "prefix": "/api", "echo_guard": "off"},)
COLUMNS = ("work", "proxy", "MB/s", "requests/s", "CPU µs a MB", "most memory MB", "cores busy %", "verified", "limit")


def run(session: Session) -> list[Table]:
    """Return the table of all sizes."""
    proxies = _proxies(session)
    rows: list[Sequence[str]] = []
    for what, size, connections in GETS:
        send = session.sending("GET", f"/api/bytes/{size}", connections=connections)
        contestants = [Contestant(name, proxy, session.upstream, send) for name, proxy in proxies.items()]
        rows += [_row(what, size, result) for result in session.measure(what, contestants)]
    what, size, connections = UPLOAD
    send = session.sending("POST", body=bytes(size), connections=connections)
    contestants = [Contestant(name, proxy, session.upstream, send) for name, proxy in proxies.items()]
    rows += [_row(what, size, result) for result in session.measure(what, contestants)]
    note = "“Most memory” is the process' peak during the round; the echo guard looks into answers, not into uploads."
    return [Table("Bodies", COLUMNS, rows, [note])]


def _proxies(session: Session) -> dict[str, Proxy]:
    names = session.plan.peers if session.plan.has_every_load else ("nginx",)
    found = {"gateway": session.gateway(), "gateway, echo guard off": session.gateway("guard off", routes=GUARD_OFF)}
    peers = {name: session.peer(name) for name in names}
    return {**found, **{name: proxy for name, proxy in peers.items() if proxy is not None}}


def _row(what: str, size: int, result: Result) -> list[str]:
    megabytes = size / 1e6
    return [
        what,
        result.name,
        f"{result.per_second * megabytes:,.0f}",
        f"{result.per_second:,.1f}",
        f"{result.cpu_us / megabytes:,.0f}",
        f"{result.median(lambda each: each.peak_bytes) / 1e6:,.0f}",
        f"{result.busy[0]:.0f} and {result.busy[1]:.0f}",
        f"{result.requests:,}",
        result.bound or "proxy",
    ]
