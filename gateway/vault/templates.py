"""
A connection made from a provider of the catalogue (descope-contract.md section 2, row 15).

Rules:
1. The template gives URLs, scopes, origins and type, as copies; its quirks stay where they are (connection.py, rule 5).
2. Where its metadata lies comes along, unless an endpoint is overridden: metadata of one authorization server does not
   speak of another's endpoints.
3. What is overridden wins. The only way to widen where tokens go is to say so: `origins` in the overrides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.providers.catalogue import VariableInvalid, catalogue
from gateway.vault.connection import Connection, ConnectionInvalid

# What may differ from the template: the rest is an argument of its own, or the template itself.
OVERRIDABLE = frozenset(
    {
        "name", "description", "authorization_url", "token_url", "revocation_url", "default_scopes", "origins", "pkce",
        "token_auth", "authorization_params", "token_params", "extra",
    }
)  # fmt: skip
# Whoever says one of them has an authorization server of their own.
ENDPOINTS = frozenset({"authorization_url", "token_url", "revocation_url"})


def from_template(
    template_id: str,
    *,
    id: str,  # the name that the contract has
    client_id: str = "",
    client_secret: str | None = None,
    variables: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Connection:
    """
    Return the connection *id* to the provider *template_id*; `connection.check` has the last word on it.

    *variables* fill in the template's (a shop's name). *overrides* are fields of `Connection` by name, see
    OVERRIDABLE. Its name is the provider's, unless it is overridden.

    Raises:
        ProviderUnknown: a KeyError, the catalogue has no such provider; carries the nearest id.
        ConnectionInvalid: a variable is missing, unknown or wrong, or a field cannot be overridden.
    """
    try:
        provider = catalogue().find(template_id).with_variables(variables or {})
    except VariableInvalid as exc:
        raise ConnectionInvalid(f"variables: {exc}") from exc
    overrides = dict(overrides or {})
    if not overrides.keys() <= OVERRIDABLE:
        raise ConnectionInvalid(f"overrides: expected only {', '.join(sorted(OVERRIDABLE))}")
    fields: dict[str, Any] = {
        "name": provider.name,
        "description": provider.description,
        "authorization_url": provider.authorization_url,
        "token_url": provider.token_url,
        "revocation_url": provider.revocation_url,
        "default_scopes": provider.default_scopes,
        "origins": provider.origins,
        "extra": {"discoveryUrl": provider.discovery_url} if provider.discovery_url else {},
    }
    if not ENDPOINTS.isdisjoint(overrides):
        fields["extra"] = {}
    if "extra" in overrides:
        overrides["extra"] = fields["extra"] | overrides["extra"]
    fields |= overrides
    return Connection(
        id=id,
        kind=provider.kind,
        client_id=client_id,
        client_secret=client_secret,
        template=provider.id,
        variables=tuple(sorted((variables or {}).items())),
        **fields,
    )
