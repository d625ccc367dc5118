"""Every raw request of the tables: its answers, and what of it reached the upstream, clean."""

from __future__ import annotations

import asyncio
import re
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.listen.connection import LINGER_BYTES
from tests.proxy import lint
from tests.proxy.raw_bodies import BODY_FAMILIES, INNER
from tests.proxy.raw_connections import CONNECTION_FAMILIES
from tests.proxy.raw_requests import CREDENTIAL, HEAD_FAMILIES, Row, head
from tests.proxy.wire import WAIT_SECONDS, RawCaller, calling, gateway_with
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


async def invite(head: bytes, writer: asyncio.StreamWriter) -> bool:
    """What an upstream does that wants every body that is announced with Expect."""
    if b"Expect: 100-continue" in head:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    return False


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
    upstream.early = invite
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


UNREAD = {
    "ambiguous_target": 400,
    "fields_too_large": 431,
    "http_version_not_supported": 505,
    "invalid_request": 400,
    "method_not_allowed": 405,
    "misdirected": 421,
    "target_too_long": 414,
}
# What is refused for its meaning on the way to an upstream, and means nothing on the other doors.
OF_THE_DATA_PATH = ("underscore", "override")
STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3}) ")
LAST = b"GET /healthz HTTP/1.1\r\nHost: gateway.test\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("door", ["token_api", "console"])
async def test_other_doors_read_alike(gateway: Running, issuer: Issuer, door: str) -> None:
    """
    On the token API and the console the same bytes are refused with the same status, and nothing is ever a 500.
    """
    url = getattr(gateway.gateway, f"{door}_url")
    credential = issuer.token("ada")
    wrong: dict[str, list[int]] = {}
    for family in FAMILIES:
        for case, row in FAMILIES[family].items():
            async with calling(gateway, url) as caller:
                caller.writer.write(filled(row.data, credential) + LAST)
                try:
                    got = await rest(caller)
                except (TimeoutError, ConnectionError):
                    got = b""
            statuses = [int(status) for status in STATUS.findall(got)]
            assert credential.encode() not in got
            assert (405 in statuses) <= (b"Allow: " in got)
            refused = UNREAD.get(str(row.answers[0]))
            is_like = refused is None or family == "chunked bodies" or statuses == [refused]
            if any(word in case for word in OF_THE_DATA_PATH):
                is_like = True
            if not is_like or not statuses or {500, 501, 502, 503} & set(statuses):
                wrong[f"{family}: {case}"] = statuses

    assert {} == wrong


def test_packets_change_nothing(tmp_path: Path) -> None:
    """
    However the bytes of a row are cut into packets: the same answers, the same requests upstream, the same end.
    """
    every = {
        f"{family}: {case}": row
        for family, rows in FAMILIES.items()
        for case, row in rows.items()
        if len(row.data) <= LINGER_BYTES  # who sends more behind a refusal may be reset before the answer is read
    }
    with asyncio.Runner() as runner:
        owned = AsyncExitStack()
        gateway, upstream, issuer = runner.run(start(tmp_path, owned))
        credential = issuer.token("ada")

        @settings(max_examples=400, deadline=None, database=None)
        @given(case=st.sampled_from(sorted(every)), cuts=st.lists(st.floats(0, 1), min_size=1, max_size=12))
        def cut(case: str, cuts: list[float]) -> None:
            data = filled(every[case].data, credential)
            bounds = [0, *sorted(int(place * len(data)) for place in cuts), len(data)]
            packets = [data[start:stop] for start, stop in pairwise(bounds) if start < stop]
            assert expected(every[case], credential) == runner.run(
                run(gateway, upstream, every[case], credential, packets)
            )

        try:
            cut()
        finally:
            runner.run(owned.aclose())


async def start(tmp_path: Path, owned: AsyncExitStack) -> tuple[Running, Upstream, Issuer]:
    """Start what the fixtures of the same names are."""
    upstream, issuer = await Upstream().start(), await Issuer().start()
    upstream.early = invite
    owned.push_async_callback(upstream.stop)
    owned.push_async_callback(issuer.stop)
    gateway = await owned.enter_async_context(gateway_with(tmp_path, upstream, issuer, None))
    return gateway, upstream, issuer
