"""
A door that a `web.Application` serves (the token API, the console): its requests are read like those of agents.

Rules:
1. What cannot be read is answered in the form of that door, and closed (`connection.py`).
2. What aiohttp itself would answer, log or repeat of a request that failed outside of the application is replaced: it
   may hold a credential.
3. A body passes as it came: nothing is decompressed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

import structlog
from aiohttp import web
from aiohttp.web_protocol import _ErrInfo

from gateway.errors import InternalError, InvalidRequest, Refusal
from gateway.listen.connection import LINGER_SECONDS, StrictConnection, StrictServer
from gateway.telemetry import place_of

Answer = Callable[[Refusal], web.Response]

log = structlog.get_logger()


class AppConnection(StrictConnection):
    """One connection to an application. Made by `AppServer`."""

    __slots__ = ("_answer",)

    def __init__(self, manager: AppServer, *, answer: Answer, **kwargs: Any) -> None:
        super().__init__(manager, for_application=True, **kwargs)
        self._answer = answer

    def refusal_answer(self, refusal: Refusal) -> bytes:
        """Return the answer to what could not be read, as this door says it."""
        answer = self._answer(refusal)
        body = bytes(answer.body) if isinstance(answer.body, bytes | bytearray) else b""
        phrase = HTTPStatus(answer.status).phrase
        lines = [f"HTTP/1.1 {answer.status} {phrase}", *(f"{name}: {value}" for name, value in answer.headers.items())]
        lines += [f"Content-Length: {len(body)}", "Connection: close", "", ""]
        return "\r\n".join(lines).encode("latin-1") + body

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what failed outside of the application, and say what it was, without its text."""
        place = place_of(exc) if exc is not None else None
        log.error("request_failed", listener=self._server_name, error=type(exc).__name__, place=place)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is under way already")
        answer = self._answer(InternalError())
        answer.force_close()
        return answer

    def log_exception(self, *args: Any, **kwargs: Any) -> None:
        """Say that something broke, without the text and the trace, which hold bytes of the request."""
        log.warning("connection_broke", listener=self._server_name)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send *resp*, unless the connection has had its last answer."""
        if self._force_close:
            return resp, True
        return await super().finish_response(request, resp, start_time)

    def _make_error_handler(self, err_info: _ErrInfo) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
        reason = err_info.exc
        refusal = reason if isinstance(reason, Refusal) else InvalidRequest()

        async def refuse(_: web.BaseRequest) -> web.StreamResponse:
            if isinstance(self._manager, StrictServer):
                self._manager.count(refusal)
            if self.transport is not None:
                self.transport.write(self.refusal_answer(refusal))
            self.linger()
            return web.Response()  # `finish_response` does not send it

        return refuse

    @property
    def _server_name(self) -> str:
        return self._manager.name if isinstance(self._manager, StrictServer) else ""


class AppServer(StrictServer):
    """Makes an `AppConnection` for each connection; *answer* turns a refusal into an answer of this door."""

    def __init__(self, handler: Callable[[Any], Any], *, answer: Answer, **kwargs: Any) -> None:
        super().__init__(handler, **kwargs)
        self._answer = answer

    def __call__(self) -> AppConnection:
        """Return the protocol of a new connection."""
        return AppConnection(self, answer=self._answer, loop=asyncio.get_running_loop(), **self._kwargs)


class StrictRunner(web.AppRunner):
    """
    Runs *app* as the listener *name*. *on_refused* is told what could not be read; *options* are `web.AppRunner`'s.

    `sweep` is to be called once a second.
    """

    __slots__ = ("_answer", "_name", "_on_refused")

    def __init__(
        self,
        app: web.Application,
        *,
        name: str,
        answer: Answer,
        on_refused: Callable[[Refusal], None] | None = None,
        **options: Any,
    ) -> None:
        options["access_log"] = None  # it would name targets, which may hold a credential
        options.setdefault("lingering_time", LINGER_SECONDS)  # for the rest of a body that nobody has read
        super().__init__(app, **options)
        self._name = name
        self._answer = answer
        self._on_refused = on_refused

    def sweep(self, now: float) -> None:
        """Enforce the deadlines of every connection. *now* is the loop's time."""
        if isinstance(self.server, AppServer):
            self.server.sweep(now)

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return AppServer(
            made.request_handler,
            name=self._name,
            answer=self._answer,
            on_refused=self._on_refused,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            loop=asyncio.get_running_loop(),
            **made._kwargs,
        )
