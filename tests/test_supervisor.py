"""The supervisor with real processes: each test is a program that supervises, with work of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.supervisor import PromptLines
from tests.tools import ROOT

PROGRAM = """\
import asyncio, os, signal, sys, time
from pathlib import Path
from typing import cast
from gateway.supervisor import PromptLines, Supervisor
from gateway.telemetry import configure_logs

directory = Path(sys.argv[1])
starts = directory / "starts"

def said(word):
    os.write(1, f"{word}\\n".encode())

def started(worker):
    with starts.open("a") as file:
        file.write(f"{worker.number}\\n")
    return starts.read_text().splitlines().count(str(worker.number))

def ordered(worker):
    async def wait():
        order = asyncio.get_running_loop().create_future()
        worker.on_stop(order.set_result)
        return await order

    return "orphaned" if asyncio.run(wait()) else "stopped"

WORK
configure_logs(stream=PromptLines(2))
sys.exit(Supervisor(2, work, directory=directory, stop_seconds=STOP, monotonic=time.monotonic).run())
"""
TIMEOUT = 30.0


@contextmanager
def program(tmp_path: Path, work: str, *, stop_seconds: float = 20.0) -> Iterator[subprocess.Popen[bytes]]:
    """Run a supervisor whose two workers do *work*, the body of a function of `worker`."""
    body = "def work(worker):\n" + textwrap.indent(textwrap.dedent(work), "    ")
    text = PROGRAM.replace("WORK", body).replace("STOP", str(stop_seconds))
    process = subprocess.Popen(
        [sys.executable, "-c", text, str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,  # what `lines` has not taken, `communicate` finds
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def lines(process: subprocess.Popen[bytes], count: int) -> list[str]:
    """Return the next *count* lines that the workers say."""
    assert process.stdout is not None
    return [process.stdout.readline().decode().strip() for _ in range(count)]


def logged_until(process: subprocess.Popen[bytes], word: bytes) -> bytes:
    """Return what is logged, up to the line that has *word*."""
    assert process.stderr is not None
    logged = b""
    while line := process.stderr.readline():
        logged += line
        if word in line:
            break
    return logged


def events(stderr: bytes) -> list[dict[str, Any]]:
    """Return the log's lines."""
    return [json.loads(line) for line in stderr.splitlines() if line.startswith(b"{")]


SERVE = """\
started(worker)
worker.tell_serving()
said(f"serves {worker.number}")
said(ordered(worker))
"""


def test_stop_is_an_order_to_each_worker(tmp_path: Path) -> None:
    """
    A signal becomes one order to each worker, and exit code 0 when both have ended.
    """
    with program(tmp_path, SERVE) as process:
        serving = lines(process, 2)
        process.terminate()
        stdout, stderr = process.communicate(timeout=TIMEOUT)

    assert ["serves 1", "serves 2"] == serving  # the first one alone, then the other
    assert 2 * [b"stopped"] == stdout.splitlines()
    assert (0, ["workers_serving"]) == (process.returncode, [event["event"] for event in events(stderr)])


def test_worker_that_never_served_ends_everything(tmp_path: Path) -> None:
    """
    What the first worker cannot start with is tried once, and its exit code is everybody's.
    """
    with program(tmp_path, "started(worker); sys.exit(3)") as process:
        process.communicate(timeout=TIMEOUT)

    assert 3 == process.returncode
    assert "1\n" == (tmp_path / "starts").read_text()


def test_error_of_a_worker_is_told_once(tmp_path: Path) -> None:
    """
    What nobody expected has its trace on stderr and exit code 1, and does not run on as a second supervisor.
    """
    with program(tmp_path, "raise RuntimeError('unexpected')") as process:
        _, stderr = process.communicate(timeout=TIMEOUT)

    assert (1, 1) == (process.returncode, stderr.count(b"RuntimeError: unexpected"))


def test_worker_that_ends_is_replaced_after_a_pause_that_grows(tmp_path: Path) -> None:
    """
    One that ends again and again is started again and again, less often each time, while the other serves on.
    """
    work = """\
    times = started(worker)
    if worker.number == 2 and times == 2:
        sys.exit(1)  # cannot start now: others serve
    worker.tell_serving()
    if worker.number == 2 and times < 4:
        os.kill(os.getpid(), signal.SIGKILL)
    said(f"serves {worker.number}")
    ordered(worker)
    """
    with program(tmp_path, work) as process:
        serving = lines(process, 2)
        process.terminate()
        _, stderr = process.communicate(timeout=TIMEOUT)
    ended = [event for event in events(stderr) if event["event"] == "worker_ended"]

    assert (["serves 1", "serves 2"], 0) == (serving, process.returncode)
    assert [(2, -9, 0.1), (2, 1, 0.2), (2, -9, 0.4)] == [
        (event["worker"], event["exit_code"], event["again_seconds"]) for event in ended
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="prlimit(2) is Linux's")
def test_worker_that_cannot_be_forked_is_tried_again(tmp_path: Path) -> None:
    """
    Where the system has no descriptor or process left, those that serve go on, and it is tried again later.
    """
    work = """\
    import resource
    supervisor = os.getppid()
    if worker.number == 1:
        limit = resource.prlimit(supervisor, resource.RLIMIT_NOFILE)
        resource.prlimit(supervisor, resource.RLIMIT_NOFILE, (3, limit[1]))
        worker.tell_serving()
        said("serves 1")
        while not (directory / "room").exists():
            time.sleep(0.01)
        resource.prlimit(supervisor, resource.RLIMIT_NOFILE, limit)
    else:
        worker.tell_serving()
        said("serves 2")
    ordered(worker)
    """
    with program(tmp_path, work) as process:
        serving = lines(process, 1)
        stderr = logged_until(process, b"worker_not_started")
        (tmp_path / "room").touch()
        serving += lines(process, 1)
        process.terminate()
        stderr += process.communicate(timeout=TIMEOUT)[1]
    said = [event for event in events(stderr) if event["event"] == "worker_not_started"]

    assert (["serves 1", "serves 2"], 0) == (serving, process.returncode)
    assert (2, "Too many open files") == (said[0]["worker"], said[0]["error"])


def test_worker_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    """
    A worker that hangs is given the time of a stop, and no more; that is a failure.
    """
    hang = """\
    worker.tell_serving()
    said(f"serves {worker.number}")
    time.sleep(3600)
    """
    with program(tmp_path, hang, stop_seconds=0.2) as process:
        lines(process, 2)
        process.terminate()
        _, stderr = process.communicate(timeout=TIMEOUT)

    assert 1 == process.returncode
    assert "workers_killed" in [event["event"] for event in events(stderr)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_kills_the_workers(tmp_path: Path, number: signal.Signals) -> None:
    """
    The second signal waits for nobody, and its number is what `run` returns.
    """
    hang = """\
    worker.tell_serving()
    said(f"serves {worker.number}")
    said(ordered(worker))
    time.sleep(3600)
    """
    with program(tmp_path, hang) as process:
        lines(process, 2)
        process.send_signal(number)
        lines(process, 2)
        process.send_signal(number)
        process.communicate(timeout=TIMEOUT)

    assert -number % 256 == process.returncode


def test_signal_to_a_worker_that_starts_is_its_own(tmp_path: Path) -> None:
    """
    A signal to one worker does not stop the others, and a stop does not wait for one that is not up yet.
    """
    work = """\
    times = started(worker)
    if worker.number == 2:
        said(f"starts {times}")
        if times == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(3600)
    worker.tell_serving()
    ordered(worker)
    """
    with program(tmp_path, work) as process:
        starts = lines(process, 2)
        process.terminate()
        process.communicate(timeout=TIMEOUT)

    assert (["starts 1", "starts 2"], 0) == (starts, process.returncode)


def test_workers_see_the_end_of_a_killed_supervisor(tmp_path: Path) -> None:
    """
    When the supervisor is killed each worker reads the end of its socket, though its siblings live.
    """
    with program(tmp_path, SERVE) as process:
        lines(process, 2)
        process.kill()
        stdout, _ = process.communicate(timeout=TIMEOUT)  # the end: no worker holds the pipe any more

    assert 2 * [b"orphaned"] == stdout.splitlines()


def test_line_without_a_reader_is_lost() -> None:
    """
    Where nobody reads the log, or nobody is left to, a line costs no time.
    """
    readable, written = os.pipe()
    lines = PromptLines(written)
    for _ in range(2_000):  # a pipe holds 64 KiB
        lines.write(99 * "x" + "\n")
    lines.flush()
    os.close(readable)
    lines.write("to nobody\n")
    os.close(written)
