"""
A load generator for machines without wrk: keep-alive connections in a closed loop, one request under way on each.

It costs more CPU per request than wrk does and so may itself be the limit; results made with it say so.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import time
from typing import cast

import uvloop

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Client(asyncio.Protocol):
    """One connection that sends *request* again as soon as the answer is complete."""

    def __init__(self, request: bytes, *, until: float) -> None:
        self.request = request
        self.until = until
        self.buffer = b""
        self.seconds: list[float] = []
        self.failures = 0
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.WriteTransport, transport)  # uvloop's is one without being a subclass
        self.send()

    def send(self) -> None:
        self.sent_at = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, separator, body = self.buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        length = LENGTH.search(head)
        if length is None:
            self.failures += 1  # the upstream always sends a length, so a proxy that drops it is at fault
            self.transport.close()
            return
        if len(body) < int(length[1]):
            return
        self.buffer = b""
        self.seconds.append(time.perf_counter() - self.sent_at)
        if not head.startswith(b"HTTP/1.1 2"):
            self.failures += 1
        if time.perf_counter() < self.until:
            self.send()
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if time.perf_counter() < self.until:
            self.failures += 1
        if not self.done.done():
            self.done.set_result(None)


async def run(arguments: argparse.Namespace) -> dict[str, float]:
    """Return requests, seconds, failures, p50_us and p99_us of *connections* clients over *seconds*."""
    fields = "".join(f"{field}\r\n" for field in arguments.header)
    host = f"{arguments.host}:{arguments.port}"
    request = f"GET {arguments.path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n".encode()
    started = time.perf_counter()
    clients = [Client(request, until=started + arguments.seconds) for _ in range(arguments.connections)]
    loop = asyncio.get_running_loop()
    for client in clients:
        await loop.create_connection(lambda client=client: client, arguments.host, arguments.port)  # type: ignore[misc]  # mypy cannot type a lambda's default
    await asyncio.wait([client.done for client in clients], timeout=arguments.seconds + 10)
    elapsed = time.perf_counter() - started
    latencies = sorted(latency for client in clients for latency in client.seconds)
    cuts = statistics.quantiles(latencies, n=100) if len(latencies) > 1 else [0.0] * 99
    return {
        "requests": len(latencies),
        "seconds": elapsed,
        "failures": sum(client.failures for client in clients),
        "p50_us": cuts[49] * 1e6,
        "p99_us": cuts[98] * 1e6,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--header", action="append", default=[])
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--connections", type=int, required=True)
    print(json.dumps(uvloop.run(run(parser.parse_args()))))
