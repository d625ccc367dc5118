"""The gateway makes itself a client of a provider (RFC 7591)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from gateway.vault.connection import Connection, ConnectionInvalid
from gateway.vault.links import ConnectInvalid
from gateway.vault.registration import Registrar, RegistrationFailed, register
from tests.vault.authority import Authority, authority
from tests.vault.connecting import Browser, Town, contacts, town


def wanting(provider: Authority, **changes: Any) -> Connection:
    """A connection that is to be registered."""
    extra = {"useDcr": True, "discoveryUrl": provider.url} | changes.pop("extra", {})
    return Connection("contacts", "Contacts", default_scopes=("read",), extra=extra, **changes)


async def made(place: Town, connection: Connection) -> Connection:
    """Register the connection's client."""
    callback_url = place.connecting.links.callback_url(connection)
    return await register(
        connection, discovery=place.discovery, client=place.client, callback_url=callback_url, allow_http=True
    )


async def test_registered_client_connects(database_url: str) -> None:
    """The client that the provider makes is the one that users then connect with."""
    async with town(database_url) as place, authority(id_token=None) as provider:
        await place.connections.create(await made(place, wanting(provider)))
        async with Browser() as browser:
            page = await browser.answer(await browser.get((await place.link()).url))

    assert "Connected" in page.text
    asked = provider.registered[0]
    assert [f"{place.url}/v1/outbound/oauth/callback"] == asked["redirect_uris"]
    assert (["authorization_code", "refresh_token"], ["code"], "client_secret_basic") == (
        asked["grant_types"], asked["response_types"], asked["token_endpoint_auth_method"]
    )  # fmt: skip
    assert "made-id" == provider.asked[0]["client_id"]
    assert provider.authorizations[0].startswith("Basic ")


async def test_public_client_where_the_provider_has_no_other(database_url: str) -> None:
    """A provider that only has public clients gets one."""
    metadata = {"token_endpoint_auth_methods_supported": ["none"]}
    registration: dict[str, Any] = {"client_secret": None}
    async with town(database_url) as place, authority(metadata=metadata, registration=registration) as provider:
        client = await made(place, wanting(provider))

    assert ("made-id", None, "none") == (client.client_id, client.client_secret, client.client_authentication)


async def test_nothing_is_registered_twice_or_unasked(database_url: str) -> None:
    """A connection that has a client, or does not say useDcr, is left as it is."""
    async with town(database_url) as place, authority() as provider:
        for connection in (wanting(provider, client_id="own"), wanting(provider, extra={"useDcr": False})):
            assert connection == await made(place, connection)

    assert [] == provider.registered


OWN = "register a client there yourself"
UNUSABLE: dict[str, tuple[dict[str, Any], int, str, bool, str]] = {
    "refused": ({"error": "CANARY"}, 400, "status_400", False, "answered status 400"),
    "a stranger": ({"error": "invalid_token"}, 401, "status_401", False, OWN),
    "too often": ({}, 429, "status_429", True, "answered status 429"),
    "no id": ({"client_id": None}, 201, "malformed_answer", False, OWN),
    "no secret": ({"client_secret": None}, 201, "no_client_secret", False, "to none"),
    "another redirect URI": ({"redirect_uris": ["https://evil.example"]}, 201, "other_redirect_uri", False, OWN),
    "a way to authenticate that we do not have": (
        {"token_endpoint_auth_method": "tls_client_auth"}, 201, "malformed_answer", False, OWN
    ),
    "a secret that expires": (
        {"client_secret_expires_at": 1_900_000_000}, 201, "client_secret_expires", False,
        "either register a client there yourself whose secret stays, and give its id and secret, or set "
        "tokenEndpointAuthMethod (token_auth) to none",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("answer", "status", "reason", "is_passing", "told"), UNUSABLE.values(), ids=UNUSABLE.keys())
async def test_unusable_client_is_refused_and_says_what_to_do(
    database_url: str, answer: dict[str, Any], status: int, reason: str, is_passing: bool, told: str
) -> None:
    """A client that could not be used, or not for long, is none; nothing that the provider wrote is repeated."""
    settings = {"registration": answer, "registration_status": status}
    async with town(database_url) as place, authority(**settings) as provider:
        with pytest.raises(RegistrationFailed) as refused:
            await made(place, wanting(provider))

    assert (reason, is_passing) == (refused.value.reason, refused.value.is_passing)
    assert told in str(refused.value)
    assert "CANARY" not in str(refused.value)


async def test_nothing_is_sent_where_nothing_can_come_of_it(database_url: str) -> None:
    """A place that is none, and a client that would need a key, are refused before anything is sent."""
    async with town(database_url) as place, authority() as provider:
        for connection, reason in (
            (wanting(provider, extra={"dcrUrl": "javascript:alert(1)"}), "no_registration_endpoint"),
            (wanting(provider, token_auth="private_key_jwt"), "private_key"),
        ):
            with pytest.raises(RegistrationFailed) as refused:
                await made(place, connection)
            assert (reason, False) == (refused.value.reason, refused.value.is_passing)

    assert [] == provider.registered


@pytest.mark.parametrize("extra", [{"discoveryUrl": "http://127.0.0.1:1"}, {"dcrUrl": "http://127.0.0.1:1/register"}])
async def test_provider_that_is_away_may_be_asked_again(database_url: str, extra: dict[str, Any]) -> None:
    """Where nothing was sent, nothing was registered."""
    async with town(database_url) as place, authority() as provider:
        with pytest.raises(RegistrationFailed) as refused:
            await made(place, wanting(provider, extra=extra))

    assert ("unreachable", True) == (refused.value.reason, refused.value.is_passing)


def registrar_of(place: Town, *pauses: float) -> Registrar:
    """What registers the clients of the place's connections, with these pauses between tries."""
    return Registrar(place.connections, place.connecting.register, pauses_seconds=pauses or (0.01,))


async def eventually(holds: Callable[[], Awaitable[bool]]) -> bool:
    """Wait until *holds*, at most five seconds; return whether it does."""
    for _ in range(500):
        if await holds():
            return True
        await asyncio.sleep(0.01)
    return False


async def test_waiting_connections_are_registered_once(database_url: str) -> None:
    """
    What the file says without a client gets one in the background; a restart finds it, and registers nothing.
    """
    async with town(database_url) as place, authority() as provider:
        said = wanting(provider)
        for _ in range(2):
            await place.connections.upsert_from_file([said, contacts(provider.url, id="own", name="Own")])
            registrar = registrar_of(place)
            registrar.start()
            assert await eventually(lambda: has_client(place))
            await registrar.close()
        stored = await place.connections.load("contacts")

    assert 1 == len(provider.registered)
    assert stored is not None
    assert ("made-id", "made-secret", "file") == (stored.client_id, stored.client_secret, stored.owner)


async def has_client(place: Town) -> bool:
    """Whether the connection of the file has its client."""
    stored = await place.connections.load("contacts")
    return stored is not None and stored.client_id == "made-id"


async def test_provider_that_is_away_is_asked_until_it_is_there(database_url: str) -> None:
    """
    A start waits for no provider: one that cannot be reached is asked again.
    """
    async with town(database_url) as place, authority() as provider:
        provider.registration_status = 503
        await place.connections.upsert_from_file([wanting(provider)])
        registrar = registrar_of(place)
        registrar.start()
        assert await eventually(lambda: registered(provider, 3))
        with pytest.raises(ConnectInvalid, match="not registered"):
            await place.link()
        provider.registration_status = 201
        assert await eventually(lambda: has_client(place))
        await registrar.close()


async def registered(provider: Authority, times: int) -> bool:
    """Whether the provider was asked *times* times for a client."""
    return len(provider.registered) >= times


@pytest.mark.parametrize("answer", [{"client_secret_expires_at": 1_900_000_000}, {"client_id": None}])
async def test_client_that_may_have_been_made_is_not_asked_for_again(database_url: str, answer: dict[str, Any]) -> None:
    """
    A provider that has perhaps made a client makes no second one before the next start; the others get theirs.
    """
    async with town(database_url) as place, authority(registration=answer) as bad, authority() as good:
        wanted = [replace(wanting(bad), id="bad", name="Bad"), replace(wanting(good), id="good", name="Good")]
        await place.connections.upsert_from_file(wanted)
        registrar, given_up = registrar_of(place), set[str]()
        again = [await registrar.run_once(given_up) for _ in range(3)]
        stored = [(connection.id, connection.client_id) for connection in await place.connections.list()]

    assert [False] * 3 == again
    assert (1, 1) == (len(bad.registered), len(good.registered))
    assert [("bad", ""), ("good", "made-id")] == stored


async def test_registration_under_way_is_stored_when_the_gateway_stops(database_url: str) -> None:
    """
    Between the provider's answer and the row nothing is cut.
    """
    async with town(database_url) as place, authority() as provider:
        await place.connections.upsert_from_file([wanting(provider)])
        entered, leave = asyncio.Event(), asyncio.Event()

        async def slowly(connection: Connection) -> Connection:
            made = await place.connecting.register(connection)
            entered.set()
            await leave.wait()
            return made

        registrar = Registrar(place.connections, slowly)
        registrar.start()
        await entered.wait()
        closing = asyncio.create_task(registrar.close())
        await asyncio.sleep(0.01)
        leave.set()
        await closing

        assert await has_client(place)


async def test_invalid_connection_makes_no_client(database_url: str) -> None:
    """What could not be stored is found before a provider makes a client for it."""
    async with town(database_url) as place, authority() as provider:
        with pytest.raises(ConnectionInvalid, match="scopes"):
            await place.connecting.register(replace(wanting(provider), default_scopes=("a b",)))

    assert [] == provider.registered
