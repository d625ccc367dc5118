"""When a round counts, and what becomes of a proxy that is at fault."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bench.contestants import Proxy, Upstream, make_issuer, running_upstream
from bench.load import Load
from bench.measure import Contestant, Result, Round, in_turn

GOOD = Load(requests=10, seconds=1.0, failures=0, p50_us=1.0, p99_us=2.0)
ROUND = Round(GOOD, cpu_seconds=0.98, busy=(99.0, 50.0), rss_bytes=1, peak_bytes=1)

BOUNDS = {
    "the proxy's core is full": (ROUND, ""),
    "the proxy had time": (replace(ROUND, busy=(90.0, 50.0), cpu_seconds=0.9), "generator-bound"),
    "the generator had none": (replace(ROUND, busy=(99.0, 90.0)), "generator-bound"),
    "somebody else was on its core": (replace(ROUND, cpu_seconds=0.7), "disturbed"),
}


@pytest.mark.parametrize("case", BOUNDS)
def test_result_says_what_was_the_limit(case: str) -> None:
    """
    Throughput is the proxy's only where its core was full, of its own work, and the generator's was not.
    """
    measured, bound = BOUNDS[case]

    assert bound == Result("x", [measured]).bound


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    """An API whose counts can be asked."""
    with running_upstream(make_issuer(tmp_path_factory.mktemp("issuer")), token="t" * 40) as running:
        yield running


def proxy_of(directory: Path) -> Proxy:
    """This process, as if it were a proxy."""
    return Proxy("proxy", 0, os.getpid(), directory, "*.log", b"status=")


FAULTS = {
    "a failure": (replace(GOOD, failures=1), "1 of 10 requests failed; the upstream saw 0 of 10"),
    "a request that the API did not see": (GOOD, "the upstream saw 0 of 10"),
    "nothing answered": (replace(GOOD, requests=0), "no request was answered"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_peer_at_fault_is_left_out_by_name(tmp_path: Path, upstream: Upstream, case: str) -> None:
    """
    A peer whose round does not count has no result, and the report says why.
    """
    sent, reason = FAULTS[case]
    left_out: list[str] = []

    results = in_turn(
        [Contestant("peer", proxy_of(tmp_path), upstream, lambda _: sent)], rounds=2, what="work", left_out=left_out
    )

    assert ([], [f"peer in “work”: {reason}"]) == (results, left_out)


def test_gateway_at_fault_fails(tmp_path: Path, upstream: Upstream) -> None:
    """
    What is wrong with the gateway is not left out: it ends the work.
    """
    sent = replace(GOOD, failures=3)

    with pytest.raises(SystemExit, match="work: gateway: 3 of 10 requests failed"):
        in_turn(
            [Contestant("gateway", proxy_of(tmp_path), upstream, lambda _: sent)], rounds=1, what="work", left_out=[]
        )


def test_record_is_counted_as_it_grows(tmp_path: Path) -> None:
    """
    Each whole line of each file counts once, however often it is asked; a line under way does not count yet.
    """
    proxy = proxy_of(tmp_path)
    counts = [proxy.recorded()]
    for name, written in (
        ("a.log", b"status=1\nstatus=2\nsta"),
        ("b.log", b"other\nstatus=3\n"),
        ("a.log", b"tus=4\n"),
    ):
        with (tmp_path / name).open("ab") as file:
            file.write(written)
        counts.append(proxy.recorded())

    assert [0, 2, 3, 4] == counts
