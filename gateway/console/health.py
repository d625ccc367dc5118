"""
What operators' tools read: `/healthz`, `/readyz` and `/metrics` on the console listener.

Rules:
1. `/healthz` says that the process serves; `/readyz` that it should be sent traffic: false from the moment it drains.
2. No answer names a user, a route or a version.
3. Of several workers each answers for all: ready means that all are, and metrics are everybody's (`workers.py`).
"""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from gateway.console.workers import Workers
from gateway.telemetry import Metrics


def create_app(metrics: Metrics, *, is_ready: Callable[[], bool], workers: Workers | None = None) -> web.Application:
    """Return the application of the console listener. *workers* are the others to answer for."""

    async def healthz(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def readyz(_: web.Request) -> web.Response:
        if is_ready() and (workers is None or await workers.are_ready()):
            return web.json_response({"status": "ready"})
        return web.json_response({"status": "draining"}, status=503)

    async def render(_: web.Request) -> web.Response:
        body = metrics.render() if workers is None else await workers.metrics(metrics.render())
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", render)
    return app
