"""
A round: one proxy under one load, what it cost, and whether it counts.

1. Contestants are measured in turn (A B A B …): what the machine does meanwhile meets all of them.
2. Verified in each round: nothing failed, and the upstream saw the injected token (and no other credential) in each
   request; at the end, that the record has a line for each. A fault of the gateway ends the work and fails the
   benchmark; a peer at fault is left out, by name.
3. Throughput counts where the proxy's core was at least PROXY_BUSY busy and the other at most LOAD_BUSY; else the
   result is generator-bound, and is marked. How busy a core was is read from proc(5), whoever made it busy; where
   others took more than OTHERS of the proxy's core, the result is disturbed, and is marked too.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.contestants import LOAD_CORE, PROXY_CORE, Proxy, Upstream
from bench.load import Load

PROXY_BUSY, LOAD_BUSY, OTHERS = 95.0, 85.0, 10.0  # per cent
SETTLE_SECONDS = 5.0  # some write their records once a second
Send = Callable[[Proxy], Load]


class Faulty(Exception):
    """A round does not count; the text says why."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """A proxy, the API behind it, and what is sent."""

    name: str
    proxy: Proxy
    upstream: Upstream
    send: Send


@dataclass(frozen=True, slots=True)
class Round:
    """What one round showed; *busy* are per cent of the proxy's core and of the load's."""

    load: Load
    cpu_seconds: float
    busy: tuple[float, float]
    rss_bytes: int
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Result:
    """The rounds of one contestant: medians."""

    name: str
    rounds: Sequence[Round]

    def median(self, figure: Callable[[Round], float]) -> float:
        """Return the median of *figure*."""
        return median(map(figure, self.rounds))

    @property
    def per_second(self) -> float:
        """Requests a second."""
        return self.median(speed)

    @property
    def cpu_us(self) -> float:
        """Microseconds of CPU that the proxy takes for one request."""
        return self.median(lambda each: 1e6 * each.cpu_seconds / max(1, each.load.requests))

    @property
    def p50_us(self) -> float:
        """The median latency."""
        return self.median(lambda each: each.load.p50_us)

    @property
    def p99_us(self) -> float:
        """The latency that one of a hundred exceeds."""
        return self.median(lambda each: each.load.p99_us)

    @property
    def busy(self) -> tuple[float, float]:
        """How busy the cores were, in per cent."""
        return self.median(lambda each: each.busy[0]), self.median(lambda each: each.busy[1])

    @property
    def requests(self) -> int:
        """How many requests were verified (rule 2)."""
        return sum(each.load.requests for each in self.rounds)

    @property
    def bound(self) -> str:
        """Return what limited the throughput: nothing to say where it was the proxy (rule 3)."""
        proxy, load = self.busy
        if proxy - self.median(lambda each: 100 * each.cpu_seconds / each.load.seconds) > OTHERS:
            return "disturbed"
        return "" if proxy >= PROXY_BUSY and load <= LOAD_BUSY else "generator-bound"


def speed(each: Round) -> float:
    """Return the requests a second of one round."""
    return each.load.requests / each.load.seconds


def measure(contestant: Contestant) -> Round:
    """
    Return one round; the record is looked at by `check_record`.

    Raises:
        Faulty: it does not count (rule 2).
    """
    proxy, upstream = contestant.proxy, contestant.upstream
    accepted, refused = upstream.seen()
    proxy.forget_peak()
    cpu_seconds, cores = proxy.cpu_seconds(), (_ticks(PROXY_CORE), _ticks(LOAD_CORE))
    load = contestant.send(proxy)
    cpu_seconds = proxy.cpu_seconds() - cpu_seconds
    busy = (_busy(cores[0], _ticks(PROXY_CORE)), _busy(cores[1], _ticks(LOAD_CORE)))
    passed, stopped = upstream.seen()
    faults = [
        *([f"{load.failures} of {load.requests} requests failed"] if load.failures else []),
        *([f"{stopped - refused} requests reached the upstream without the token"] if stopped != refused else []),
        *([f"the upstream saw {passed - accepted} of {load.requests}"] if passed - accepted < load.requests else []),
        *(["no request was answered"] if not load.requests else []),
    ]
    if faults:
        raise Faulty("; ".join(faults))
    return Round(load, cpu_seconds, busy, proxy.memory_bytes(), proxy.memory_bytes("VmHWM"))


def check_record(proxy: Proxy, before: int, rounds: Sequence[Round]) -> None:
    """
    Wait until the record of *proxy* has the lines of *rounds*, beyond the *before* that it had.

    Raises:
        Faulty: it has not.
    """
    sent = sum(each.load.requests for each in rounds)
    give_up = time.monotonic() + SETTLE_SECONDS
    while (lines := proxy.recorded() - before) < sent:
        if time.monotonic() > give_up:
            raise Faulty(f"the record has {lines} lines for {sent} requests")
        time.sleep(0.05)


def in_turn(contestants: Iterable[Contestant], *, rounds: int, what: str, left_out: list[str]) -> list[Result]:
    """Return the results of *contestants* over *rounds*; those that are at fault are told in *left_out* (rule 2)."""
    taking_part = {contestant.name: contestant for contestant in contestants}
    measured: dict[str, list[Round]] = {name: [] for name in taking_part}
    recorded = {name: contestant.proxy.recorded() for name, contestant in taking_part.items()}

    def leave_out(name: str, fault: Faulty) -> None:
        if name.startswith("gateway"):
            raise SystemExit(f"bench: {what}: {name}: {fault}") from fault
        left_out.append(f"{name} in “{what}”: {fault}")
        del taking_part[name], measured[name]

    for number in range(1, rounds + 1):
        for name, contestant in tuple(taking_part.items()):
            try:
                found = measure(contestant)
            except Faulty as exc:
                leave_out(name, exc)
                continue
            measured[name].append(found)
            shown = f"{speed(found):,.0f} requests/s, p99 {found.load.p99_us:,.0f} µs"
            print(f"{what}, round {number}, {name}: {shown}", file=sys.stderr)
    for name, contestant in tuple(taking_part.items()):
        try:
            check_record(contestant.proxy, recorded[name], measured[name])
        except Faulty as exc:
            leave_out(name, exc)
    return [Result(name, found) for name, found in measured.items()]


def by_name(results: Iterable[Result]) -> Mapping[str, Result]:
    """Return *results* by the contestants' names."""
    return {result.name: result for result in results}


def _ticks(core: int) -> tuple[int, int]:
    """Return how long *core* was not idle, and how long it was there, in ticks (proc(5), /proc/stat)."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name == f"cpu{core}":
            user, nice, system, idle, iowait, irq, softirq, steal = map(int, fields[:8])
            busy = user + nice + system + irq + softirq + steal
            return busy, busy + idle + iowait
    raise SystemExit(f"bench: there is no core {core}")


def _busy(before: tuple[int, int], after: tuple[int, int]) -> float:
    return 100 * (after[0] - before[0]) / max(1, after[1] - before[1])
