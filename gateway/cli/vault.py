"""
The vault as commands open it: in the gateway's data directory, beside a gateway that may be serving from it.

Rules:
1. The sealing key is the one that belongs to the data; another one ends the command with one sentence.
2. What a command dials (a provider, to refresh or revoke) is bounded by `egress` of routes.yaml, where there is one.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import click
from sqlalchemy.exc import SQLAlchemyError

from gateway.cli.config import load_or_exit
from gateway.cli.data import open_store
from gateway.models import Egress
from gateway.net.client import OutboundClient
from gateway.store.engine import Store
from gateway.vault.discovery import Discovery
from gateway.vault.key_ring import SealingRing
from gateway.vault.revocation import Revocation
from gateway.vault.sealing import Sealer, SealingKeyError
from gateway.vault.service import Vault, check_sealing_key

EXIT_UPSTREAM = 6


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


@asynccontextmanager
async def open_vault(data: Path, egress: Egress) -> AsyncIterator[Vault]:
    """
    Open the vault of *data*; no jobs run in its background.

    Raises:
        click.ClickException: its database or its sealing key cannot be used; ends the command with exit code 1.
    """
    async with open_sealed(data) as (store, sealer), OutboundClient(egress) as client:
        discovery = Discovery(client, allow_http=egress.allow_http, monotonic=time.monotonic)
        vault = Vault(store, sealer, client, clock=time.time, random_bytes=os.urandom, discovery=discovery)
        vault.removal.revoke = Revocation(
            client, discovery, connections=vault.connections, clock=time.time, random_bytes=os.urandom
        ).revoke_stored
        try:
            yield vault
        finally:
            await vault.close()
