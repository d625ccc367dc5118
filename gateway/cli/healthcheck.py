"""
`gateway healthcheck`: is the gateway on this machine ready? For a container's HEALTHCHECK.

Exit code 0 when /readyz says so, 1 when it does not, within three seconds.
"""

from __future__ import annotations

import http.client
import sys

import click

TIMEOUT_SECONDS = 3.0


@click.command()
@click.option(
    "--console",
    metavar="H:P",
    default="127.0.0.1:8082",
    envvar="GATEWAY_CONSOLE",
    show_default=True,
    show_envvar=True,
    help="Address of the console listener.",
)
def healthcheck(console: str) -> None:
    """Tell whether the gateway on this machine is ready."""
    host, _, port = console.rpartition(":")
    host = "127.0.0.1" if host in ("0.0.0.0", "") else host.strip("[]")  # noqa: S104  # asks, does not listen
    connection = http.client.HTTPConnection(host, int(port) if port.isdigit() else 0, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/readyz")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as exc:
        click.echo(f"no answer from {console} ({type(exc).__name__})", err=True)
        sys.exit(1)
    finally:
        connection.close()
    click.echo("ready" if status == 200 else f"not ready ({status})", err=status != 200)
    sys.exit(0 if status == 200 else 1)
