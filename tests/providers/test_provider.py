"""One provider, its variables filled in."""

from __future__ import annotations

import pytest

from gateway.providers.provider import Provider
from gateway.providers.quirks import Quirks
from gateway.providers.variables import Variable, VariableInvalid

SHOP = Provider(
    id="shop",
    name="Shop",
    description="A shop.",
    docs_url="https://shop.example/docs",
    authorization_url="https://{shop}.shop.example/authorize",
    token_url="https://{shop}.shop.example/token",
    revocation_url="https://{shop}.shop.example/revoke",
    discovery_url="https://{shop}.shop.example/.well-known/openid-configuration",
    origins=("https://{shop}.shop.example", "https://acme.shop.example"),
    variables=(Variable("shop", "the shop's name", "label", "[a-z]+", "acme"),),
    quirks=Quirks(
        refresh_url="https://{shop}.shop.example/refresh", userinfo_url="https://{shop}.shop.example/me", pkce=False
    ),
)


def test_variables_are_filled_in_everywhere() -> None:
    """
    URLs, origins and the refresh URL are the shop's; an origin that is there already is not there twice.
    """
    filled = SHOP.with_variables({"shop": "acme"})

    assert "https://acme.shop.example/authorize" == filled.authorization_url
    assert "https://acme.shop.example/token" == filled.token_url
    assert "https://acme.shop.example/revoke" == filled.revocation_url
    assert "https://acme.shop.example/.well-known/openid-configuration" == filled.discovery_url
    assert ("https://acme.shop.example",) == filled.origins
    assert (
        Quirks(refresh_url="https://acme.shop.example/refresh", userinfo_url="https://acme.shop.example/me", pkce=False)
        == filled.quirks
    )
    assert () == filled.variables


def test_wrong_values_fill_nothing_in() -> None:
    """
    A value that would change the host is refused before anything is made of it.
    """
    with pytest.raises(VariableInvalid):
        SHOP.with_variables({"shop": "evil.example/"})
    with pytest.raises(VariableInvalid):
        SHOP.with_variables({})
