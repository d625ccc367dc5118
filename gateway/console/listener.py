"""
The console's listener: what cannot be read is refused like on the other doors (`listen/runner.py`).

Rules:
1. The answer is `application/problem+json` with the code that the traffic listener would give (RFC 9457).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
from aiohttp import web

from gateway.errors import Refusal
from gateway.listen.runner import StrictRunner


class ConsoleRunner(StrictRunner):
    """Runs the application of `health.create_app`. *options* are those of `web.AppRunner`."""

    __slots__ = ()

    def __init__(
        self, app: web.Application, *, on_refused: Callable[[Refusal], None] | None = None, **options: Any
    ) -> None:
        super().__init__(app, name="console", answer=unread, on_refused=on_refused, **options)


def unread(refusal: Refusal) -> web.Response:
    """Return *refusal* as the console says it."""
    body = {
        "type": f"urn:connection-gateway:error:{refusal.code}",
        "title": refusal.title,
        "status": refusal.status,
        "detail": refusal.detail,
        "code": refusal.code,
    }
    return web.Response(
        status=refusal.status,
        body=orjson.dumps(body),
        content_type="application/problem+json",
        headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Server": "connection-gateway"},
    )
