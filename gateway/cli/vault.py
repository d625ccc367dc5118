"""
The vault as commands open it: in the gateway's data directory, beside a gateway that may be serving from it.

Rules:
1. The sealing key is the one that belongs to the data; another one ends the command with one sentence.
2. What a command dials (a provider, to refresh or revoke) is bounded by `egress` of routes.yaml, where there is one.
3. What a command changes, reveals or sends is in the record, in a file of its own beside that of a gateway that serves;
   without its line it is not done.
"""

from __future__ import annotations

import getpass
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import click
from sqlalchemy.exc import SQLAlchemyError

from gateway.audit.events import EventLog
from gateway.audit.log import RECORD_FILE, LogFile
from gateway.cli.config import load_or_exit
from gateway.cli.data import open_store
from gateway.errors import RecordUnavailable
from gateway.models import Egress
from gateway.net.client import OutboundClient
from gateway.store.engine import Store
from gateway.vault.attempts import Attempts
from gateway.vault.discovery import Discovery
from gateway.vault.grant_store import GrantStore
from gateway.vault.jobs import Jobs
from gateway.vault.key_ring import SealingRing
from gateway.vault.lease import Timing
from gateway.vault.record import Record, conclude
from gateway.vault.recovery import RECOVERY_DIRECTORY, Recovery
from gateway.vault.revocation import Revocation
from gateway.vault.sealing import Sealer, SealingKeyError
from gateway.vault.service import Vault, check_sealing_key
from gateway.vault.settlement import Settlement

EXIT_UPSTREAM = 6
GIVE_BACK_SECONDS = 30.0  # for the revocations of what a removed connection held for its users' yes


def egress_of(config_file: Path) -> Egress:
    """Return what the gateway may dial: as *config_file* says, or public https addresses where there is no file."""
    return load_or_exit(config_file).egress if config_file.exists() else Egress()


@asynccontextmanager
async def open_sealed(data: Path) -> AsyncIterator[tuple[Store, Sealer]]:
    """
    Open the store of *data*, with a sealer of the keys that belong to it.

    Raises:
        click.ClickException: its database or its sealing keys cannot be used; ends the command with exit code 1.
    """
    async with open_store(data) as store:
        try:
            ring = await SealingRing.open(data, os.environ)
            try:
                sealer = Sealer(ring, os.urandom)
                await check_sealing_key(store, sealer)
                yield store, sealer
            finally:
                await ring.close()
        except SealingKeyError as exc:
            raise click.ClickException(str(exc)) from exc
        except SQLAlchemyError as exc:
            raise click.ClickException(f"the gateway's database failed ({type(exc).__name__})") from exc
        except OSError as exc:
            raise click.ClickException(f"the sealing keys cannot be read ({type(exc).__name__})") from exc


@contextmanager
def open_record(data: Path) -> Iterator[EventLog]:
    """
    Open the record of *data* (rule 3).

    Raises:
        click.ClickException: it cannot be opened; ends the command with exit code 1.
    """
    try:
        log = LogFile.open(data / RECORD_FILE)
    except OSError as exc:
        raise click.ClickException(f"the record cannot be written ({type(exc).__name__})") from exc
    try:
        yield EventLog(log, clock=time.time)
    except RecordUnavailable as exc:
        raise click.ClickException("the record cannot be written, so nothing was done") from exc
    finally:
        log.close()


@asynccontextmanager
async def open_vault(data: Path, egress: Egress, *, timing: Timing | None = None) -> AsyncIterator[Vault]:
    """
    Open the vault of *data* and its record; no jobs run in its background. Its end waits for exchanges under way.

    Raises:
        click.ClickException: its database, sealing key or record cannot be used; ends the command with exit code 1.
    """
    async with open_sealed(data) as (store, sealer), OutboundClient(egress) as client:
        with open_record(data) as record:
            discovery = Discovery(client, allow_http=egress.allow_http, monotonic=time.monotonic)
            vault = Vault(
                store,
                sealer,
                client,
                clock=time.time,
                random_bytes=os.urandom,
                timing=timing,
                discovery=discovery,
                record=record,
                recovery=Recovery(data / RECOVERY_DIRECTORY, sealer),
            )
            revocation = Revocation(
                client,
                discovery,
                connections=vault.connections,
                clock=time.time,
                random_bytes=os.urandom,
                record=record,
            )
            vault.removal.revoke = revocation.revoke_stored
            vault.give_back_with(revocation.revoke_of)
            jobs = Jobs("give-back", expected=())
            vault.removal.forget = Settlement(
                Attempts(store, sealer, clock=time.time, random_bytes=os.urandom),
                GrantStore(vault.tokens, revocation),
                jobs,
                connections=vault.connections,
                clock=time.time,
                record=record,
            ).forget
            try:
                yield vault
            finally:
                await jobs.close(grace_seconds=GIVE_BACK_SECONDS)
                await vault.close()


@contextmanager
def changing(record: Record, change: str, **about: object) -> Iterator[dict[str, object]]:
    """
    Record that the command *change* is about to change something, and if it then fails, that too.

    Yields the fields that the line of what was done begins with.
    """
    fields = {"id": os.urandom(8).hex(), **about, **operator()}
    record("change_intent", change=change, **fields)
    try:
        yield fields
    except Exception as exc:
        conclude(record, "change_refused", change=change, error=type(exc).__name__, **fields)
        raise


def operator() -> dict[str, object]:
    """Return the field of a record line that tells who runs this command: their account on this machine."""
    try:
        name: str | None = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        name = None
    return {"caller": {"kind": "command", "user": name, "tenant": None, "client": None, "key": None}}
