"""
What operators' tools read: `/healthz`, `/readyz` and `/metrics` on the console listener.

Rules:
1. `/healthz` says that the process serves; `/readyz` that it should be sent traffic, or why not: one word for a machine
   and a sentence for its operator.
2. No answer names a user, a route or a version.
3. Of several workers each answers for all: ready means that all are, and metrics are everybody's (`workers.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from aiohttp import web

from gateway.console.workers import Workers
from gateway.telemetry import Metrics

Readiness = Literal["ready", "draining", "record_unavailable", "disk_low", "worker_not_ready"]
DETAILS: Mapping[Readiness, str] = {
    "draining": "The gateway was asked to stop: calls under way end, new ones belong elsewhere.",
    "record_unavailable": "The disk does not take the record, and calls are refused. One that hangs is waited for;"
    " where it has failed to write (record_not_synced in the log), repair it and start the gateway anew.",
    "disk_low": "The disk that holds the record and the data is almost full, and calls are refused once it is. Free"
    " some of it, or lower record.min_free_bytes.",
    "worker_not_ready": "Another worker of this gateway is not ready, or does not answer; it may be starting.",
}


def create_app(
    metrics: Metrics, *, readiness: Callable[[], Readiness], workers: Workers | None = None
) -> web.Application:
    """
    Return the application of the console listener; *readiness* is asked each time. *workers* are the others to answer
    for.
    """

    async def healthz(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def readyz(_: web.Request) -> web.Response:
        status = readiness()
        if status == "ready" and workers is not None and not await workers.are_ready():
            status = "worker_not_ready"
        if status == "ready":
            return web.json_response({"status": status})
        return web.json_response({"status": status, "detail": DETAILS[status]}, status=503)

    async def render(_: web.Request) -> web.Response:
        body = metrics.render() if workers is None else await workers.metrics(metrics.render())
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", render)
    return app
