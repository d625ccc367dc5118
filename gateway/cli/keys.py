"""
`gateway keys`: make, list and revoke the keys of agents and of services (DESIGN sections 7 and 9).

Rules:
1. Data on stdout, talk on stderr. A secret is printed once, when it is made, and cannot be shown again.
2. A running gateway learns of a revocation from the database, within a second; no restart.
3. A key that is made or revoked is in the record, by its id; without its line it is not done.
4. Exit codes: 0 done, 1 the database or the record failed, 2 usage, 4 no such key, or no data to read.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import click
from sqlalchemy.exc import SQLAlchemyError

from gateway.access.keys import KeyInfo, KeyInfos, KeyRing, NewKey
from gateway.cli.data import EXIT_NOT_FOUND, data_option, echo_header, open_store, require_data, run
from gateway.cli.vault import changing, open_record
from gateway.store.changes import ChangeFeed
from gateway.vault.record import conclude

MAX_DAYS = 3650.0
DAY_SECONDS = 86_400.0


@click.group()
def keys() -> None:
    """Make, list and revoke agent keys and management keys."""


@keys.command()
@click.option("--management", is_flag=True, help="A key for the token API: full access to every user and tenant.")
@click.option("--agent", metavar="NAME", help="A key for the agent NAME.")
@click.option("--label", metavar="TEXT", help="What a management key is for.", default="management", show_default=True)
@click.option("--user", metavar="U", help="The user for whom the agent acts.")
@click.option("--tenant", "tenants", metavar="T", multiple=True, help="A tenant that the agent may choose.")
@click.option("--role", "roles", metavar="R", multiple=True, help="A role for policies.")
@click.option("--permission", "permissions", metavar="P", multiple=True, help="A permission for policies.")
@click.option("--scope", "scopes", metavar="S", multiple=True, help="A scope for policies.")
@click.option("--expires-in", "days", metavar="DAYS", type=click.FloatRange(min=0, max=MAX_DAYS, min_open=True))
@click.option("--json", "as_json", is_flag=True, help="Print id and secret as JSON.")
@data_option
def create(
    management: bool,
    agent: str | None,
    label: str,
    user: str | None,
    tenants: tuple[str, ...],
    roles: tuple[str, ...],
    permissions: tuple[str, ...],
    scopes: tuple[str, ...],
    days: float | None,
    as_json: bool,
    data: Path,
) -> None:
    """Make a key and print it, this once."""
    if management == (agent is not None):
        raise click.UsageError("expected either --management or --agent NAME")
    if management and (user or tenants or roles or permissions or scopes):
        raise click.UsageError("a management key names its subject in each call: no --user, --tenant, --role, …")
    expires_at = None if days is None else time.time() + days * DAY_SECONDS

    async def make() -> NewKey:
        async with _open_keyring(data) as keyring:
            about = {
                "kind": "management" if agent is None else "agent",
                "name": label if agent is None else agent,
                "user": user,
            }
            with open_record(data) as record:
                with changing(record, "keys create", **about) as fields:
                    made = await add(keyring)
                conclude(record, "key_created", **fields, key=made.id)
            return made

    async def add(keyring: KeyRing) -> NewKey:
        if agent is None:
            return await keyring.create_management(label, expires_at=expires_at)
        return await keyring.create_agent(
            agent,
            user=user,
            tenants=tenants,
            roles=roles,
            permissions=permissions,
            scopes=scopes,
            expires_at=expires_at,
        )

    try:
        key = run(make())
    except ValueError as exc:
        raise click.UsageError(str(exc)) from exc
    click.echo(f"Key {key.id} made. It is shown this once; keep it where secrets are kept.", err=True)
    click.echo(json.dumps({"id": key.id, "secret": key.secret}) if as_json else key.secret)


@keys.command("ls")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@data_option
def list_keys(as_json: bool, data: Path) -> None:
    """List every key, the newest first. Secrets are not kept, so none is shown."""

    async def read() -> KeyInfos:
        async with _open_keyring(data) as keyring:
            return await keyring.list()

    require_data(data)
    infos = run(read())
    if as_json:
        click.echo(json.dumps([asdict(info) for info in infos], indent=2))
        return
    if not infos:
        click.echo("No keys yet: gateway keys create --agent NAME --user U", err=True)
    else:
        echo_header("id", "kind", "name", "subject", "state")
    now = time.time()
    for info in infos:
        click.echo("\t".join(_row(info, now)))


@keys.command()
@click.argument("key_id", metavar="ID")
@data_option
def revoke(key_id: str, data: Path) -> None:
    """Revoke the key ID for good. A running gateway refuses it within a second."""

    async def end() -> bool:
        async with _open_keyring(data) as keyring:
            if all(info.id != key_id for info in await keyring.list()):
                return False  # and no line: someone may have pasted the whole key
            with open_record(data) as record:
                with changing(record, "keys revoke", key=key_id) as fields:
                    is_revoked = await keyring.revoke(key_id)
                conclude(record, "key_revoked", **fields)
            return is_revoked

    require_data(data)

    if not run(end()):
        # The id is not repeated: someone may have pasted the whole key.
        click.echo("Error: no key has this id (gateway keys ls shows them)", err=True)
        raise SystemExit(EXIT_NOT_FOUND)
    click.echo(f"Key {key_id} is revoked.", err=True)


@asynccontextmanager
async def _open_keyring(data: Path) -> AsyncIterator[KeyRing]:
    async with open_store(data) as store:
        feed = ChangeFeed(store, clock=time.time, monotonic=time.monotonic)  # not started: nothing is cached here
        try:
            yield KeyRing(store, feed, clock=time.time, random_bytes=os.urandom)
        except SQLAlchemyError as exc:
            raise click.ClickException(f"the gateway's database failed ({type(exc).__name__})") from exc


def _row(info: KeyInfo, now: float) -> tuple[str, ...]:
    if info.revoked_at is not None:
        state = f"revoked {_day(info.revoked_at)}"
    elif info.expires_at is None:
        state = "active"
    else:
        state = f"{'expired' if info.expires_at <= now else 'until'} {_day(info.expires_at)}"
    subject = ", ".join(filter(None, (info.user, *info.tenants))) or "-"
    return (info.id, info.kind, info.name, subject, state)


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).date().isoformat()
