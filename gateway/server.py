"""
The gateway as a whole: every object is built here once, joined, served on three listeners, and ended in reverse.

Rules:
1. This is the only module that knows every part. Parts get plain values and protocols.
2. Nothing listens before everything behind it is ready; a start that fails leaves nothing open.
3. A stop drains: readiness turns false; after `drain_delay_seconds` no new connection is taken, what is in flight gets
   `drain_seconds`, then it is cut; tokens being refreshed are stored in any case.
4. Without aiohttp's C parser, or with a version that lacks a name we lean on, nothing starts.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import structlog
from aiohttp import web

from gateway import settings
from gateway.access.identity import Identity
from gateway.access.issuers import Issuers
from gateway.access.keys import KeyRing
from gateway.access.policy import PolicySet
from gateway.audit.commit import fdatasync
from gateway.audit.events import EventLog
from gateway.audit.log import RECORD_FILE, LogFile
from gateway.audit.space import DiskSpace
from gateway.config.values import Bind, Configuration, DescopeSettings, TrafficListener
from gateway.console import health
from gateway.console.listener import ConsoleRunner
from gateway.console.workers import Workers
from gateway.errors import Refusal
from gateway.listen.acceptor import Acceptor
from gateway.listen.connection import StrictServer
from gateway.listen.runner import StrictRunner
from gateway.models import Egress, Origin, Route
from gateway.net.client import OutboundClient
from gateway.net.tls import new_context
from gateway.providers.upstreams import upstream_rules
from gateway.proxy import aiohttp_names
from gateway.proxy.answers import NAME
from gateway.proxy.discovery import ProtectedResource
from gateway.proxy.exchange import Exchange
from gateway.proxy.forwarded import TrustedProxies
from gateway.proxy.lane import Lane
from gateway.proxy.opener import opener
from gateway.proxy.pool import UpstreamPool
from gateway.proxy.tokens import ConnectionTokens, TokenService
from gateway.proxy.traffic import TrafficServer
from gateway.store.changes import ChangeFeed
from gateway.store.engine import Store, sqlite_url
from gateway.store.instance import instance_id
from gateway.telemetry import Metrics, place_of
from gateway.vault import api as token_api
from gateway.vault.assembly import OpenVault, open_vault
from gateway.vault.listener import ApiRunner

SWEEP_SECONDS = 1.0
DATABASE_FILE = "gateway.db"

log = structlog.get_logger()


class CannotStart(Exception):
    """The gateway cannot serve here; the message says what to change."""


class Gateway:
    """A running gateway. Made by `start`, ended with `stop`; the three addresses are known in between."""

    def __init__(self, configuration: Configuration, data: Path, workers: Workers | None) -> None:
        self._configuration = configuration
        self._workers = workers
        self._owned = AsyncExitStack()
        self._is_ready = False
        self._traffic: TrafficServer | None = None
        self._acceptor: Acceptor | None = None
        self._runners: list[StrictRunner] = []
        self.metrics = Metrics()  # of the process: its owner may have more to tell
        self.record_path = data / RECORD_FILE
        self.traffic_url = ""
        self.token_api_url: str | None = None
        self.console_url = ""

    @classmethod
    async def start(
        cls,
        configuration: Configuration,
        *,
        data: Path,
        environ: Mapping[str, str],
        workers: Workers | None = None,
        sync: Callable[[int], None] = fdatasync,
    ) -> Gateway:
        """
        Build every part, open the listeners, and return the gateway once it serves.

        *data* is the directory of its state; *environ* gives GATEWAY_DATABASE_URL and the sealing key. *workers*: this
        one is not alone, and shares its addresses with the others. *sync* brings the record to the disk.

        Raises:
            CannotStart, SealingKeyError, SchemaTooNew, ConnectionInvalid, OSError: as their messages say.
        """
        if problems := aiohttp_names.missing():
            raise CannotStart(f"this installation of aiohttp cannot be used: it lacks {', '.join(problems)}")
        data.mkdir(parents=True, exist_ok=True, mode=0o700)  # noqa: ASYNC240  # once, before anything is served
        gateway = cls(configuration, data, workers)
        try:
            await gateway._build(data, environ, LogFile.open(gateway.record_path, sync=sync))
        except BaseException:
            await gateway._owned.aclose()
            raise
        gateway._is_ready = True
        return gateway

    async def stop(self, *, drain_seconds: float | None = None) -> None:
        """Drain, then end everything. *drain_seconds* replaces the configuration's, and leaves its delay out."""
        self._is_ready = False
        if drain_seconds is None and self._configuration.drain_delay_seconds:
            await asyncio.sleep(self._configuration.drain_delay_seconds)  # for balancers to notice
        seconds = self._configuration.drain_seconds if drain_seconds is None else drain_seconds
        if self._acceptor is not None and self._traffic is not None:
            self._acceptor.close()
            drained = await self._traffic.drain(seconds)
            log.info("drained", finished=drained.finished, cut=drained.cut)
        await self._owned.aclose()

    async def _build(self, data: Path, environ: Mapping[str, str], egress_log: LogFile) -> None:
        configuration = self._configuration
        own = self._owned
        metrics = self.metrics
        self.record_path = egress_log.path
        own.callback(egress_log.close)
        record = EventLog(egress_log, clock=time.time)
        places = {"data": data, "record": egress_log.path.parent}  # one disk, or a volume for each
        space = DiskSpace(places, min_free_bytes=configuration.record.min_free_bytes)
        space.look()
        for collector in (space, egress_log):
            metrics.register(collector)
        store = await Store.open(environ.get("GATEWAY_DATABASE_URL") or sqlite_url(data / DATABASE_FILE))
        own.push_async_callback(store.close)
        feed = ChangeFeed(store, clock=time.time, monotonic=time.monotonic)
        client = await own.enter_async_context(OutboundClient(configuration.egress))
        trusted = map(settings.issuer, configuration.issuers)
        issuers = Issuers(trusted, client, clock=time.time, monotonic=time.monotonic)
        own.push_async_callback(issuers.close)
        keyring = KeyRing(store, feed, clock=time.time, random_bytes=os.urandom)
        policies = PolicySet(
            None if configuration.policies is None else [settings.policy(entry) for entry in configuration.policies]
        )

        def identity(*, accepts_management: bool) -> Identity:
            return Identity(
                issuers, keyring, clock=time.time, monotonic=time.monotonic, accepts_management=accepts_management
            )

        service: TokenService
        opened: OpenVault | None = None
        if isinstance(configuration.token_service, DescopeSettings):
            service = settings.descope(configuration.token_service, client)
        else:
            opened = await self._open_vault(store, client, record, data, environ)
            service = opened.vault
            metrics.register(opened.metrics)
        # Descope's tokens do not change in this database: only the vault's depend on what it tells.
        heard = feed if opened is not None else None
        tokens = ConnectionTokens(service, clock=time.time, monotonic=time.monotonic, feed=heard)
        own.push_async_callback(tokens.close)
        feed.subscribe("tokens", tokens.forget_owner)
        feed.subscribe("connections", tokens.forget_connection)
        if opened is not None:
            feed.subscribe("connections", opened.vault.connection_changed)
        feed.on_gap(tokens.forget_all)
        loop = asyncio.get_running_loop()
        proxies = TrustedProxies(configuration.listeners.traffic.trusted_proxies)
        via = f"{NAME}-{instance_id(data, random_bytes=os.urandom)}"
        pools = _pools(configuration.routes, loop)
        lanes = {
            route.name: Lane(
                route,
                pools[route.name],
                upstream_rules(str(route.origin), await _template(route, opened)),
                via=via,
                has_conditions=policies.has_conditions(route.name, route.connection),
                trusts_proxies=bool(proxies),
            )
            for route in configuration.routes
        }
        for pool in set(pools.values()):
            own.push_async_callback(pool.close)
        exchange = Exchange(
            lanes=lanes,
            identity=identity(accepts_management=configuration.management_keys),
            policies=policies,
            tokens=tokens,
            egress_log=egress_log,
            metrics=metrics,
            resource=ProtectedResource(
                (entry.issuer for entry in configuration.issuers),
                (entry.required_scope for entry in configuration.issuers if entry.required_scope),
            ),
            pages=opened.pages if opened is not None else None,
            connects=opened.offers if opened is not None else None,
            project=configuration.project,
            public_url=_public_url(configuration.listeners.traffic),
            clock=time.time,
            monotonic=time.monotonic,
            via=via,
            trusted_proxies=proxies,
            random_bits=random.Random(os.urandom(32)).getrandbits,  # noqa: S311  # ids: 0.1 against 1.0 microseconds
        )
        await feed.start()
        own.push_async_callback(feed.stop)
        await self._sweep_in_background(exchange, space)
        await self._listen_for_operators(metrics, space, egress_log)
        if opened is not None and configuration.listeners.token_api is not None:
            app = token_api.create_app(
                opened.vault,
                identity(accepts_management=True),
                keyring,
                policies,
                project=configuration.project,
                record=record,
                random_bytes=os.urandom,
                issuers=issuers,
                connecting=opened.connecting,
            )
            runner = ApiRunner(app, on_refused=_counting(metrics, "token_api"), shutdown_timeout=5.0)
            self.token_api_url = await self._serve_app(runner, configuration.listeners.token_api)
        await self._listen_for_traffic(exchange, metrics, loop)
        if opened is not None:
            opened.registrar.start()

    async def _open_vault(
        self, store: Store, client: OutboundClient, record: EventLog, data: Path, environ: Mapping[str, str]
    ) -> OpenVault:
        opened = await open_vault(
            store,
            client,
            data=data,
            environ=environ,
            base_url=lambda: self._configuration.listeners.traffic.public_url or _dialable(self.traffic_url),
            redirect_urls=self._configuration.listeners.traffic.redirect_urls,
            allow_http=self._configuration.egress.allow_http,
            clock=time.time,
            monotonic=time.monotonic,
            random_bytes=os.urandom,
            record=record,
        )
        self._owned.push_async_callback(opened.close)
        vault = opened.vault
        done = await vault.connections.upsert_from_file(map(settings.connection, self._configuration.connections))
        if done.taken_over or done.left:
            log.warning("connections_of_file", taken_over=done.taken_over, left=done.left)
        for route in self._configuration.routes:
            connection = await vault.connections.load(route.connection)
            if connection is None:
                log.warning("connection_unknown", route=route.name, connection=route.connection)
            elif connection.origins is not None and str(route.origin) not in connection.origins:
                log.warning("origin_not_allowed", route=route.name, connection=connection.id, origin=str(route.origin))
        return opened

    async def _sweep_in_background(self, exchange: Exchange, space: DiskSpace) -> None:
        loop = asyncio.get_running_loop()

        def sweep_once() -> None:
            exchange.sweep()
            for door in (self._traffic, *self._runners):
                if door is not None:
                    door.sweep(loop.time())
            space.look()

        async def sweep() -> None:
            while True:
                await asyncio.sleep(SWEEP_SECONDS)
                try:
                    sweep_once()
                except Exception as exc:  # without it no deadline would be enforced any more
                    log.error("sweep_failed", error=type(exc).__name__, place=place_of(exc))

        task = asyncio.create_task(sweep(), name="sweep")

        async def end() -> None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            sweep_once()  # the last counts reach the record and the log

        self._owned.push_async_callback(end)

    async def _listen_for_operators(self, metrics: Metrics, space: DiskSpace, egress_log: LogFile) -> None:
        def readiness() -> health.Readiness:
            if not self._is_ready:
                return "draining"
            if not egress_log.is_available:
                return "record_unavailable"
            return "disk_low" if space.is_low else "ready"

        if self._workers is not None:
            await self._workers.listen(health.create_app(metrics, readiness=readiness))
            self._owned.push_async_callback(self._workers.close)
        app = health.create_app(metrics, readiness=readiness, workers=self._workers)
        runner = ConsoleRunner(app, on_refused=_counting(metrics, "console"), shutdown_timeout=5.0)
        self.console_url = await self._serve_app(runner, self._configuration.listeners.console)

    async def _serve_app(self, runner: StrictRunner, bind: Bind) -> str:
        """Serve *runner*'s application on *bind* until the gateway stops; return its URL."""
        runner.app.on_response_prepare.append(_without_server)
        self._runners.append(runner)
        await runner.setup()
        self._owned.push_async_callback(runner.cleanup)
        assert isinstance(runner.server, StrictServer)
        acceptor = await self._listen(runner.server, bind)
        return _url("http", bind.host, acceptor.port)

    async def _listen_for_traffic(self, exchange: Exchange, metrics: Metrics, loop: asyncio.AbstractEventLoop) -> None:
        bind = self._configuration.listeners.traffic
        tls = None
        if bind.tls is not None:
            tls = new_context(ssl.PROTOCOL_TLS_SERVER)
            try:
                tls.load_cert_chain(bind.tls.cert, bind.tls.key)
            except OSError as exc:  # ssl.SSLError is one
                raise CannotStart(f"listeners.traffic.tls: {bind.tls.cert}, {bind.tls.key}: {exc}") from exc
        count = _counting(metrics, "traffic")

        def refused(refusal: Refusal) -> None:
            count(refusal)
            exchange.count_unread(refusal)

        self._traffic = TrafficServer(
            exchange.serve,
            on_refused=refused,
            loop=loop,
            limits=bind.limits,
            is_shared=TrustedProxies(bind.trusted_proxies).includes,
        )
        self._acceptor = await self._listen(self._traffic, Bind(bind.host, bind.port), tls)
        self.traffic_url = _url("http" if tls is None else "https", bind.host, self._acceptor.port)

    async def _listen(self, server: StrictServer, bind: Bind, tls: ssl.SSLContext | None = None) -> Acceptor:
        """Give *server* what connects to *bind* until the gateway stops."""
        try:
            acceptor = await Acceptor.listen(
                server, bind.host, bind.port, tls=tls, reuse_port=self._workers is not None
            )
        except OSError as exc:
            raise CannotStart(f"cannot listen on {bind}: {exc.strerror or exc}") from exc
        self._owned.push_async_callback(acceptor.end)
        return acceptor


def settle_garbage() -> None:
    """Keep the collector's pauses out of requests: what was built at start is never looked at again."""
    # Collector pauses of 14-22 ms; freezing and raised thresholds halved p99 (DESIGN section 10).
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def _counting(metrics: Metrics, listener: str) -> Callable[[Refusal], None]:
    """Return what counts the requests that *listener* could not read."""
    return lambda refusal: metrics.unread(listener, refusal.code)


async def _without_server(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.popall("Server", None)  # threats E10: nobody needs to know what runs here


def _url(scheme: str, host: str, port: int) -> str:
    return f"{scheme}://{Bind(host, port)}"


def _dialable(url: str) -> str:
    """Return the URL of a listener on all addresses as a browser on this machine would dial it."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


def _public_url(listener: TrafficListener) -> Callable[[str], str]:
    """Return what turns a request's Host into the URL under which callers reach us; a configured one wins."""
    if listener.public_url is not None:
        configured = listener.public_url
        return lambda _: configured
    scheme = "http" if listener.tls is None else "https"
    return lambda host: f"{scheme}://{host}"


async def _template(route: Route, opened: OpenVault | None) -> str | None:
    """Return the provider of the catalogue that *route*'s connection was made from, as far as the vault knows it."""
    connection = await opened.vault.connections.load(route.connection) if opened is not None else None
    return connection.template if connection is not None else None


def _pools(routes: Iterable[Route], loop: asyncio.AbstractEventLoop) -> dict[str, UpstreamPool]:
    """Return the pool of each of *routes*, by its name: those that reach the same origin in the same way share one."""
    pools: dict[tuple[Origin, Egress, float], UpstreamPool] = {}
    by_name: dict[str, UpstreamPool] = {}
    for route in routes:
        way = route.origin, route.egress, route.timeouts.connect_seconds
        if way not in pools:
            pools[way] = UpstreamPool(route.origin, open_connection=opener(*way, loop), loop=loop)
        by_name[route.name] = pools[way]
    return by_name
