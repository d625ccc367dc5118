"""A JSON API played by the recording upstream: what it answers is a function of what arrived."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from tests.world import Received, Upstream, answer

Play = Callable[[Received], tuple[int, Any, str]]


def plays(upstream: Upstream, play: Play) -> None:
    """Let *upstream* answer with the status, JSON and further field lines (each with CRLF) that *play* returns."""

    async def respond(received: Received, writer: asyncio.StreamWriter) -> None:
        status, content, fields = play(received)
        writer.write(answer(status, json.dumps(content).encode(), fields))

    upstream.respond = respond


def request_lines(upstream: Upstream) -> list[str]:
    """Return the request line of every request that arrived, in order."""
    return [received.request_line for received in upstream.received]


def query_of(received: Received) -> str:
    """Return the query of *received*, raw."""
    return urlsplit(received.request_line.split(" ")[1]).query
