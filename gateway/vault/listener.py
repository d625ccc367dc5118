"""
The token API's listener: what cannot be read is answered like everything else (`listen/runner.py`).

Rules:
1. An answer that never reached the application is the same flat JSON error, with the status that the traffic listener
   would give.
2. Nothing of such a request is logged or repeated: it may hold a credential.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web

from gateway.errors import Refusal
from gateway.listen.runner import StrictRunner
from gateway.vault import wire
from gateway.vault.api import json_answer

# Where the status has an error of its own; any other status is "malformed" with that status.
_KINDS = {kind.status: kind for kind in (wire.METHOD, wire.TOO_SLOW, wire.INTERNAL, wire.UNAVAILABLE)}


class ApiRunner(StrictRunner):
    """Runs the application of `create_app`. *options* are those of `web.AppRunner`."""

    __slots__ = ()

    def __init__(
        self, app: web.Application, *, on_refused: Callable[[Refusal], None] | None = None, **options: Any
    ) -> None:
        super().__init__(app, name="token_api", answer=unread, on_refused=on_refused, **options)


def unread(refusal: Refusal) -> web.Response:
    """Return *refusal* as the token API says it."""
    kind = _KINDS.get(refusal.status)
    if kind is None:
        kind = wire.ErrorKind(refusal.status, wire.MALFORMED.code, wire.MALFORMED.description)
    return json_answer(kind.status, wire.ApiError(kind).body())
