"""Refusals as answers: one shape, nothing of a stranger's in it."""

from __future__ import annotations

import json

import pytest

from gateway.errors import (
    REFUSALS,
    CallerScopeMissing,
    CallerUnauthenticated,
    ConnectionScopeMissing,
    MethodNotAllowed,
    RateLimited,
    Refusal,
)
from gateway.proxy.answers import STATUS_LINES, refusal_answer


def answered(refusal: Refusal, *, keep_alive: bool = True, with_body: bool = True) -> tuple[str, bytes]:
    data = refusal_answer(
        refusal, trace_id="0" * 32, public_url="https://gateway.test", keep_alive=keep_alive, with_body=with_body
    )
    head, _, body = data.partition(b"\r\n\r\n")
    return head.decode(), body


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: str(refusal.code))
def test_every_refusal_has_the_same_shape(refusal: type[Refusal]) -> None:
    """
    Each refusal is problem+json with the members of DESIGN section 5, its status, and a Proxy-Status that says error.
    """
    head, body = answered(refusal())
    problem = json.loads(body)

    assert head.startswith(f"HTTP/1.1 {refusal.status} ")
    assert f"Content-Length: {len(body)}\r\n" in head + "\r\n"
    assert f"Proxy-Status: connection-gateway; error={refusal.proxy_error}" in head
    assert "Cache-Control: no-store" in head
    assert (refusal.code, refusal.status, "gateway", None) == (
        problem["code"],
        problem["status"],
        problem["source"],
        problem["retry_after"],
    )
    assert problem["detail"]


def test_extra_members_come_where_they_help() -> None:
    """
    Missing scopes, the connection and the time to wait stand in the body, the latter in Retry-After too.
    """
    _, body = answered(ConnectionScopeMissing(connection="api", missing_scopes=("a", "b")))
    head, limited = answered(RateLimited(retry_after=7))

    assert ("api", ["a", "b"]) == (json.loads(body)["connection"], json.loads(body)["missing_scopes"])
    assert "Retry-After: 7" in head
    assert 7 == json.loads(limited)["retry_after"]


def test_challenges_point_to_the_metadata() -> None:
    """
    A refusal that a better credential would lift challenges with Bearer; others do not.
    """
    metadata = 'resource_metadata="https://gateway.test/.well-known/oauth-protected-resource"'

    assert f'WWW-Authenticate: Bearer error="invalid_token", {metadata}' in answered(CallerUnauthenticated())[0]
    scope = answered(CallerScopeMissing(missing_scopes=("x",)))[0]
    assert f'WWW-Authenticate: Bearer error="insufficient_scope", scope="x", {metadata}' in scope
    assert "WWW-Authenticate" not in answered(RateLimited())[0]


def test_allow_stands_with_405() -> None:
    """
    405 always has an Allow field, an empty one where no method is allowed (RFC 9110 section 15.5.6).
    """
    assert "Allow: GET, POST" in answered(MethodNotAllowed(allowed_methods=("GET", "POST")))[0]
    assert "Allow: " in answered(MethodNotAllowed())[0] + "\r\n"


def test_head_has_the_length_and_no_body() -> None:
    """
    The answer to HEAD says how long its body would be; a last answer says that it is the last.
    """
    head, body = answered(RateLimited(), keep_alive=False, with_body=False)

    assert b"" == body
    assert "Content-Length: " in head
    assert head.endswith("Connection: close")


def test_status_line_has_the_standard_reason() -> None:
    """
    The reason is the standard's, and empty for a status that it does not know.
    """
    assert b"HTTP/1.1 404 Not Found\r\n" == STATUS_LINES[404]
    assert b"HTTP/1.1 799 \r\n" == STATUS_LINES[799]
