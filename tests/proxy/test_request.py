"""What is read of a request's Host, and when its connection ends."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import cast

import pytest
from aiohttp.base_protocol import BaseProtocol

from gateway.access.identity import Verified
from gateway.listen.head import RequestHead
from gateway.listen.parser import StrictParser
from gateway.listen.sections import SharedSections
from gateway.models import Caller, Subject, TokenKey
from gateway.net.backlog import Backlog
from gateway.net.body_stream import Body
from gateway.proxy.lane import Lane
from gateway.proxy.record import Call
from gateway.proxy.request import Asker, ProxyRequest, Reading
from gateway.proxy.request_fields import RequestFields, RequestRules


@dataclass
class Wire:
    """A caller's connection that keeps what was sent on it."""

    is_closing: bool = False
    peer: str = "192.0.2.1"
    last_reading: Reading | None = None
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
    parser = wire.parser or StrictParser(
        BaseProtocol(loop), loop, Backlog(loop), SharedSections(), for_application=False
    )
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


async def settled(data: bytes, wire: Wire, rules: RequestRules) -> RequestFields:
    """Return the fields in *data*, whose caller turns out to be known."""
    request = await parse(data, wire)
    fields = request.read_fields(rules)
    caller, subject = Caller(kind="jwt", user="ada"), Subject("ada", None)
    key = TokenKey("people", "ada", None, (), None)
    request.reading.asker = Asker(cast(Lane, None), Verified(caller, None), "credential", subject, key, "")
    request.keep_reading()
    return fields


def one_connection(peer: str = "192.0.2.1", sections: SharedSections | None = None) -> Wire:
    """Return a connection of *peer* whose requests one parser reads."""
    loop = asyncio.get_running_loop()
    sections = SharedSections() if sections is None else sections
    parser = StrictParser(BaseProtocol(loop), loop, Backlog(loop), sections, for_application=False)
    return Wire(peer=peer, parser=parser)


async def test_same_fields_are_read_once() -> None:
    """
    A request with the fields of the one before, to the letter, is read as that one was; with others it is read anew.
    """
    wire, rules, others = one_connection(), RequestRules(None, via="gateway"), RequestRules(None, via="gateway")
    data = b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\n\r\n"

    first = await settled(data % b"a", wire, rules)
    again = await settled(data % b"a", wire, rules)
    other_rules = await settled(data % b"a", wire, others)
    other = await settled(data % b"b", wire, rules)

    assert first is again
    assert other_rules is not first
    assert ("Bearer a", "Bearer b") == (other_rules.authorization, other.authorization)


async def test_fields_of_a_large_head_are_not_remembered() -> None:
    """
    A connection keeps nothing of a head that is larger than what it may remember.
    """
    wire, rules = one_connection(), RequestRules(None, via="gateway")

    await settled(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", wire, rules)
    assert wire.last_reading is not None
    await settled(b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 5_000 + b"\r\n\r\n", wire, rules)

    assert wire.last_reading is None


async def test_fields_of_an_unknown_caller_are_not_remembered() -> None:
    """
    As long as nobody knows who sent them, the same fields are read anew.
    """
    wire, rules = one_connection(), RequestRules(None, via="gateway")
    data = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"

    assert (await parse(data, wire)).read_fields(rules) is not (await parse(data, wire)).read_fields(rules)


@pytest.mark.parametrize(("line", "is_shared"), [("A: b", True), ("X-Forwarded-For: 198.51.100.7", False)])
async def test_what_a_proxy_says_is_read_anew_for_another_peer(line: str, is_shared: bool) -> None:
    """
    Equal fields from two peers are read once, unless they hold the word of one of them about its caller.
    """
    rules, sections = RequestRules(None, via="gateway", trusts_proxies=True), SharedSections()
    data = f"GET / HTTP/1.1\r\nHost: x\r\n{line}\r\n\r\n".encode()
    for _ in range(2):
        first = one_connection("10.0.0.1", sections)
        before = await settled(data, first, rules)
        await parse(b"GET / HTTP/1.1\r\nHost: other\r\n\r\n", first)
    second, third = one_connection("10.0.0.2", sections), one_connection("10.0.0.1", sections)

    same_peer = (await parse(data, third)).read_fields(rules)
    other_peer = (await parse(data, second)).read_fields(rules)

    assert (True, is_shared) == (same_peer is before, other_peer is before)
