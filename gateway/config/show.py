"""
A configuration written back in the form of routes.yaml, defaults filled in and secrets masked.

Rules:
1. What is shown loads again, and gives the same configuration but for the secrets.
2. A secret is shown as MASK, whether it came from a file, the environment or the text itself.
3. What was filled in by `${…}` elsewhere is shown: it is no secret by its key.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import yaml

from gateway.config.checks import OAUTH_KEYS
from gateway.config.values import (
    Configuration,
    ConnectionSettings,
    DescopeSettings,
    IssuerSettings,
    Listeners,
    PolicySettings,
    VaultSettings,
)
from gateway.models import CredentialPlace, Egress, Injection, OutboundProxy, Route

MASK = "***"


def as_yaml(configuration: Configuration) -> str:
    """Return *configuration* as the text of a routes.yaml, keys in the order of DESIGN section 9."""
    return yaml.dump(as_data(configuration), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def as_data(configuration: Configuration) -> dict[str, Any]:
    """Return *configuration* as plain data in the shape of routes.yaml."""
    data: dict[str, Any] = {
        "version": 1,
        "project": configuration.project,
        "listeners": _listeners(configuration.listeners),
        "drain_delay_seconds": configuration.drain_delay_seconds,
        "drain_seconds": configuration.drain_seconds,
        "callers": {
            "issuers": [_issuer(issuer) for issuer in configuration.issuers],
            "management_keys": configuration.management_keys,
        },
        "egress": _egress(configuration.egress),
        "record": asdict(configuration.record),
        "token_service": _token_service(configuration.token_service),
        "connections": [_connection(connection) for connection in configuration.connections],
    }
    if configuration.policies is not None:
        data["policies"] = [_policy(policy) for policy in configuration.policies]
    data["routes"] = [_route(route) for route in configuration.routes]
    return data


class _Dumper(yaml.SafeDumper):
    """Writes every list and mapping out: an alias would not load again."""

    def ignore_aliases(self, data: Any) -> bool:
        """Return True: nothing is written as an alias."""
        return True


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    # What looks like a template is text here: it has been filled in, or was escaped.
    return dumper.represent_str(text.replace("${", "$${"))


_Dumper.add_representer(str, _text)


def _listeners(listeners: Listeners) -> dict[str, Any]:
    traffic = listeners.traffic
    host = f"[{traffic.host}]" if ":" in traffic.host else traffic.host
    return {
        "traffic": {
            "bind": f"{host}:{traffic.port}",
            "public_url": traffic.public_url,
            "tls": asdict(traffic.tls) if traffic.tls else None,
            "redirect_urls": list(traffic.redirect_urls),
            "trusted_proxies": [str(network) for network in traffic.trusted_proxies],
            "limits": {
                "connections": traffic.limits.connections,
                "connections_per_address": traffic.limits.connections_per_address,
            },
        },
        "token_api": {"bind": str(listeners.token_api)} if listeners.token_api else "off",
        "console": {"bind": str(listeners.console)},
    }


def _issuer(issuer: IssuerSettings) -> dict[str, Any]:
    return {**asdict(issuer), "audience": list(issuer.audience), "algorithms": list(issuer.algorithms)}


def _egress(egress: Egress) -> dict[str, Any]:
    return {
        "allow_private": [str(network) for network in egress.allow_private],
        "allow_http": egress.allow_http,
        "ca_file": egress.ca_file,
        "proxy": None if egress.proxy is None else _proxy(egress.proxy),
    }


def _proxy(proxy: OutboundProxy) -> str:
    host = f"[{proxy.host}]" if ":" in proxy.host else proxy.host
    return f"http://{'' if proxy.credential is None else f'{MASK}:{MASK}@'}{host}:{proxy.port}"


def _token_service(service: VaultSettings | DescopeSettings) -> dict[str, Any]:
    if isinstance(service, VaultSettings):
        return {"kind": "vault"}
    credential = service.credential if service.sends_caller else MASK
    return {"kind": "descope", "project": service.project, "base_url": service.base_url, "credential": credential}


def _connection(connection: ConnectionSettings) -> dict[str, Any]:
    data = {
        **asdict(connection),
        "client_secret": MASK if connection.client_secret is not None else None,
        "scopes": list(connection.scopes),
        "origins": None if connection.origins is None else list(connection.origins),
        "variables": dict(connection.variables),
        "authorization_params": dict(connection.authorization_params),
        "token_params": dict(connection.token_params),
        "prompt": list(connection.prompt),
    }
    if connection.type == "apikey":  # which takes no OAuth keys
        return {key: value for key, value in data.items() if key not in OAUTH_KEYS}
    return data


def _policy(policy: PolicySettings) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(policy).items() if value}


def _route(route: Route) -> dict[str, Any]:
    data: dict[str, Any] = {
        "name": route.name,
        "prefix": route.prefix or "/",
        "host": route.host,
        "upstream": f"{route.origin}{route.base_path}",
        "connection": route.connection,
        "subject": route.subject,
        "account": route.account,
        "scopes": None if route.scopes is None else list(route.scopes),
        "encoded": sorted(route.encoded),
        "credential": _credential(route.credential),
        "inject": _injection(route.inject),
        "timeouts": asdict(route.timeouts),
        "limits": asdict(route.limits),
        "egress": _egress(route.egress),
        "upgrade": sorted(route.upgrade),
        "echo_guard": route.echo_guard,
        "method_override": route.method_override,
        "foreign_credentials": route.foreign_credentials,
        "multiplex": route.multiplex,
        "minting": route.minting,
        "jsonp": route.jsonp,
        "audit": route.audit,
    }
    if route.allow:
        data["allow"] = [f"{entry.method} {entry.path}" for entry in route.allow]
    return data


def _credential(place: CredentialPlace) -> str | dict[str, str]:
    return {"header": place.header} if place.kind == "header" else place.kind


def _injection(injection: Injection) -> dict[str, str]:
    if injection.kind == "basic":
        return {"basic": injection.format}
    if injection.kind == "query":
        return {"query": injection.name, "format": injection.format}
    return {"header": injection.name, "format": injection.format}
