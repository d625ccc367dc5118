"""The gateway makes itself a client of a provider (RFC 7591)."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.vault.connection import Connection
from gateway.vault.registration import RegistrationFailed, register
from tests.vault.authority import Authority, authority
from tests.vault.connecting import Browser, Town, town


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


UNUSABLE: dict[str, tuple[dict[str, Any], int, str]] = {
    "refused": ({"error": "invalid_redirect_uri"}, 400, "status_400"),
    "no id": ({"client_id": None}, 201, "malformed_answer"),
    "no secret": ({"client_secret": None}, 201, "no_client_secret"),
    "another redirect URI": ({"redirect_uris": ["https://evil.example"]}, 201, "other_redirect_uri"),
    "a way to authenticate that we do not have": ({"token_endpoint_auth_method": "tls_client_auth"}, 201, "malformed"),
    "a secret that dies": ({"client_secret_expires_at": 1_900_000_000}, 201, "client_secret_expires"),
}


@pytest.mark.parametrize(("answer", "status", "reason"), UNUSABLE.values(), ids=UNUSABLE.keys())
async def test_unusable_client_is_refused(database_url: str, answer: dict[str, Any], status: int, reason: str) -> None:
    """A client that could not be used, or not for long, is none."""
    settings = {"registration": answer, "registration_status": status}
    async with town(database_url) as place, authority(**settings) as provider:
        with pytest.raises(RegistrationFailed, match=reason):
            await made(place, wanting(provider))


async def test_place_must_be_an_endpoint(database_url: str) -> None:
    """A `dcrUrl` that is none is refused before anything is sent."""
    async with town(database_url) as place, authority() as provider:
        with pytest.raises(RegistrationFailed, match="no_registration_endpoint"):
            await made(place, wanting(provider, extra={"dcrUrl": "javascript:alert(1)"}))
