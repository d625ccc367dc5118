"""A headless Chromium of the test's own: what it makes of our answers, no HTTP client can tell."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.tools import require_tool

START_SECONDS = 30.0


class Tab:
    """One tab of a headless Chromium, spoken to over its DevTools protocol."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": params})
        while True:
            message = await self._socket.receive_json()
            if message.get("id") == self._number:
                return dict(message.get("result", {}))

    async def evaluate(self, expression: str) -> Any:
        """Return the value of *expression* in the page; None while there is no page."""
        result = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return result.get("result", {}).get("value")

    async def until(self, text: str) -> str:
        """Return the page's heading once it holds *text*."""
        heading = ""
        async with asyncio.timeout(START_SECONDS):
            while text not in heading:
                await asyncio.sleep(0.05)
                heading = str(await self.evaluate("document.querySelector('h1')?.textContent ?? ''"))
        return heading


@asynccontextmanager
async def chromium() -> AsyncIterator[Tab]:
    """Run a browser of our own with a profile of its own, and yield its first tab."""
    program = require_tool("chromium")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            str(program), "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0",
            f"--user-data-dir={profile}", "about:blank",
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            place = Path(profile) / "DevToolsActivePort"
            async with asyncio.timeout(START_SECONDS):
                # A file of another process: there is no event to wait for.
                while not await asyncio.to_thread(lambda: place.exists() and place.read_text().count("\n")):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            port = (await asyncio.to_thread(place.read_text)).split()[0]
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json/list") as response:
                    tabs = json.loads(await response.text())
                tab = next(each for each in tabs if each["type"] == "page")
                async with session.ws_connect(tab["webSocketDebuggerUrl"]) as socket:
                    yield Tab(socket)
        finally:
            process.terminate()
            await process.wait()
