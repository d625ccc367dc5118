"""Health and metrics as an operator's tools read them."""

from __future__ import annotations

from aiohttp.test_utils import TestClient, TestServer

from gateway.console.health import DETAILS, Readiness, create_app
from gateway.telemetry import Metrics


async def test_readiness_follows_the_gateway() -> None:
    """
    /healthz is ok while the process serves; /readyz turns 503 where it should get no traffic, and says why.
    """
    readiness: Readiness = "ready"
    seen = []
    async with TestClient(TestServer(create_app(Metrics(), readiness=lambda: readiness))) as client:
        for each in (*DETAILS, "ready"):
            readiness = each
            health, ready = await client.get("/healthz"), await client.get("/readyz")
            body = await ready.json()
            seen.append((health.status, ready.status, body["status"], body.get("detail")))

    assert [(200, 503, status, detail) for status, detail in DETAILS.items()] == seen[:-1]
    assert (200, 200, "ready", None) == seen[-1]


async def test_metrics_are_prometheus_text() -> None:
    """
    /metrics tells what was counted, in the text format.
    """
    metrics = Metrics()
    metrics.request("api", "GET", 200, 0.01)
    async with TestClient(TestServer(create_app(metrics, readiness=lambda: "ready"))) as client:
        response = await client.get("/metrics")
        text = await response.text()

    assert "text/plain; version=0.0.4; charset=utf-8" == response.headers["Content-Type"]
    assert 'gateway_requests_total{method="GET",route="api",status="200"} 1.0' in text
