"""
What the benchmark found, as Markdown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.measure import Result, speed


@dataclass(frozen=True, slots=True)
class Table:
    """A table with its title; *notes* stand below it, each a paragraph, or an item of a list ("- ")."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def markdown(self) -> str:
        """Return the table below its title."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        notes = "\n\n".join(self.notes).replace("\n\n- ", "\n- ")
        return "\n\n".join((f"## {self.title}", table, *([notes] if notes else [])))


Column = tuple[str, Callable[[Result], str]]

SPEED: Column = ("requests/s", lambda result: f"{result.per_second:,.0f}")
RANGE: Column = (
    "lowest to highest",
    lambda result: f"{min(map(speed, result.rounds)):,.0f} to {max(map(speed, result.rounds)):,.0f}",
)
CPU: Column = ("CPU µs a request", lambda result: f"{result.cpu_us:,.0f}")
P50: Column = ("p50 µs", lambda result: f"{result.p50_us:,.0f}")
P99: Column = ("p99 µs", lambda result: f"{result.p99_us:,.0f}")
BUSY: Column = ("cores busy %", lambda result: f"{result.busy[0]:.0f} and {result.busy[1]:.0f}")
MEMORY: Column = ("memory MB", lambda result: f"{result.median(lambda each: each.rss_bytes) / 1e6:,.0f}")
VERIFIED: Column = ("verified requests", lambda result: f"{result.requests:,}")
BOUND: Column = ("limit", lambda result: result.bound or "proxy")


def rows(results: Sequence[Result], columns: Sequence[Column]) -> list[list[str]]:
    """Return a row of *columns* for each of *results*, with its name first."""
    return [[result.name, *(cell(result) for _, cell in columns)] for result in results]


def table(title: str, results: Sequence[Result], columns: Sequence[Column], notes: Sequence[str] = ()) -> Table:
    """Return the table of *results*, the fastest first."""
    ordered = sorted(results, key=lambda result: -result.per_second)
    return Table(title, ["proxy", *(name for name, _ in columns)], rows(ordered, columns), notes)


def ratios(results: Sequence[Result], figure: Callable[[Result], float], *, what: str) -> str:
    """Return the sentence that holds the gateway's *figure* against the others'."""
    found = {result.name: figure(result) for result in results}
    mine = found.pop("gateway", None)
    if mine is None or not found:
        return "There was nothing to compare the gateway with."
    said = ", ".join(f"{mine / other:.2f} times {name}'s" for name, other in found.items())
    return f"The gateway's {what} is {said}."
