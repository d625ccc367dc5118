"""`gateway healthcheck` against real listeners."""

from __future__ import annotations

import asyncio
import socket

import pytest
from aiohttp import web
from click.testing import CliRunner

from gateway.cli.healthcheck import healthcheck


@pytest.mark.parametrize(("status", "exit_code"), [(200, 0), (503, 1)])
async def test_tells_what_readyz_says(status: int, exit_code: int) -> None:
    """
    Ready is exit code 0, draining is 1.
    """

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(status=status)

    app = web.Application()
    app.router.add_get("/readyz", readyz)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    address = f"127.0.0.1:{runner.addresses[0][1]}"
    try:
        result = await asyncio.to_thread(CliRunner().invoke, healthcheck, ["--console", address])
    finally:
        await runner.cleanup()

    assert exit_code == result.exit_code


def test_nobody_listening_is_not_ready() -> None:
    """
    A gateway that does not answer is exit code 1, with the address and no traceback.
    """
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"

        result = CliRunner().invoke(healthcheck, ["--console", address])

    assert 1 == result.exit_code
    assert address in result.stderr


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:", "127.0.0.1:99999"])
def test_odd_address_is_not_ready(address: str) -> None:
    """
    An address that cannot be dialled is exit code 1, not a traceback.
    """
    result = CliRunner().invoke(healthcheck, ["--console", address])

    assert 1 == result.exit_code
    assert not isinstance(result.exception, OverflowError | ValueError)
