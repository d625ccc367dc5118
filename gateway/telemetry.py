"""
Metrics and logs: what the gateway tells about itself.

Rules:
1. Labels come from bounded sets: a route's name, a known method, a status. Never a user, a tenant, a path or a host
   (threats D16).
2. Logs are JSON lines on stderr, one event each. No secret, no header value, no query reaches them. Whoever reads them
   may stand still or go away: nobody waits for it (threats R46).
3. Counting costs the hot path less than a microsecond.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import traceback
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator
from itertools import accumulate
from operator import add
from queue import SimpleQueue
from typing import TextIO, cast

import structlog
from prometheus_client import CollectorRegistry, Counter, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
LATENCY_BUCKETS_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
_SUM = len(LATENCY_BUCKETS_SECONDS) + 1  # behind the buckets, the last of which has no bound
LAG_LOOK_SECONDS = 0.05  # the shortest stall that is surely seen (threats R43)
MAX_WAITING_LINES = 10_000  # of the log, 3 MB: after that long without a reader, lines are lost
LAST_LINES_SECONDS = 1.0  # for a reader to take what waits when the process ends
LAG_LOOKS = 1_200  # a minute of them: whoever scrapes once a minute misses none


class Metrics(Collector):
    """
    The metrics of one process, in a registry of their own.

    Requests are counted in a plain dict and handed to prometheus-client when it asks: 0.4 microseconds a request, where
    its own children with their locks cost 2.4.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        # (route, method, status) → requests per bucket, then the sum of their seconds; all floats, which add fastest.
        self._times: dict[tuple[str, str, int], list[float]] = {}
        self._unread: dict[tuple[str, str], int] = {}
        self._echoes = Counter(
            "gateway_token_echoes",
            "Answers that held the injected token.",
            labelnames=("route", "where"),
            registry=self._registry,
        )
        self._registry.register(self)

    def register(self, collector: Collector) -> None:
        """Have what *collector* counts rendered with the rest."""
        self._registry.register(collector)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request of *route* ("" where none was reached) that took *seconds*."""
        try:
            times = self._times[route, method, status]
        except KeyError:
            key = (route, method if method in METHODS else "other", status)
            times = self._times.setdefault(key, [0.0] * (_SUM + 1))
        times[bisect_left(LATENCY_BUCKETS_SECONDS, seconds)] += 1.0
        times[_SUM] += seconds

    def unread(self, listener: str, code: str) -> None:
        """Count a request that *listener* could not read, or a connection that it did not take."""
        self._unread[listener, code] = self._unread.get((listener, code), 0) + 1

    def echo(self, route: str, where: str) -> None:
        """Count an answer of *route* that held the token *where*: "field", "body", or "cut"."""
        self._echoes.labels(route, where).inc()

    def collect(self) -> Iterator[Metric]:
        """Yield what was counted. Called by prometheus-client."""
        requests = CounterMetricFamily("gateway_requests", "Requests answered.", labels=("route", "method", "status"))
        by_route: dict[str, list[float]] = {}
        for (route, method, status), times in self._times.items():
            requests.add_metric((route, method, str(status)), sum(times[:_SUM]))
            by_route[route] = list(map(add, by_route.get(route, [0.0] * (_SUM + 1)), times))
        yield requests
        unread = CounterMetricFamily(
            "gateway_unread_requests", "Requests that could not be read.", labels=("listener", "code")
        )
        for (listener, code), count in self._unread.items():
            unread.add_metric((listener, code), count)
        yield unread
        seconds = HistogramMetricFamily(
            "gateway_request_seconds", "From the request's head to the end of its answer.", labels=("route",)
        )
        bounds = [*map(floatToGoString, LATENCY_BUCKETS_SECONDS), "+Inf"]
        for route, times in by_route.items():
            buckets = list(zip(bounds, accumulate(times[:_SUM]), strict=True))
            seconds.add_metric((route,), buckets, sum_value=times[_SUM])
        yield seconds

    def render(self) -> bytes:
        """Return the Prometheus text exposition of everything counted."""
        return generate_latest(self._registry)


class LoopLag(Collector):
    """
    How late *loop* comes to what is due: the worst of the last minute. Looks for as long as the loop runs.

    A look every 50 ms, not one in the sweep: that would miss 19 of 20 stalls of 50 ms. One costs 1.0 microsecond of a
    busy loop, and nothing of a request; an idle loop wakes up for it, 0.2 % of a core.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, monotonic: Callable[[], float]) -> None:
        self._loop = loop
        self._monotonic = monotonic  # the loop's own time stands still while a callback runs
        self._seen: deque[float] = deque((0.0,), maxlen=LAG_LOOKS)
        self._due = monotonic()
        loop.call_soon(self._look)

    def collect(self) -> Iterator[Metric]:
        """Yield the worst lag. Called by prometheus-client."""
        documentation = "How late the event loop was at worst, in the last minute."
        yield GaugeMetricFamily("gateway_loop_lag_seconds", documentation, value=max(self._seen))

    def _look(self) -> None:
        now = self._monotonic()
        self._seen.append(now - self._due)
        self._due = now + LAG_LOOK_SECONDS
        self._loop.call_later(LAG_LOOK_SECONDS, self._look)


class LogLines(Collector):
    """
    The log's lines on their way to the file *descriptor*, which a thread writes: a full pipe stops nobody else.

    Nothing here waits or fails. Lines that find no room, or cannot be written, are lost and counted.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._waiting: SimpleQueue[bytes | None] = SimpleQueue()
        self._lost = 0
        self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)  # the end waits for no reader
        self._thread.start()

    def write(self, line: str) -> None:
        """Have *line* written. Called by structlog."""
        if self._waiting.qsize() >= MAX_WAITING_LINES:
            self._lost += 1
        else:
            self._waiting.put(line.encode())

    def flush(self) -> None:
        """Do nothing: a line is on its way. Called by structlog."""

    def close(self) -> None:
        """Wait a moment until what was logged is written."""
        self._waiting.put(None)
        self._thread.join(LAST_LINES_SECONDS)

    def collect(self) -> Iterator[Metric]:
        """Yield how many lines were lost. Called by prometheus-client."""
        yield CounterMetricFamily("gateway_log_lines_lost", "Log lines that could not be written.", value=self._lost)

    def _write_all(self) -> None:
        while (line := self._waiting.get()) is not None:
            try:
                while line:
                    line = line[os.write(self._descriptor, line) :]
            except OSError:
                self._lost += 1


def configure_logs(
    *, level: int = logging.INFO, stream: TextIO | LogLines | None = None, worker: int | None = None
) -> None:
    """Send every log line, ours and the libraries', as JSON to *stream* (default stderr), with *worker*'s number."""

    def numbered(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        return event if worker is None else {**event, "worker": worker}

    structlog.configure(
        processors=[
            numbered,
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        # One write a line; LogLines has the two methods that are called.
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, stream or sys.stderr)),
        cache_logger_on_first_use=False,
    )
    # The libraries' own logs may quote what a peer sent (threats.md section 0, row 2): never their text.
    handler = _LibraryLogs()
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def place_of(exc: BaseException) -> str:
    """Return file and line where *exc* was raised: what a log may say of an error whose text may hold a secret."""
    frames = traceback.extract_tb(exc.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""


class _LibraryLogs(logging.Handler):
    """
    Turns a library's log record into one of our lines: its logger, level, exception class and place, never its text.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Write *record* without its message."""
        exc = record.exc_info[1] if record.exc_info else None
        error, place = (type(exc).__name__, place_of(exc)) if exc is not None else (None, None)
        structlog.get_logger().warning(
            "library", logger=record.name, library_level=record.levelname, error=error, place=place
        )
