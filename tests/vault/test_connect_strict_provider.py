"""Connecting at npm's oidc-provider, a real process, and with a client that has no secret but a key."""

from __future__ import annotations

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from gateway.vault.connection import Connection
from gateway.vault.links import CALLBACK_PATH
from tests.oidc_provider_process import OidcProviderProcess
from tests.vault.authority import authority
from tests.vault.connecting import ADA, Browser, town

pytestmark = pytest.mark.parametrize("engine", ["sqlite"])  # the rules are the provider's


async def test_connects_and_disconnects_at_a_strict_provider(database_url: str) -> None:
    """Discovery, PKCE, consent, `iss`, narrowed scopes, `sub`: the grant lives; revoked, it is dead at the provider."""
    async with town(database_url) as place:  # noqa: SIM117  # the provider must know the place's URL
        async with OidcProviderProcess(redirect_uris=(f"{place.url}{CALLBACK_PATH}",)) as provider:
            await place.connections.create(
                Connection(
                    "contacts",
                    "Contacts",
                    client_id=provider.client_id,
                    client_secret=provider.client_secret,
                    default_scopes=("openid", "offline_access", "contacts.read"),
                    authorization_params=(("login_hint", ADA), ("prompt", "consent")),
                    extra={"discoveryUrl": provider.issuer},
                )
            )
            async with Browser() as browser:
                page = await browser.answer(await browser.get((await place.link()).url))
            stored = await place.token()
            assert "Connected" in page.text
            assert stored is not None
            assert stored.access_token is not None
            assert stored.refresh_token is not None
            assert (ADA, ("contacts.read", "offline_access", "openid")) == (stored.token_sub, stored.granted_scopes)
            assert 200 == await provider.status_of(stored.access_token)

            assert await place.revocation.revoke_stored(stored)
            answer = await provider.refresh(stored.refresh_token)

    assert "invalid_grant" == answer["error"]


async def test_client_proves_itself_with_a_key(database_url: str) -> None:
    """private_key_jwt: the code is exchanged with an assertion that the provider can verify, and no secret."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    jwk = RSAAlgorithm.to_jwk(key)
    async with town(database_url) as place, authority() as provider:
        await place.connections.create(
            Connection(
                "contacts",
                "Contacts",
                client_id="client",
                client_secret=jwk,
                token_auth="private_key_jwt",
                extra={"discoveryUrl": provider.url, "keyId": "k1"},
            )
        )
        async with Browser() as browser:
            page = await browser.answer(await browser.get((await place.link()).url))

    assert "Connected" in page.text
    form = provider.exchanged[0]
    assertion = form["client_assertion"]
    claims = jwt.decode(
        assertion, key.public_key(), algorithms=["RS256"], audience=f"{provider.url}/token",
        options={"verify_exp": False, "verify_iat": False},
    )  # fmt: skip
    assert ("client", "k1") == (claims["sub"], jwt.get_unverified_header(assertion)["kid"])
    assert "client_secret" not in form
    assert [""] == provider.authorizations
