"""Connections made from the catalogue's providers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.providers.catalogue import ProviderUnknown, catalogue, resolve
from gateway.providers.quirks import Quirks
from gateway.vault.connection import Connection, ConnectionInvalid, check
from gateway.vault.service import Vault
from gateway.vault.templates import from_template


@pytest.mark.parametrize("provider_id", catalogue())
def test_every_provider_makes_a_valid_connection(provider_id: str) -> None:
    """
    A template and a client are a whole connection, which may send its tokens to the provider's origins only.
    """
    variables = {variable.name: variable.example for variable in catalogue()[provider_id].variables}
    made = from_template(provider_id, id="c", client_id="x", client_secret="CANARY", variables=variables)
    provider = resolve(provider_id, tuple(sorted(variables.items())))

    check(made)

    assert (provider.kind, provider.token_url, provider.origins) == (made.kind, made.token_url, made.origins)
    assert provider.quirks == made.quirks
    assert made.origins
    if "oauth" == made.kind:
        assert provider.quirks.token_auth == made.client_authentication
    assert "CANARY" not in repr(made)


def test_overrides_win() -> None:
    """
    What is overridden is the caller's; the rest stays the provider's.
    """
    made = from_template(
        "google",
        id="c",
        client_id="x",
        client_secret="s",
        overrides={"name": "N", "origins": ("https://people.googleapis.com",), "token_auth": "client_secret_basic"},
    )

    assert ("N", ("https://people.googleapis.com",)) == (made.name, made.origins)
    assert ("client_secret_basic", resolve("google").token_url) == (made.client_authentication, made.token_url)


METADATA = "https://accounts.google.com/.well-known/openid-configuration"


@pytest.mark.parametrize(
    ("overrides", "found"),
    [
        ({}, {"discoveryUrl": METADATA}),
        ({"extra": {"prompt": ["login"]}}, {"discoveryUrl": METADATA, "prompt": ["login"]}),
        ({"extra": {"discoveryUrl": "https://own.example"}}, {"discoveryUrl": "https://own.example"}),
        ({"token_url": "https://own.example/t"}, {}),
        ({"authorization_url": "https://own.example/a", "extra": {"keyId": "k"}}, {"keyId": "k"}),
    ],
)
def test_metadata_comes_along_where_no_endpoint_is_said(overrides: dict[str, object], found: dict[str, object]) -> None:
    """
    Where the provider's metadata lies is the template's, unless the caller names an endpoint.
    """
    made = from_template("google", id="c", client_id="x", client_secret="s", overrides=overrides)

    assert found == made.extra


def test_only_fields_of_its_own_are_overridden() -> None:
    """
    Neither id nor owner, template or an unknown field comes in by the side door.
    """
    for name in ("id", "owner", "template", "variables", "kind", "client_secret", "magic"):
        with pytest.raises(ConnectionInvalid, match="overrides"):
            from_template("google", id="c", overrides={name: "x"})


def test_unknown_template_is_a_key_error() -> None:
    """
    An id that the catalogue does not have is told with the nearest one.
    """
    with pytest.raises(KeyError) as error:
        from_template("shopfy", id="c")

    assert isinstance(error.value, ProviderUnknown)
    assert "shopify" == error.value.near


@pytest.mark.parametrize(
    ("case", "variables"),
    [("none", {}), ("another host", {"shop": "evil.example/"}), ("one too many", {"shop": "a", "host": "b"})],
)
def test_wrong_variables_are_refused(case: str, variables: dict[str, str]) -> None:
    """
    A variable that is missing, hostile or unknown makes no connection.
    """
    with pytest.raises(ConnectionInvalid, match=r"^variables: ") as error:
        from_template("shopify", id="c", variables=variables)

    assert "evil" not in str(error.value), case


def test_quirks_are_looked_up() -> None:
    """
    The provider's quirks belong to whoever names it as template; without one, and for one that is not known, it is
    plain OAuth 2.
    """
    slack = Connection(id="c", name="C", template="slack")

    assert resolve("slack").quirks == slack.quirks
    assert Quirks() == replace(slack, template=None).quirks
    assert Quirks() == replace(slack, template="of-next-year").quirks
    assert Quirks() == replace(slack, template="shopify").quirks


INVALID: dict[str, tuple[dict[str, object], str]] = {
    "a template that is not known": ({"template": "googel"}, 'template: .*did you mean "google"'),
    "variables without a template": ({"template": None, "variables": (("a", "b"),)}, "variables: "),
    "a variable that is missing": ({"template": "shopify"}, "variables: shop: required"),
    "a hostile variable": ({"template": "gitlab", "variables": (("host", "a@evil.example"),)}, "variables: host: "),
    "another type than the template's": ({"kind": "apikey"}, "type: expected oauth"),
}


@pytest.mark.parametrize(("changes", "said"), INVALID.values(), ids=INVALID.keys())
def test_check_refuses(changes: dict[str, object], said: str) -> None:
    """
    What names a template is checked like every other field, and no value is repeated.
    """
    wrong = replace(Connection(id="c", name="C", template="google"), **changes)  # type: ignore[arg-type]  # by table

    with pytest.raises(ConnectionInvalid, match=f"^{said}") as error:
        check(wrong)

    assert "evil" not in str(error.value)


async def test_template_is_stored(vault: Vault) -> None:
    """
    Template and variables come back from the database, and with them the quirks.
    """
    made = from_template("shopify", id="shop", client_id="x", client_secret="s", variables={"shop": "acme"})
    await vault.connections.create(made)

    loaded = await vault.connections.load("shop")

    assert made == loaded
    assert (("expiring", "1"),) == loaded.quirks.code_params
