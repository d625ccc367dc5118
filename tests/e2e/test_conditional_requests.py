"""Conditional and range requests of two users: the upstream alone judges them, by what each one sent (threats D12)."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.proxy.wire import WireAnswer, call, calling, request
from tests.world import Issuer, Received, Running, Upstream, create_connection, running, settings

CHANGED = "Tue, 01 Sep 2026 10:00:00 GMT"
CONDITIONS = {"if-none-match", "if-match", "if-modified-since", "if-unmodified-since", "if-range", "range"}


class Representation(NamedTuple):
    """What one user's token shows at every path."""

    body: bytes

    @classmethod
    def of(cls, token: str) -> Representation:
        return cls(hashlib.sha256(token.encode()).hexdigest().encode() * 4)

    @property
    def tag(self) -> str:
        return f'"{self.body[:8].decode()}"'


ADA, BOB = Representation.of("T-ada"), Representation.of("T-bob")


async def _judge(received: Received, writer: asyncio.StreamWriter) -> None:
    """Answer as RFC 9110 sections 13 and 14 say, for the representation of the token's user."""
    shown = Representation.of(received.values("Authorization")[0].removeprefix("Bearer "))
    given = {name.lower(): value for name, value in received.fields}
    fields = f"ETag: {shown.tag}\r\nLast-Modified: {CHANGED}\r\nCache-Control: public\r\n"
    status, body = 200, shown.body
    if given.get("if-match", shown.tag) != shown.tag:
        status, body = 412, b"changed"
    elif given.get("if-none-match") == shown.tag or given.get("if-modified-since") == CHANGED:
        status, body = 304, b""
    elif "range" in given and given.get("if-range", shown.tag) == shown.tag:
        first, last = map(int, given["range"].removeprefix("bytes=").split("-"))
        status, body = 206, shown.body[first : last + 1]
        fields += f"Content-Range: bytes {first}-{last}/{len(shown.body)}\r\n"
    if status != 304:
        fields += f"Content-Length: {len(body)}\r\n"
    writer.write(f"HTTP/1.1 {status} Whatever\r\n{fields}\r\n".encode() + body)


@asynccontextmanager
async def two_users(tmp_path: Path, upstream: Upstream, issuer: Issuer) -> AsyncIterator[Running]:
    """Run a gateway where "ada" and "bob" are connected, before an upstream that knows conditions and ranges."""
    upstream.respond = _judge
    route = {"name": "api", "prefix": "/api", "upstream": upstream.url, "connection": "api"}
    async with running(settings(route, issuers=(issuer,)), tmp_path / "data") as gateway:
        await create_connection(gateway, None)
        for user in ("ada", "bob"):
            await gateway.connect(user, access_token=f"T-{user}")
        yield gateway


def _asked(issuer: Issuer, user: str, *fields: str, method: str = "GET") -> bytes:
    return request(method, "/api/me", credential=issuer.token(user), fields=fields)


def _shown(got: WireAnswer) -> tuple[int, list[str], bytes]:
    return got.status, got.values("ETag"), got.body


async def test_nobody_gets_an_answer_to_anothers_condition(tmp_path: Path, upstream: Upstream, issuer: Issuer) -> None:
    """
    Of one URL each user sees the own representation, before and after the other: 304 is only for whom the tag is right.
    """
    async with two_users(tmp_path, upstream, issuer) as gateway, calling(gateway) as caller:
        got = []
        # One caller's connection and, behind it, one to the upstream: whatever could be kept would be.
        for user, *fields in (
            ("ada",),
            ("ada", f"If-None-Match: {ADA.tag}"),
            ("bob",),
            ("bob", f"If-None-Match: {ADA.tag}"),
            ("bob", f"If-None-Match: {BOB.tag}"),
            ("bob", f"If-Modified-Since: {CHANGED}"),
            ("ada",),
        ):
            await caller.send(_asked(issuer, user, *fields))
            got.append(await caller.answer())

    ada, bob = (200, [ADA.tag], ADA.body), (200, [BOB.tag], BOB.body)
    is_as_it_was = [(304, [each.tag], b"") for each in (ADA, BOB, BOB)]
    assert [ada, is_as_it_was[0], bob, bob, *is_as_it_was[1:], ada] == [_shown(each) for each in got]
    assert {"private, no-store"} == {value for each in got for value in each.values("Cache-Control")}
    assert 1 == upstream.connections


async def test_conditions_are_the_callers_alone(tmp_path: Path, upstream: Upstream, issuer: Issuer) -> None:
    """
    Every call reaches the upstream, with the conditions that its caller wrote and no other.
    """
    fields = (
        f"If-None-Match: {ADA.tag}",
        'If-Match: "a", W/"b"',
        "if-range: x",
        "Range: bytes=0-0",
        "If-None-Match: *",
    )
    async with two_users(tmp_path, upstream, issuer) as gateway:
        for user, written in (("ada", fields), ("ada", ()), ("bob", ()), ("ada", ())):
            await call(gateway, _asked(issuer, user, *written))

    arrived = [[f"{n}: {v}" for n, v in each.fields if n.lower() in CONDITIONS] for each in upstream.received]
    assert [list(fields), [], [], []] == arrived


PARTS: dict[str, tuple[tuple[str, ...], int, bytes]] = {
    "a range": (("Range: bytes=5-9",), 206, ADA.body[5:10]),
    "a range of what was seen before": (("Range: bytes=5-9", f"If-Range: {ADA.tag}"), 206, ADA.body[5:10]),
    "a range of what another saw": (("Range: bytes=5-9", f"If-Range: {BOB.tag}"), 200, ADA.body),
    "a condition that holds": ((f"If-Match: {ADA.tag}",), 200, ADA.body),
    "a condition that does not": ((f"If-Match: {BOB.tag}",), 412, b"changed"),
}


@pytest.mark.parametrize("case", PARTS)
async def test_parts_and_failed_conditions_pass_whole(
    tmp_path: Path, upstream: Upstream, issuer: Issuer, case: str
) -> None:
    """
    206 and 412 arrive as they were answered, with Content-Range and the body to its last byte.
    """
    fields, status, body = PARTS[case]
    async with two_users(tmp_path, upstream, issuer) as gateway:
        got = await call(gateway, _asked(issuer, "ada", *fields))

    assert (status, [ADA.tag], body) == _shown(got)
    assert ([f"bytes 5-9/{len(ADA.body)}"] if status == 206 else []) == got.values("Content-Range")
    assert [str(len(body))] == got.values("Content-Length")
