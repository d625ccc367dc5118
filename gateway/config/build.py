"""
From the file's shape to values: nothing is checked here any more, nothing can fail.

Rules:
1. Text becomes what it means: URLs become origins and paths, networks become networks, lists become tuples.
2. A route without `egress` has the global one.
3. Relative file names start at the directory of the configuration file.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from gateway.config.grammar import split_bind
from gateway.config.problems import Problem
from gateway.config.schema import (
    CallersFile,
    ConfigurationFile,
    DescopeFile,
    IssuerFile,
    ListenersFile,
    TokenApiFile,
)
from gateway.config.schema_routes import ConnectionFile, CredentialFile, EgressFile, InjectFile, PolicyFile, RouteFile
from gateway.config.urls import parse_host, parse_origin, parse_proxy, parse_url
from gateway.config.values import (
    Bind,
    Claims,
    Configuration,
    ConnectionSettings,
    DescopeSettings,
    IssuerSettings,
    Listeners,
    PolicySettings,
    RecordSettings,
    Tls,
    TrafficListener,
    VaultSettings,
)
from gateway.models import AllowPattern, CredentialPlace, Egress, Injection, Limits, Route, Timeouts, TrafficLimits
from gateway.providers.quirks import TokenAuth


def build(file: ConfigurationFile, *, directory: Path, warnings: tuple[Problem, ...]) -> Configuration:
    """Return the configuration that *file* says; *directory* is where relative file names start."""
    egress = _egress(file.egress, directory)
    token_service = _token_service(file)
    return Configuration(
        project=file.project,
        listeners=_listeners(file.listeners, directory, is_vault=isinstance(token_service, VaultSettings)),
        drain_delay_seconds=file.drain_delay_seconds,
        drain_seconds=file.drain_seconds,
        issuers=_issuers(file.callers),
        management_keys=file.callers.management_keys,
        egress=egress,
        record=RecordSettings(file.record.min_free_bytes),
        token_service=token_service,
        connections=tuple(map(_connection, file.connections)),
        policies=None if file.policies is None else tuple(map(_policy, file.policies)),
        routes=_sharing_parts(_route(route, egress, directory) for route in file.routes),
        warnings=warnings,
    )


def _listeners(file: ListenersFile, directory: Path, *, is_vault: bool) -> Listeners:
    host, port = split_bind(file.traffic.bind)
    tls = file.traffic.tls
    traffic = TrafficListener(
        host=host,
        port=port,
        public_url=str(parse_origin(file.traffic.public_url)) if file.traffic.public_url else None,
        tls=Tls(str(directory / tls.cert), str(directory / tls.key)) if tls else None,
        redirect_urls=tuple(file.traffic.redirect_urls),
        trusted_proxies=tuple(ip_network(network) for network in file.traffic.trusted_proxies),
        limits=TrafficLimits(
            connections=file.traffic.limits.connections,
            connections_per_address=file.traffic.limits.connections_per_address,
        ),
    )
    # DESIGN section 7: with Descope as token service the token API is off.
    is_on = isinstance(file.token_api, TokenApiFile) and is_vault
    token_api = Bind(*split_bind(file.token_api.bind)) if is_on and isinstance(file.token_api, TokenApiFile) else None
    return Listeners(traffic, token_api, Bind(*split_bind(file.console.bind)))


def _issuers(file: CallersFile) -> tuple[IssuerSettings, ...]:
    return tuple(map(_issuer, file.issuers))


def _issuer(file: IssuerFile) -> IssuerSettings:
    return IssuerSettings(
        issuer=file.issuer,
        audience=(file.audience,) if isinstance(file.audience, str) else tuple(file.audience),
        jwks_uri=file.jwks_uri,
        algorithms=tuple(file.algorithms),
        claims=Claims(**file.claims.model_dump()),
        required_scope=file.required_scope,
        user_prefix=file.user_prefix,
    )


def _egress(file: EgressFile, directory: Path) -> Egress:
    return Egress(
        allow_private=tuple(ip_network(network) for network in file.allow_private),
        allow_http=file.allow_http,
        ca_file=str(directory / file.ca_file) if file.ca_file else None,
        proxy=parse_proxy(file.proxy) if file.proxy else None,
    )


def _token_service(file: ConfigurationFile) -> VaultSettings | DescopeSettings:
    service = file.token_service
    if not isinstance(service, DescopeFile):
        return VaultSettings()
    return DescopeSettings(service.project, str(parse_url(service.base_url)), service.credential)


def _connection(file: ConnectionFile) -> ConnectionSettings:
    return ConnectionSettings(
        id=file.id,
        name=file.name or file.id,
        description=file.description,
        type=file.type,
        client_id=file.client_id,
        client_secret=file.client_secret,
        authorization_url=file.authorization_url,
        token_url=file.token_url,
        revocation_url=file.revocation_url,
        discovery_url=file.discovery_url,
        use_dcr=file.use_dcr,
        dcr_url=file.dcr_url,
        scopes=tuple(file.scopes),
        origins=None if file.origins is None else tuple(str(parse_origin(origin)) for origin in file.origins),
        pkce=file.pkce,
        token_auth=_token_auth(file),
        template=file.template,
        variables=tuple(sorted(file.variables.items())),
        grant_type=file.grant_type,
        installation_id=file.installation_id,
        issuer=file.issuer,
        audience=file.audience,
        subject=file.subject,
        key_id=file.key_id,
        authorization_params=tuple(file.authorization_params.items()),
        token_params=tuple(file.token_params.items()),
        access_type=file.access_type,
        prompt=tuple(file.prompt),
        default_redirect_url=file.default_redirect_url,
        callback_domain=file.callback_domain,
        tenant_id=file.tenant_id,
    )


def _token_auth(file: ConnectionFile) -> TokenAuth | None:
    if file.use_dcr or file.grant_type == "github_app":
        return file.token_auth
    if file.client_secret is None:
        # This passes `checks.py` only where none is needed: nothing is exchanged, or the client is public.
        return "none"
    return file.token_auth or (None if file.template else "client_secret_basic")


def _policy(file: PolicyFile) -> PolicySettings:
    return PolicySettings(
        id=file.id,
        effect=file.effect,
        roles=_values(file.roles),
        permissions=_values(file.permissions),
        scopes=_values(file.scopes),
        clients=_values(file.clients),
        users=_values(file.users),
        tenants=_values(file.tenants),
        connections=_values(file.connections),
        routes=_values(file.routes),
        methods=_values(file.methods),
        paths=_values(file.paths),
    )


def _values(entries: list[str] | None) -> tuple[str, ...]:
    # A list that is there is never empty (schema_routes.py): () always means that the key was absent.
    return tuple(entries or ())


def _route(file: RouteFile, egress: Egress, directory: Path) -> Route:
    upstream = parse_url(file.upstream)
    return Route(
        name=file.name,
        prefix="" if file.prefix == "/" else file.prefix,
        origin=upstream.origin,
        connection=file.connection,
        base_path=upstream.path,
        host=parse_host(file.host) if file.host else None,
        subject=file.subject,
        account=file.account,
        scopes=None if file.scopes is None else tuple(sorted(set(file.scopes))),
        allow=tuple(map(_allow, file.allow or ())),
        encoded=frozenset(file.encoded),
        credential=_credential(file),
        inject=_injection(file.inject),
        timeouts=Timeouts(**file.timeouts.model_dump()),
        limits=Limits(**file.limits.model_dump()),
        egress=egress if file.egress is None else _egress(file.egress, directory),
        upgrade=frozenset(file.upgrade),
        echo_guard=file.echo_guard,
        method_override=file.method_override,
        foreign_credentials=file.foreign_credentials,
        multiplex=file.multiplex,
        minting=file.minting,
        jsonp=file.jsonp,
        audit=file.audit,
    )


def _sharing_parts(routes: Iterable[Route]) -> tuple[Route, ...]:
    """
    Return *routes*, of which those that say the same have the same objects for it.

    So that what 1,000 routes have in common is in the processor's caches: a call touches one route's, and a part of its
    own costs it 0.1 microseconds.
    """
    same: dict[tuple[type, object], Any] = {}

    def shared(value: Any) -> Any:
        return same.setdefault((type(value), value), value)

    return tuple(
        replace(route, **{part.name: shared(getattr(route, part.name)) for part in fields(Route)}) for route in routes
    )


def _allow(text: str) -> AllowPattern:
    method, _, path = text.partition(" ")
    return AllowPattern(method, path)


def _credential(file: RouteFile) -> CredentialPlace:
    if isinstance(file.credential, CredentialFile):
        header = file.credential.header
        # The Authorization field has its own kind, which knows the schemes.
        return CredentialPlace() if header.lower() == "authorization" else CredentialPlace("header", header)
    return CredentialPlace(file.credential)


def _injection(file: InjectFile) -> Injection:
    if file.basic is not None:
        return Injection("basic", "Authorization", file.basic)
    if file.query is not None:
        return Injection("query", file.query, file.format or "{token}")
    return Injection("header", file.header or "Authorization", file.format or "Bearer {token}")
