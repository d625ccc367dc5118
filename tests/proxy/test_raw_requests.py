"""Every raw request of the tables: its answers, and what of it reached the upstream, clean."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.proxy import lint
from tests.proxy.raw_bodies import BODY_FAMILIES, INNER
from tests.proxy.raw_connections import CONNECTION_FAMILIES
from tests.proxy.raw_requests import CREDENTIAL, HEAD_FAMILIES, Row, head
from tests.proxy.wire import WAIT_SECONDS, RawCaller, calling
from tests.world import Issuer, Running, Upstream

FAMILIES: dict[str, dict[str, Row]] = HEAD_FAMILIES | BODY_FAMILIES | CONNECTION_FAMILIES
PROBE = head(line=b"GET /api/probe HTTP/1.1")


def filled(data: bytes, credential: str) -> bytes:
    """Return *data* with a credential in its place, and the length of a body that holds one."""
    whole = data.replace(CREDENTIAL, credential.encode())
    return whole.replace(b"Content-Length: %d\r\n" % len(INNER), b"Content-Length: %d\r\n" % len(inner(credential)))


def inner(credential: str) -> bytes:
    return INNER.replace(CREDENTIAL, credential.encode())


async def outcome(caller: RawCaller, row: Row) -> list[Any]:
    """Return the answers to *row* that has been sent, and how the connection went on."""
    seen: list[Any] = []
    for _ in row.answers:
        got = await caller.answer()
        seen.append(got.code or got.status)
        assert got.is_whole
    return seen


async def rest(caller: RawCaller) -> bytes:
    """Return what still comes until the other side ends the connection."""
    async with asyncio.timeout(WAIT_SECONDS):
        return await caller.reader.read()


async def run(gateway: Running, upstream: Upstream, row: Row, credential: str, packets: list[bytes]) -> tuple[Any, ...]:
    """Send *packets* on one connection; return its outcome in the form of `expected`."""
    upstream.received.clear()
    async with calling(gateway) as caller:
        for packet in packets:
            caller.writer.write(packet)
            if len(packets) > 1:
                await asyncio.sleep(0)
        seen = await outcome(caller, row)
        if row.stays:
            await caller.send(filled(PROBE, credential))
            end: object = (await caller.answer()).body
        else:
            end = await rest(caller)
    passed = [(each.request_line.split(" ")[1], each.body) for each in upstream.received]
    for each in upstream.received:
        faults = lint.faults(each, host=f"127.0.0.1:{upstream.port}", authorization="Bearer T1", credential=credential)
        if each.body == inner(credential):  # the one body that is to hold it
            faults.remove("the caller's credential")
        assert [] == faults
    return seen, passed, end


def expected(row: Row, credential: str) -> tuple[Any, ...]:
    """Return what `run` must return."""
    passed = [(target, inner(credential) if body == b"%INNER%" else body) for target, body in row.passed]
    if row.stays:
        return list(row.answers), [*passed, ("/probe", b"")], b'{"path": "/probe"}'
    return list(row.answers), passed, b""


@pytest.mark.parametrize("family", FAMILIES)
async def test_raw_requests_are_read_in_one_way(
    gateway: Running, upstream: Upstream, issuer: Issuer, family: str
) -> None:
    """
    Each row has its answers and no other; what reached the upstream is what the row says, and clean.
    """
    credential = issuer.token("ada")
    seen = {}
    for case, row in FAMILIES[family].items():
        try:
            seen[case] = await run(gateway, upstream, row, credential, [filled(row.data, credential)])
        except (ConnectionError, asyncio.IncompleteReadError, TimeoutError) as exc:
            seen[case] = (type(exc).__name__, [each.request_line for each in upstream.received], b"")

    wrong = {case: got for case, got in seen.items() if got != expected(FAMILIES[family][case], credential)}
    assert {} == wrong


def test_tables_are_large() -> None:
    """
    There are 350 rows at least, and each is there once.
    """
    rows = [row.data for family in FAMILIES.values() for row in family.values()]

    assert 350 <= len(rows)
    assert len(rows) == len(set(rows))
