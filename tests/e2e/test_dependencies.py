"""A gateway as a process of its own while what it depends on fails: what it refuses and serves, and how it recovers."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.store.changes import POLL_SECONDS
from tests.e2e.gateway_process import RunningProcess, command, serving
from tests.postgres import PostgresServer
from tests.proxy.wire import WireAnswer, calling, request
from tests.world import Issuer, Upstream, create_connection, settings

ROUTE = {"name": "api", "prefix": "/api", "connection": "api"}


async def patient_call(gateway: RunningProcess, credential: str) -> WireAnswer:
    """One call that may take longer than most: its time-outs are the gateway's to keep."""
    async with calling(gateway) as caller:
        await caller.send(request("GET", "/api/x", credential=credential))
        head = await caller.reader.readuntil(b"\r\n\r\n")
        answer = WireAnswer(int(head.split(b" ", 2)[1]), head[:-4], b"", True)
        body = await caller.reader.readexactly(int(answer.values("Content-Length")[0]))
        return WireAnswer(answer.status, answer.head, body, True)


async def connected(gateway: RunningProcess, credential: str) -> None:
    """Connect "ada" and "bob", and have the token that *credential* uses in the gateway's cache."""
    await create_connection(gateway, None)
    for user in ("ada", "bob"):
        await gateway.connect(user, access_token=f"token-of-{user}")
    await asyncio.sleep(3 * POLL_SECONDS)  # the gateway hears of its own uploads, and drops what they changed
    assert 200 == (await patient_call(gateway, credential)).status


async def recovers(gateway: RunningProcess, credential: str) -> bool:
    """Whether a call succeeds again within some seconds."""
    for _ in range(100):
        if 200 == (await patient_call(gateway, credential)).status:
            return True
        await asyncio.sleep(0.1)
    return False


@contextmanager
def frozen(server: PostgresServer) -> Iterator[None]:
    """Stop every process of *server*, as a host that has lost its disk does; its connections stay open."""
    processes = server.processes
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            os.kill(process, signal.SIGCONT)


async def test_database_that_hangs_is_bridged_and_found_again(
    tmp_path: Path, upstream: Upstream, issuer: Issuer
) -> None:
    """
    While the database hangs a cached token serves, others and agent keys are 503 with a time to wait; then all is well
    again without a restart.
    """
    with PostgresServer() as server:
        configuration = settings({**ROUTE, "upstream": upstream.url}, issuers=(issuer,))
        environ = {"GATEWAY_DATABASE_URL": server.new_database()}
        async with serving(configuration, tmp_path / "data", environ=environ) as gateway:
            ada, bob = issuer.token("ada"), issuer.token("bob")
            agent = await gateway.agent_key("bob")
            await connected(gateway, ada)
            with frozen(server):
                served = await patient_call(gateway, ada)
                refused = [await patient_call(gateway, credential) for credential in (bob, agent)]
            after = [await recovers(gateway, credential) for credential in (ada, bob, agent)]

    assert 200 == served.status
    assert [(503, "token_service_unavailable"), (503, "keys_unavailable")] == [(r.status, r.code) for r in refused]
    assert all(each.values("Retry-After") for each in refused)
    assert [True] * 3 == after
    assert {"Bearer token-of-ada", "Bearer token-of-bob"} == set(upstream.authorizations)


async def test_gateway_without_its_database_says_so_and_does_not_start(tmp_path: Path) -> None:
    """
    A database that is away at start ends the command with one sentence that holds nothing of the URL's password.
    """
    config = tmp_path / "routes.yaml"
    config.write_text(json.dumps(settings({**ROUTE, "upstream": "https://api.example.com"})))
    environ = {"GATEWAY_DATABASE_URL": "postgresql://gateway:canary-5512@127.0.0.1:1/gateway"}
    arguments = ("serve", "-c", str(config), "--data", str(tmp_path / "data"))
    async with command(*arguments, environ=environ) as process:
        stdout, stderr = await asyncio.wait_for(process.communicate(), 30)

    assert 1 == process.returncode
    assert b"database" in stderr
    assert not any(word in stdout + stderr for word in (b"canary-5512", b"Traceback"))


async def test_full_disk_refuses_and_is_found_again(tmp_path: Path, upstream: Upstream, issuer: Issuer) -> None:
    """
    While not a line more fits into the record, calls are 503 and nothing leaves; with room again calls pass, and every
    line of the record is whole.
    """
    configuration = settings({**ROUTE, "upstream": upstream.url}, issuers=(issuer,))
    async with serving(configuration, tmp_path / "data") as gateway:
        ada = issuer.token("ada")
        await connected(gateway, ada)
        pid, record = gateway.process.pid, gateway.process.record_path
        before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        calls = len(upstream.received)
        # 40 bytes fit: the beginning of a line, which must not stay. The kernel writes less, as on a disk that is full.
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (record.stat().st_size + 40, before[1]))
        refused = [await patient_call(gateway, ada) for _ in range(5)]
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
        left = len(upstream.received) - calls
        again = await patient_call(gateway, ada)
    lines = [json.loads(line) for line in record.read_text().splitlines()]

    assert [(503, "record_unavailable", ["5"])] * 5 == [(r.status, r.code, r.values("Retry-After")) for r in refused]
    assert (0, 200) == (left, again.status)
    assert ["intent", "outcome"] == [line["event"] for line in lines[-2:]]
