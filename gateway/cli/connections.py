"""
`gateway connections`: make and list the connections of the vault, list its templates (DESIGN sections 7 and 9).

Rules:
1. A client secret comes from GATEWAY_CLIENT_SECRET, from a file, or from stdin; never from a flag, which every user of
   the machine can read.
2. What routes.yaml lists under `connections:` belongs to the file and is loaded when the gateway starts; this command
   makes the others.
3. With --use-dcr the provider is asked for a client (RFC 7591) before anything is stored, once: it is registered with
   the callback of the gateway's public URL.
4. `connection_options.py` has the options of `add` that say what the connection is.
5. Exit codes: 0 done, 1 failure, 2 usage or an invalid field, 4 no such connection, 6 no client was registered.
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

from gateway.cli.config import config_option, load_or_exit
from gateway.cli.connect import given_base_url
from gateway.cli.connection_options import connection_of, connection_options
from gateway.cli.data import EXIT_NOT_FOUND, data_option, echo_header, require_data, run
from gateway.cli.vault import EXIT_UPSTREAM, changing, egress_of, open_sealed, open_vault
from gateway.models import Egress
from gateway.net.client import OutboundClient
from gateway.providers.catalogue import Provider, ProviderUnknown, catalogue
from gateway.vault.connection import Connection, check
from gateway.vault.connections import (
    ConnectionExists,
    ConnectionInvalid,
    ConnectionMissing,
    ConnectionReadOnly,
    Connections,
)
from gateway.vault.discovery import Discovery
from gateway.vault.grants import grant_of
from gateway.vault.links import callback_url
from gateway.vault.record import conclude
from gateway.vault.registration import RegistrationFailed, register
from gateway.vault.removal import Removed

SECRET_VARIABLE = "GATEWAY_CLIENT_SECRET"  # noqa: S105  # the name of the variable, not a secret
MAX_SECRET_BYTES = 8192


@click.group()
def connections() -> None:
    """Make and list connections: the OAuth clients whose tokens the vault keeps."""


@connections.command()
@click.option("--id", "connection_id", metavar="ID", required=True, help="How routes and the API name it.")
@connection_options
@click.option(
    "--client-secret-file",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=str),
    help=f"Read the client's secret from FILE, '-' for stdin. Or set {SECRET_VARIABLE}.",
)
@click.option(
    "--url",
    "public_url",
    metavar="URL",
    envvar="GATEWAY_PUBLIC_URL",
    show_envvar=True,
    help="The traffic listener, as browsers reach it: the client is registered with it.  [default: routes.yaml's]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the connection as JSON.")
@config_option
@data_option
def add(
    connection_id: str,
    client_secret_file: str | None,
    public_url: str | None,
    as_json: bool,
    config_file: Path,
    data: Path,
    **options: Any,
) -> None:
    """Make a connection: from a template, or from what the options say."""
    try:
        connection = connection_of(connection_id, options, secret=_secret(client_secret_file, os.environ))
        if connection.awaits_registration:
            connection = run(_register_and_create(connection, data, config_file, public_url))
        else:
            run(_create(connection, data))
    except ProviderUnknown as exc:
        raise click.UsageError(f"--template: {exc} (gateway connections templates lists them)") from exc
    except ConnectionInvalid as exc:
        raise click.UsageError(str(exc)) from exc
    except ConnectionExists as exc:
        raise click.ClickException(str(exc)) from exc
    except RegistrationFailed as exc:
        raise _NotRegistered(str(exc)) from exc
    click.echo(f"Connection {connection.id} made.", err=True)
    if as_json:
        click.echo(json.dumps(_shown(connection)))


@connections.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
def templates(as_json: bool) -> None:
    """List the providers that --template and routes.yaml know."""
    providers = catalogue().values()
    if as_json:
        click.echo(json.dumps([_shown_template(provider) for provider in providers], indent=2))
        return
    for provider in providers:
        variables = ", ".join(variable.name for variable in provider.variables) or "-"
        click.echo("\t".join((provider.id, provider.kind, provider.name, variables, provider.docs_url)))


@connections.command("ls")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@data_option
def list_connections(as_json: bool, data: Path) -> None:
    """List the connections, without their secrets."""

    async def read() -> list[Connection]:
        async with _open(data) as stored:
            return await stored.list()

    require_data(data)
    found = run(read())
    if as_json:
        click.echo(json.dumps([_shown(connection) for connection in found], indent=2))
        return
    if not found:
        click.echo("No connections yet: gateway connections add --id ID …", err=True)
    else:
        echo_header("id", "type", "owner", "name", "origins")
    for connection in found:
        where = ", ".join(connection.origins) if connection.origins is not None else "any origin"
        click.echo("\t".join((connection.id, connection.kind, connection.owner, connection.name, where)))


@connections.command("show")
@click.argument("connection_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@data_option
def show_connection(connection_id: str, as_json: bool, data: Path) -> None:
    """Show one connection, without its secret."""

    async def read() -> Connection | None:
        async with _open(data) as stored:
            return next((connection for connection in await stored.list() if connection.id == connection_id), None)

    require_data(data)
    connection = run(read())
    if connection is None:
        raise _not_found(connection_id)
    shown = _shown(connection)
    if as_json:
        click.echo(json.dumps(shown, indent=2))
        return
    for name, value in shown.items():
        text = " ".join(map(str, value)) if isinstance(value, list) else "-" if value is None else str(value)
        click.echo(f"{name}\t{text}")


@connections.command("rm")
@click.argument("connection_id", metavar="ID")
@click.option("--yes", is_flag=True, help="Do not ask, although it has tokens.")
@click.option("--force", is_flag=True, help="Also one that routes.yaml had made, and does not list any more.")
@config_option
@data_option
def remove_connection(connection_id: str, yes: bool, force: bool, config_file: Path, data: Path) -> None:
    """Remove a connection and all its tokens, revoked at the provider where that can be done."""

    async def count() -> int:
        async with open_vault(data, Egress()) as vault:
            return len(await vault.tokens.list(connection=connection_id))

    async def remove() -> Removed:
        async with open_vault(data, egress_of(config_file)) as vault:
            with changing(vault.record, "connections rm", connection=connection_id) as fields:
                removed = await vault.removal.connection(connection_id, is_forced=force)
            conclude(vault.record, "connection_deleted", **fields, **removed.for_the_record())
            return removed

    if force and config_file.exists():
        listed = [connection.id for connection in load_or_exit(config_file).connections]
        if connection_id in listed:
            text = f"{config_file} lists {connection_id}: the next start would make it again. Remove it there first"
            raise click.ClickException(text)

    tokens = run(count())
    if tokens and not yes:
        click.confirm(f"{connection_id} has {tokens} tokens, which go with it. Remove it?", abort=True, err=True)
    try:
        removed = run(remove())
    except ConnectionMissing as exc:
        raise _not_found(connection_id) from exc
    except ConnectionReadOnly as exc:
        text = f"{connection_id} belongs to routes.yaml, and is changed there; has it left that file, add --force"
        raise click.ClickException(text) from exc
    click.echo(
        f"Connection {connection_id} removed with {removed.deleted} tokens; {removed.revoked} were revoked.", err=True
    )


def _not_found(connection_id: str) -> click.exceptions.Exit:
    click.echo(f"Error: there is no connection {connection_id} (gateway connections ls lists them)", err=True)
    return click.exceptions.Exit(EXIT_NOT_FOUND)


async def _create(connection: Connection, data: Path) -> None:
    async with open_vault(data, Egress()) as vault:
        with changing(vault.record, "connections add", connection=connection.id) as fields:
            await vault.connections.create(connection)
        conclude(vault.record, "connection_created", **fields)


async def _register_and_create(
    connection: Connection, data: Path, config_file: Path, public_url: str | None
) -> Connection:
    """Return *connection*, stored with the client that its provider has registered."""
    egress, base_url = egress_of(config_file), _base_url(config_file, public_url)
    async with open_vault(data, egress) as vault, OutboundClient(egress) as client:
        with changing(vault.record, "connections add", connection=connection.id) as fields:
            check(connection)
            await vault.connections.check_free(connection)
            registered = await register(
                connection,
                discovery=Discovery(client, allow_http=egress.allow_http, monotonic=time.monotonic),
                client=client,
                callback_url=callback_url(connection, base_url),
                allow_http=egress.allow_http,
            )
            created = await vault.connections.create(registered)
        conclude(vault.record, "connection_created", **fields)
        return created


def _base_url(config_file: Path, public_url: str | None) -> str:
    """Return the public URL that is given, else the one of *config_file*, without a trailing slash."""
    base_url = given_base_url(config_file, public_url)
    if base_url is None:
        raise click.UsageError("--url: required with --use-dcr, where routes.yaml has no public_url")
    return base_url


class _NotRegistered(click.ClickException):
    """The provider registered no client."""

    exit_code = EXIT_UPSTREAM


@asynccontextmanager
async def _open(data: Path) -> AsyncIterator[Connections]:
    """Open the vault's connections in *data*, with the sealing key that belongs to it."""
    async with open_sealed(data) as (store, sealer):
        yield Connections(store, sealer, clock=time.time, random_bytes=os.urandom)


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
        "discovery_url": connection.extra.get("discoveryUrl", ""),
        "grant_type": grant_of(connection),
        "issues_refresh_tokens": grant_of(connection) == "authorization_code"
        and connection.quirks.issues_refresh_tokens,
        "scopes": list(connection.default_scopes),
        "origins": None if connection.origins is None else list(connection.origins),
        "token_auth": connection.token_auth,
        "template": connection.template,
        "variables": dict(connection.variables),
    }


def _shown_template(provider: Provider) -> dict[str, object]:
    return {
        "id": provider.id,
        "name": provider.name,
        "type": provider.kind,
        "description": provider.description,
        "docs_url": provider.docs_url,
        "scopes": list(provider.default_scopes),
        "origins": list(provider.origins),
        "grants": list(provider.quirks.grants),
        "issues_refresh_tokens": provider.kind == "oauth" and provider.quirks.issues_refresh_tokens,
        "variables": [
            {
                "name": variable.name,
                "description": variable.description,
                "example": variable.example,
                "default": variable.default,
            }
            for variable in provider.variables
        ],
    }
