"""
What may stand in a request that left the gateway: a linter over the bytes that the upstream received (threats A4).
"""

from __future__ import annotations

import re

from tests.world import Received

LINE = re.compile(rb"(?:GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) /[!\"$-~]* HTTP/1\.1")
FIELD = re.compile(rb"[!#$%&'*+.^`|~0-9A-Za-z-]+: ?[\t -~\x80-\xff]*")
HOP_BY_HOP = frozenset(
    {
        "connection",
        "http2-settings",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "upgrade",
    }
)
NEVER_SENT = frozenset({"cookie", "forwarded", "x-real-ip", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"})


def faults(received: Received, *, host: str, authorization: str, credential: str) -> list[str]:
    """
    Return what is wrong with a request that reached the upstream at *host*.

    *authorization* is the injected value; *credential* is the caller's, which must be nowhere.
    """
    request_line, *lines = received.head.split(b"\r\n")
    found = [f"field line {text!r}" for text in lines if FIELD.fullmatch(text) is None]
    if LINE.fullmatch(request_line) is None:
        found.append(f"request line {request_line!r}")
    names = [name.lower() for name, _ in received.fields]
    found += [f"field {name}" for name in names if name in HOP_BY_HOP | NEVER_SENT or name.startswith("gateway-")]
    if [host] != received.values("Host"):
        found.append(f"Host {received.values('Host')}")
    if [authorization] != received.values("Authorization"):
        found.append("not our Authorization")
    if credential.encode() in received.head + received.body:
        found.append("the caller's credential")
    return found + _framing(received)


def _framing(received: Received) -> list[str]:
    lengths, codings = received.values("Content-Length"), received.values("Transfer-Encoding")
    if len(lengths) + len(codings) > 1:
        return [f"framing {lengths} {codings}"]
    if codings and codings != ["chunked"]:
        return [f"coding {codings}"]
    if lengths and (not lengths[0].isdigit() or int(lengths[0]) != len(received.body)):
        return [f"length {lengths}"]
    if received.body and not lengths + codings:
        return ["a body without framing"]
    return []
