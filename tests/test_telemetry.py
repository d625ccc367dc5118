"""Metrics with bounded labels, and logs without a library's text."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
import structlog

from gateway.telemetry import LAG_LOOK_SECONDS, LogLines, LoopLag, Metrics, configure_logs


@pytest.fixture
def logs() -> Iterator[io.StringIO]:
    """What is logged while a test runs; afterwards the logging of before is back."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    stream = io.StringIO()
    configure_logs(stream=stream)
    yield stream
    structlog.reset_defaults()
    root.handlers[:] = before
    root.setLevel(level)


def test_methods_are_a_bounded_label() -> None:
    """
    A method that a caller invents is counted as "other".
    """
    metrics = Metrics()
    for number in range(100):
        metrics.request("api", f"INVENTED{number}", 405, 0.0)
    metrics.request("api", "GET", 200, 0.0)
    text = metrics.render().decode()

    assert 'gateway_requests_total{method="other",route="api",status="405"} 100.0' in text
    assert "INVENTED" not in text
    assert 'gateway_request_seconds_count{route="api"} 101.0' in text


def test_seconds_are_of_a_route_whatever_was_asked_and_answered() -> None:
    """
    Requests are counted by method and status, their seconds by route, in buckets that hold their bound.
    """
    metrics = Metrics()
    for method, status, seconds in (("GET", 200, 0.0005), ("GET", 404, 0.25), ("POST", 200, 100.0), ("ODD", 200, 0.0)):
        metrics.request("api", method, status, seconds)
    metrics.request("other", "GET", 200, 1.0)
    lines = metrics.render().decode().splitlines()

    for line in (
        'gateway_requests_total{method="GET",route="api",status="404"} 1.0',
        'gateway_requests_total{method="other",route="api",status="200"} 1.0',
        'gateway_request_seconds_bucket{le="0.0005",route="api"} 2.0',
        'gateway_request_seconds_bucket{le="60.0",route="api"} 3.0',
        'gateway_request_seconds_bucket{le="+Inf",route="api"} 4.0',
        'gateway_request_seconds_sum{route="api"} 100.2505',
        'gateway_request_seconds_count{route="other"} 1.0',
    ):
        assert line in lines


async def test_loop_lag_is_the_worst_of_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A callback that keeps the loop for itself is seen, for as long as the looks behind it are fewer than are kept.
    """
    monkeypatch.setattr("gateway.telemetry.LAG_LOOKS", 4)
    metrics = Metrics()
    metrics.register(LoopLag(asyncio.get_running_loop(), monotonic=time.monotonic))
    await asyncio.sleep(2 * LAG_LOOK_SECONDS)
    time.sleep(1)  # noqa: ASYNC251  # that is the fault
    await asyncio.sleep(LAG_LOOK_SECONDS)
    stalled = lag_of(metrics)
    for _ in range(100):
        await asyncio.sleep(LAG_LOOK_SECONDS)
        if (later := lag_of(metrics)) < 0.9:
            break

    assert 0.9 < stalled < 60
    assert 0 <= later < 0.9


def lag_of(metrics: Metrics) -> float:
    return value_of(metrics, "gateway_loop_lag_seconds")


def value_of(metrics: Metrics, name: str) -> float:
    lines = metrics.render().decode().splitlines()
    return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The two ends of a pipe, one of which the test may have closed."""
    ends = os.pipe()
    yield ends
    for end in ends:
        with suppress(OSError):
            os.close(end)


def test_log_lines_are_written_in_order(pipe: tuple[int, int]) -> None:
    """
    What was logged before the end is there after it, a line each.
    """
    lines = LogLines(pipe[1])
    configure_logs(stream=lines)
    for number in range(100):
        structlog.get_logger().info("counted", number=number)
    lines.close()

    assert list(range(100)) == [json.loads(line)["number"] for line in os.read(pipe[0], 65_536).splitlines()]


def test_lines_of_one_of_several_workers_have_its_number(logs: io.StringIO) -> None:
    """
    A worker's lines, and those of libraries in it, say which one it is; a process that is alone has no number.
    """
    structlog.get_logger().info("alone")
    configure_logs(stream=logs, worker=2)
    structlog.get_logger().info("counted")
    logging.getLogger("library").warning("whatever")

    assert [None, 2, 2] == [json.loads(line).get("worker") for line in logs.getvalue().splitlines()]


def test_log_waits_for_no_reader(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Behind a full pipe so many lines wait, further ones are lost and counted, and nobody is held up; neither is the end.
    """
    monkeypatch.setattr("gateway.telemetry.MAX_WAITING_LINES", 50)
    monkeypatch.setattr("gateway.telemetry.LAST_LINES_SECONDS", 0.1)
    metrics, lines = Metrics(), LogLines(pipe[1])
    metrics.register(lines)
    for number in range(1_000):
        lines.write(f"{number:01000}\n")  # a pipe holds 64 of them
    lines.close()
    lost = value_of(metrics, "gateway_log_lines_lost_total")
    read = b""
    while read.count(b"\n") < 1_000 - lost:
        read += os.read(pipe[0], 65_536)

    assert 0 < lost <= 950
    assert list(range(50)) == [int(line) for line in read.splitlines()][:50]


def test_log_without_a_reader_is_lost(pipe: tuple[int, int]) -> None:
    """
    Lines whose reader has gone are counted, and break nothing.
    """
    metrics, lines = Metrics(), LogLines(pipe[1])
    metrics.register(lines)
    os.close(pipe[0])
    for _ in range(3):
        lines.write("{}\n")
    lines.close()

    assert 3 == value_of(metrics, "gateway_log_lines_lost_total")


def test_our_logs_are_json_lines(logs: io.StringIO) -> None:
    """
    An event is one JSON object on one line, with its level and time.
    """
    structlog.get_logger().info("serving", routes=1)
    line = json.loads(logs.getvalue())

    assert ("serving", "info", 1) == (line["event"], line["level"], line["routes"])


def test_library_text_never_reaches_the_log(logs: io.StringIO) -> None:
    """
    Of a library's log record the logger, level and exception class are told, never its text: it may quote a peer.
    """
    try:
        raise ValueError("secret-in-exception")
    except ValueError:
        logging.getLogger("aiohttp.server").exception("Error handling request with %s", "secret-in-text")

    line = json.loads(logs.getvalue())
    assert ("library", "aiohttp.server", "ERROR", "ValueError") == (
        line["event"],
        line["logger"],
        line["library_level"],
        line["error"],
    )
    assert "secret" not in logs.getvalue()
