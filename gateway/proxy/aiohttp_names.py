"""
The names of aiohttp that are not its documented interface and that the listeners and the data path lean on.

aiohttp's parsers, flow control and connection handling are used below `web.Application` and `ClientSession`, because
that costs 45 microseconds a request where those cost 130 (DESIGN section 4). `missing` is asked at start and by a
test: with a version in which one of them has gone, or without the C parser, the gateway does not start.
"""

from __future__ import annotations

import aiohttp
from aiohttp import base_protocol, http_parser, streams, web_protocol, web_runner, web_server

MINIMUM = (3, 14, 5)  # threats.md section 4: the first version without a known advisory

_NAMES: tuple[tuple[object, tuple[str, ...]], ...] = (
    (
        web_protocol.RequestHandler,
        (
            "_buffer_paused",
            "_close",
            "_current_request",
            "_force_close",
            "_handler_waiter",
            "_keepalive",
            "_keepalive_handle",
            "_keepalive_timeout",
            "_messages",
            "_make_error_handler",
            "_manager",
            "_max_msg_queue_size",
            "_msg_queue_resume_size",
            "_next_keepalive_close_time",
            "_process_keepalive",
            "_request_count",
            "_request_in_progress",
            "_resume_reading_if_drained",
            "_task_handler",
            "_waiter",
            "close",
            "connection_lost",
            "connection_made",
            "data_received",
            "finish_response",
            "force_close",
            "handle_error",
            "keepalive_timeout",
            "log_exception",
            "shutdown",
            "start",
        ),
    ),
    (
        base_protocol.BaseProtocol,
        (
            "_drain_helper",
            "_loop",
            "_parser",
            "_pause_reading_for_buffer",
            "_pause_transport_reading",
            "_paused",
            "_reading_paused",
            "_resume_transport_reading",
            "resume_reading",
            "transport",
        ),
    ),
    # What aiohttp calls on a connection's parser, and `listen/parser.py` stands in for.
    (http_parser.HttpRequestParser, ("feed_data", "feed_eof", "message_consumed", "pause_reading", "set_upgraded")),
    (http_parser.RawRequestMessage, ("_replace",)),
    (web_server.Server, ("pre_shutdown", "shutdown")),
    (web_runner.AppRunner, ("_make_server",)),
    (
        streams.StreamReader,  # of the applications behind `StrictServer`
        ("feed_data", "feed_eof", "set_exception"),
    ),
    (web_protocol, ("RequestPayloadError", "_ErrInfo")),
    (streams, ("EMPTY_PAYLOAD",)),
)


def missing() -> list[str]:
    """Return what this installation of aiohttp lacks; empty when the gateway can run on it."""
    problems = [
        f"{getattr(owner, '__name__', owner)}.{name}"
        for owner, names in _NAMES
        for name in names
        if not hasattr(owner, name)
    ]
    version = tuple(int(part) for part in aiohttp.__version__.split(".")[:3] if part.isdigit())
    if version < MINIMUM:
        problems.append(f"aiohttp {'.'.join(map(str, MINIMUM))} or newer (found {aiohttp.__version__})")
    if http_parser.HttpRequestParser.__module__ != "aiohttp._http_parser":
        problems.append("aiohttp's C parser (the pure-Python one reads requests differently)")
    return problems
