"""A gateway as it is run, a process of its own on uvloop, reads raw requests as the tables say."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.gateway_process import serving
from tests.proxy.test_raw_requests import FAMILIES, expected, filled, invite, run
from tests.world import Issuer, Upstream, create_connection, settings

TRACES = ("Traceback", "never retrieved", "unhandled")


async def test_process_reads_as_the_tables_say(tmp_path: Path, upstream: Upstream, issuer: Issuer) -> None:
    """
    Each row has its answers, also where the event loop is uvloop; the log holds no byte of it, and no trace.
    """
    upstream.early = invite
    route = {"name": "api", "prefix": "/api", "upstream": upstream.url, "connection": "api"}
    credential = issuer.token("ada")
    seen = {}
    async with serving(settings(route, issuers=(issuer,)), tmp_path / "data") as gateway:
        await create_connection(gateway, None)
        await gateway.connect("ada", access_token="T1")
        for family, rows in FAMILIES.items():
            for case, row in rows.items():
                got = await run(gateway, upstream, row, credential, [filled(row.data, credential)])
                if got != expected(row, credential):
                    seen[f"{family}: {case}"] = got
    written = gateway.process.stdout + gateway.process.stderr

    assert {} == seen
    assert '"requests_refused"' in written
    assert [] == [found for found in (*TRACES, credential, "evil.test", "EHLO") if found in written]
