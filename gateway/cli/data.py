"""
Where the commands find the gateway's state: `--data`, GATEWAY_DATA, GATEWAY_DATABASE_URL (DESIGN section 9).

Rules:
1. Flag, then environment, then default: `--data DIR`, else GATEWAY_DATA, else ./.gateway.
2. The database is GATEWAY_DATABASE_URL where that is set, else the file gateway.db in the data directory.
3. A command that only reads makes no data directory: where there is none, it says so and ends with exit code 4.
4. A database that cannot be opened ends a command with one sentence on stderr and exit code 1, never a traceback:
   a database URL may hold a password.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

# The store and the logs are imported by the functions below that need them: 0.3 s, which `gateway serve` does not pay
# before it has read its configuration, and with the collector switched off.
if TYPE_CHECKING:
    from gateway.store.engine import Store

DEFAULT_DATA = Path(".gateway")
DATABASE_FILE = "gateway.db"

EXIT_FAILURE = 1
EXIT_NOT_FOUND = 4

Command = TypeVar("Command", bound=Callable[..., Any])
T = TypeVar("T")


def data_option(command: Command) -> Command:
    """Give the click command *command* the option `--data` and with it the argument `data: Path`."""
    return click.option(
        "--data",
        type=click.Path(file_okay=False, path_type=Path),
        default=DEFAULT_DATA,
        envvar="GATEWAY_DATA",
        show_default=True,
        show_envvar=True,
        help="Directory of the gateway's state.",
    )(command)


def database_url(data: Path, environ: Mapping[str, str]) -> str:
    """Return the database URL that *environ* names, else that of the SQLite file in *data*."""
    from gateway.store.engine import sqlite_url

    return environ.get("GATEWAY_DATABASE_URL") or sqlite_url(data / DATABASE_FILE)


def require_data(data: Path) -> None:
    """
    Do nothing where there is a gateway's state to read: *data*, or the database of GATEWAY_DATABASE_URL.

    Raises:
        click.exceptions.Exit: there is none; ends the command with exit code 4 (rule 3).
    """
    if not data.is_dir() and not os.environ.get("GATEWAY_DATABASE_URL"):
        click.echo(f"Error: there is no data directory {data} (--data or GATEWAY_DATA names it)", err=True)
        raise click.exceptions.Exit(EXIT_NOT_FOUND)


def echo_header(*names: str) -> None:
    """Write the line above a list that people read: what stands in its columns."""
    click.echo("\t".join(name.upper() for name in names))


@asynccontextmanager
async def open_store(data: Path) -> AsyncIterator[Store]:
    """
    Open the store of *data* (or of GATEWAY_DATABASE_URL), and close it at the end.

    Raises:
        click.ClickException: it cannot be opened; ends the command with exit code 1.
    """
    from sqlalchemy.exc import SQLAlchemyError

    from gateway.store.engine import DatabaseUrlInvalid, Store
    from gateway.store.migrate import SchemaTooNew

    try:
        store = await Store.open(database_url(data, os.environ))
    except (DatabaseUrlInvalid, SchemaTooNew) as exc:
        raise click.ClickException(str(exc)) from exc
    except (SQLAlchemyError, OSError) as exc:
        # Only the class: the text of a driver's error may hold the URL, and with it a password.
        raise click.ClickException(f"the gateway's database cannot be opened ({type(exc).__name__})") from exc
    try:
        yield store
    finally:
        await store.close()


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run *coroutine* to its end in a new event loop and return its value; log lines go to stderr."""
    from gateway.telemetry import configure_logs

    configure_logs()
    return asyncio.run(coroutine)
