"""
The token API's listener: what is not HTTP is answered like everything else.

Rules:
1. An answer that the server itself makes (a request that cannot be parsed, a failure outside of the application) is the
   same flat JSON error, and closes the connection.
2. Nothing of such a request is logged or repeated: it may hold a credential.

This leans on what aiohttp calls public by name only: `RequestHandler.handle_error`, `RequestHandler.log_exception`,
`AppRunner._make_server`, `Server._kwargs`; tests/vault/test_listener.py fails when one of them has gone.
"""

from __future__ import annotations

import asyncio
from typing import Any

import structlog
from aiohttp import web

from gateway.vault import wire
from gateway.vault.api import json_answer

log = structlog.get_logger()


class ApiProtocol(web.RequestHandler):
    """One connection to the token API."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what never reached the application."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is under way already")
        log.warning("token_api_request_unreadable", status=status, error=type(exc).__name__)
        error = wire.ApiError(wire.INTERNAL if status >= 500 else wire.MALFORMED)
        answer = json_answer(error.kind.status, error.body())
        answer.force_close()
        return answer

    def log_exception(self, *args: Any, **kwargs: Any) -> None:
        """Say that something broke, without the text and the trace, which hold bytes of the request."""
        log.warning("token_api_connection_broke")


class ApiServer(web.Server):
    """Makes an `ApiProtocol` for each connection."""

    def __call__(self) -> ApiProtocol:
        return ApiProtocol(self, loop=asyncio.get_running_loop(), **self._kwargs)


class ApiRunner(web.AppRunner):
    """Runs the application of `create_app`. Takes the options of `web.AppRunner`."""

    __slots__ = ()

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return ApiServer(
            made.request_handler,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            loop=asyncio.get_running_loop(),
            **made._kwargs,
        )
