"""
TLS on both sides: what every context of this gateway has, and how its connections are read.

Rules:
1. TLS 1.2 and 1.3. Nobody writes session keys to a file, whatever SSLKEYLOGFILE says, which
   `ssl.create_default_context` obeys.
2. Event loops read again after each record, until OpenSSL says by an exception that it wants more. Where no byte waits
   to be decrypted, and none that was decrypted waits to be read, `TlsObject` says so itself: OpenSSL takes one record
   at a time from memory, and of one that has come in part it wants the rest. 1.1 instead of 2.2 microseconds a record,
   and two records a call on both sides.
3. Everything else is OpenSSL's to say. Once it has told of an end or of a fault, it is asked each time.

Source: `ssl.SSLContext.sslobject_class`, which exists for such a class; SSL_read(3), SSL_set_read_ahead(3).
"""

from __future__ import annotations

import ssl
from typing import Any


def new_context(protocol: int) -> ssl.SSLContext:
    """Return a context for *protocol*, ssl.PROTOCOL_TLS_CLIENT or _SERVER, that trusts and shows nobody yet."""
    context = ssl.SSLContext(protocol)
    context.sslobject_class = TlsObject
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class TlsObject(ssl.SSLObject):
    """One connection's TLS, between two buffers in memory."""

    _incoming: ssl.MemoryBIO
    _has_ended = False

    @classmethod
    def _create(cls, incoming: ssl.MemoryBIO, *rest: Any, **named: Any) -> TlsObject:
        made: TlsObject = super()._create(incoming, *rest, **named)  # type: ignore[misc]  # typeshed leaves it out
        made._incoming = incoming
        return made

    def read(self, len: int = 1024, buffer: Any = None) -> Any:
        """
        Return the next *len* bytes at most, or how many were put into *buffer*.

        Raises:
            ssl.SSLWantReadError: more has to come first.
            ssl.SSLError: the other side has broken the protocol, or the connection.
        """
        own: Any = self._sslobj  # type: ignore[attr-defined]  # as above
        incoming = self._incoming
        if not incoming.pending and not incoming.eof and not self._has_ended and not own.pending():
            raise ssl.SSLWantReadError
        try:
            read = own.read(len) if buffer is None else own.read(len, buffer)
        except ssl.SSLWantReadError:
            raise
        except ssl.SSLError:
            self._has_ended = True
            raise
        if not read:
            self._has_ended = True
        return read
