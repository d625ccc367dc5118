"""A connection over TLS: what the end of it says about an answer that has no other end."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop

from gateway.models import Timeouts
from gateway.net.backlog import Backlog
from gateway.proxy.answer_body import Truncated
from gateway.proxy.connection import UpstreamConnection
from tests.net.certificates import Authority
from tests.proxy.wire import answer_of

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
ANSWER = b"HTTP/1.1 200 OK\r\n\r\nall of it"


def serve_once(listener: socket.socket, tls: ssl.SSLContext, *, in_order: bool) -> None:
    """Answer one request and end the connection: TLS first where *in_order*, else TCP alone."""
    plain, _ = listener.accept()
    with tls.wrap_socket(plain, server_side=True) as connection:
        connection.settimeout(5)
        connection.recv(1024)
        connection.sendall(ANSWER)
        if in_order:
            connection.unwrap().close()


async def read_answer(port: int, tls: ssl.SSLContext) -> bytes:
    """Send a request to *port* and return the body of the answer."""
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(
        lambda: UpstreamConnection(loop, Backlog(loop)), "127.0.0.1", port, ssl=tls, server_hostname="127.0.0.1"
    )
    connection.begin(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "GET", Timeouts())
    body = b""
    try:
        async with asyncio.timeout(5):
            answer = await answer_of(connection)
            while data := await answer.body.readany():
                body += data
    finally:
        connection.fail(Truncated())
    return body


def serve_more(listener: socket.socket, tls: ssl.SSLContext, go_on: threading.Event) -> None:
    """Answer one request, and once more when told to."""
    plain, _ = listener.accept()
    with tls.wrap_socket(plain, server_side=True) as connection:
        connection.settimeout(5)
        connection.recv(1024)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        go_on.wait(5)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        connection.recv(1024)


async def is_quiet_before_and_after(port: int, tls: ssl.SSLContext, go_on: threading.Event) -> tuple[bool, bool]:
    """Return whether a kept connection to *port* is quiet after its answer, and whether it is after a second one."""
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(
        lambda: UpstreamConnection(loop, Backlog(loop)), "127.0.0.1", port, ssl=tls, server_hostname="127.0.0.1"
    )
    connection.begin(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "GET", Timeouts())
    async with asyncio.timeout(5):
        await answer_of(connection)
    connection.rest()
    before = connection.can_be_used and connection.is_quiet()
    go_on.set()
    deadline = loop.time() + 5
    while connection.is_quiet() and loop.time() < deadline:  # the loop does not run meanwhile: nothing is read
        pass
    after = connection.is_quiet()
    connection.fail(Truncated())
    return before, after


@pytest.mark.parametrize("loop", LOOPS)
def test_unread_bytes_of_a_kept_connection_are_seen(tmp_path: Path, loop: str) -> None:
    """
    Over TLS, too, a connection on which something lies is known before it is used.
    """
    authority = Authority(tmp_path)
    go_on = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=serve_more, args=(listener, authority.server_context(), go_on))
        server.start()
        tls = ssl.create_default_context(cafile=authority.ca_file)
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            seen = runner.run(is_quiet_before_and_after(listener.getsockname()[1], tls, go_on))
        server.join()

    assert (True, False) == seen


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("in_order", [True, False])
def test_answer_that_ends_with_its_connection_is_whole_only_after_close_notify(
    tmp_path: Path, loop: str, in_order: bool
) -> None:
    """
    Where TCP ends without TLS having ended, anybody may have cut the answer: it is no whole one.
    """
    authority = Authority(tmp_path)
    listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        server = threading.Thread(
            target=serve_once, args=(listener, authority.server_context()), kwargs={"in_order": in_order}
        )
        server.start()
        reading = read_answer(listener.getsockname()[1], ssl.create_default_context(cafile=authority.ca_file))
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            if in_order:
                assert b"all of it" == runner.run(reading)
            else:
                with pytest.raises(Truncated):
                    runner.run(reading)
        server.join()
