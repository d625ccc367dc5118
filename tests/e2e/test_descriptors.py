"""A process without free file descriptors: nobody is let in, nobody is thrown out, and all doors open again."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

from tests.e2e.gateway_process import serving
from tests.proxy.wire import call, request
from tests.world import settings

FREE = 10
CALLERS = 60  # of each door
GUARD_SECONDS = 60.0


async def test_exhausted_descriptors_close_no_door(tmp_path: Path) -> None:
    """
    More callers than there are descriptors wait, and none is reset; with descriptors again each is served, on every
    door, and the log has one line a door.
    """
    async with asyncio.timeout(GUARD_SECONDS), serving(settings(), tmp_path / "data") as gateway:
        pid = gateway.process.pid
        doors = [gateway.process.traffic_url, gateway.process.token_api_url, gateway.process.console_url]
        assert 401 == (await call(gateway, request("GET", "/nowhere"))).status
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        most = len(os.listdir(f"/proc/{pid}/fd")) + FREE  # noqa: PTH208  # counted, not named
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, before[1]))
        with ExitStack() as callers:
            for number, door in enumerate(doors, 1):  # the first uses them up, and the others find none
                for _ in range(CALLERS):
                    callers.enter_context(_connection(door))
                while gateway.process.stderr.count('"event": "accept_failed"') < number:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            waiting = [callers.enter_context(_connection(door)) for door in doors]
            for each in waiting:
                each.sendall(request("GET", "/nowhere"))
            await asyncio.sleep(1.0)
            early = [_has_come(each) for each in waiting]
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
            answers = [await asyncio.get_running_loop().sock_recv(each, 12) for each in waiting]
        again = await call(gateway, request("GET", "/nowhere"))
        await gateway.process.stop()

    assert [False] * len(doors) == early
    assert [b"HTTP/1.1 401", b"HTTP/1.1 401", b"HTTP/1.1 404"] == answers
    assert 401 == again.status
    assert len(doors) == gateway.process.stderr.count('"event": "accept_failed"')
    assert "Traceback" not in gateway.process.stderr


def _connection(url: str | None) -> socket.socket:
    assert url is not None
    parts = urlsplit(url)
    made = socket.create_connection((parts.hostname, parts.port))
    made.setblocking(False)
    return made


def _has_come(connection: socket.socket) -> bool:
    """Whether something has come, or an end."""
    try:
        connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    return True
