"""`gateway version`: which version this is."""

import click

from gateway import __version__


@click.command()
def version() -> None:
    """Print the version."""
    click.echo(__version__)
