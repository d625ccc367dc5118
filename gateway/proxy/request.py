"""
One caller's request as the stages share it, and the caller's connection as they see it.

Rules:
1. What was read of the request is here once; the stages add what they learned, and nobody reads it twice.
2. A request that brings the very fields of an earlier one, byte for byte, is read as that one was, on whatever
   connection: most clients send nothing else. Where some other field differs from the last request of the connection,
   it is still the same asker. What was refused is never remembered, nor what a stranger sent.
3. `keep_alive` only ever turns from true to false.

Version, Host and framing are as `listen/head.py` wants them: nothing else gets here.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from gateway.access.identity import Verified
from gateway.access.policy import Applicable
from gateway.errors import InvalidRequest
from gateway.listen.head import RequestHead
from gateway.models import Limits, Subject, TokenKey
from gateway.net.body_stream import Body
from gateway.net.whole_body import EMPTY_BODY
from gateway.proxy.body import RequestBody
from gateway.proxy.record import Call
from gateway.proxy.request_fields import RequestFields, RequestRules
from gateway.proxy.websocket import Handshake, read_handshake

if TYPE_CHECKING:
    from gateway.proxy.lane import Injected, Lane
    from gateway.proxy.tokens import Kept

MAX_DISCARDED_BYTES = 65_536  # of a body that nobody wants, read and thrown away to keep its connection


class Asker:
    """
    For whom a request is sent on *lane*: the caller, and whose token it gets; *who* says both to the record.

    *policies* are those that apply to it, *kept* is the token that was used last, and *injected* how that is written:
    once they were asked for.
    """

    __slots__ = ("caller", "credential", "injected", "kept", "key", "lane", "policies", "subject", "verified", "who")

    def __init__(
        self, lane: Lane, verified: Verified, credential: str, subject: Subject, key: TokenKey, who: str
    ) -> None:
        self.lane = lane
        self.verified = verified
        self.caller = verified.caller
        self.credential = credential
        self.subject = subject
        self.key = key
        self.who = who
        self.policies: Applicable | None = None
        self.kept: Kept | None = None
        self.injected: Injected | None = None

    def __repr__(self) -> str:
        return "<Asker>"


class Reading:
    """
    How the fields of a request from *peer* were read by *rules*, and who the *asker* was that they told, to be believed
    for as long as its credential is. *is_kept*: the caller was known, and the next request with these fields gets it.

    *is_plain*: the fields say nothing to the gateway beside who calls and for whom; *lines* are those to send on then.
    """

    __slots__ = ("asker", "fields", "is_kept", "is_plain", "lines", "peer", "rules")

    def __init__(self, rules: RequestRules, fields: RequestFields, peer: str) -> None:
        self.rules = rules
        self.fields = fields
        self.peer = peer
        self.asker: Asker | None = None
        self.is_kept = False
        self.is_plain = fields.say_nothing_else
        self.lines = b"".join(fields.lines) if self.is_plain else b""


class Client(Protocol):
    """The caller's connection. *last_reading* is that of its last known caller."""

    last_reading: Reading | None

    @property
    def peer(self) -> str:
        """Address of the other end, without the port."""

    @property
    def is_closing(self) -> bool:
        """Whether this answer is the last on its connection."""

    @property
    def is_drained(self) -> bool:
        """Whether the connection was cut because the gateway stops."""

    @property
    def has_unsent(self) -> bool:
        """Whether some of what was sent is still to be written."""

    def send(self, data: bytes) -> None:
        """Write *data*; raise ConnectionError when the caller is gone."""

    async def drain(self, seconds: float) -> None:
        """Wait until the caller has read enough; raise ConnectionError after *seconds*."""

    def hold_back(self, body: Body | None, seconds: float = 0.0) -> None:
        """From now on hold *body* back while the caller has not read enough, for *seconds* at most; None: no longer."""

    def hand_over(self) -> asyncio.Transport:
        """Return the transport, for another protocol; raise InvalidRequest where the caller has spoken it too early."""

    def abort(self) -> None:
        """End the connection so that the caller sees that the answer was cut."""


class ProxyRequest:
    """A request on its way: *head* and *payload* as the parser delivered them, *fields* once they were read."""

    __slots__ = (
        "asker",
        "call",
        "client",
        "fields",
        "handshake",
        "has_answered",
        "head",
        "host",
        "is_http_1_0",
        "is_invited",
        "keep_alive",
        "payload",
        "reading",
    )

    fields: RequestFields
    reading: Reading

    def __init__(self, call: Call, head: RequestHead, payload: Body, client: Client) -> None:
        self.call = call
        self.head = head
        self.payload = payload
        self.client = client
        self.asker: Asker | None = None
        self.handshake: Handshake | None = None
        self.has_answered = False
        self.is_invited = False
        self.is_http_1_0 = head.is_http_1_0
        section = head.section
        self.host = section.host
        self.keep_alive = not section.is_last

    def read_fields(self, rules: RequestRules) -> RequestFields:
        """Read the header fields by *rules*, and return them. Raises as `RequestRules.read`."""
        section, last, peer = self.head.section, self.client.last_reading, self.client.peer
        reading: Reading | None = section.reading
        # What a proxy says of its caller is believed or not by who the proxy is: it is read anew for each.
        if (
            reading is None
            or reading.rules is not rules
            or (not reading.is_plain and reading.fields.forwarded and reading.peer != peer)
        ):
            reading = Reading(rules, rules.read(section.raw_fields), peer)
            if last is not None and last.rules is rules and last.fields.name_the_same(reading.fields):
                reading.asker = last.asker
        self.reading = reading
        self.fields = fields = reading.fields
        return fields

    def keep_reading(self) -> None:
        """Keep what was read, its asker being known by now, for whoever brings the very same fields next."""
        section, reading = self.head.section, self.reading
        reading.is_kept = True
        section.reading = reading
        self.client.last_reading = reading if section.is_kept else None

    @property
    def outlives_refusal(self) -> bool:
        """
        Whether the connection can be kept although nobody reads the body: it says how long it is, and is small.

        Decided by what the head says alone. How much of the body is here already is a matter of packets.
        """
        if self.payload is EMPTY_BODY:
            return True
        framing = self.head.section.framing
        # A caller that expects 100 Continue may or may not send the body now (RFC 9110 section 10.1.1).
        return (
            not framing.is_chunked and not self.head.section.expects_continue and framing.length <= MAX_DISCARDED_BYTES
        )

    @property
    def may_get_uninvited_body(self) -> bool:
        """Whether the caller has announced a body, waits for `100 Continue`, and has not got it."""
        return self.fields.expects_continue and self.fields.has_body and not self.is_invited

    def body(self, limits: Limits) -> RequestBody | None:
        """
        Return the body, if there is one, to be sent within *limits*.

        Raises:
            InvalidRequest: its coding is broken: nothing of it needs to leave.
            BodyTooLarge: it says so.
        """
        fields = self.fields
        if self.payload is EMPTY_BODY or not fields.has_body:
            return None
        if self.payload.exception() is not None:
            raise InvalidRequest
        return RequestBody(
            self.payload,
            length=fields.content_length,
            replay_bytes=limits.replay_bytes,
            max_bytes=limits.max_body_bytes,
            # RFC 9110 10.1.1: the Expect of an HTTP/1.0 caller is ignored; it could not read the 100.
            invite=self.invite if fields.expects_continue and not self.is_http_1_0 else None,
        )

    def read_handshake(self) -> None:
        """
        Read which protocol the request wants to switch to, if any.

        Raises:
            InvalidRequest: for half a handshake, and where the caller has not waited for the other half.
        """
        self.handshake = read_handshake(
            self.head.section.raw_fields,
            method=self.call.method,
            is_http_1_0=self.is_http_1_0,
            has_body=self.fields.has_body,
        )
        if self.handshake is not None:
            self.client.hand_over()  # only asked whether it can be

    def invite(self) -> None:
        """Answer the caller's Expect: from here on its body is wanted (RFC 9110 section 10.1.1)."""
        self.is_invited = True
        self.client.send(b"HTTP/1.1 100 Continue\r\n\r\n")
