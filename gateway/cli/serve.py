"""
`gateway serve`: run the gateway until SIGTERM or SIGINT.

Rules:
1. Flags win over routes.yaml. What cannot be used is said, with its place, before anything listens (exit code 3).
2. A first signal drains, a second one ends at once.
3. Logs are JSON lines on stderr; stdout stays empty.
4. Nobody who serves waits for the reader of the logs (`telemetry.LogLines`).
5. The process may have as many descriptors open as the system allows it at all (`ulimit -Hn`).
6. The process leaves no core dump, and no other process of its user can read its memory: both hold tokens (threats E6).
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import signal
import sys
import time
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli.config import config_option, load_or_exit
from gateway.cli.data import EXIT_FAILURE, data_option

if TYPE_CHECKING:
    from gateway.config.values import Configuration
    from gateway.telemetry import LogLines


PR_SET_DUMPABLE = 4  # prctl(2)


@click.command()
@config_option
@data_option
@click.option("--traffic", metavar="H:P", envvar="GATEWAY_TRAFFIC", show_envvar=True, help="Address for agents.")
@click.option(
    "--token-api",
    metavar="H:P",
    envvar="GATEWAY_TOKEN_API",
    show_envvar=True,
    help="Address for services with keys, or off.",
)
@click.option(
    "--console",
    metavar="H:P",
    envvar="GATEWAY_CONSOLE",
    show_envvar=True,
    help="Address for operators: health and metrics.",
)
@click.option("--workers", metavar="N", type=click.IntRange(min=1), default=1, show_default=True)
def serve(
    config_file: Path, data: Path, traffic: str | None, token_api: str | None, console: str | None, workers: int
) -> None:
    """Run the gateway."""
    if workers > 1:
        raise click.UsageError("--workers: more than one worker is not supported yet; run more replicas")
    configuration = load_or_exit(config_file)
    for warning in configuration.warnings:
        click.echo(f"warning: {warning}", err=True)
    configuration = rebind(configuration, traffic=traffic, token_api=token_api, console=console)
    run_until_signal(configuration, data)


def rebind(
    configuration: Configuration, *, traffic: str | None, token_api: str | None, console: str | None
) -> Configuration:
    """Return *configuration* with the addresses that the flags give."""
    from gateway.config.values import Bind

    listeners = configuration.listeners
    if traffic is not None:
        host, port = _address("--traffic", traffic)
        listeners = replace(listeners, traffic=replace(listeners.traffic, host=host, port=port))
    if token_api is not None:
        door = None if token_api == "off" else Bind(*_address("--token-api", token_api))  # noqa: S105  # no password
        listeners = replace(listeners, token_api=door)
    if console is not None:
        listeners = replace(listeners, console=Bind(*_address("--console", console)))
    return replace(configuration, listeners=listeners)


def _address(flag: str, text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65_535:
        raise click.UsageError(f'{flag}: expected HOST:PORT, got "{text}"')
    return host.strip("[]"), int(port)


def run_until_signal(configuration: Configuration, data: Path) -> None:
    """Serve *configuration* with the state in *data* until a signal says stop; exit with 1 when it cannot start."""
    import uvloop
    from sqlalchemy.exc import SQLAlchemyError

    from gateway.server import CannotStart
    from gateway.store.engine import DatabaseUrlInvalid
    from gateway.store.migrate import SchemaTooNew
    from gateway.telemetry import LogLines, configure_logs
    from gateway.vault.connection import ConnectionInvalid
    from gateway.vault.sealing import SealingKeyError

    lines = LogLines(sys.stderr.fileno())
    configure_logs(stream=lines)
    close_memory()
    raise_descriptors(2 * configuration.listeners.traffic.limits.connections)  # of agents, and of their calls
    try:
        with closing(lines), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(configuration, data, lines))
    except (CannotStart, DatabaseUrlInvalid, SchemaTooNew, ConnectionInvalid, SealingKeyError) as exc:
        click.echo(f"gateway: {exc}", err=True)
        sys.exit(EXIT_FAILURE)
    except OSError as exc:
        place = f"{exc.filename}: " if exc.filename else ""
        click.echo(f"gateway: cannot start: {place}{exc.strerror or exc}", err=True)
        sys.exit(EXIT_FAILURE)
    except SQLAlchemyError as exc:
        # Only the class: a driver's text may hold the database URL, and with it a password.
        click.echo(f"gateway: the database cannot be used ({type(exc).__name__})", err=True)
        sys.exit(EXIT_FAILURE)


def close_memory() -> None:
    """
    Have the system write no core dump of this process and, on Linux, let no process without privileges trace it.

    A core that a collector takes through a pipe ignores the limit (core(5)): only the second stops it.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE) is not possible")


def raise_descriptors(wanted: int) -> None:
    """
    Let this process have as many descriptors as its hard limit says; warn where that is less than *wanted*.

    A shell and systemd give 1,024 and allow more. Without one left, a new connection ends without a word.
    """
    import structlog

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS takes no "unlimited" here
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit != resource.RLIM_INFINITY and limit < wanted:
        structlog.get_logger().warning("descriptors_few", limit=limit, wanted=wanted)


async def _serve(configuration: Configuration, data: Path, lines: LogLines) -> None:
    import structlog

    from gateway.server import Gateway, settle_garbage
    from gateway.telemetry import LoopLag

    log = structlog.get_logger()
    gateway = await Gateway.start(configuration, data=data, environ=os.environ)
    settle_garbage()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for collector in (lines, LoopLag(loop, monotonic=time.monotonic)):
        gateway.metrics.register(collector)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    log.info(
        "serving",
        traffic=gateway.traffic_url,
        token_api=gateway.token_api_url,
        console=gateway.console_url,
        record=str(gateway.record_path),
        routes=len(configuration.routes),
    )
    await stop.wait()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_DFL)  # the next one ends the process at once: no KeyboardInterrupt, no cleanup
    log.info("draining", delay=configuration.drain_delay_seconds, seconds=configuration.drain_seconds)
    await gateway.stop()
    log.info("stopped")
