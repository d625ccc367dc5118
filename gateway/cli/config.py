"""
`gateway config schema|show`, and how every command finds and loads its routes.yaml.

Rules:
1. `-c/--config FILE`, else GATEWAY_CONFIG, else ./routes.yaml.
2. A file that cannot be used ends a command with exit code 3; every problem is on stderr, one on a line.
3. Secrets are masked, always: there is no flag to show them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from gateway.config.values import Configuration

DEFAULT_CONFIG = Path("routes.yaml")
EXIT_INVALID = 3

Command = TypeVar("Command", bound=Callable[..., Any])


def config_option(command: Command) -> Command:
    """Give the click command *command* the option `-c/--config` and with it the argument `config_file: Path`."""
    return click.option(
        "-c",
        "--config",
        "config_file",
        type=click.Path(dir_okay=False, path_type=Path),
        default=DEFAULT_CONFIG,
        envvar="GATEWAY_CONFIG",
        show_default=True,
        show_envvar=True,
        help="The configuration file.",
    )(command)


def load_or_exit(path: Path) -> Configuration:
    """
    Return the configuration in *path*, its templates filled in from this process's environment.

    Where it cannot be used: its problems on stderr, and the process ends with exit code 3.
    Warnings are left to the caller.
    """
    # Here, not above: pydantic and the models cost 0.2 s, which `gateway version` need not pay.
    from gateway.config.load import load
    from gateway.config.problems import ConfigurationError

    try:
        return load(path, environ=os.environ)
    except ConfigurationError as exc:
        click.echo(str(exc), err=True)
        raise click.exceptions.Exit(EXIT_INVALID) from exc


@click.group()
def config() -> None:
    """The form of routes.yaml, and what a file comes to."""


@config.command()
def schema() -> None:
    """Print the JSON schema of routes.yaml, for editors."""
    from gateway.config.json_schema import as_text

    click.echo(as_text(), nl=False)


@config.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of YAML.")
def show(config_file: Path, *, as_json: bool) -> None:
    """Print the configuration with every default filled in and every secret masked."""
    from gateway.config.show import as_data, as_yaml

    configuration = load_or_exit(config_file)
    if as_json:
        click.echo(json.dumps(as_data(configuration), indent=2))
    else:
        click.echo(as_yaml(configuration), nl=False)
