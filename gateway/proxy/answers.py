"""
The gateway's own answers as bytes: refusals (RFC 9457, RFC 9209, RFC 6750) and the lines it adds to an upstream's.

Rules:
1. One function turns a refusal into an answer. Its body is the same for every stranger: it names no route, user or
   rule.
2. Proxy-Status tells the gateway's answer (`error=`) from the provider's (`received-status=`).
3. A 401 challenges with Bearer and points to the protected-resource metadata (RFC 9728 section 5.1).
4. Nothing here echoes a byte that the caller or the upstream sent, but scopes that `challenge.py` has checked.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import orjson

from gateway.errors import CallerScopeMissing, CallerUnauthenticated, CredentialAbsent, MethodNotAllowed, Refusal

NAME = "connection-gateway"  # our name in Proxy-Status and Via


class _StatusLines(dict[int, bytes]):
    def __missing__(self, status: int) -> bytes:
        return b"HTTP/1.1 %d \r\n" % status


# With the standard reason: the upstream's own is text of a stranger.
STATUS_LINES = _StatusLines(
    {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode("ascii") for status in HTTPStatus}
)


def problem(refusal: Refusal, *, trace_id: str, source: str = "gateway") -> dict[str, Any]:
    """Return the RFC 9457 body of *refusal*, with the members of DESIGN section 5."""
    body: dict[str, Any] = {
        "type": f"urn:connection-gateway:error:{refusal.code}",
        "title": refusal.title,
        "status": refusal.status,
        "detail": refusal.detail,
        "code": refusal.code,
        "retryable": refusal.retryable,
        "retry_after": refusal.retry_after,
        "source": source,
        "trace_id": trace_id,
    }
    if refusal.connection is not None:
        body["connection"] = refusal.connection
    if refusal.missing_scopes:
        body["missing_scopes"] = list(refusal.missing_scopes)
    if refusal.connect_url is not None:
        body["connect_url"] = refusal.connect_url
    if refusal.wait_url is not None:
        body["wait_url"] = refusal.wait_url
    return body


def refusal_answer(
    refusal: Refusal, *, trace_id: str, public_url: str, keep_alive: bool, with_body: bool, extra: bytes = b""
) -> bytes:
    """Return the whole answer to a refused request; *with_body* is false for HEAD, *extra* are further field lines."""
    body = orjson.dumps(problem(refusal, trace_id=trace_id))
    head = [
        STATUS_LINES[refusal.status],
        b"Content-Type: application/problem+json\r\nContent-Length: %d\r\n" % len(body),
        b"Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n",
        f'Proxy-Status: {NAME}; error={refusal.proxy_error}; details="{refusal.code}"\r\n'.encode("ascii"),
        extra,
    ]
    if refusal.retry_after is not None:
        head.append(b"Retry-After: %d\r\n" % refusal.retry_after)
    if isinstance(refusal, MethodNotAllowed):
        head.append(f"Allow: {', '.join(refusal.allowed_methods)}\r\n".encode("ascii"))
    if (challenge := _challenge(refusal, public_url)) is not None:
        head.append(f"WWW-Authenticate: {challenge}\r\n".encode("latin-1"))
    if not keep_alive:
        head.append(b"Connection: close\r\n")
    head.append(b"\r\n")
    if with_body:
        head.append(body)
    return b"".join(head)


def _challenge(refusal: Refusal, public_url: str) -> str | None:
    """Return the WWW-Authenticate value of a refusal that a better credential would lift (RFC 6750 section 3)."""
    metadata = f'resource_metadata="{public_url}/.well-known/oauth-protected-resource"'
    if isinstance(refusal, CredentialAbsent):
        return f"Bearer {metadata}"
    if isinstance(refusal, CallerUnauthenticated):
        return f'Bearer error="invalid_token", {metadata}'
    if isinstance(refusal, CallerScopeMissing):
        scope = f', scope="{" ".join(refusal.missing_scopes)}"' if refusal.missing_scopes else ""
        return f'Bearer error="insufficient_scope"{scope}, {metadata}'
    return None
