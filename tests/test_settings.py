"""What routes.yaml says reaches the parts unchanged."""

from __future__ import annotations

from dataclasses import fields

from gateway import settings
from gateway.config.values import Claims, ConnectionSettings, IssuerSettings, PolicySettings
from gateway.vault.wire_apps import EXTRA_FIELDS


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


def test_every_field_of_a_connection_has_its_name_on_the_wire() -> None:
    """
    What the vault keeps as the API's fields reaches it under those names; what was not said is not there.
    """
    said = ConnectionSettings(
        id="c",
        name="C",
        discovery_url="https://p.example",
        use_dcr=True,
        dcr_url="https://p.example/r",
        grant_type="jwt_bearer",
        installation_id="42",
        issuer="https://issuer.example",
        audience="https://audience.example",
        subject="ada@acme.example",
        key_id="k1",
        access_type="offline",
        prompt=("consent", "login"),
        default_redirect_url="https://app.example/done",
        callback_domain="gw.example",
        tenant_id="acme",
    )

    made = settings.connection(said)

    assert {
        "discoveryUrl": "https://p.example",
        "useDcr": True,
        "dcrUrl": "https://p.example/r",
        "grantType": "jwt_bearer",
        "installationId": "42",
        "issuer": "https://issuer.example",
        "audience": "https://audience.example",
        "subject": "ada@acme.example",
        "keyId": "k1",
        "accessType": "offline",
        "prompt": ["consent", "login"],
        "defaultRedirectUrl": "https://app.example/done",
        "callbackDomain": "gw.example",
        "tenantId": "acme",
    } == made.extra
    assert made.extra.keys() == {*EXTRA_FIELDS} - {"logo", "templateId"}


def test_every_other_field_of_a_connection_reaches_the_vault() -> None:
    """
    URLs, parameters and PKCE of an entry are those of the vault's connection.
    """
    parameters = (("hd", "acme.example"),)
    said = ConnectionSettings(
        id="c",
        name="C",
        description="For sales",
        authorization_url="https://p.example/a",
        token_url="https://p.example/t",
        revocation_url="https://p.example/v",
        scopes=("a",),
        origins=("https://api.example",),
        pkce=False,
        token_auth="client_secret_post",
        authorization_params=parameters,
        token_params=parameters,
    )

    made = settings.connection(said)

    same = ("description", "authorization_url", "token_url", "revocation_url", "origins", "pkce", "token_auth")
    for name in (*same, "authorization_params", "token_params"):
        assert getattr(said, name) == getattr(made, name), name
    assert ("a",) == made.default_scopes
