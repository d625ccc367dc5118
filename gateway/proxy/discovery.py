"""
Where a caller learns which issuer's tokens this gateway takes (RFC 9728, protected resource metadata).

The page is public: it is what the challenge of a 401 points to, and MCP clients start there.
"""

from __future__ import annotations

from collections.abc import Iterable

import orjson

WELL_KNOWN = "/.well-known/oauth-protected-resource"  # RFC 9728 section 3


class ProtectedResource:
    """The metadata of the gateway as a protected resource. *issuers* are the issuer identifiers it trusts."""

    def __init__(self, issuers: Iterable[str], scopes: Iterable[str]) -> None:
        self._issuers = list(issuers)
        self._scopes = sorted(set(scopes))

    def answer(self, public_url: str, *, with_body: bool, keep_alive: bool) -> bytes:
        """Return the whole answer to a GET or HEAD of the metadata; *public_url* is the resource's identifier."""
        document: dict[str, object] = {
            "resource": public_url,
            "authorization_servers": self._issuers,
            "bearer_methods_supported": ["header"],
        }
        if self._scopes:
            document["scopes_supported"] = self._scopes
        body = orjson.dumps(document)
        connection = b"" if keep_alive else b"Connection: close\r\n"
        fields = b"Content-Type: application/json\r\nContent-Length: %d\r\n%b" % (len(body), connection)
        head = b"HTTP/1.1 200 OK\r\n%b\r\n" % fields
        return head + body if with_body else head
