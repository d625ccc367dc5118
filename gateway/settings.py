"""
What routes.yaml says, in the words of the parts: settings become the values that access, vault and descope want.

Parts import no configuration (DESIGN section 3); `server.py` hands them these.
"""

from __future__ import annotations

import time

from gateway.access.claims import ClaimNames, Issuer
from gateway.access.policy import Policy
from gateway.config.values import ConnectionSettings, DescopeSettings, IssuerSettings, PolicySettings
from gateway.descope import Descope
from gateway.net.client import OutboundClient
from gateway.vault.connection import Connection


def issuer(settings: IssuerSettings) -> Issuer:
    """Return an issuer as `access/` knows it."""
    claims = settings.claims
    return Issuer(
        issuer=settings.issuer,
        audience=settings.audience,
        jwks_uri=settings.jwks_uri,
        algorithms=settings.algorithms,
        claims=ClaimNames(
            user=claims.user,
            client=claims.client,
            roles=claims.roles,
            permissions=claims.permissions,
            scopes=claims.scopes,
            tenant=claims.tenant,
            tenants=claims.tenants,
        ),
        required_scope=settings.required_scope,
        user_prefix=settings.user_prefix,
    )


def policy(settings: PolicySettings) -> Policy:
    """Return a policy as `access/` knows it: a key that was not given matches everything."""

    def values(given: tuple[str, ...]) -> frozenset[str] | None:
        return frozenset(given) if given else None

    return Policy(
        id=settings.id,
        effect=settings.effect,
        roles=values(settings.roles),
        permissions=values(settings.permissions),
        scopes=values(settings.scopes),
        clients=values(settings.clients),
        users=values(settings.users),
        tenants=values(settings.tenants),
        connections=values(settings.connections),
        routes=values(settings.routes),
        methods=values(settings.methods),
        paths=settings.paths or None,
    )


def connection(settings: ConnectionSettings) -> Connection:
    """Return a connection as the vault keeps it, owned by the file."""
    return Connection(
        id=settings.id,
        name=settings.name,
        description=settings.description,
        kind=settings.type,
        client_id=settings.client_id or "",
        client_secret=settings.client_secret,
        authorization_url=settings.authorization_url or "",
        token_url=settings.token_url or "",
        revocation_url=settings.revocation_url or "",
        default_scopes=settings.scopes,
        origins=settings.origins,
        pkce=settings.pkce,
        token_auth=settings.token_auth,
        template=settings.template,
        variables=settings.variables,
        authorization_params=settings.authorization_params,
        token_params=settings.token_params,
        extra=_extra(settings),
        owner="file",
    )


def _extra(settings: ConnectionSettings) -> dict[str, object]:
    """Return the fields that the vault keeps under their names on the wire."""
    said = {
        "discoveryUrl": settings.discovery_url,
        "useDcr": settings.use_dcr or None,
        "dcrUrl": settings.dcr_url,
        "grantType": settings.grant_type,
        "installationId": settings.installation_id,
        "issuer": settings.issuer,
        "audience": settings.audience,
        "subject": settings.subject,
        "keyId": settings.key_id,
        "accessType": settings.access_type,
        "prompt": list(settings.prompt) or None,
        "defaultRedirectUrl": settings.default_redirect_url,
        "callbackDomain": settings.callback_domain,
        "tenantId": settings.tenant_id,
    }
    return {name: value for name, value in said.items() if value is not None}


def descope(settings: DescopeSettings, client: OutboundClient) -> Descope:
    """Return the token service that *settings* describe."""
    return Descope(
        client,
        base_url=settings.base_url,
        project=settings.project,
        management_key=None if settings.sends_caller else settings.credential,
        clock=time.time,
        monotonic=time.monotonic,
    )
