"""Health and metrics as an operator's tools read them."""

from __future__ import annotations

from aiohttp.test_utils import TestClient, TestServer

from gateway.console.health import create_app
from gateway.telemetry import Metrics


async def test_readiness_follows_the_gateway() -> None:
    """
    /healthz is ok while the process serves; /readyz turns 503 when it drains.
    """
    ready = [True]
    async with TestClient(TestServer(create_app(Metrics(), is_ready=lambda: ready[0]))) as client:
        statuses = [(await client.get(path)).status for path in ("/healthz", "/readyz")]
        ready[0] = False
        statuses += [(await client.get(path)).status for path in ("/healthz", "/readyz")]

    assert [200, 200, 200, 503] == statuses


async def test_metrics_are_prometheus_text() -> None:
    """
    /metrics tells what was counted, in the text format.
    """
    metrics = Metrics()
    metrics.request("api", "GET", 200, 0.01)
    async with TestClient(TestServer(create_app(metrics, is_ready=lambda: True))) as client:
        response = await client.get("/metrics")
        text = await response.text()

    assert "text/plain; version=0.0.4; charset=utf-8" == response.headers["Content-Type"]
    assert 'gateway_requests_total{method="GET",route="api",status="200"} 1.0' in text
