"""
`gateway serve`: run the gateway until SIGTERM or SIGINT.

Rules:
1. Flags win over routes.yaml. What cannot be used is said, with its place, before anything listens (exit code 3).
2. A first signal drains, a second one ends at once.
3. Logs are JSON lines on stderr; stdout stays empty.
4. Nobody who serves waits for the reader of the logs (`telemetry.LogLines`).
5. The process may have as many descriptors open as the system allows it at all (`ulimit -Hn`).
6. The process leaves no core dump, and no other process of its user can read its memory: both hold tokens (threats E6).
7. With several workers this process keeps the addresses and their number (`supervisor.py`), and serves nothing itself.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import resource
import signal
import sys
import time
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TextIO, TypeVar, cast

import click

from gateway.cli.config import config_option, load_or_exit
from gateway.cli.data import EXIT_FAILURE, data_option

if TYPE_CHECKING:
    from gateway.config.values import Bind, Configuration, TrafficListener
    from gateway.supervisor import Worker
    from gateway.telemetry import LogLines

Listener = TypeVar("Listener", "Bind", "TrafficListener")

PR_SET_DUMPABLE = 4  # prctl(2)
MAX_WORKERS = 64  # as many as may write to one record
# After drain_delay_seconds and drain_seconds: 10 s for open connections, 90 s for exchanges, 75 s for accounts that are
# being connected (docs/vault.md), and some to end. Only a worker that hangs is killed.
STOP_SECONDS = 180.0
ORPHAN_SECONDS = 2.0  # of drain without a supervisor: whoever starts a new one needs the addresses


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
@click.option(
    "--workers",
    metavar="N",
    type=click.IntRange(1, MAX_WORKERS),
    default=1,
    envvar="GATEWAY_WORKERS",
    show_default=True,
    show_envvar=True,
    help="How many processes serve.",
)
def serve(
    config_file: Path, data: Path, traffic: str | None, token_api: str | None, console: str | None, workers: int
) -> None:
    """Run the gateway."""
    gc.disable()  # until it serves: what a start makes stays, and looking through it again and again took 0.15 s
    try:
        configuration = load_or_exit(config_file)
        for warning in configuration.warnings:
            click.echo(f"warning: {warning}", err=True)
        configuration = rebind(configuration, traffic=traffic, token_api=token_api, console=console)
        if workers == 1:
            run_until_signal(configuration, data)
        else:
            supervise_until_signal(configuration, data, workers)
    finally:
        gc.enable()


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


def supervise_until_signal(configuration: Configuration, data: Path, count: int) -> None:
    """Have *count* workers serve *configuration* until a signal says stop; exit with their code, or by the signal."""
    from gateway.supervisor import PromptLines, Supervisor
    from gateway.telemetry import configure_logs

    configure_logs(stream=cast(TextIO, PromptLines(sys.stderr.fileno())))
    close_memory()  # of the workers, too, from their first instant on
    with ExitStack() as owned:
        configuration = reserve(configuration, owned)
        sockets = Path(owned.enter_context(TemporaryDirectory(prefix="gateway-")))
        import gateway.server  # noqa: F401  # once for all: a worker that is started again serves after 0.3 s, not 1

        gc.freeze()  # a worker has 30 MB of its own, not 58: its collector does not write to what it shares with us
        gc.enable()
        code = Supervisor(
            count,
            partial(run_until_signal, configuration, data),
            directory=sockets,
            stop_seconds=configuration.drain_delay_seconds + configuration.drain_seconds + STOP_SECONDS,
            monotonic=time.monotonic,
        ).run()
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


def reserve(configuration: Configuration, owned: ExitStack) -> Configuration:
    """Return *configuration* with the ports that are reserved until *owned* ends; exit with 1 where one is in use."""
    from gateway.config.values import Bind
    from gateway.listen.reservation import Reservation

    def reserved(listener: Listener) -> Listener:
        try:
            reservation = Reservation.take(listener.host, listener.port)
        except OSError as exc:
            place = Bind(listener.host, listener.port)
            click.echo(f"gateway: cannot listen on {place}: {exc.strerror or exc}", err=True)
            sys.exit(EXIT_FAILURE)
        owned.callback(reservation.release)
        return replace(listener, port=reservation.port)

    doors = configuration.listeners
    token_api = None if doors.token_api is None else reserved(doors.token_api)
    doors = replace(doors, traffic=reserved(doors.traffic), token_api=token_api, console=reserved(doors.console))
    return replace(configuration, listeners=doors)


def run_until_signal(configuration: Configuration, data: Path, worker: Worker | None = None) -> None:
    """
    Serve *configuration* with the state in *data* until a signal says stop; exit with 1 when it cannot start.

    *worker*: this process is one of several, and stops when its supervisor says so, too.
    """
    import uvloop
    from sqlalchemy.exc import SQLAlchemyError

    from gateway.server import CannotStart
    from gateway.store.engine import DatabaseUrlInvalid
    from gateway.store.migrate import SchemaTooNew
    from gateway.telemetry import LogLines, configure_logs
    from gateway.vault.connection import ConnectionInvalid
    from gateway.vault.sealing import SealingKeyError

    gc.freeze()  # the modules: `settle_garbage` need not look through them, 60 to 110 ms
    lines = LogLines(sys.stderr.fileno())
    configure_logs(stream=lines, worker=worker.number if worker is not None else None)
    close_memory()
    raise_descriptors(2 * configuration.listeners.traffic.limits.connections)  # of agents, and of their calls
    try:
        with closing(lines), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(configuration, data, lines, worker))
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


async def _serve(configuration: Configuration, data: Path, lines: LogLines, worker: Worker | None) -> None:
    import structlog

    from gateway.console.workers import Workers
    from gateway.server import Gateway, settle_garbage
    from gateway.telemetry import LoopLag

    log = structlog.get_logger()
    workers = None if worker is None else Workers(worker.directory, number=worker.number, count=worker.count)
    gateway = await Gateway.start(configuration, data=data, environ=os.environ, workers=workers)
    settle_garbage()
    gc.enable()
    loop = asyncio.get_running_loop()
    for collector in (lines, LoopLag(loop, monotonic=time.monotonic)):
        gateway.metrics.register(collector)
    stop = _stop_of(worker)
    log.info(
        "serving",
        traffic=gateway.traffic_url,
        token_api=gateway.token_api_url,
        console=gateway.console_url,
        record=str(gateway.record_path),
        routes=len(configuration.routes),
    )
    if worker is not None:
        worker.tell_serving()
    is_orphan = await stop
    if worker is None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)  # the next one ends the process at once: no KeyboardInterrupt
    if is_orphan:
        log.error("supervisor_died", seconds=ORPHAN_SECONDS)
    else:
        log.info("draining", delay=configuration.drain_delay_seconds, seconds=configuration.drain_seconds)
    await gateway.stop(drain_seconds=ORPHAN_SECONDS if is_orphan else None)
    if worker is not None and is_orphan:
        with suppress(OSError):  # the last one removes what the supervisor cannot any more
            worker.directory.rmdir()
    log.info("stopped")


def _stop_of(worker: Worker | None) -> asyncio.Future[bool]:
    """Return what is done when this process is to stop: with True if its supervisor has died."""
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[bool] = loop.create_future()

    def end(is_orphan: bool) -> None:
        if not stop.done():
            stop.set_result(is_orphan)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end, False)
    if worker is not None:
        worker.on_stop(end)
    return stop
