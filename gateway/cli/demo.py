"""
`gateway demo`: everything in one process on loopback, offline, with real parts; gone when it ends.

A demo provider and a contacts API (`gateway/demo/`), and the gateway as anyone would run it: a routes.yaml, a vault
in a fresh directory, keys made like `gateway keys create` makes them, tokens that came by a real authorization-code
flow.

Rules:
1. Nothing outside of 127.0.0.1 is dialled or listened on; nothing is written outside of a directory that is removed.
2. The usual ports are taken where they are free, so that the printed lines look like the README's; else any others.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from aiohttp import web

HOST = "127.0.0.1"
PORTS = {"traffic": 8080, "token_api": 8081, "console": 8082, "provider": 8083, "contacts": 8084}
PROJECT = "demo"
ROUTES = """\
version: 1
project: demo
listeners:
  traffic: {{bind: "127.0.0.1:{traffic}"}}
  token_api: {{bind: "127.0.0.1:{token_api}"}}
  console: {{bind: "127.0.0.1:{console}"}}
egress: {{allow_private: ["127.0.0.0/8"], allow_http: true}}   # for this demo only: everything is on this machine
policies:
  - {{id: demo-agents, effect: allow, connections: [google-contacts], roles: [demo]}}
routes:
  - name: google-contacts
    prefix: /google-contacts
    upstream: http://127.0.0.1:{contacts}
    connection: google-contacts
    allow: ["GET /v1/people/**"]
"""


@click.command()
def demo() -> None:
    """Try it: a provider, an API, two users and the gateway, on this machine, gone after Ctrl-C."""
    import uvloop

    with (
        tempfile.TemporaryDirectory(prefix="gateway-demo-") as directory,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(_demo(Path(directory)))
    click.echo("  Stopped; nothing is left.", err=True)


async def _demo(directory: Path) -> None:
    from gateway.config.load import load
    from gateway.demo.banner import Running, banner
    from gateway.demo.contacts import ContactsApi
    from gateway.demo.provider import TOKEN_LIFETIME_SECONDS, USERS, ClientCredentials, DemoProvider
    from gateway.demo.seed import TokenApi, seed
    from gateway.net.client import OutboundClient
    from gateway.server import Gateway, settle_garbage
    from gateway.telemetry import configure_logs

    configure_logs(level=40)  # errors only: the reader is watching the terminal for other things
    stop = _stop_on_signal()
    ports = {name: _free_port(port) for name, port in PORTS.items()}
    file = directory / "routes.yaml"
    file.write_text(ROUTES.format(**ports))
    configuration = load(file, environ={})
    credentials = ClientCredentials("demo-gateway", secrets.token_urlsafe(24))
    redirect_uri = f"http://{HOST}:{ports['traffic']}/v1/outbound/oauth/callback"
    provider = DemoProvider(
        clock=time.time, random_token=_random_token, client=credentials, redirect_uris=(redirect_uri,)
    )
    async with (
        _serving(provider.app, ports["provider"]) as provider_url,
        _serving(ContactsApi(provider.is_live).app, ports["contacts"]) as contacts_url,
    ):
        gateway = await Gateway.start(configuration, data=directory / "data", environ={})
        try:
            assert gateway.token_api_url is not None  # ROUTES has one
            management_key, *agent_keys = await _make_keys(directory / "data", USERS)
            async with OutboundClient(configuration.egress) as client:
                await seed(
                    client,
                    token_api=TokenApi(gateway.token_api_url, PROJECT, management_key),
                    provider_url=provider_url,
                    api_origin=contacts_url,
                    credentials=credentials,
                    redirect_uri=redirect_uri,
                    clock=time.time,
                    random_token=_random_token,
                )
            settle_garbage()
            running = Running(
                gateway_url=gateway.traffic_url,
                token_api_url=gateway.token_api_url,
                console_url=gateway.console_url,
                provider_url=provider_url,
                contacts_url=contacts_url,
                record=str(gateway.record_path),
                token_lifetime_seconds=int(TOKEN_LIFETIME_SECONDS),
                users=tuple(zip(USERS, agent_keys, strict=True)),
            )
            click.echo(banner(running))
            await stop.wait()
        finally:
            await gateway.stop(drain_seconds=1.0)


async def _make_keys(data: Path, users: tuple[str, ...]) -> list[str]:
    """Make a management key and an agent key for each of *users*, as `gateway keys create` does, and return them."""
    from gateway.access.keys import KeyRing
    from gateway.cli.data import open_store
    from gateway.store.changes import ChangeFeed

    async with open_store(data) as store:
        feed = ChangeFeed(store, clock=time.time, monotonic=time.monotonic)
        ring = KeyRing(store, feed, clock=time.time, random_bytes=os.urandom)
        made = [await ring.create_management("demo")]
        made += [
            await ring.create_agent(
                "demo-agent", user=user, tenants=(), roles=("demo",), permissions=(), scopes=(), expires_at=None
            )
            for user in users
        ]
    return [key.secret for key in made]


@asynccontextmanager
async def _serving(app: web.Application, port: int) -> AsyncIterator[str]:
    """Serve *app* on *port* of loopback; yield its URL."""
    from aiohttp import web

    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, HOST, port).start()
        yield f"http://{HOST}:{port}"
    finally:
        await runner.cleanup()


def _stop_on_signal() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


def _free_port(wanted: int) -> int:
    """Return *wanted* if nobody listens there, else a port that is free."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            found: int = probe.getsockname()[1]
            return found
    raise click.ClickException("no free port on 127.0.0.1")


def _random_token() -> str:
    return secrets.token_urlsafe(32)
