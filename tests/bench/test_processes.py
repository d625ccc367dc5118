"""How a peer's process is started and ended."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from bench.contestants import free_port
from bench.peers.processes import own_directory, serving
from tests.tools import own_port

LISTENER = "import socket, sys, time; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); time.sleep(600)"


def test_program_that_ends_before_it_listens_is_reported_with_its_last_words(tmp_path: Path) -> None:
    """
    A peer whose configuration is wrong ends the benchmark with what it said.
    """
    command = (sys.executable, "-c", "raise SystemExit('no such directive')")

    with (
        pytest.raises(SystemExit, match="ended with 1: no such directive"),
        serving(*command, port=free_port(), directory=tmp_path),
    ):
        pass


def test_process_given_is_the_one_that_listens_and_ends_with_the_block(tmp_path: Path) -> None:
    """
    The id is the program's own, not that of what pins it; after the block it has gone.
    """
    port = own_port()

    with serving(sys.executable, "-c", LISTENER, str(port), port=port, directory=tmp_path) as pid:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        assert LISTENER.encode() in words
        assert b"taskset" not in words

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_own_directory_is_new_each_time_and_private(tmp_path: Path) -> None:
    """
    A peer that runs twice at once has two directories, and the token in them is for their owner only.
    """
    first, second = (own_directory(tmp_path, name="nginx") for _ in range(2))

    assert first != second
    assert 0o700 == first.stat().st_mode & 0o777
