"""
`gateway connections`: make and list the connections of the vault (DESIGN sections 7 and 9).

Rules:
1. A client secret comes from GATEWAY_CLIENT_SECRET, from a file, or from stdin; never from a flag, which every user of
   the machine can read.
2. What routes.yaml lists under `connections:` belongs to the file and is loaded when the gateway starts; this command
   makes the others.
3. Exit codes: 0 done, 1 failure, 2 usage or an invalid field.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import click
from sqlalchemy.exc import SQLAlchemyError

from gateway.cli.data import data_option, open_store, run
from gateway.vault.connection import Connection, canonical_origin
from gateway.vault.connections import ConnectionExists, ConnectionInvalid, Connections
from gateway.vault.sealing import Sealer, SealingKey, SealingKeyError
from gateway.vault.service import check_sealing_key

SECRET_VARIABLE = "GATEWAY_CLIENT_SECRET"  # noqa: S105  # the name of the variable, not a secret
MAX_SECRET_BYTES = 4096


@click.group()
def connections() -> None:
    """Make and list connections: the OAuth clients whose tokens the vault keeps."""


@connections.command()
@click.option("--id", "connection_id", metavar="ID", required=True, help="How routes and the API name it.")
@click.option("--name", metavar="TEXT", help="What people see.  [default: the id]")
@click.option("--type", "kind", type=click.Choice(["oauth", "apikey"]), default="oauth", show_default=True)
@click.option("--client-id", metavar="TEXT", default="", help="The client's id at the provider.")
@click.option(
    "--client-secret-file",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=str),
    help=f"Read the client's secret from FILE, '-' for stdin. Or set {SECRET_VARIABLE}.",
)
@click.option("--authorization-url", metavar="URL", default="", help="Where users consent.")
@click.option("--token-url", metavar="URL", default="", help="Where tokens are refreshed.")
@click.option("--scope", "scopes", metavar="S", multiple=True, help="A scope to ask for by default.")
@click.option(
    "--origin", "origins", metavar="ORIGIN", multiple=True, help="Where its tokens may go. Default: anywhere."
)
@click.option(
    "--token-auth",
    type=click.Choice(["client_secret_basic", "client_secret_post", "none"]),
    help="How the client authenticates at the token URL.  [default: client_secret_basic with a secret, else none]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the connection as JSON.")
@data_option
def add(
    connection_id: str,
    name: str | None,
    kind: Any,
    client_id: str,
    client_secret_file: str | None,
    authorization_url: str,
    token_url: str,
    scopes: tuple[str, ...],
    origins: tuple[str, ...],
    token_auth: Any,
    as_json: bool,
    data: Path,
) -> None:
    """Make a connection."""
    try:
        connection = Connection(
            id=connection_id,
            name=name or connection_id,
            kind=kind,
            client_id=client_id,
            client_secret=_secret(client_secret_file, os.environ),
            authorization_url=authorization_url,
            token_url=token_url,
            default_scopes=tuple(dict.fromkeys(scopes)),
            origins=tuple(dict.fromkeys(canonical_origin(origin) for origin in origins)) or None,
            token_auth=token_auth,
        )
        run(_create(connection, data))
    except ConnectionInvalid as exc:
        raise click.UsageError(str(exc)) from exc
    except ConnectionExists as exc:
        raise click.ClickException(str(exc)) from exc
    click.echo(f"Connection {connection.id} made.", err=True)
    if as_json:
        click.echo(json.dumps(_shown(connection)))


@connections.command("ls")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@data_option
def list_connections(as_json: bool, data: Path) -> None:
    """List the connections, without their secrets."""

    async def read() -> list[Connection]:
        async with _open(data) as stored:
            return await stored.list()

    found = run(read())
    if as_json:
        click.echo(json.dumps([_shown(connection) for connection in found], indent=2))
        return
    if not found:
        click.echo("No connections yet: gateway connections add --id ID …", err=True)
    for connection in found:
        where = ", ".join(connection.origins) if connection.origins is not None else "any origin"
        click.echo("\t".join((connection.id, connection.kind, connection.owner, connection.name, where)))


async def _create(connection: Connection, data: Path) -> None:
    async with _open(data) as stored:
        await stored.create(connection)


@asynccontextmanager
async def _open(data: Path) -> AsyncIterator[Connections]:
    """Open the vault's connections in *data*, with the sealing key that belongs to it."""
    async with open_store(data) as store:
        try:
            sealer = Sealer(SealingKey.load(data, os.environ), os.urandom)
            await check_sealing_key(store, sealer)
            yield Connections(store, sealer, clock=time.time, random_bytes=os.urandom)
        except SealingKeyError as exc:
            raise click.ClickException(str(exc)) from exc
        except SQLAlchemyError as exc:
            raise click.ClickException(f"the gateway's database failed ({type(exc).__name__})") from exc


def _secret(file: str | None, environ: Mapping[str, str]) -> str | None:
    """Return the client secret of the file, of stdin ("-"), or of the environment, without a final line break."""
    if file is None:
        return environ.get(SECRET_VARIABLE) or None
    if file == "-":
        content = sys.stdin.buffer.read(MAX_SECRET_BYTES + 1)
    else:
        with Path(file).open("rb") as opened:
            content = opened.read(MAX_SECRET_BYTES + 1)
    try:
        secret = content.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        secret = ""
    if not secret or len(content) > MAX_SECRET_BYTES:
        raise click.UsageError(f"client secret: expected 1 to {MAX_SECRET_BYTES} bytes of UTF-8")
    return secret


def _shown(connection: Connection) -> dict[str, object]:
    return {
        "id": connection.id,
        "name": connection.name,
        "type": connection.kind,
        "owner": connection.owner,
        "client_id": connection.client_id,
        "authorization_url": connection.authorization_url,
        "token_url": connection.token_url,
        "scopes": list(connection.default_scopes),
        "origins": None if connection.origins is None else list(connection.origins),
        "token_auth": connection.token_auth,
    }
