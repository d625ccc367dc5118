"""
`gateway tokens`: what the vault holds, for operators (DESIGN section 9).

Rules:
1. Data on stdout, talk on stderr. Tokens are masked unless --reveal: only that, `refresh` and `rm` need the sealing
   key.
2. `refresh` asks the provider as a gateway would: beside a gateway that serves, there still is one exchange at a time.
   It waits for the exchange to end, and says that a token is newer only where one came.
3. `rm` revokes at the provider where that can be done, and deletes in any case.
4. Exit codes: 0 done, 1 the database failed or there is nothing to refresh with, 2 usage, 4 no such token or not
   connected, 6 the provider failed.
"""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import click
from sqlalchemy.exc import SQLAlchemyError

from gateway.cli.config import config_option
from gateway.cli.data import EXIT_NOT_FOUND, data_option, echo_header, open_store, require_data, run
from gateway.cli.vault import EXIT_UPSTREAM, changing, egress_of, open_vault, operator
from gateway.errors import ConnectionRequired, TokenServiceUnavailable
from gateway.models import Egress, TokenKey
from gateway.vault.grants import can_exchange
from gateway.vault.lease import PATIENT, Timing
from gateway.vault.record import conclude, whose
from gateway.vault.removal import Removed
from gateway.vault.sealing import SealBroken, Sealer, SealingKey
from gateway.vault.stored_token import StoredToken
from gateway.vault.tokens import Tokens

MASKED = "(masked: --reveal shows it)"


@click.group()
def tokens() -> None:
    """See, refresh and remove the connection tokens of the vault."""


@tokens.command("ls")
@click.option("--connection", metavar="ID", help="Only tokens of this connection.")
@click.option("--user", metavar="U", help="Only tokens of this user.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@data_option
def list_tokens(connection: str | None, user: str | None, as_json: bool, data: Path) -> None:
    """List the connection tokens, the oldest first."""

    require_data(data)
    found, now = run(_read(data, connection=connection, user=user)), time.time()
    if as_json:
        click.echo(json.dumps([_shown(token, now) for token in found], indent=2))
        return
    if not found:
        click.echo("No tokens here.", err=True)
    else:
        echo_header("id", "connection", "subject", "account", "scopes", "state")
    for token in found:
        subject = " in ".join(filter(None, (token.user, token.tenant)))
        scopes = " ".join(token.granted_scopes) or "-"
        state = _state(token, now)
        if token.last_refresh_error and not token.dead:
            state += f", failing ({token.last_refresh_error})"
        click.echo("\t".join((token.id, token.connection, subject, token.account or "-", scopes, state)))


@tokens.command("show")
@click.argument("token_id", metavar="ID")
@click.option("--reveal", is_flag=True, help="Show the access token and the refresh token themselves.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@data_option
def show_token(token_id: str, reveal: bool, as_json: bool, data: Path) -> None:
    """Show one token, masked."""

    async def read() -> StoredToken | None:
        if not reveal:
            return next((token for token in await _read(data) if token.id == token_id), None)
        async with open_vault(data, Egress()) as vault:
            try:
                token = await vault.tokens.get(token_id)
            except SealBroken as exc:
                raise click.ClickException(f"the token {token_id} cannot be opened: its row was changed") from exc
            if token is not None:
                subject = whose(token.user, token.tenant, token.account)
                about = {"connection": token.connection, "token": token_id} | subject | operator()
                vault.record("tokens_revealed", **about)
            return token

    require_data(data)
    token = run(read())
    if token is None:
        raise _not_found(token_id)
    shown = _shown(token, time.time())
    for name in ("access_token", "refresh_token"):
        shown[name] = getattr(token, name) if reveal else MASKED
    if as_json:
        click.echo(json.dumps(shown, indent=2))
        return
    for name, value in shown.items():
        text = " ".join(value) if isinstance(value, list) else "-" if value is None else str(value)
        click.echo(f"{name}\t{text}")


@tokens.command("refresh")
@click.argument("token_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print the token's state as a JSON object.")
@config_option
@data_option
def refresh_token(token_id: str, as_json: bool, config_file: Path, data: Path) -> None:
    """Ask the provider for a newer token now, also of a grant that was called dead."""

    try:
        token = run(refreshed(token_id, data, egress_of(config_file)))
    except ConnectionRequired as exc:
        click.echo(f"Error: {exc.detail}", err=True)
        raise click.exceptions.Exit(EXIT_NOT_FOUND) from exc
    except TokenServiceUnavailable as exc:
        click.echo(f"Error: {exc.detail}", err=True)
        raise click.exceptions.Exit(EXIT_UPSTREAM) from exc
    if token.last_refresh_error:
        click.echo(f"Error: not refreshed ({token.last_refresh_error}); the stored token still serves.", err=True)
        raise click.exceptions.Exit(EXIT_UPSTREAM)
    click.echo(f"Token {token_id}: {_state(token, time.time())}.", err=True)
    if as_json:
        click.echo(json.dumps(_shown(token, time.time()), indent=2))


@tokens.command("rm")
@click.argument("token_ids", metavar="ID...", nargs=-1)
@click.option("--user", metavar="U", help="Every token of this user, in the connection where one is given.")
@click.option("--connection", metavar="ID", help="Every user's token of this connection.")
@config_option
@data_option
def remove_tokens(
    token_ids: tuple[str, ...], user: str | None, connection: str | None, config_file: Path, data: Path
) -> None:
    """Remove tokens, revoked at the provider where that can be done: by id, or of users."""
    if bool(token_ids) == bool(user or connection):
        raise click.UsageError("expected ids of tokens, or --user and --connection")

    async def remove() -> list[Removed]:
        async with open_vault(data, egress_of(config_file)) as vault:
            about = {"connection": connection, "tokens": list(token_ids)} | whose(user, None, None)
            with changing(vault.record, "tokens rm", **about) as fields:
                if token_ids:
                    done = [await vault.removal.one(token_id) for token_id in token_ids]
                else:
                    done = [await vault.removal.of_users(connection=connection, user=user)]
            for each in done:
                conclude(vault.record, "tokens_deleted", **(fields | each.for_the_record()))
            return done

    removed = run(remove())
    deleted, revoked = sum(each.deleted for each in removed), sum(each.revoked for each in removed)
    click.echo(f"Removed {deleted} tokens; {revoked} were revoked at their provider.", err=True)
    missing = [token_id for token_id, each in zip(token_ids, removed, strict=False) if not each.deleted]
    if missing:
        raise _not_found(missing[0])


async def refreshed(token_id: str, data: Path, egress: Egress, *, timing: Timing = PATIENT) -> StoredToken:
    """
    Refresh the token of this id, and return its row: where no newer token came, `last_refresh_error` says why.

    Raises:
        click.ClickException, click.exceptions.Exit: there is no such token, or none that can be refreshed.
        ConnectionRequired, TokenServiceUnavailable: there is no token that still serves, either.
    """
    async with open_vault(data, egress, timing=timing) as vault:
        token = await vault.tokens.get(token_id)
        if token is None:
            raise _not_found(token_id)
        connection = await vault.connections.load(token.connection)
        if connection is not None and token.is_valid(time.time()) and not can_exchange(connection, token):
            lacking = "it has no refresh token" if token.refresh_token is None else "its connection has no token URL"
            raise click.ClickException(f"the token {token_id} cannot be refreshed: {lacking}")
        key = TokenKey(
            connection=token.connection,
            user=token.user or None,
            tenant=token.tenant or None,
            scopes=token.requested_scopes,
            account=token.account or None,
        )
        await vault.revive(token_id)
        newer, _ = await vault.fetch_stored(key, force_refresh=True)
        if newer.id != token_id:
            raise click.ClickException("a newer token with these scopes is served instead; remove this one")
        return newer


async def _read(data: Path, *, connection: str | None = None, user: str | None = None) -> list[StoredToken]:
    async with open_store(data) as store:
        # A key of the moment: a list opens nothing.
        sealer = Sealer(SealingKey.from_bytes(os.urandom(32)), os.urandom)
        stored = Tokens(store, sealer, clock=time.time, random_bytes=os.urandom)
        try:
            return await stored.list(connection=connection, user=user)
        except SQLAlchemyError as exc:
            raise click.ClickException(f"the gateway's database failed ({type(exc).__name__})") from exc


def _not_found(token_id: str) -> click.exceptions.Exit:
    click.echo(f"Error: there is no token {token_id} (gateway tokens ls lists them)", err=True)
    return click.exceptions.Exit(EXIT_NOT_FOUND)


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
