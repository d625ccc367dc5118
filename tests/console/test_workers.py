"""How each worker answers for all of them, over real sockets."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

from aiohttp.test_utils import TestClient, TestServer
from prometheus_client.parser import text_string_to_metric_families

from gateway.console.health import create_app
from gateway.console.workers import Workers, merged
from gateway.telemetry import Metrics


async def test_each_worker_answers_for_all(tmp_path: Path) -> None:
    """
    Ready means that each is; metrics are everybody's, by worker. One that is gone is neither ready nor silent.
    """
    first, second = (Workers(tmp_path, number=number, count=2) for number in (1, 2))
    ready = [True]
    metrics = [Metrics(), Metrics()]
    metrics[0].request("own", "GET", 200, 0.01)
    metrics[1].request("api", "GET", 200, 0.01)
    await second.listen(create_app(metrics[1], readiness=lambda: "ready" if ready[0] else "draining"))
    public = create_app(metrics[0], readiness=lambda: "ready", workers=first)
    async with TestClient(TestServer(public)) as client:
        statuses = [(await client.get("/readyz")).status]
        both = await (await client.get("/metrics")).text()
        ready[0] = False
        statuses.append((await client.get("/readyz")).status)
        ready[0] = True
        await second.close()
        statuses.append((await client.get("/readyz")).status)
        alone = await (await client.get("/metrics")).text()

    assert [200, 503, 503] == statuses
    assert 'gateway_requests_total{worker="2",method="GET",route="api",status="200"} 1.0' in both
    assert 'gateway_worker_up{worker="2"} 1.0' in both
    assert 'gateway_worker_up{worker="2"} 0.0' in alone
    assert 'gateway_requests_total{worker="1",method="GET",route="own",status="200"} 1.0' in alone
    assert not (tmp_path / "2.sock").exists()


async def test_socket_of_a_killed_worker_is_taken_over(tmp_path: Path) -> None:
    """
    A socket that nobody listens on any more does not keep the next worker from listening.
    """
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "1.sock"))
    worker = Workers(tmp_path, number=1, count=2)
    await worker.listen(create_app(Metrics(), readiness=lambda: "ready"))
    try:
        assert await Workers(tmp_path, number=2, count=2).are_ready()
    finally:
        await worker.close()


async def test_worker_that_hangs_is_not_ready(tmp_path: Path) -> None:
    """
    One that takes the question and never answers is not waited for.
    """
    with socket.socket(socket.AF_UNIX) as hung:
        hung.bind(str(tmp_path / "2.sock"))
        hung.listen()
        workers = Workers(tmp_path, number=1, count=2, ask_seconds=0.1)
        async with asyncio.timeout(10):
            assert not await workers.are_ready()
            assert b'gateway_worker_up{worker="2"} 0.0\n' in await workers.metrics(b"")


def test_merged_metrics_are_one_text() -> None:
    """
    Families stand together, labels keep what they hold, and Prometheus' own parser reads the whole.
    """
    text = (
        b"# HELP a_total Of a.\n# TYPE a_total counter\n"
        b'a_total{route="x { y\\n\xe2\x80\xa8"} 1.0\n'
        b"# HELP b B.\n# TYPE b gauge\nb 2.5\n"
    )
    found = merged({2: text, 1: text, 3: None}).decode()
    families = {family.name: family for family in text_string_to_metric_families(found)}

    assert ["gateway_worker_up", "a", "b"] == list(families)
    assert [("1", 1.0), ("2", 1.0), ("3", 0.0)] == [
        (sample.labels["worker"], sample.value) for sample in families["gateway_worker_up"].samples
    ]
    assert [{"worker": number, "route": "x { y\n\u2028"} for number in "12"] == [
        sample.labels for sample in families["a"].samples
    ]
    assert [({"worker": "1"}, 2.5), ({"worker": "2"}, 2.5)] == [
        (sample.labels, sample.value) for sample in families["b"].samples
    ]
