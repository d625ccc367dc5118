"""
`gateway connect`: print the link with which a user connects an account, and wait until that is done (DESIGN section 9).

Rules:
1. The link goes to stdout, talk to stderr. The link is for one user and works once; who has it can use it.
2. The gateway that serves the page must be running: this command writes into its database, and nothing else.
3. Where the page is: `--url`, else GATEWAY_PUBLIC_URL, else `public_url` of routes.yaml, else http://127.0.0.1:8080,
   where a gateway listens by default. With the first two the file is not read.
4. Exit codes: 0 connected, 1 failure, 2 usage, 3 a routes.yaml that cannot be used, 4 no such connection, or not
   connected in the end.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import click
from sqlalchemy.exc import SQLAlchemyError

from gateway.cli.config import DEFAULT_CONFIG, config_option, load_or_exit
from gateway.cli.data import EXIT_NOT_FOUND, data_option, run
from gateway.cli.vault import open_sealed
from gateway.errors import ConnectionUnknown, Refusal
from gateway.models import Caller
from gateway.vault.attempts import OVER, STEP_SECONDS, Attempts, Status
from gateway.vault.connections import Connections
from gateway.vault.links import ConnectInvalid, ConnectLink, Links
from gateway.vault.tokens import Tokens

POLL_SECONDS = 0.5
LONGEST_SECONDS = 3 * STEP_SECONDS  # until consent, at the provider, a confirmation
DEFAULT_URL = "http://127.0.0.1:8080"


@click.command()
@click.argument("connection")
@click.option("--user", metavar="U", required=True, help="The user who connects an account.")
@click.option("--tenant", metavar="T", help="The token is the user's within this tenant.")
@click.option("--scope", "scopes", metavar="S", multiple=True, help="Ask for S. Default: the connection's scopes.")
@click.option("--account", metavar="A", help="Which of several accounts of the user at this provider.")
@click.option(
    "--url",
    metavar="URL",
    envvar="GATEWAY_PUBLIC_URL",
    show_envvar=True,
    help=f"The traffic listener, as the user's browser reaches it.  [default: routes.yaml's, else {DEFAULT_URL}]",
)
@click.option("--no-wait", is_flag=True, help="Print the link and end.")
@click.option("--json", "as_json", is_flag=True, help="Print {id, url, wait_url, expires_at} instead of the link.")
@config_option
@data_option
def connect(
    connection: str,
    user: str,
    tenant: str | None,
    scopes: tuple[str, ...],
    account: str | None,
    url: str | None,
    no_wait: bool,
    as_json: bool,
    config_file: Path,
    data: Path,
) -> None:
    """Print the link with which user U connects an account, and wait until it is done."""
    base_url = given_base_url(config_file, url) or DEFAULT_URL

    async def begin_and_wait() -> Status | None:
        async with _open(data, base_url) as links:
            link = await links.start(
                connection, user=user, tenant=tenant, account=account, scopes=scopes or None, started_by=_operator()
            )
            _show(link, as_json=as_json)
            return None if no_wait else await _wait(links, link)

    try:
        status = run(begin_and_wait())
    except ConnectionUnknown as exc:
        raise _NotFound(f"there is no connection {connection}") from exc
    except (ConnectInvalid, Refusal) as exc:
        raise click.UsageError(str(exc)) from exc
    except SQLAlchemyError as exc:
        raise click.ClickException(f"the gateway's database failed ({type(exc).__name__})") from exc
    if status is not None and status != "connected":
        raise _NotFound(f"not connected: {status}")
    if status is not None:
        click.echo("Connected.", err=True)


def _show(link: ConnectLink, *, as_json: bool) -> None:
    if as_json:
        shown = {"id": link.id, "url": link.url, "wait_url": link.wait_url, "expires_at": link.expires_at}
        click.echo(json.dumps(shown))
        return
    click.echo("Open this link in the user's browser; it works once, for ten minutes:", err=True)
    click.echo(link.url)


async def _wait(links: Links, link: ConnectLink) -> Status:
    for _ in range(round(LONGEST_SECONDS / POLL_SECONDS)):
        status = await links.status(link.id)
        if status in OVER:
            return status
        await asyncio.sleep(POLL_SECONDS)
    return "expired"


@asynccontextmanager
async def _open(data: Path, base_url: str) -> AsyncIterator[Links]:
    """Open the vault of *data* as far as links need it: nothing is dialled."""
    async with open_sealed(data) as (store, sealer):
        yield Links(
            Attempts(store, sealer, clock=time.time, random_bytes=os.urandom),
            Connections(store, sealer, clock=time.time, random_bytes=os.urandom),
            Tokens(store, sealer, clock=time.time, random_bytes=os.urandom),
            base_url=lambda: base_url,
            redirect_urls=(),
            allow_http=base_url.startswith("http://"),
            clock=time.time,
        )


def given_base_url(config_file: Path, url: str | None) -> str | None:
    """
    Return *url*, else the public URL of *config_file*, without a trailing slash; None where neither says one.

    The default file may be missing; one that was named is read.
    """
    if url is not None:
        return _checked_base_url(url, "--url")
    if config_file == DEFAULT_CONFIG and not config_file.exists():
        return None
    public_url = load_or_exit(config_file).listeners.traffic.public_url
    return None if public_url is None else _checked_base_url(public_url, f"public_url of {config_file}")


def _checked_base_url(url: str, name: str) -> str:
    """Return *url* without a trailing slash; plain http only for this machine, where browsers keep the cookie."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise click.UsageError(f"{name}: expected https://host[:port]")
    if parts.scheme == "http" and not _is_this_machine(parts.hostname):
        raise click.UsageError(f"{name}: plain http is for this machine only")
    return url.rstrip("/")


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _operator() -> Caller:
    """Whoever may write into the database is as good as a management key."""
    return Caller(kind="management", user=None, key_id="command line")


class _NotFound(click.ClickException):
    """There is no such connection, or in the end it is not connected."""

    exit_code = EXIT_NOT_FOUND
