"""
`gateway tokens`: what the vault holds, for operators (DESIGN section 9).

Rules:
1. Data on stdout, talk on stderr. Nothing here opens a sealed value: no sealing key is needed, no token can be shown.
2. Exit codes: 0 done, 1 the database failed, 2 usage.
"""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import click
from sqlalchemy.exc import SQLAlchemyError

from gateway.cli.data import data_option, open_store, run
from gateway.vault.sealing import Sealer, SealingKey
from gateway.vault.tokens import StoredToken, Tokens


@click.group()
def tokens() -> None:
    """See the connection tokens of the vault; never their contents."""


@tokens.command("ls")
@click.option("--connection", metavar="ID", help="Only tokens of this connection.")
@click.option("--user", metavar="U", help="Only tokens of this user.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@data_option
def list_tokens(connection: str | None, user: str | None, as_json: bool, data: Path) -> None:
    """List the connection tokens, the oldest first."""

    async def read() -> list[StoredToken]:
        async with open_store(data) as store:
            # A key of the moment: a list opens nothing.
            sealer = Sealer(SealingKey.from_bytes(os.urandom(32)), os.urandom)
            stored = Tokens(store, sealer, clock=time.time, random_bytes=os.urandom)
            try:
                return await stored.list(connection=connection, user=user)
            except SQLAlchemyError as exc:
                raise click.ClickException(f"the gateway's database failed ({type(exc).__name__})") from exc

    found, now = run(read()), time.time()
    if as_json:
        click.echo(json.dumps([_shown(token, now) for token in found], indent=2))
        return
    if not found:
        click.echo("No tokens here.", err=True)
    for token in found:
        subject = " in ".join(filter(None, (token.user, token.tenant)))
        scopes = " ".join(token.granted_scopes) or "-"
        click.echo("\t".join((token.id, token.connection, subject, token.account or "-", scopes, _state(token, now))))


def _state(token: StoredToken, now: float) -> str:
    if token.dead:
        return f"dead ({token.last_refresh_error})"
    if token.expires_at is None:
        return "active"
    state = "expired" if token.expires_at <= now else "until"
    return f"{state} {datetime.fromtimestamp(token.expires_at, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _shown(token: StoredToken, now: float) -> dict[str, object]:
    return {
        "id": token.id,
        "connection": token.connection,
        "user": token.user or None,
        "tenant": token.tenant or None,
        "account": token.account or None,
        "scopes": list(token.granted_scopes),
        "requested_scopes": list(token.requested_scopes),
        "state": _state(token, now),
        "expires_at": token.expires_at,
        "created_at": token.created_at,
        "last_refresh_at": token.last_refresh_at,
        "last_refresh_error": token.last_refresh_error or None,
        "dead": token.dead,
    }
