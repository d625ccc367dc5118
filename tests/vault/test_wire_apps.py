"""Connections on the wire: both spellings are read, one is written, no secret comes back."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.vault import wire, wire_apps
from gateway.vault.connection import Connection


def test_app_comes_back_without_its_secret() -> None:
    """Both spellings of parameters are read, one is written; fields that nothing reads are kept; no secret is shown."""
    content = {
        "name": "Contacts",
        "clientSecret": "CANARY",
        "tokenUrl": "https://p.example/t",
        "tokenUrlParams": [{"key": "a", "value": "1"}, {"name": "b", "value": "2"}],
        "origins": ["HTTPS://P.example/"],
        "logo": "x",
        "prompt": ["consent"],
    }
    app = wire_apps.app_of(wire_apps.read_connection(wire.read_message(wire_apps.CreateApp, content), new_id="Cnew"))

    assert [{"key": "a", "value": "1"}, {"key": "b", "value": "2"}] == app["tokenUrlParams"]
    assert ("Cnew", ["https://p.example"], "x", ["consent"]) == (app["id"], app["origins"], app["logo"], app["prompt"])
    assert "CANARY" not in str(app)


BAD_APPS: dict[str, dict[str, Any]] = {
    "an unknown type": {"appType": "magic"},
    "an unknown way to authenticate": {"tokenEndpointAuthMethod": "magic"},
    "a parameter without a name": {"tokenUrlParams": [{"value": "1"}]},
    "an origin with a path": {"origins": ["https://p.example/x"]},
}


@pytest.mark.parametrize("changes", BAD_APPS.values(), ids=BAD_APPS.keys())
def test_refuses_bad_apps(changes: dict[str, Any]) -> None:
    """What cannot be a connection is 400."""
    with pytest.raises(wire.ApiError) as error:
        wire_apps.read_connection(wire.read_message(wire_apps.CreateApp, {"name": "x"} | changes), new_id="C")
    assert 400 == error.value.kind.status


def test_pkce_is_on_unless_turned_off() -> None:
    """An absent pkce is on (RFC 9700 2.1.1); false turns it off."""
    for content, expected in (({}, True), ({"pkce": None}, True), ({"pkce": False}, False)):
        app = wire.read_message(wire_apps.CreateApp, {"name": "x"} | content)
        assert isinstance(app, wire_apps.CreateApp)
        connection: Connection = wire_apps.read_connection(app, new_id="C")
        assert expected == connection.pkce


REGISTERED = Connection(
    "dcr", "Registered", client_id="made", client_secret="s3cret", token_auth="client_secret_post",
    extra={"useDcr": True, "discoveryUrl": "https://p.example", "callbackDomain": "c.example"},
)  # fmt: skip
SAME = ("made", "s3cret", "client_secret_post")
NONE = ("", None, None)
CLIENTS: dict[str, tuple[dict[str, Any], tuple[str, str | None, str | None]]] = {
    "nothing is said": ({}, SAME),
    "null and empty": ({"clientId": "", "clientSecret": None, "discoveryUrl": None, "callbackDomain": ""}, SAME),
    "the same is said": ({"discoveryUrl": "https://p.example", "callbackDomain": "https://C.example/"}, SAME),
    "another secret": ({"clientSecret": "new"}, ("made", "new", "client_secret_post")),
    "another way to authenticate": (
        {"tokenEndpointAuthMethod": "client_secret_basic"}, ("made", "s3cret", "client_secret_basic"),
    ),
    "a client of one's own": ({"clientId": "own", "clientSecret": "x"}, ("own", "x", "client_secret_post")),
    "another provider": ({"discoveryUrl": "https://q.example"}, NONE),
    "another place to register": ({"dcrUrl": "https://p.example/register"}, NONE),
    "another callback": ({"callbackDomain": "d.example"}, NONE),
    "another provider, and how": (
        {"discoveryUrl": "https://q.example", "tokenEndpointAuthMethod": "none"}, ("", None, "none"),
    ),
    "registered no more": ({"useDcr": False}, ("", "s3cret", "client_secret_post")),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "client"), CLIENTS.values(), ids=CLIENTS.keys())
def test_update_keeps_a_registered_client(changes: dict[str, Any], client: tuple[str, str | None, str | None]) -> None:
    """A client that was registered stays where nobody names one; where another is wanted, nothing of it stays."""
    app = wire.read_message(wire_apps.UpdateApp, {"app": {"id": "dcr", "name": "Registered"} | changes}).app
    changed = wire_apps.change_connection(REGISTERED, app)

    assert client == (changed.client_id, changed.client_secret, changed.token_auth)


def test_update_to_registration_leaves_no_other_client() -> None:
    """A connection whose client was brought, and is now to be registered, waits for the new one."""
    own = Connection("own", "Own", client_id="own", client_secret="s3cret", token_auth="client_secret_post")
    content = {"app": {"id": "own", "name": "Own", "useDcr": True, "discoveryUrl": "https://p.example"}}
    changed = wire_apps.change_connection(own, wire.read_message(wire_apps.UpdateApp, content).app)

    assert (True, None, None) == (changed.awaits_registration, changed.client_secret, changed.token_auth)
