"""
`gateway sealing`: which keys seal the vault's secrets, and a new one while gateways serve (docs/sealing.md).

Rules:
1. No key and no secret is ever shown: keys are named by their ids.
2. A rotation that was interrupted is finished by running it again.
3. Exit codes: 0 done, 1 failure or values that cannot be opened, 2 usage.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import click
from sqlalchemy.exc import SQLAlchemyError

from gateway.cli.data import EXIT_FAILURE, data_option, open_store, run
from gateway.store.engine import Store
from gateway.vault import rotation
from gateway.vault.key_attendance import Attendant, attendants
from gateway.vault.key_census import Counted, count_keys
from gateway.vault.key_directory import KeyDirectory, RotationRunning
from gateway.vault.key_ring import SealingRing
from gateway.vault.key_source import WrappedKey
from gateway.vault.sealing import KEY_ID_BYTES, SealingKeyError


class KeyId(click.ParamType[bytes]):
    """A key's id as `status` prints it."""

    name = "key id"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> bytes:
        """Return the id's bytes."""
        if isinstance(value, bytes):
            return value
        try:
            key_id = bytes.fromhex(str(value))
        except ValueError:
            key_id = b""
        if len(key_id) != KEY_ID_BYTES:
            self.fail(f"expected {KEY_ID_BYTES * 2} hexadecimal digits, as gateway sealing status prints them")
        return key_id


@click.group()
def sealing() -> None:
    """See and change the keys that seal the vault's secrets."""


@sealing.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@data_option
def status(as_json: bool, data: Path) -> None:
    """Show the keys, what each has sealed, and which processes have them."""

    async def read() -> tuple[dict[str, dict[str, object]], list[Attendant]]:
        async with _open(data) as (store, ring):
            return _keys(ring, await count_keys(store)), attendants(data)

    keys, processes = run(read())
    if as_json:
        shown = [
            {"process": one.process, "opens": sorted(map(bytes.hex, one.opens)), "seals": one.seals.hex()}
            for one in processes
        ]
        click.echo(json.dumps({"keys": list(keys.values()), "processes": shown}, indent=2))
        return
    for key in keys.values():
        click.echo("\t".join((str(key["id"]), str(key["state"]), f"{key['values']} values", str(key["kept_by"]))))
    for one in processes:
        click.echo(f"process {one.process.partition('-')[0]} seals with {one.seals.hex()}", err=True)


@sealing.command()
@click.option(
    "--retire", "retired", type=KeyId(), metavar="OLD", help="Take this key out of use, once nothing needs it."
)
@click.option("--data-is-shared", is_flag=True, help="On PostgreSQL: every gateway has this same data directory.")
@data_option
def rotate(retired: bytes | None, data_is_shared: bool, data: Path) -> None:
    """Make a new sealing key and re-wrap every secret with it, or finish a rotation; with --retire, end a key's use."""

    async def turn() -> rotation.Rotated | Path:
        async with _open(data, with_retired=True) as (store, ring):
            if store.dialect != "sqlite" and ring.directory is not None and not data_is_shared:
                raise click.UsageError(
                    "the keys are in this data directory, and gateways on other machines may use the database: give "
                    "them all the same data directory and say --data-is-shared, or keep the keys in "
                    "GATEWAY_SEALING_KEYS (docs/sealing.md)"
                )
            if retired is not None:
                return await rotation.retire(store, ring, retired)
            return await rotation.rotate(store, ring, random_bytes=os.urandom)

    done = run(turn())
    if isinstance(done, Path):
        click.echo(f"Retired. The key is kept in {done}: delete it when no backup needs it any more.", err=True)
        return
    what = "New key" if done.is_new else "Key"
    click.echo(f"{what} {done.key_id.hex()} seals; {done.rewrapped} values were re-wrapped.", err=True)
    for broken in sorted(done.broken, key=str):
        click.echo(f"cannot be opened: {broken.table}.{broken.column} of {broken.row}", err=True)
    if done.broken:
        raise SystemExit(EXIT_FAILURE)


@asynccontextmanager
async def _open(data: Path, *, with_retired: bool = False) -> AsyncIterator[tuple[Store, SealingRing]]:
    """Open the database and its keys; what cannot be done is one sentence."""
    async with open_store(data) as store:
        try:
            ring = await SealingRing.open(data, os.environ, with_retired=with_retired)
            try:
                yield store, ring
            finally:
                await ring.close()
        except (SealingKeyError, RotationRunning, rotation.RotationStopped) as exc:
            raise click.ClickException(str(exc)) from exc
        except SQLAlchemyError as exc:
            raise click.ClickException(f"the gateway's database failed ({type(exc).__name__})") from exc
        except OSError as exc:
            raise click.ClickException(exc.strerror or str(exc)) from exc


def _keys(ring: SealingRing, census: list[Counted]) -> dict[str, dict[str, object]]:
    """What is told of each key, by id: those of the ring first, then those that are missing."""
    values: dict[bytes, int] = {}
    for counted in census:
        values[counted.key_id] = values.get(counted.key_id, 0) + counted.values
    ours = {entry.key_id: entry for entry in ring.source.read()}
    seals = next(iter(ours))
    pending = ring.directory.pending() if isinstance(ring.source, KeyDirectory) and ring.directory else None
    told: dict[str, dict[str, object]] = {}
    for key_id in [*ours, *(key_id for key_id in sorted(values) if key_id not in ours)]:
        entry = ours.get(key_id)
        state = "seals" if key_id == seals else "published" if key_id == pending else "opens"
        told[key_id.hex()] = {
            "id": key_id.hex(),
            "state": state if entry is not None else "missing",
            "values": values.get(key_id, 0),
            "kept_by": "nobody" if entry is None else entry.service if isinstance(entry, WrappedKey) else "gateway",
        }
    return told
