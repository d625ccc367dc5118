"""
The command line. Each command lives in the file of its name and is imported when it is asked for.

`gateway version` must not pay for what `gateway serve` needs: hence the table instead of imports.
"""

from __future__ import annotations

from importlib import import_module

import click

# command -> module below gateway.cli; the attribute has the command's name
COMMANDS: dict[str, str] = {
    "check": "check",
    "config": "config",
    "connect": "connect",
    "connections": "connections",
    "demo": "demo",
    "healthcheck": "healthcheck",
    "keys": "keys",
    "routes": "routes",
    "sealing": "sealing",
    "serve": "serve",
    "tokens": "tokens",
    "version": "version",
}


class _Lazy(click.Group):
    """A group that imports a command's module when the command is used, or listed by --help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return the command, or None for a name that is none."""
        module = COMMANDS.get(cmd_name)
        if module is None:
            return None
        command = getattr(import_module(f"gateway.cli.{module}"), cmd_name)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=_Lazy)
def main() -> None:
    """Let agents call third-party APIs through one URL, without ever holding a provider's token."""
