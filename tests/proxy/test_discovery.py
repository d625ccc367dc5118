"""The public metadata of the protected resource (RFC 9728)."""

from __future__ import annotations

import json

from gateway.proxy.discovery import ProtectedResource


def test_metadata_names_issuers_and_scopes() -> None:
    """
    The document names the resource, its issuers, and each scope once.
    """
    data = ProtectedResource(["https://idp.test"], ["b", "a", "b"]).answer(
        "https://gateway.test", with_body=True, keep_alive=True
    )
    head, _, body = data.partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Content-Length: %d" % len(body) in head
    assert {
        "resource": "https://gateway.test",
        "authorization_servers": ["https://idp.test"],
        "bearer_methods_supported": ["header"],
        "scopes_supported": ["a", "b"],
    } == json.loads(body)


def test_head_has_no_body_and_a_last_answer_says_so() -> None:
    """
    HEAD gets the head alone; without keep-alive the connection is said to close.
    """
    data = ProtectedResource([], []).answer("https://gateway.test", with_body=False, keep_alive=False)

    assert data.endswith(b"Connection: close\r\n\r\n")
