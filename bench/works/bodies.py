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
NO_GUARD = "gateway, echo guard off"
COLUMNS = ("work", "proxy", "MB/s", "requests/s", "CPU µs a MB", "most memory MB", "cores busy %", "verified", "limit")


def run(session: Session) -> list[Table]:
    """Return the table of all sizes."""
    proxies = _proxies(session)
    sent = {work: session.sending("GET", f"/api/bytes/{work[1]}", connections=work[2]) for work in GETS}
    sent[UPLOAD] = session.sending("POST", body=bytes(UPLOAD[1]), connections=UPLOAD[2])
    rows: list[Sequence[str]] = []
    notes = [
        "“Most memory” is the process' peak during the round. "
        "Where the generator was the limit, what a core can do is told by the CPU that a megabyte takes:"
    ]
    for (what, size, _), send in sent.items():
        names = [name for name in proxies if (what, name) != (UPLOAD[0], NO_GUARD)]  # it looks into answers only
        contestants = [Contestant(name, proxies[name], session.upstream, send) for name in names]
        results = session.measure(what, contestants)
        rows += [_row(what, size, result) for result in results]
        notes += [_per_core(what, results)]
    return [Table("Bodies", COLUMNS, rows, notes)]


def _per_core(what: str, results: Sequence[Result]) -> str:
    cpu = {result.name: result.cpu_us for result in results}
    said = "; ".join(
        f"{name}: {cpu['nginx'] / mine:.2f} times nginx's megabytes by second of CPU"
        for name, mine in cpu.items()
        if name.startswith("gateway") and "nginx" in cpu
    )
    return f"- {what}: {said or 'nothing to compare with'}."


def _proxies(session: Session) -> dict[str, Proxy]:
    names = session.plan.peers if session.plan.has_every_load else ("nginx",)
    found = {"gateway": session.gateway(), NO_GUARD: session.gateway("guard off", routes=GUARD_OFF)}
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
