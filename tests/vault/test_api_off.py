"""The raw door can be closed: `token_api: off`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.e2e.gateway_process import serving
from tests.world import settings


def listening_ports(pid: int) -> set[int]:
    """The ports on which the process *pid* listens (proc(5): net/tcp, state 0A, by socket inode)."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(str(descriptor.readlink()).removeprefix("socket:[").removesuffix("]"))
        except FileNotFoundError:
            continue
    found = set()
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                found.add(int(fields[1].rpartition(":")[2], 16))
    return found


@pytest.mark.skipif(os.geteuid() != 0, reason="what a serving gateway has in /proc belongs to root")
async def test_nothing_listens_when_it_is_off(tmp_path: Path) -> None:
    """With `off` the process has two listeners, traffic and console; without, it has three."""
    on = settings()
    off = settings()
    off["listeners"]["token_api"] = "off"
    for configuration, expected in ((on, 3), (off, 2)):
        async with serving(configuration, tmp_path / f"data{expected}") as gateway:
            ports = listening_ports(gateway.process.pid)
            assert expected == len(ports)
            assert (gateway.process.token_api_url is None) == (expected == 2)
