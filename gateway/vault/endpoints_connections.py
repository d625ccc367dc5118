"""
What a management key does with connections, which the contract calls apps (rows 14 to 19).

Rules (descope-contract.md sections 2 and 11):
1. Ids and names are unique; an id never changes, nor does a connection's type. A connection made from a template is
   named like the provider, or where that name is taken like its own id.
2. What routes.yaml lists is read-only here: 409, and says where it is to be changed.
3. Where an update has the client registered elsewhere (`useDcr`), that is done before anything is changed.
4. Deleting a connection deletes its tokens, revoked where that can be done.
5. Each change is recorded, without secrets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from gateway.vault import wire
from gateway.vault.calls import Call
from gateway.vault.connection import Connection, ConnectionInvalid, with_client_of
from gateway.vault.connections import ConnectionExists, ConnectionMissing, ConnectionReadOnly
from gateway.vault.registration import RegistrationFailed
from gateway.vault.templates import from_template
from gateway.vault.wire import ApiError
from gateway.vault.wire_apps import (
    ChangedApp,
    CreateApp,
    CreateAppByTemplate,
    DeleteApp,
    Overrides,
    UpdateApp,
    app_of,
    change_connection,
    override_connection,
    read_connection,
)

Json = Mapping[str, object]
NOT_THERE = "There is no connection of this id."
READ_ONLY = "This connection belongs to routes.yaml: change it there, and restart the gateway."


async def create_app(call: Call) -> Json:
    """
    Create a connection.

    A connection for OAuth whose tokenEndpointAuthMethod is another than none needs a clientSecret.
    """
    new_id = call.api.vault.connections.new_id()
    return await _create(call, read_connection(wire.read_message(CreateApp, call.content), new_id=new_id))


async def create_app_by_template(call: Call) -> Json:
    """Create a connection to a well-known provider."""
    message = wire.read_message(CreateAppByTemplate, call.content)
    vault = call.api.vault
    try:
        made = from_template(
            message.templateId,
            id=message.id or vault.connections.new_id(),
            client_id=message.clientId or "",
            client_secret=message.clientSecret,
            variables=message.variables or {},
        )
    except KeyError as exc:
        raise ApiError(wire.TEMPLATE_NOT_FOUND, "There is no template of this templateId.") from exc
    except ConnectionInvalid as exc:
        raise ApiError(wire.INVALID, str(exc)) from exc
    if message.tenantId is not None:
        made = replace(made, extra=dict(made.extra) | {"tenantId": message.tenantId})
    wanted = override_connection(made, message.overrides or Overrides())
    if (message.overrides is None or message.overrides.name is None) and await vault.connections.is_name_taken(wanted):
        wanted = replace(wanted, name=wanted.id)  # the second connection to a provider; the first has its name
    return await _create(call, wanted)


async def _create(call: Call, wanted: Connection) -> Json:
    try:
        await call.api.vault.connections.check_free(wanted)  # a provider makes no client for what cannot be stored
        if call.api.connecting is not None:
            wanted = await call.api.connecting.register(wanted)
        created = await call.api.vault.connections.create(wanted)
    except (ConnectionInvalid, RegistrationFailed) as exc:
        raise ApiError(wire.INVALID, str(exc)) from exc
    except ConnectionExists as exc:
        raise ApiError(wire.APP_EXISTS, "Another connection has this id or this name.") from exc
    call.note_done("connection_created", connection=created.id)
    return {"app": app_of(created)}


async def update_app(call: Call) -> Json:
    """
    Change a connection: what is left out becomes empty, an absent client secret stays.

    A connection for OAuth whose tokenEndpointAuthMethod is another than none needs a clientSecret.
    """
    app = wire.read_message(UpdateApp, call.content).app
    connections = call.api.vault.connections
    try:
        registered = await _registered_again(call, app)
        changed = await connections.update(
            app.id, lambda stored: with_client_of(change_connection(stored, app), registered)
        )
    except ConnectionMissing as exc:
        raise ApiError(wire.APP_NOT_FOUND, NOT_THERE) from exc
    except ConnectionReadOnly as exc:
        raise ApiError(wire.APP_READ_ONLY, READ_ONLY) from exc
    except (ConnectionInvalid, RegistrationFailed) as exc:
        raise ApiError(wire.INVALID, str(exc)) from exc
    except ConnectionExists as exc:
        raise ApiError(wire.APP_EXISTS, "Another connection has this name.") from exc
    is_secret_new = app.clientSecret is not None or registered is not None
    call.note_done("connection_updated", connection=changed.id, new_secret=is_secret_new)
    return {"app": app_of(changed)}


async def _registered_again(call: Call, app: ChangedApp) -> Connection | None:
    """Return the connection with a new client where *app* has it registered at another place, else None."""
    stored = await call.api.vault.connections.load(app.id)
    if stored is None or stored.owner != "api" or call.api.connecting is None:
        return None
    wanted = change_connection(stored, app)
    if not wanted.awaits_registration:
        return None
    if await call.api.vault.connections.is_name_taken(wanted):
        raise ConnectionExists  # a provider makes no client for what cannot be stored
    return await call.api.connecting.register(wanted)


async def delete_app(call: Call) -> Json:
    """Delete a connection with its tokens."""
    message = wire.read_message(DeleteApp, call.content)
    try:
        removed = await call.api.vault.removal.connection(message.id)
    except ConnectionMissing as exc:
        raise ApiError(wire.APP_NOT_FOUND, NOT_THERE) from exc
    except ConnectionReadOnly as exc:
        raise ApiError(wire.APP_READ_ONLY, READ_ONLY) from exc
    call.note_done("connection_deleted", connection=message.id, **removed.for_the_record())
    return {}


async def load_app(call: Call) -> Json:
    """Load a connection."""
    connection = await call.api.vault.connections.load(call.params["id"])
    if connection is None:
        raise ApiError(wire.APP_NOT_FOUND, NOT_THERE)
    return {"app": app_of(connection)}


async def load_apps(call: Call) -> Json:
    """Load all connections."""
    return {"apps": [app_of(connection) for connection in await call.api.vault.connections.list()]}
