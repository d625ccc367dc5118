"""What routes.yaml says reaches the parts unchanged."""

from __future__ import annotations

from dataclasses import fields

from gateway import settings
from gateway.config.values import Claims, ConnectionSettings, IssuerSettings, PolicySettings


def test_issuer_keeps_every_setting() -> None:
    """
    Nothing of an issuer's entry is lost on the way to what verifies its tokens.
    """
    names = {name.name: name.name for name in fields(Claims)}
    given = IssuerSettings(
        issuer="https://idp.example",
        audience=("https://gateway.example",),
        jwks_uri="https://idp.example/keys",
        algorithms=("ES256",),
        claims=Claims(**names),
        required_scope=None,
        user_prefix="idp:",
    )

    made = settings.issuer(given)

    for field in fields(IssuerSettings):
        if field.name != "claims":
            assert getattr(given, field.name) == getattr(made, field.name)
    assert names == {field.name: getattr(made.claims, field.name) for field in fields(made.claims)}


def test_policy_key_that_was_not_given_matches_everything() -> None:
    """
    An absent key is None for the part that decides, never an empty set that nobody is in.
    """
    made = settings.policy(PolicySettings(id="p", effect="deny", roles=("sales",), paths=("/v1/**",)))

    assert (frozenset({"sales"}), ("/v1/**",)) == (made.roles, made.paths)
    assert [None] * 7 == [
        getattr(made, name)
        for name in ("permissions", "scopes", "clients", "users", "tenants", "connections", "routes")
    ]
    assert made.methods is None


def test_registration_of_a_connection_reaches_the_vault() -> None:
    """
    Where a provider is discovered and registers the client stands under the names that the vault reads.
    """
    said = ConnectionSettings(
        id="c",
        name="C",
        discovery_url="https://p.example",
        use_dcr=True,
        dcr_url="https://p.example/r",
        token_auth=None,
    )

    made, other = settings.connection(said), settings.connection(ConnectionSettings(id="d", name="D"))

    assert {
        "discoveryUrl": "https://p.example", "useDcr": True, "dcrUrl": "https://p.example/r"
    } == made.extra  # fmt: skip
    assert made.awaits_registration
    assert {} == other.extra


def test_connection_of_the_file_is_the_files() -> None:
    """
    A connection of routes.yaml is owned by the file, with its secret and its template.
    """
    made = settings.connection(
        ConnectionSettings(
            id="c", name="C", client_id="x", client_secret="s3cret", template="zendesk", variables=(("subdomain", "a"),)
        )
    )

    assert ("file", "s3cret", "zendesk", (("subdomain", "a"),)) == (
        made.owner,
        made.client_secret,
        made.template,
        made.variables,
    )
    assert "s3cret" not in repr(made)
