"""`gateway serve` as a real process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway.cli.serve import serve
from tests.e2e.gateway_process import children

ROUTES = """\
version: 1
project: acme
listeners:
  traffic: {bind: "127.0.0.1:0"}
  token_api: {bind: "127.0.0.1:0"}
  console: {bind: "127.0.0.1:0"}
routes: [{name: api, prefix: /api, upstream: "https://api.example.com", connection: api}]
"""


async def start(
    directory: Path, *more: str, environ: dict[str, str] | None = None, before: tuple[str, ...] = ()
) -> asyncio.subprocess.Process:
    """Start `gateway serve` on free ports with its state in *directory*, through the command *before* where given."""
    file = directory / "routes.yaml"
    file.write_text(ROUTES)
    command = [sys.executable, "-m", "gateway", "serve", "-c", str(file), "--data", str(directory / "data"), *more]
    return await asyncio.create_subprocess_exec(
        *before,
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=directory,
        env=os.environ | (environ or {}),
    )


async def event(process: asyncio.subprocess.Process, name: str) -> dict[str, object]:
    """Return the log line of that event, waiting for it."""
    assert process.stderr is not None
    async with asyncio.timeout(20):
        async for line in process.stderr:
            if line.startswith(b"{"):
                found: dict[str, object] = json.loads(line)
                if found["event"] == name:
                    return found
    raise AssertionError(f"no log line {name}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_serves_until_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    """
    The addresses are on stderr once everything listens; a signal drains and ends with exit code 0, stdout is empty.
    """
    process = await start(tmp_path)
    serving = await event(process, "serving")
    process.send_signal(number)
    await event(process, "stopped")
    stdout, _ = await process.communicate()

    assert str(serving["traffic"]).startswith("http://127.0.0.1:")
    assert 0 == process.returncode
    assert b"" == stdout


@pytest.mark.skipif(sys.platform != "linux", reason="proc(5) and prctl(2) are Linux's")
async def test_memory_of_a_serving_process_is_closed(tmp_path: Path) -> None:
    """
    Who serves or supervises has a core limit of 0; its files in /proc belong to root, since it is not dumpable.
    """
    process = await start(tmp_path, "--workers", "2")
    await event(process, "workers_serving")
    limits, owners = [], []
    for pid in (process.pid, *children(process.pid)):
        proc = Path(f"/proc/{pid}")
        limits += [line.split() for line in (proc / "limits").read_text().splitlines() if line.startswith("Max core")]
        owners.append((proc / "environ").stat().st_uid)
    process.terminate()
    await process.communicate()

    assert 3 * [["Max", "core", "file", "size", "0", "0", "bytes"]] == limits
    assert [0, 0, 0] == owners  # of a test that root runs, this says nothing: the next one does


@pytest.mark.skipif(sys.platform != "linux", reason="proc(5) and prctl(2) are Linux's")
def test_process_with_closed_memory_is_not_dumpable() -> None:
    """
    What `serve` does to its process is what the system then says of it (PR_GET_DUMPABLE).
    """
    program = (
        "import ctypes, resource\n"
        "from gateway.cli.serve import close_memory\n"
        "close_memory()\n"
        "print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), *resource.getrlimit(resource.RLIMIT_CORE))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert "0 0 0\n" == done.stdout


async def test_takes_the_descriptors_that_it_may_have(tmp_path: Path) -> None:
    """
    A soft limit is raised to the hard one; where that is too low for the connections that are taken, the log says so.
    """
    process = await start(tmp_path, before=("sh", "-c", 'ulimit -Sn 256 && ulimit -Hn 300 && exec "$@"', "sh"))
    warning = await event(process, "descriptors_few")
    await event(process, "serving")
    process.terminate()
    await process.communicate()

    assert (300, 8_192) == (warning["limit"], warning["wanted"])


async def test_starts_without_what_it_does_not_use(tmp_path: Path) -> None:
    """
    A start that finds its schema imports no Alembic, and nothing for other databases.
    """
    for _ in range(2):
        process = await start(tmp_path, environ={"PYTHONPROFILEIMPORTTIME": "1"})
        assert process.stderr is not None
        imported: set[str] = set()
        async with asyncio.timeout(20):
            async for line in process.stderr:
                if line.startswith(b"import time:"):
                    imported.add(line.decode().rpartition("|")[2].strip())
                if b'"serving"' in line:
                    break
        process.terminate()
        await process.communicate()

    unused = {"alembic", "mako", "sqlalchemy.dialects.postgresql"}
    assert {"gateway.server", "structlog", "sqlalchemy.dialects.sqlite"} <= imported
    assert not unused & imported


async def test_second_gateway_on_one_port_does_not_start(tmp_path: Path) -> None:
    """
    A port that is taken is one sentence on stderr and exit code 1.
    """
    first = await start(tmp_path)
    port = str((await event(first, "serving"))["traffic"]).rpartition(":")[2]
    (tmp_path / "other").mkdir()
    second = await start(tmp_path / "other", "--traffic", f"127.0.0.1:{port}")
    _, stderr = await second.communicate()
    first.terminate()
    await first.communicate()

    assert 1 == second.returncode
    assert b"Traceback" not in stderr
    assert b"in use" in stderr


async def test_several_workers_do_not_share_a_port_with_others(tmp_path: Path) -> None:
    """
    Who would share a port, a gateway of the same user with workers of its own, is refused it all the same.
    """
    first = await start(tmp_path, "--workers", "2")
    port = str((await event(first, "serving"))["traffic"]).rpartition(":")[2]
    (tmp_path / "other").mkdir()
    second = await start(tmp_path / "other", "--workers", "2", "--traffic", f"127.0.0.1:{port}")
    stdout, stderr = await second.communicate()
    first.terminate()
    await first.communicate()

    assert (1, b"") == (second.returncode, stdout)
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use".encode() in stderr
    assert not (tmp_path / "other" / "data").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_workers_serve_until_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    """
    A signal to the supervisor, or to all processes at once, as terminals and systemd send it, ends with exit code 0.
    """
    process = await start(tmp_path, environ={"GATEWAY_WORKERS": "2"})
    said = await event(process, "workers_serving")
    for pid in [*children(process.pid), process.pid]:
        os.kill(pid, number)
    stdout, stderr = await process.communicate()

    assert 2 == said["workers"]
    assert (0, b"") == (process.returncode, stdout)
    assert 2 == stderr.count(b'"event": "stopped"')


async def test_workers_that_cannot_start_end_with_one_sentence(tmp_path: Path) -> None:
    """
    What no worker can use is said once, with the exit code of a gateway without workers.
    """
    environ = {"GATEWAY_DATABASE_URL": "mysql://user:canary-pw@host/db"}
    _, stderr = await (process := await start(tmp_path, "--workers", "2", environ=environ)).communicate()

    assert 1 == process.returncode
    assert 1 == stderr.count(b"gateway: GATEWAY_DATABASE_URL: expected postgresql://")
    assert (b"Traceback" in stderr, b"canary" in stderr) == (False, False)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--workers", "0"], "1<=x<=64"),
        (["--traffic", "nonsense"], "expected HOST:PORT"),
        (["--token-api", "127.0.0.1:70000"], "expected HOST:PORT"),
    ],
)
def test_refuses_flags_it_cannot_use(tmp_path: Path, arguments: list[str], text: str) -> None:
    """
    A flag that cannot be used is exit code 2, and says what was expected.
    """
    file = tmp_path / "routes.yaml"
    file.write_text(ROUTES)

    result = CliRunner().invoke(serve, ["-c", str(file), "--data", str(tmp_path / "data"), *arguments])

    assert 2 == result.exit_code
    assert text in result.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
def test_refuses_a_broken_configuration(tmp_path: Path, workers: str) -> None:
    """
    A configuration that cannot be used ends with exit code 3, said once, before anything listens or is started.
    """
    file = tmp_path / "routes.yaml"
    file.write_text("version: 1\nprojekt: acme\n")

    result = CliRunner().invoke(serve, ["-c", str(file), "--data", str(tmp_path / "data"), "--workers", workers])

    assert 3 == result.exit_code
    assert 1 == result.stderr.count(f"{file}:2:1: projekt")
    assert not (tmp_path / "data").exists()


async def test_database_that_cannot_be_used_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A database URL that names no database of ours ends with exit code 1, and nothing of it is repeated.
    """
    monkeypatch.setenv("GATEWAY_DATABASE_URL", "mysql://user:canary-pw@host/db")

    _, stderr = await (process := await start(tmp_path)).communicate()

    assert 1 == process.returncode
    assert b"gateway: GATEWAY_DATABASE_URL: expected postgresql://" in stderr
    assert (b"Traceback" in stderr, b"canary" in stderr) == (False, False)


async def test_does_not_start_without_the_c_parser(tmp_path: Path) -> None:
    """
    With aiohttp's pure-Python parser, which reads requests differently, nothing listens: one sentence and exit code 1.
    """
    process = await start(tmp_path, environ={"AIOHTTP_NO_EXTENSIONS": "1"})
    stdout, stderr = await process.communicate()

    assert (1, b"") == (process.returncode, stdout)
    assert b"Traceback" not in stderr
    assert b"aiohttp's C parser" in stderr
    assert b'"serving"' not in stderr
