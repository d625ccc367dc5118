"""What is read of a request's Host, and when its connection ends."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
from aiohttp.base_protocol import BaseProtocol

from gateway.listen.head import RequestHead
from gateway.listen.parser import StrictParser
from gateway.net.backlog import Backlog
from gateway.net.body_stream import Body
from gateway.proxy.record import Call
from gateway.proxy.request import Before, ProxyRequest
from gateway.proxy.request_fields import RequestRules


@dataclass
class Wire:
    """A caller's connection that keeps what was sent on it."""

    is_closing: bool = False
    peer: str = "192.0.2.1"
    before: Before | None = None
    sent: bytes = b""
    is_drained: bool = False
    has_unsent: bool = False
    parser: StrictParser | None = None  # of all of its requests; None: each has its own

    def send(self, data: bytes) -> None:
        self.sent += data

    async def drain(self, seconds: float) -> None:
        return

    def hold_back(self, body: Body | None, seconds: float = 0.0) -> None:
        return

    def hand_over(self) -> asyncio.Transport:
        raise AssertionError("no test switches protocols here")

    def abort(self) -> None:
        self.is_closing = True


async def parse(data: bytes, wire: Wire | None = None) -> ProxyRequest:
    loop = asyncio.get_running_loop()
    wire = wire or Wire()
    parser = wire.parser or StrictParser(BaseProtocol(loop), loop, Backlog(loop), for_application=False)
    messages, _, _ = parser.feed_data(data)
    head, payload = next(iter(messages))
    assert isinstance(head, RequestHead)
    assert isinstance(payload, Body)
    call = Call(head.method, head.target, call_id="1", trace_id="2", peer="", started_at=0.0, started=0.0)
    return ProxyRequest(call, head, payload, wire)


HOSTS = {
    "gateway.test": "gateway.test",
    "Gateway.Test:8080": "gateway.test:8080",
    "127.0.0.1:80": "127.0.0.1:80",
    "[::1]": "[::1]",
    "[2001:DB8::1]:443": "[2001:db8::1]:443",
}


@pytest.mark.parametrize("host", HOSTS)
async def test_host_is_read(host: str) -> None:
    """
    The Host is lower case, with its port.
    """
    request = await parse(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())

    assert HOSTS[host] == request.host


@pytest.mark.parametrize("line", ["Connection: close", "Connection: x, close"])
async def test_connection_ends_where_the_caller_says_so(line: str) -> None:
    """
    Connection: close ends the connection.
    """
    ending = await parse(f"GET / HTTP/1.1\r\nHost: x\r\n{line}\r\n\r\n".encode())
    staying = await parse(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")

    assert (False, True) == (ending.keep_alive, staying.keep_alive)


async def test_invitation_is_one_line() -> None:
    """
    An expected 100 Continue is sent as it stands in RFC 9110.
    """
    wire = Wire()
    (await parse(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", wire)).invite()

    assert b"HTTP/1.1 100 Continue\r\n\r\n" == wire.sent


async def test_same_fields_are_read_once() -> None:
    """
    A request with the fields of the one before, to the letter, is read as that one was; with others it is read anew.
    """
    wire, rules, others = Wire(), RequestRules(None, via="gateway"), RequestRules(None, via="gateway")
    data = b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\n\r\n"
    loop = asyncio.get_running_loop()
    wire.parser = StrictParser(BaseProtocol(loop), loop, Backlog(loop), for_application=False)

    first = (await parse(data % b"a", wire)).read_fields(rules)
    again = (await parse(data % b"a", wire)).read_fields(rules)
    other_rules = (await parse(data % b"a", wire)).read_fields(others)
    other = (await parse(data % b"b", wire)).read_fields(rules)

    assert first is again
    assert other_rules is not first
    assert ("Bearer a", "Bearer b") == (other_rules.authorization, other.authorization)
