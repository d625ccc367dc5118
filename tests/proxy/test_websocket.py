"""Which requests are a handshake, and which answers complete it."""

from __future__ import annotations

import pytest

from gateway.errors import InvalidRequest, UpstreamProtocolError
from gateway.proxy.websocket import Handshake, accept_of, read_handshake

# RFC 6455 section 1.3 has this pair.
KEY, ACCEPT = b"dGhlIHNhbXBsZSBub25jZQ==", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
Fields = tuple[tuple[bytes, bytes], ...]
ASKED: Fields = (
    (b"Host", b"x"),
    (b"connection", b"keep-alive, Upgrade"),
    (b"Upgrade", b"WebSocket"),
    (b"Sec-WebSocket-Version", b"13"),
    (b"Sec-WebSocket-Key", KEY),
    (b"Sec-WebSocket-Protocol", b"chat, superchat"),
)
ANSWERED: Fields = (
    (b"Upgrade", b"WebSocket"),
    (b"Connection", b"upgrade"),
    (b"Sec-WebSocket-Accept", ACCEPT),
)


def changed(fields: Fields, name: bytes, *values: bytes) -> Fields:
    """Return *fields* with *values* for the field *name*."""
    return (*(field for field in fields if field[0].lower() != name.lower()), *((name, value) for value in values))


def read(fields: Fields, **more: object) -> Handshake | None:
    given = {"method": "GET", "is_http_1_0": False, "has_body": False, **more}
    return read_handshake(fields, **given)  # type: ignore[arg-type]  # the tables give each its type


def test_accept_answers_the_key_of_the_rfc() -> None:
    """
    The example of RFC 6455 section 1.3.
    """
    assert ACCEPT == accept_of(KEY)


def test_handshake_is_read() -> None:
    """
    Names and options in any case; subprotocols in the caller's order. Another protocol alone is none of ours.
    """
    assert Handshake(ACCEPT, (b"chat", b"superchat")) == read(ASKED)
    assert read(changed(ASKED, b"Upgrade", b"h2c")) is None


REFUSED: dict[str, tuple[Fields, dict[str, object]]] = {
    "a POST": (ASKED, {"method": "POST"}),
    "HTTP/1.0": (ASKED, {"is_http_1_0": True}),
    "a body": (ASKED, {"has_body": True}),
    "no key": (changed(ASKED, b"Sec-WebSocket-Key"), {}),
    "two keys": (changed(ASKED, b"Sec-WebSocket-Key", KEY, KEY), {}),
    "a key of 15 bytes": (changed(ASKED, b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub24="), {}),
    "a key that is no base64": (changed(ASKED, b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ=!"), {}),
    "no version": (changed(ASKED, b"Sec-WebSocket-Version"), {}),
    "another version": (changed(ASKED, b"Sec-WebSocket-Version", b"8"), {}),
    "versions": (changed(ASKED, b"Sec-WebSocket-Version", b"13, 8"), {}),
    "no option Upgrade": (changed(ASKED, b"Connection", b"keep-alive"), {}),
    "the option close": (changed(ASKED, b"Connection", b"Upgrade, Close"), {}),
    "a nominated part of it": (changed(ASKED, b"Connection", b"Upgrade, sec-websocket-Protocol"), {}),
    "two protocols": (changed(ASKED, b"Upgrade", b"websocket, h2c"), {}),
    "two protocols in two fields": (changed(ASKED, b"Upgrade", b"h2c", b"websocket"), {}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_half_a_handshake_is_refused(case: str) -> None:
    """
    What offers a WebSocket and is not exactly a handshake is refused.
    """
    fields, more = REFUSED[case]

    with pytest.raises(InvalidRequest):
        read(fields, **more)


ODD: dict[str, Fields] = {
    "nothing": (),
    "another key's accept": changed(ANSWERED, b"Sec-WebSocket-Accept", accept_of(b"x")),
    "two accepts": changed(ANSWERED, b"Sec-WebSocket-Accept", ACCEPT, ACCEPT),
    "another protocol": changed(ANSWERED, b"Upgrade", b"h2c"),
    "two protocols": changed(ANSWERED, b"Upgrade", b"websocket", b"h2c"),
    "no option": changed(ANSWERED, b"Connection", b"close"),
    "a subprotocol of its own": changed(ANSWERED, b"Sec-WebSocket-Protocol", b"other"),
    "two subprotocols": changed(ANSWERED, b"Sec-WebSocket-Protocol", b"chat", b"superchat"),
}


@pytest.mark.parametrize("case", ODD)
def test_answer_to_something_else_is_refused(case: str) -> None:
    """
    An answer completes the handshake that was begun, or none.
    """
    handshake = read(ASKED)
    assert handshake is not None

    handshake.check(ANSWERED)
    handshake.check(changed(ANSWERED, b"Sec-WebSocket-Protocol", b"superchat"))
    with pytest.raises(UpstreamProtocolError):
        handshake.check(ODD[case])
