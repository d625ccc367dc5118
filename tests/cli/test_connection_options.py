"""What `gateway connections add` can be told of a connection, and what it refuses to be told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.cli.connection_options import ON_THE_WIRE
from gateway.config.checks import OAUTH_KEYS
from gateway.vault.wire_apps import EXTRA_FIELDS
from tests.cli.test_connections import load, run

pytestmark = pytest.mark.usefixtures("environment")
CREDENTIALS = ["add", "--id", "x", "--client-id", "me", "--grant-type", "client_credentials"]


def test_every_field_is_an_option(tmp_path: Path) -> None:
    """What routes.yaml and the token API take, the command takes, but secrets."""
    helped = run(tmp_path, "add", "--help").output
    singular = {"scopes": "scope", "authorization_params": "authorization-param", "token_params": "token-param"}
    missing = [
        key
        for key in (*OAUTH_KEYS, "description", "default_redirect_url", "callback_domain")
        if key != "client_secret" and f"--{singular.get(key, key.replace('_', '-'))}" not in helped
    ]

    assert [] == missing
    assert {*EXTRA_FIELDS} - {"logo", "templateId"} == {*ON_THE_WIRE.values()}


def test_options_are_stored(tmp_path: Path) -> None:
    """What was said is in the connection, under the names that the vault reads."""
    result = run(
        tmp_path, "add", "--id", "c", "--client-id", "me", "--description", "For sales",
        "--authorization-url", "https://p.example/a", "--token-url", "https://p.example/t",
        "--revocation-url", "https://p.example/r", "--no-pkce", "--issuer", "https://p.example", "--key-id", "k1",
        "--authorization-param", "hd=acme.example", "--token-param", "resource=a=b", "--access-type", "offline",
        "--prompt", "consent", "--prompt", "login", "--default-redirect-url", "https://app.example/done",
        "--callback-domain", "gw.example:8443", "--tenant-id", "acme",
    )  # fmt: skip
    stored = load(tmp_path, "c")

    assert 0 == result.exit_code, result.output
    assert stored is not None
    assert ("For sales", "https://p.example/r", False) == (stored.description, stored.revocation_url, stored.pkce)
    assert (("hd", "acme.example"),) == stored.authorization_params
    assert (("resource", "a=b"),) == stored.token_params
    assert {
        "issuer": "https://p.example", "keyId": "k1", "accessType": "offline", "prompt": ["consent", "login"],
        "defaultRedirectUrl": "https://app.example/done", "callbackDomain": "gw.example:8443", "tenantId": "acme",
    } == stored.extra  # fmt: skip


GRANTS: dict[str, tuple[list[str], dict[str, object]]] = {
    "client credentials": (
        ["--grant-type", "client_credentials", "--client-id", "me", "--token-url", "https://p.example/t"],
        {"grantType": "client_credentials"},
    ),
    "an assertion for a user": (
        ["--grant-type", "jwt_bearer", "--audience", "https://p.example", "--subject", "ada@acme.example"],
        {"grantType": "jwt_bearer", "audience": "https://p.example", "subject": "ada@acme.example"},
    ),
    "an installation": (
        ["--grant-type", "github_app", "--client-id", "7", "--installation-id", "42"],
        {"grantType": "github_app", "installationId": "42"},
    ),
}


@pytest.mark.parametrize(("arguments", "extra"), GRANTS.values(), ids=GRANTS.keys())
def test_grant_without_a_browser_is_stored(tmp_path: Path, arguments: list[str], extra: dict[str, object]) -> None:
    """A connection whose tokens come of its own secret is made, and shown as such."""
    result = run(tmp_path, "add", "--id", "c", *arguments, "--json", GATEWAY_CLIENT_SECRET="CANARY")
    stored = load(tmp_path, "c")

    assert 0 == result.exit_code, result.output
    assert stored is not None
    assert extra == stored.extra
    assert extra["grantType"] == json.loads(result.stdout)["grant_type"]
    assert "CANARY" not in result.output


REFUSED: dict[str, tuple[list[str], str]] = {
    "an unknown grant": (["add", "--id", "x", "--grant-type", "magic"], "--grant-type"),
    "an installation that is no number": (["add", "--id", "x", "--installation-id", "a"], "--installation-id"),
    "an installation without its grant": (["add", "--id", "x", "--installation-id", "1"], "github_app"),
    "an audience without its grant": (["add", "--id", "x", "--audience", "a"], "jwt_bearer"),
    "an issuer that is no URL": (["add", "--id", "x", "--issuer", "p.example"], "--issuer"),
    "a redirect target that is no URL": (["add", "--id", "x", "--default-redirect-url", "x"], "--default-redirect-url"),
    "a domain with a path": (["add", "--id", "x", "--callback-domain", "a/b"], "--callback-domain"),
    "a revocation URL that is none": (["add", "--id", "x", "--revocation-url", "x"], "--revocation-url"),
    "a parameter without a value": (["add", "--id", "x", "--token-param", "a"], "--token-param"),
    "a parameter twice": (["add", "--id", "x", "--token-param", "a=1", "--token-param", "a=2"], "--token-param"),
    "a parameter with a control": (["add", "--id", "x", "--token-param", "a=\x07"], "--token-param"),
    "a parameter that is ours": (["add", "--id", "x", "--token-param", "client_id=1"], "the gateway does not set"),
    "a grant for API keys": ([*CREDENTIALS, "--type", "apikey"], "--grant-type"),
    "a grant without a token URL": (CREDENTIALS, "--token-url"),
    "a grant of a public client": (
        [*CREDENTIALS, "--token-auth", "none", "--token-url", "https://p.example/t"], "--token-auth",
    ),
    "a client to be registered for its own secret": ([*CREDENTIALS[:3], *CREDENTIALS[5:], "--use-dcr"], "--use-dcr"),
    "an app without its installation": (
        ["add", "--id", "x", "--client-id", "7", "--grant-type", "github_app"], "--installation-id",
    ),
}  # fmt: skip


@pytest.mark.parametrize("engine", ["sqlite"])
@pytest.mark.parametrize(("arguments", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_refuses_what_is_not_valid(tmp_path: Path, arguments: list[str], said: str) -> None:
    """A wrong option is exit code 2 and named; nothing is stored."""
    result = run(tmp_path, *arguments, GATEWAY_CLIENT_SECRET="CANARY")

    assert (2, True) == (result.exit_code, said in result.stderr), result.output
    assert "CANARY" not in result.output
    assert [] == json.loads(run(tmp_path, "ls", "--json").stdout)


def test_secret_is_required_for_a_grant_that_is_made_of_it(tmp_path: Path) -> None:
    """A minted token needs the client's secret."""
    result = run(tmp_path, *CREDENTIALS, "--token-url", "https://p.example/t")

    assert (2, True) == (result.exit_code, "client secret: required" in result.stderr), result.output
