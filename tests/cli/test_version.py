"""`gateway version`."""

from __future__ import annotations

from click.testing import CliRunner

from gateway import __version__
from gateway.cli import main


def test_version_is_the_packages() -> None:
    """
    The version goes to stdout, alone.
    """
    result = CliRunner().invoke(main, ["version"])

    assert (0, f"{__version__}\n") == (result.exit_code, result.stdout)
