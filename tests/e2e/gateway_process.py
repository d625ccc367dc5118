"""
A gateway as its users run it: `python -m gateway serve` as a process of its own, on free ports of loopback.

1. It is ready when its log says "serving"; the addresses are read from that line.
2. The process belongs to one `async with` and is ended by its own id: SIGTERM, and SIGKILL where that does not end it.
3. Everything that it wrote is kept, for tests that search it.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import aiohttp
import yaml

from tests.tools import ROOT
from tests.world import Running, key_ring

START_SECONDS = 30.0
STOP_SECONDS = 10.0
_ASK_SECONDS = 5.0
# What heavy tests allow the event loop to be late beyond what the machine makes everyone late (`Witness`).
# docs/metrics.md has what was measured.
MAX_LOOP_LAG_SECONDS = 1.0
# Looks every 50 ms, as the gateway's gauge does, and says the worst lateness of a minute when its input ends.
_WITNESS = """
import collections, select, sys, time
seen = collections.deque((0.0,), maxlen=1200)
print("looking", flush=True)
while True:
    due = time.monotonic() + 0.05
    if select.select([sys.stdin], [], [], 0.05)[0]:
        break
    seen.append(time.monotonic() - due)
print(max(seen))
"""


class GatewayProcess:
    """A running `gateway serve`. Made by `start`, ended with `stop`."""

    def __init__(self, process: Process) -> None:
        self._process = process
        # asyncio hides the transport; its pipes can be had from there.
        self._log = process._transport.get_pipe_transport(2)  # type: ignore[attr-defined]
        self._written: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
        self._serving: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._readers = [
            asyncio.create_task(self._read(name, stream), name=f"gateway-{name}")
            for name, stream in (("stdout", process.stdout), ("stderr", process.stderr))
            if stream is not None
        ]
        self.traffic_url = ""
        self.token_api_url: str | None = None
        self.console_url = ""
        self.record_path = Path()

    @classmethod
    async def start(cls, config: Path, data: Path, *, environ: Mapping[str, str] | None = None) -> GatewayProcess:
        """Start a gateway with the file *config*, the state in *data* and the settings *environ*, and let it serve."""
        process = cls(await _command("serve", "-c", str(config), "--data", str(data), environ=environ))
        try:
            async with asyncio.timeout(START_SECONDS):
                said = await process._serving
        except BaseException:
            await process.stop()
            raise
        process.traffic_url, process.token_api_url = said["traffic"], said["token_api"]
        process.console_url, process.record_path = said["console"], Path(said["record"])
        return process

    async def stop(self) -> None:
        """End the process, by its id, and wait until all that it wrote is here."""
        if self._process.returncode is None:
            self._process.terminate()
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    while self._process.returncode is None:  # noqa: ASYNC110  # `wait` also waits for the log's end
                        await asyncio.sleep(0.01)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        self._log.resume_reading()
        await asyncio.gather(*self._readers)
        self._serving.cancel()

    def stall_log(self) -> None:
        """Read no more of what the process logs, and leave no room for more, until `stop`."""
        self._log.pause_reading()
        pipe = os.open(f"/proc/{self.pid}/fd/2", os.O_WRONLY | os.O_NONBLOCK)
        with suppress(BlockingIOError):
            while True:
                os.write(pipe, b"\n")
        os.close(pipe)

    def leave_log(self) -> None:
        """Go away as the reader of what the process logs."""
        self._log.close()

    async def ended(self) -> None:
        """Return when the process has ended by itself and all that it wrote is here."""
        await self._process.wait()
        await asyncio.gather(*self._readers)

    @property
    def exit_code(self) -> int | None:
        """What the process ended with; None while it runs."""
        return self._process.returncode

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def stdout(self) -> str:
        return b"".join(self._written["stdout"]).decode()

    @property
    def stderr(self) -> str:
        return b"".join(self._written["stderr"]).decode()

    @property
    def rss_bytes(self) -> int:
        """The memory that the process holds now (proc(5): VmRSS)."""
        return self._memory("VmRSS")

    @property
    def peak_rss_bytes(self) -> int:
        """The most memory that the process held at once since `forget_peak` (proc(5): VmHWM)."""
        return self._memory("VmHWM")

    def forget_peak(self) -> None:
        """Let `peak_rss_bytes` count from now on."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")  # proc(5): 5 resets the peak

    @property
    def descriptors(self) -> int:
        """How many files and sockets the process has open (proc(5): fd)."""
        return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())

    def _memory(self, name: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"the process {self.pid} has no {name}")

    async def _read(self, name: str, stream: asyncio.StreamReader) -> None:
        while line := await stream.readline():
            self._written[name].append(line)
            if name == "stderr" and b'"event": "serving"' in line and not self._serving.done():
                self._serving.set_result(json.loads(line))
        if name == "stderr" and not self._serving.done():
            self._serving.set_exception(AssertionError(f"the gateway did not start: {self.stderr}"))


@dataclass(slots=True)
class RunningProcess(Running):
    """A gateway process under test, and what a test needs to use it."""

    process: GatewayProcess = field(kw_only=True)

    def lines(self, event: str | None = None) -> list[dict[str, Any]]:
        """
        Return the record's lines as `Running.lines` does.

        An outcome is written a turn of the gateway's loop behind its answer, so that this process may have read that
        before: what the console is asked now is answered behind it.
        """
        with suppress(OSError):  # a console that is closed has no turn to wait for
            urlopen(f"{self.process.console_url}/healthz", timeout=_ASK_SECONDS).close()  # noqa: S310  # of loopback
        return super(RunningProcess, self).lines(event)

    async def loop_lag_seconds(self) -> float:
        """How late the event loop was at worst, in the last minute."""
        async with self.session.get(f"{self.process.console_url}/metrics") as response:
            found = re.search(r"^gateway_loop_lag_seconds (\S+)$", await response.text(), re.M)
        assert found is not None
        return float(found[1])


@asynccontextmanager
async def serving(
    configuration: dict[str, Any], data: Path, *, environ: Mapping[str, str] | None = None
) -> AsyncIterator[RunningProcess]:
    """
    Run `gateway serve` with *configuration*, the state in *data* and the settings *environ*.

    Yield it with a management key.
    """
    process = await GatewayProcess.start(_write(configuration, data), data, environ=environ)
    database_url = (environ or {}).get("GATEWAY_DATABASE_URL")
    try:
        async with key_ring(data, database_url) as ring:
            management_key = (await ring.create_management("tests")).secret
        async with aiohttp.ClientSession(auto_decompress=False) as session:
            yield RunningProcess(process, data, management_key, session, database_url, process=process)
    finally:
        await process.stop()


class Witness:
    """
    A process that does nothing but look how late it is: what it is late by, the machine took. Made by `witness`.

    It is none of this process' threads: those are late for each other.
    """

    def __init__(self, process: Process) -> None:
        self._process = process

    async def lag_beyond(self, gateway: RunningProcess) -> float:
        """How much later than this process the event loop of *gateway* was at worst. Asked once."""
        lag = await gateway.loop_lag_seconds()
        said, _ = await self._process.communicate(b"")  # the end of its input
        return lag - float(said)


@asynccontextmanager
async def witness() -> AsyncIterator[Witness]:
    """Have a process look for how long the machine keeps from work who could go on."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-I", "-c", _WITNESS, stdin=PIPE, stdout=PIPE)
    try:
        assert process.stdout is not None
        assert b"looking\n" == await process.stdout.readline()
        yield Witness(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def children(pid: int) -> list[int]:
    """Return the processes that the process *pid* has started and that have not ended (proc(5): stat)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == pid and state != "Z":
                found.append(int(path.parent.name))
    return sorted(found)


@asynccontextmanager
async def command(*arguments: str, environ: Mapping[str, str] | None = None) -> AsyncIterator[Process]:
    """Run `gateway` with *arguments* and the settings *environ*; a command that still runs at the end is killed."""
    process = await _command(*arguments, environ=environ)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def _command(*arguments: str, environ: Mapping[str, str] | None) -> Process:
    # What the developer's shell says about a gateway of theirs is not for this one.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", *arguments),
        cwd=ROOT,
        env={**clean, **(environ or {})},
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
        limit=1 << 20,
    )


def _write(configuration: dict[str, Any], data: Path) -> Path:
    """Return the file beside *data* that now holds *configuration*."""
    config = data.with_name(f"{data.name}.routes.yaml")
    config.write_text(yaml.safe_dump(configuration))
    return config
