"""
The API behind both proxies: as fast as Python allows, so that it is never what is measured.

1. A request is answered 200 with 1 KB of JSON if it carries the injected token, and only that credential; else 401.
2. `/bench/seen` tells how many of each there were; `/bench/jwks` serves the issuer's keys.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
from pathlib import Path
from typing import cast

import uvloop

BODY_BYTES = 1024


def people() -> str:
    """Return BODY_BYTES of JSON as APIs give it: a search through it meets what it would meet there."""
    names = ("Ada Lovelace", "Grace Hopper", "Katherine Johnson", "Radia Perlman", "Barbara Liskov", "Frances Allen")
    listed: list[dict[str, object]] = [
        {"id": 41_207 + 13 * number, "name": name, "url": f"https://api.example.com/people/{number}", "active": True}
        for number, name in enumerate(names)
    ]
    document: dict[str, object] = {"people": listed, "updated_at": "2026-11-29T07:41:05Z", "note": ""}
    words = "The list goes on behind the link that the field Link names, in the order of their names. "
    room = BODY_BYTES - len(json.dumps(document))
    document["note"] = (words * (room // len(words) + 1))[:room]
    return json.dumps(document)


class Upstream:
    """What every connection shares: the answers, rendered once, and the counts."""

    def __init__(self, *, token: str, jwks: bytes) -> None:
        self.accepted = 0
        self.refused = 0
        self.jwks = jwks
        self.ok = render(200, people().encode())
        self.unauthorized = render(401, b"{}")
        self.injected = re.compile(rb"\r\n(?i:authorization): Bearer " + re.escape(token.encode()) + rb"(-[0-9]+)?\r\n")

    def answer(self, head: bytes) -> bytes:
        """Return the whole answer to the request with this *head*."""
        if self.injected.search(head) and head.lower().count(b"\r\nauthorization:") == 1:
            self.accepted += 1
            return self.ok
        if head.startswith(b"GET /bench/seen "):
            return render(200, json.dumps({"accepted": self.accepted, "refused": self.refused}).encode())
        if head.startswith(b"GET /bench/jwks "):
            return render(200, self.jwks)
        self.refused += 1
        return self.unauthorized


def render(status: int, body: bytes) -> bytes:
    """Return an HTTP/1.1 answer with *body* as JSON."""
    phrase = {200: "OK", 401: "Unauthorized"}[status]
    fields = f"HTTP/1.1 {status} {phrase}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return fields.encode() + body


class Connection(asyncio.Protocol):
    """One keep-alive connection; requests have no body (the load sends GET only)."""

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.WriteTransport, transport)  # uvloop's is one without being a subclass

    def data_received(self, data: bytes) -> None:
        *heads, self.buffer = (self.buffer + data).split(b"\r\n\r\n")
        for head in heads:
            self.transport.write(self.upstream.answer(head + b"\r\n"))


async def serve(*, port: int, upstream: Upstream) -> None:
    """Serve until ended by a signal."""
    server = await asyncio.get_running_loop().create_server(lambda: Connection(upstream), "127.0.0.1", port)
    print(json.dumps({"ready": port}), flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--token", required=True)
    parser.add_argument("--jwks-file", type=Path, required=True)
    arguments = parser.parse_args()
    uvloop.run(
        serve(port=arguments.port, upstream=Upstream(token=arguments.token, jwks=arguments.jwks_file.read_bytes()))
    )
