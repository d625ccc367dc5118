"""
The workers of one gateway, as each of them asks the others: a scrape of any is a scrape of all.

Rules:
1. Every worker answers on a Unix socket in a directory that only this user can enter; what it says there is about
   itself alone.
2. One that does not answer within ASK_SECONDS is not ready, and its metrics are missing: `gateway_worker_up` says 0.
3. Metrics are not added up: each line gets the label `worker`. A sum would fall when a worker is replaced, and a rate
   over it would take that for a counter that began anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import aiohttp
from aiohttp import web

ASK_SECONDS = 2.0  # `gateway healthcheck` waits three

_UP = "# HELP gateway_worker_up Whether the worker told its metrics.\n# TYPE gateway_worker_up gauge"


class Workers:
    """Worker *number* of *count*, from 1 on, whose sockets lie in *directory*. Answers between `listen` and `close`."""

    def __init__(self, directory: Path, *, number: int, count: int, ask_seconds: float = ASK_SECONDS) -> None:
        self._ask_seconds = ask_seconds
        self._directory = directory
        self._number = number
        self._others = [other for other in range(1, count + 1) if other != number]
        self._runner: web.AppRunner | None = None

    async def listen(self, app: web.Application) -> None:
        """Answer the other workers with *app*: `/readyz` and `/metrics` of this one."""
        path = self._socket(self._number)
        path.unlink(missing_ok=True)  # of a worker that was killed
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.UnixSite(self._runner, str(path)).start()

    async def close(self) -> None:
        """Answer no more."""
        if self._runner is not None:
            await self._runner.cleanup()
        with suppress(OSError):
            self._socket(self._number).unlink(missing_ok=True)

    async def are_ready(self) -> bool:
        """Whether every other worker says that it is ready."""
        return None not in await asyncio.gather(*(self._ask(other, "/readyz") for other in self._others))

    async def metrics(self, own: bytes) -> bytes:
        """Return the metrics of all workers; *own* are this one's, as Prometheus' text."""
        texts = await asyncio.gather(*(self._ask(other, "/metrics") for other in self._others))
        return merged({self._number: own, **dict(zip(self._others, texts, strict=True))})

    async def _ask(self, other: int, path: str) -> bytes | None:
        """Return what worker *other* answers at *path*, None where that is not 200 or does not come."""
        try:
            async with (
                asyncio.timeout(self._ask_seconds),
                aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(self._socket(other)))) as session,
                session.get(f"http://worker{path}") as response,
            ):
                return await response.read() if response.status == 200 else None
        except (aiohttp.ClientError, OSError):  # TimeoutError is one
            return None

    def _socket(self, number: int) -> Path:
        return self._directory / f"{number}.sock"


def merged(texts: Mapping[int, bytes | None]) -> bytes:
    """
    Return the metrics of all workers, by number, as one text: families together, each line with its worker.

    Of 1,000 routes a worker's 20,000 lines take 12 ms here, where it took 105 ms to write them.
    """
    families: dict[str, list[str]] = {_UP: []}  # "# HELP" and "# TYPE" -> samples
    for number, text in sorted(texts.items()):
        label = f'worker="{number}"'
        families[_UP].append(f"gateway_worker_up{{{label}}} {0.0 if text is None else 1.0}")
        head, samples = "", families[_UP]
        for line in (text or b"").decode().split("\n"):
            if line.startswith("# HELP "):
                head = line
            elif line.startswith("# TYPE "):
                samples = families.setdefault(f"{head}\n{line}", [])
            elif line:
                samples.append(_labelled(line, label))
    return "".join(f"{line}\n" for head, samples in families.items() for line in (head, *samples)).encode()


def _labelled(sample: str, label: str) -> str:
    """Return the line *sample* with one more *label*. A metric's name has neither a brace nor a space."""
    name, brace, rest = sample.partition("{")
    if brace and " " not in name:
        return f"{name}{{{label},{rest}"
    name, _, value = sample.partition(" ")
    return f"{name}{{{label}}} {value}"
