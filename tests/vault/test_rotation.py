"""A new sealing key while gateways serve: nothing is lost, whoever writes and whatever is killed."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from itertools import permutations
from pathlib import Path

import pytest
from sqlalchemy import select, update

from gateway.models import TokenKey
from gateway.store import schema
from gateway.store.engine import Store
from gateway.vault import rotation
from gateway.vault.connection import Connection
from gateway.vault.connections import Connections
from gateway.vault.key_attendance import Attendance
from gateway.vault.key_census import count_keys, sealed_columns
from gateway.vault.key_directory import KeyDirectory, RotationRunning, plain_entry
from gateway.vault.key_ring import SealingRing
from gateway.vault.key_source import WrappedKey
from gateway.vault.rotation import Pace, RotationStopped, retire, rotate
from gateway.vault.sealing import SealBroken, Sealer, SealingKeyError
from gateway.vault.tokens import Tokens
from tests.vault.key_service import ENVIRON, KeyService
from tests.vault.sealing_process import QUICK, USERS, draft

IMPATIENT = Pace(batch=7, pause_seconds=0.0, attend_seconds=0.2, settle_seconds=0.0)
KILLS = 6  # on each engine


class House:
    """A data directory with a database, a ring on it, and what the vault keeps in it."""

    def __init__(self, data: Path, store: Store, ring: SealingRing) -> None:
        self.data = data
        self.store = store
        self.ring = ring
        self.sealer = Sealer(ring, os.urandom)
        self.tokens = Tokens(store, self.sealer, clock=lambda: 1.0, random_bytes=os.urandom)
        self.connections = Connections(store, self.sealer, clock=lambda: 1.0, random_bytes=os.urandom)

    async def fill(self) -> None:
        """One connection and USERS users with a token each."""
        await self.connections.create(
            Connection(id="contacts", name="Contacts", client_id="me", client_secret="CANARY")
        )
        for number in range(USERS):
            await self.tokens.put(draft(f"r{number}", 0))

    async def is_whole(self) -> bool:
        """Whether every token and the client secret open to what was stored."""
        found = [await self.tokens.find(TokenKey("contacts", f"r{number}", None)) for number in range(USERS)]
        connection = await self.connections.load("contacts")
        secrets = [(token.access_token, token.refresh_token) if token else None for token in found]
        wanted = [(f"AT-r{number}-0", f"RT-r{number}-0") for number in range(USERS)]
        return secrets == wanted and connection is not None and connection.client_secret == "CANARY"

    async def key_ids(self) -> set[bytes]:
        """The keys that something is sealed with."""
        return {counted.key_id for counted in await count_keys(self.store)}


@asynccontextmanager
async def opened(
    data: Path, database_url: str, environ: dict[str, str] | None = None, *, service: KeyService | None = None
) -> AsyncIterator[House]:
    """What a process has that rotates, or that starts anew."""
    store = await Store.open(database_url)
    providers = {} if service is None else {service.service: service}
    ring = await SealingRing.open(data, environ or {}, providers=providers, with_retired=True)
    try:
        yield House(data, store, ring)
    finally:
        await ring.close()
        await store.close()


@contextmanager
def processes(data: Path, database_url: str, *steps: str) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that do one of *steps* each until their stdin closes, once all work."""
    with ExitStack() as owned:
        running = []
        for step in steps:
            command = [sys.executable, "-m", "tests.vault.sealing_process", step, str(data), database_url]
            one = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            running.append(owned.enter_context(one))
            owned.callback(one.kill)
        for one in running:
            assert one.stdout is not None
            assert "ready\n" == one.stdout.readline()
        yield running


def report(running: subprocess.Popen[str]) -> dict[str, object]:
    """End the process and return what it says of its work."""
    output, _ = running.communicate(timeout=30)
    said = json.loads(output.splitlines()[-1])
    assert isinstance(said, dict)
    return said


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory."""
    return tmp_path / "data"


@pytest.fixture
async def house(data: Path, database_url: str) -> AsyncIterator[House]:
    """A filled data directory."""
    async with opened(data, database_url) as house:
        await house.fill()
        yield house


async def test_rotates_everything_to_a_new_key(house: House) -> None:
    """After a rotation one key has sealed everything, everything opens, and versions are as before."""
    (old,) = await house.key_ids()
    done = await rotate(house.store, house.ring, random_bytes=os.urandom, pace=QUICK)

    assert (True, 2 * USERS + 1, set()) == (done.is_new, done.rewrapped, done.broken)
    assert {done.key_id} == await house.key_ids() != {old}
    assert await house.is_whole()
    assert {1} == {token.version for token in await house.tokens.list()}


async def test_finishes_before_it_begins_anew(house: House) -> None:
    """A published key, and values that were left, are finished by the next rotation, which makes no key of its own."""
    assert house.ring.directory is not None
    key_id, text = await house.ring.new_key(os.urandom)
    house.ring.directory.publish(key_id, text)
    published = await rotate(house.store, house.ring, random_bytes=os.urandom, pace=QUICK)
    key_id, text = await house.ring.new_key(os.urandom)
    house.ring.directory.publish(key_id, text)
    house.ring.directory.activate(key_id)
    activated = await rotate(house.store, house.ring, random_bytes=os.urandom, pace=QUICK)

    assert (False, False) == (published.is_new, activated.is_new)
    assert {key_id} == {activated.key_id} == await house.key_ids()
    assert await house.is_whole()


async def test_keys_of_the_environment_are_rotated_by_their_order(data: Path, database_url: str) -> None:
    """Where others keep the keys, the first of theirs re-wraps everything, and none is made."""
    one, two = (plain_entry(os.urandom(32)) for _ in range(2))
    async with opened(data, database_url, {"GATEWAY_SEALING_KEYS": one}) as before:
        await before.fill()
    async with opened(data, database_url, {"GATEWAY_SEALING_KEYS": f"{two},{one}"}) as house:
        done = await rotate(house.store, house.ring, random_bytes=os.urandom, pace=QUICK)
        with pytest.raises(SealingKeyError, match="where they are kept"):
            await retire(house.store, house.ring, b"12345678")
    async with opened(data, database_url, {"GATEWAY_SEALING_KEYS": two}) as after:
        assert await after.is_whole()
        assert {done.key_id} == await after.key_ids()
    assert not done.is_new


async def test_rotates_to_another_key_of_the_service(data: Path, database_url: str) -> None:
    """With a key service, a rotation wraps the new key with the service's key that is named now."""
    service = KeyService()
    async with opened(data, database_url, ENVIRON, service=service) as before:
        await before.fill()
    async with opened(data, database_url, {"GATEWAY_SEALING_KMS": "aws-kms:key-2"}, service=service) as house:
        await rotate(house.store, house.ring, random_bytes=os.urandom, pace=QUICK)
    entry = KeyDirectory(data).read()[0]
    assert isinstance(entry, WrappedKey)
    assert "key-2" == entry.master
    async with opened(data, database_url, {}, service=service) as after:
        assert await after.is_whole()


async def test_waits_for_processes_that_cannot_open_yet(house: House) -> None:
    """While a process that serves lacks the new key, nothing is sealed with it; then the same key is used."""
    late = Attendance.begin(house.data)
    assert late is not None
    before = await house.key_ids()
    late.tell(opens=before, seals=next(iter(before)))
    with pytest.raises(RotationStopped, match=f"process {os.getpid()} has not opened"):
        await rotate(house.store, house.ring, random_bytes=os.urandom, pace=IMPATIENT)
    pending = KeyDirectory(house.data).pending()
    stopped = (await house.key_ids(), house.ring.current.key_id)
    assert pending is not None
    late.tell(opens=[*before, pending], seals=next(iter(before)))
    done = await rotate(house.store, house.ring, random_bytes=os.urandom, pace=IMPATIENT)
    late.end()

    assert (before, next(iter(before))) == stopped
    assert (pending, False) == (done.key_id, done.is_new)


async def test_key_in_use_is_not_retired(house: House) -> None:
    """The key that seals, one that has sealed something, and one that a process seals with stay."""
    (old,) = await house.key_ids()
    with pytest.raises(SealingKeyError, match="cannot be retired"):
        await retire(house.store, house.ring, old, pace=IMPATIENT)
    async with house.store.read() as db:
        row = (await db.execute(select(schema.tokens.c.id, schema.tokens.c.sealed_access_token).limit(1))).one()
    await rotate(house.store, house.ring, random_bytes=os.urandom, pace=QUICK)
    slow = Attendance.begin(house.data)
    assert slow is not None
    slow.tell(opens=[old], seals=old)
    with pytest.raises(RotationStopped, match="still seals"):
        await retire(house.store, house.ring, old, pace=IMPATIENT)
    slow.end()
    await write_column(house, (row.id, "sealed_access_token"), row.sealed_access_token)
    with pytest.raises(RotationStopped, match="1 values"):
        await retire(house.store, house.ring, old, pace=IMPATIENT)
    assert await house.is_whole()


async def test_write_that_slept_is_saved_by_the_next_rotation(house: House, database_url: str) -> None:
    """A value that arrives sealed with a retired key is re-wrapped by the next rotation."""
    (old,) = await house.key_ids()
    async with house.store.read() as db:
        row = (await db.execute(select(schema.tokens.c.id, schema.tokens.c.sealed_access_token).limit(1))).one()
    await rotate(house.store, house.ring, random_bytes=os.urandom, pace=QUICK)
    await retire(house.store, house.ring, old, pace=QUICK)
    await write_column(house, (row.id, "sealed_access_token"), row.sealed_access_token)
    async with opened(house.data, database_url) as again:
        done = await rotate(again.store, again.ring, random_bytes=os.urandom, pace=QUICK)
        assert (False, 1) == (done.is_new, done.rewrapped)
        assert {done.key_id} == await again.key_ids()
        assert await again.is_whole()


async def test_retiring_waits_until_old_writes_have_arrived(house: House) -> None:
    """Just after a rotation, retiring waits for as long as a write may be on its way."""
    (old,) = await house.key_ids()
    await rotate(house.store, house.ring, random_bytes=os.urandom, pace=QUICK)
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    changed = KeyDirectory(house.data).sealed_since()
    pace = Pace(settle_seconds=30.0)
    await retire(house.store, house.ring, old, clock=lambda: changed + 10.0, sleep=sleep, pace=pace)

    assert [20.0] == slept


async def test_one_rotation_at_a_time(house: House) -> None:
    """A second rotation is refused, and changes nothing."""
    with KeyDirectory(house.data).rotating(), pytest.raises(RotationRunning):
        await rotate(house.store, house.ring, random_bytes=os.urandom, pace=QUICK)
    assert KeyDirectory(house.data).pending() is None


async def test_write_between_reading_and_swapping_wins(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written while a batch was being re-wrapped stays, and is re-wrapped by the next pass."""
    rewrap, is_first = rotation._swap, True

    async def swap_late(*arguments: object) -> int:
        nonlocal is_first
        if is_first:
            is_first = False
            for number in range(USERS):
                await house.tokens.put(draft(f"r{number}", 1))
        return await rewrap(*arguments)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(rotation, "_swap", swap_late)
    done = await rotate(house.store, house.ring, random_bytes=os.urandom, pace=QUICK)
    found = [await house.tokens.find(TokenKey("contacts", f"r{number}", None)) for number in range(USERS)]

    assert [f"AT-r{number}-1" for number in range(USERS)] == [token.access_token for token in found if token]
    assert {done.key_id} == await house.key_ids()


async def test_broken_values_are_told_and_left(house: House) -> None:
    """What no key opens is named by its row, left as it is, and keeps nothing else from being re-wrapped."""
    token = (await house.tokens.list())[0]
    await write_column(house, (token.id, "sealed_access_token"), b"\x01" + b"CANARY" * 20)
    done = await rotate(house.store, house.ring, random_bytes=os.urandom, pace=QUICK)

    assert {("tokens", "sealed_access_token", token.id)} == {(b.table, b.column, b.row) for b in done.broken}
    assert {done.key_id, b"CANARYCA"} == await house.key_ids()


async def test_no_value_opens_in_anothers_place(house: House) -> None:
    """Every swap of ciphertexts between two users' rows and columns fails closed, before a rotation and after it."""
    alice, bob = (await house.tokens.list())[:2]
    places = [
        (token.id, column) for token in (alice, bob) for column in ("sealed_access_token", "sealed_refresh_token")
    ]
    for _ in range(2):
        sealed = {place: await read_column(house, place) for place in places}
        for source, target in permutations(places, 2):
            await write_column(house, target, sealed[source])
            with pytest.raises(SealBroken):
                await house.tokens.get(target[0])
            await write_column(house, target, sealed[target])
        await rotate(house.store, house.ring, random_bytes=os.urandom, pace=QUICK)
    assert await house.is_whole()


async def test_rotation_does_not_make_a_moved_value_whole(house: House) -> None:
    """A value that was moved before a rotation is as refused after it: re-wrapping opens no door."""
    alice, bob = (await house.tokens.list())[:2]
    await write_column(
        house, (bob.id, "sealed_access_token"), await read_column(house, (alice.id, "sealed_access_token"))
    )
    await rotate(house.store, house.ring, random_bytes=os.urandom, pace=QUICK)
    with pytest.raises(SealBroken):
        await house.tokens.get(bob.id)


async def read_column(house: House, place: tuple[str, str]) -> bytes:
    """The sealed bytes of a token's column."""
    async with house.store.read() as db:
        query = select(schema.tokens.c[place[1]]).where(schema.tokens.c.id == place[0])
        return bytes((await db.execute(query)).scalar_one())


async def write_column(house: House, place: tuple[str, str], sealed: bytes) -> None:
    """Put sealed bytes into a token's column, as somebody with the database file can."""
    async with house.store.write() as db:
        await db.execute(update(schema.tokens).where(schema.tokens.c.id == place[0]).values({place[1]: sealed}))


def test_every_sealed_table_has_one_kind_of_primary_key() -> None:
    """A pass goes on after the last row it has seen: every sealed column's table has a primary key for that."""
    assert all(list(column.table.primary_key.columns) for column in sealed_columns())


async def test_rotations_under_load_lose_no_request(data: Path, database_url: str) -> None:
    """Processes that write and read while keys change, and old ones are retired, never meet a failure."""
    async with opened(data, database_url) as house:
        await house.fill()
    with (
        processes(data, database_url, "write", "read") as (writer, reader),
        processes(data, database_url, "rotate") as (rotator,),
    ):
        await asyncio.sleep(3.0)
        rotated, *reports = report(rotator), report(writer), report(reader)

    assert [[], [], []] == [rotated["failed"], *(said["failed"] for said in reports)]
    assert min(int(str(said["done"])) for said in [rotated, *reports]) > 0
    async with opened(data, database_url) as house:
        assert await house.is_whole()


async def test_killed_rotations_lose_nothing(data: Path, database_url: str) -> None:
    """Killed at any moment, a rotation leaves every value to open with the keys there are, and the next one ends it."""
    moments = random.Random(6)  # noqa: S311  # moments to kill at, the same each time
    async with opened(data, database_url) as house:
        await house.fill()
    for _ in range(KILLS):
        with processes(data, database_url, "rotate") as (rotator,):
            await asyncio.sleep(moments.uniform(0.0, 0.25))
            rotator.kill()
        store = await Store.open(database_url)
        ring = await SealingRing.open(data, {})  # without the retired ones
        assert await House(data, store, ring).is_whole()
        await ring.close()
        await store.close()
    async with opened(data, database_url) as house:
        done = await rotate(house.store, house.ring, random_bytes=os.urandom, pace=QUICK)
        assert {done.key_id} == await house.key_ids()
        assert await house.is_whole()
    assert [] == [name for name in os.listdir(data) if name.endswith(".draft")]  # noqa: PTH208  # ASYNC240 bars paths
