"""`gateway routes ls`: what agents reach under which prefix, as routes.yaml says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli.config import config_option, load_or_exit

if TYPE_CHECKING:
    from gateway.models import Route


@click.group()
def routes() -> None:
    """The upstream APIs of this gateway."""


@routes.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every key of each route.")
def ls(config_file: Path, *, as_json: bool) -> None:
    """List the routes: name, host and prefix, upstream, connection, whose token."""
    configuration = load_or_exit(config_file)
    if as_json:
        from gateway.config.show import as_data

        click.echo(json.dumps(as_data(configuration)["routes"], indent=2))
        return
    rows = [("NAME", "PREFIX", "UPSTREAM", "CONNECTION", "SUBJECT"), *map(_row, configuration.routes)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _row(route: Route) -> tuple[str, str, str, str, str]:
    prefix = f"{route.host or ''}{route.prefix or '/'}"
    return route.name, prefix, f"{route.origin}{route.base_path}", route.connection, route.subject
