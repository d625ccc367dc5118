"""
The handshake of a WebSocket, as the gateway judges both halves of it (RFC 6455 section 4). No I/O.

Rules:
1. Only a route that says `upgrade: [websocket]` has one; elsewhere `Upgrade` ends here, as hop-by-hop fields do.
2. A request that wants one is an HTTP/1.1 GET without a body, with version 13 and a key, each said once. Nothing else
   is half a handshake: it is refused.
3. An answer switches only if it answers this very key, to this protocol, with a subprotocol that was offered. What an
   upstream sends behind a 101 that nobody asked for is never passed on (threats A9).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import NamedTuple

from gateway.errors import InvalidRequest, UpstreamProtocolError
from gateway.proxy.request_fields import RawFields

UPGRADE_LINES = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
VERSION = b"13"
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
_KEY_BYTES = 16


class Handshake(NamedTuple):
    """What a request offers: the *accept* that answers its key, and its *subprotocols* in its order."""

    accept: bytes
    subprotocols: tuple[bytes, ...]

    def check(self, raw_fields: RawFields) -> None:
        """
        Check that the answer with *raw_fields* and status 101 switches to what was offered.

        Raises:
            UpstreamProtocolError: it does not.
        """
        accepts = _values(raw_fields, b"sec-websocket-accept")
        upgrades = [value.lower() for value in _values(raw_fields, b"upgrade")]
        options = {option.lower() for option in _listed(raw_fields, b"connection")}
        chosen = _values(raw_fields, b"sec-websocket-protocol")
        if accepts != [self.accept] or upgrades != [b"websocket"] or b"upgrade" not in options:
            raise UpstreamProtocolError
        if len(chosen) > 1 or not set(chosen) <= set(self.subprotocols):
            raise UpstreamProtocolError


def read_handshake(raw_fields: RawFields, *, method: str, is_http_1_0: bool, has_body: bool) -> Handshake | None:
    """
    Return what the request with *raw_fields*, which has the field Upgrade, offers; None where that is no WebSocket.

    Raises:
        InvalidRequest: it offers one, and breaks rule 2.
    """
    upgrades = [value.lower() for value in _listed(raw_fields, b"upgrade")]
    if b"websocket" not in upgrades:
        return None
    options = {option.lower() for option in _listed(raw_fields, b"connection")}
    keys = _values(raw_fields, b"sec-websocket-key")
    if (
        upgrades != [b"websocket"]
        or b"upgrade" not in options
        or b"close" in options
        or any(option.startswith(b"sec-websocket-") for option in options)
        or method != "GET"
        or is_http_1_0
        or has_body
        or _values(raw_fields, b"sec-websocket-version") != [VERSION]
        or len(keys) != 1
        or not _is_key(keys[0])
    ):
        raise InvalidRequest
    return Handshake(accept_of(keys[0]), tuple(_listed(raw_fields, b"sec-websocket-protocol")))


def accept_of(key: bytes) -> bytes:
    """Return the Sec-WebSocket-Accept that answers the Sec-WebSocket-Key *key* (RFC 6455 section 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def _is_key(value: bytes) -> bool:
    try:
        return len(base64.b64decode(value, validate=True)) == _KEY_BYTES
    except binascii.Error:
        return False


def _values(raw_fields: RawFields, name: bytes) -> list[bytes]:
    return [value for field, value in raw_fields if field.lower() == name]


def _listed(raw_fields: RawFields, name: bytes) -> list[bytes]:
    """Return the elements of the comma-separated field *name*, in order."""
    return [element for value in _values(raw_fields, name) for part in value.split(b",") if (element := part.strip())]
