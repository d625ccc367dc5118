"""Connections by the API: made, changed, read-only where a file owns them, and gone with their tokens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from gateway.vault.service import Vault
from tests.vault.api_server import Api, serve
from tests.vault.conftest import House

APP = "/v1/mgmt/outbound/app"
FULL: dict[str, Any] = {
    "id": "mail",
    "name": "Mail",
    "clientId": "me",
    "clientSecret": "CANARY",
    "tokenUrl": "https://p.example/t",
    "tokenUrlParams": [{"name": "a", "value": "1"}],
    "defaultScopes": ["read"],
    "origins": ["https://p.example"],
    "logo": "x",
    "useDcr": False,
}


@pytest.fixture
async def api(house: House, vault: Vault) -> AsyncIterator[Api]:
    """A running token API; `contacts` has a token, `filed` belongs to routes.yaml."""
    await house.grant(vault)
    await vault.connections.upsert_from_file([replace(house.connection(), id="filed", name="Filed")])
    async with serve(house, vault) as api:
        yield api


async def test_update_overrides_and_keeps(api: Api, vault: Vault) -> None:
    """What is left out becomes empty; the secret, origins and what SDKs cannot say stay."""
    assert 200 == (await api.call("POST", f"{APP}/create", FULL))[0]
    status, answer, _ = await api.call("POST", f"{APP}/update", {"app": {"id": "mail", "name": "Post", "logo": None}})
    app = answer["app"]
    stored = await vault.connections.load("mail")

    assert (200, "Post", "", [], "") == (status, app["name"], app["tokenUrl"], app["tokenUrlParams"], app["clientId"])
    assert (["https://p.example"], False, False) == (app["origins"], app["useDcr"], "logo" in app)
    assert stored is not None
    assert "CANARY" == stored.client_secret
    assert "CANARY" not in str(answer) + str(api.recorded)
    await api.call("POST", f"{APP}/update", {"app": {"id": "mail", "name": "Post", "clientSecret": "NEW"}})
    changed = await vault.connections.load("mail")
    assert changed is not None
    assert "NEW" == changed.client_secret


REFUSED: dict[str, tuple[str, dict[str, Any], int, str]] = {
    "an update that is not wrapped": ("update", {"id": "contacts", "name": "x"}, 400, "E011003"),
    "an update without a name": ("update", {"app": {"id": "contacts"}}, 400, "E011004"),
    "an update of nothing": ("update", {"app": {"id": "nothing", "name": "x"}}, 404, "E151002"),
    "an update of the file's": ("update", {"app": {"id": "filed", "name": "x"}}, 409, "E151003"),
    "an update to a name that is taken": ("update", {"app": {"id": "contacts", "name": "Filed"}}, 409, "E151001"),
    "an update to another type": (
        "update", {"app": {"id": "contacts", "name": "x", "appType": "apikey"}}, 400, "E011004",
    ),
    "an update to a URL that is none": (
        "update", {"app": {"id": "contacts", "name": "x", "tokenUrl": "CANARY"}}, 400, "E011004",
    ),
    "a delete of nothing": ("delete", {"id": "nothing"}, 404, "E151002"),
    "a delete of the file's": ("delete", {"id": "filed"}, 409, "E151003"),
    "a delete without an id": ("delete", {}, 400, "E011003"),
    "a template that is none": ("create/bytemplate", {"templateId": "nothing"}, 404, "E151004"),
    "a template without its variable": ("create/bytemplate", {"templateId": "shopify"}, 400, "E011004"),
    "a type that is a list": ("create", {"name": "x", "appType": []}, 400, "E011004"),
}  # fmt: skip


@pytest.mark.parametrize("engine", ["sqlite"])
@pytest.mark.parametrize(("path", "body", "status", "code"), REFUSED.values(), ids=REFUSED.keys())
async def test_refused_changes_change_nothing(
    api: Api, vault: Vault, path: str, body: dict[str, Any], status: int, code: str
) -> None:
    """Each gets its error, which repeats no value, and every connection is as it was."""
    before = await vault.connections.list()
    answered, answer, _ = await api.call("POST", f"{APP}/{path}", body)
    assert (status, code) == (answered, answer["errorCode"]), answer
    assert "CANARY" not in str(answer)
    assert before == await vault.connections.list()
    assert [event for event, _ in api.recorded] in ([], ["change_intent", "change_refused"])


UNUSABLE: dict[str, Any] = {
    "discoveryUrl": "CANARY",
    "dcrUrl": "ftp://CANARY.example",
    "defaultRedirectUrl": "javascript:CANARY",
    "callbackDomain": "p.example/CANARY",
    "accessType": "CANARY",
    "prompt": ["login", "CANARY"],
    "grantType": "CANARY",
}


@pytest.mark.parametrize("engine", ["sqlite"])
@pytest.mark.parametrize(("field", "value"), UNUSABLE.items(), ids=UNUSABLE.keys())
async def test_further_fields_are_checked_on_every_way_in(api: Api, vault: Vault, field: str, value: Any) -> None:
    """Making, changing and making from a template refuse alike, with the field's name; empty and null are no value."""
    before = await vault.connections.list()
    app = {"id": "mail", "name": "Mail"}
    for path, body in (
        ("create", app | {field: value}),
        ("update", {"app": {"id": "contacts", "name": "Contacts", field: value}}),
        ("create/bytemplate", {"templateId": "google", "id": "mail", "overrides": {field: value}}),
    ):
        status, answer, _ = await api.call("POST", f"{APP}/{path}", body)
        assert (400, "E011004") == (status, answer["errorCode"]), answer
        assert answer["errorMessage"].startswith(f"{field}: expected")
        assert "CANARY" not in str(answer)
    assert before == await vault.connections.list()

    for nothing in (None, [] if field == "prompt" else ""):
        status, answer, _ = await api.call("POST", f"{APP}/create", app | {field: nothing})
        assert 200 == status, answer
        await api.call("POST", f"{APP}/delete", {"id": "mail"})


NOT_STORED = ("description", "logo", "callbackDomain", "accessType", "tenantId", "issuer", "prompt")


@pytest.mark.parametrize("field", NOT_STORED)
async def test_text_that_one_engine_cannot_hold_is_refused(api: Api, field: str) -> None:
    """U+0000 is 400 wherever text is free, on both engines alike, and keeps nobody from making the next connection."""
    text: Any = ["a\0b"] if field == "prompt" else "a\0b"
    status, answer, _ = await api.call("POST", f"{APP}/create", FULL | {field: text})
    assert (400, "E011004") == (status, answer["errorCode"]), answer
    assert answer["errorMessage"].startswith(field)

    assert 200 == (await api.call("POST", f"{APP}/create", FULL))[0]


async def test_delete_takes_the_tokens_along(api: Api, house: House) -> None:
    """No token of a deleted connection is left, and caches are told."""
    status, answer, _ = await api.call("POST", f"{APP}/delete", {"id": "contacts"})
    assert (200, {}) == (status, answer)
    status, answer, _ = await api.call("POST", f"{APP}/user/token/latest", {"appId": "contacts", "userId": "alice"})
    assert (404, "E111504") == (status, answer["errorCode"])
    assert "contacts" == house.announced("connections")[-1]
    (intent, began), (event, fields) = api.recorded[:2]
    assert ("change_intent", "delete_app", began["id"]) == (intent, began["change"], fields["id"])
    assert ("connection_deleted", 1) == (event, fields["deleted"])


async def test_templates_make_connections(api: Api) -> None:
    """A template brings URLs and origins, variables fill it in, overrides win, the id may be generated."""
    body = {
        "templateId": "shopify", "clientId": "me", "clientSecret": "CANARY", "variables": {"shop": "toys"},
        "overrides": {"name": "Our shop", "defaultScopes": ["read_orders"]},
    }  # fmt: skip
    status, answer, _ = await api.call("POST", f"{APP}/create/bytemplate", body)
    assert 200 == status, answer
    app = answer["app"]
    assert ("Our shop", "shopify", ["read_orders"]) == (app["name"], app["templateId"], app["defaultScopes"])
    assert "toys" in app["tokenUrl"]
    assert app["origins"]
    assert "CANARY" not in str(answer)
    _, listed, _ = await api.call("GET", "/v1/mgmt/outbound/apps")
    assert ["contacts", "filed"] == sorted(each["id"] for each in listed["apps"] if each["id"] != app["id"])
    assert app in listed["apps"]


async def test_second_connection_of_a_template_is_named_like_its_id(api: Api) -> None:
    """One template serves twice without a name; a name that was asked for and an id that is taken are refused."""
    github = {"templateId": "github", "clientId": "me", "clientSecret": "x"}
    answers = [
        await api.call("POST", f"{APP}/create/bytemplate", github | more)
        for more in ({"id": "gh"}, {"id": "gh-2"}, {}, {"id": "gh"}, {"id": "gh-3", "overrides": {"name": "gh-2"}})
    ]

    assert [200, 200, 200, 409, 409] == [status for status, _, _ in answers]
    apps = [answer["app"] for _, answer, _ in answers[:3]]
    assert ["GitHub", "gh-2", apps[2]["id"]] == [app["name"] for app in apps]


@pytest.mark.parametrize(
    ("overrides", "found"),
    [
        ({}, "https://accounts.google.com/.well-known/openid-configuration"),
        ({"discoveryUrl": "https://own.example"}, "https://own.example"),
        ({"tokenUrl": "https://own.example/t"}, None),
    ],
)
async def test_template_brings_its_metadata(api: Api, overrides: dict[str, str], found: str | None) -> None:
    """Where the provider's metadata lies comes from the template, unless an endpoint is overridden."""
    body = {"templateId": "google", "clientId": "me", "clientSecret": "x", "overrides": overrides}
    status, answer, _ = await api.call("POST", f"{APP}/create/bytemplate", body)

    assert (200, found) == (status, answer["app"].get("discoveryUrl")), answer


async def test_grant_that_the_provider_does_not_offer_is_refused(api: Api) -> None:
    """A template's provider offers its own grants only; another one is 400 and names them."""
    google = {"templateId": "google", "clientId": "me", "clientSecret": "x"}
    bodies = [google | {"overrides": {"grantType": grant}} for grant in ("client_credentials", "magic", "jwt_bearer")]
    answers = [await api.call("POST", f"{APP}/create/bytemplate", body) for body in bodies]

    assert [400, 400, 200] == [status for status, _, _ in answers], answers
    assert "authorization_code, jwt_bearer" in answers[0][1]["errorMessage"]
