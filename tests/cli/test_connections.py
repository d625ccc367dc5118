"""`gateway connections`: what is made, what is refused, and that no secret is shown."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import select, update

from gateway.cli.connections import connections
from gateway.cli.data import open_store
from gateway.providers.quirks import Quirks
from gateway.store import schema
from gateway.vault.connections import Connection, Connections
from gateway.vault.key_ring import SealingRing
from gateway.vault.sealing import Sealer
from tests.vault.authority import authority

pytestmark = pytest.mark.usefixtures("environment")
NEW = ["add", "--client-id", "me", "--token-url", "https://p.example/t"]
ADD = [*NEW, "--id", "contacts"]


def run(data: Path, *arguments: str, stdin: str | None = None, **environ: str) -> Result:
    """Run the command on the data directory *data*."""
    return CliRunner().invoke(connections, [*arguments, "--data", str(data)], input=stdin, env=environ)


def load(data: Path, connection_id: str) -> Connection | None:
    """The connection as the vault has it, its secret opened."""

    async def read() -> Connection | None:
        async with open_store(data) as store:
            sealer = Sealer(await SealingRing.open(data, {}), os.urandom)
            return await Connections(store, sealer, clock=lambda: 0.0, random_bytes=os.urandom).load(connection_id)

    return asyncio.run(read())


def test_no_connections_yet(tmp_path: Path) -> None:
    """An empty vault lists nothing on stdout and says what to do on stderr."""
    result = run(tmp_path, "ls")
    assert (0, "", True) == (result.exit_code, result.stdout, "connections add" in result.stderr)
    assert [] == json.loads(run(tmp_path, "ls", "--json").stdout)


def test_secret_comes_from_environment_file_or_stdin(tmp_path: Path) -> None:
    """Each way stores the same secret, and none shows it."""
    (tmp_path / "secret").write_text("CANARY\n")
    results = [
        run(tmp_path, *NEW, "--id", "a", GATEWAY_CLIENT_SECRET="CANARY"),
        run(tmp_path, *NEW, "--id", "b", "--client-secret-file", str(tmp_path / "secret")),
        run(tmp_path, *NEW, "--id", "c", "--client-secret-file", "-", "--json", stdin="CANARY\n"),
        run(tmp_path, "ls", "--json"),
        run(tmp_path, "ls"),
    ]
    stored = [load(tmp_path, name) for name in "abc"]

    assert results[4].stdout.startswith("ID\tTYPE\tOWNER\tNAME\tORIGINS\na\toauth\t")
    assert [0] * 5 == [result.exit_code for result in results], results
    assert ["CANARY"] * 3 == [connection and connection.client_secret for connection in stored]
    assert "CANARY" not in "".join(result.output for result in results)


def test_every_option_is_stored(tmp_path: Path) -> None:
    """What was said is what the list shows."""
    result = run(
        tmp_path, *ADD, "--name", "Contacts", "--authorization-url", "https://p.example/a", "--scope", "a",
        "--scope", "b", "--origin", "HTTPS://People.example/", "--token-auth", "none",
    )  # fmt: skip
    assert 0 == result.exit_code, result.output

    (shown,) = json.loads(run(tmp_path, "ls", "--json").stdout)
    assert {
        "id": "contacts",
        "name": "Contacts",
        "type": "oauth",
        "owner": "api",
        "client_id": "me",
        "authorization_url": "https://p.example/a",
        "token_url": "https://p.example/t",
        "discovery_url": "",
        "grant_type": "authorization_code",
        "issues_refresh_tokens": True,
        "scopes": ["a", "b"],
        "origins": ["https://people.example"],
        "token_auth": "none",
        "template": None,
        "variables": {},
    } == shown


def test_template_fills_in(tmp_path: Path) -> None:
    """A provider of the catalogue gives what the options leave out; what they say wins."""
    arguments = ["add", "--id", "shop", "--template", "shopify", "--variable", "shop=acme", "--client-id", "me"]
    result = run(tmp_path, *arguments, "--scope", "read_orders", GATEWAY_CLIENT_SECRET="CANARY")
    assert 0 == result.exit_code, result.output

    (shown,) = json.loads(run(tmp_path, "ls", "--json").stdout)
    stored = load(tmp_path, "shop")
    assert "https://acme.myshopify.com/admin/oauth/access_token" == shown["token_url"]
    assert (["https://acme.myshopify.com"], ["read_orders"]) == (shown["origins"], shown["scopes"])
    assert ("shop", "shopify", {"shop": "acme"}) == (shown["name"], shown["template"], shown["variables"])
    assert stored is not None
    assert "client_secret_post" == stored.client_authentication


def test_template_brings_its_metadata_and_its_limits(tmp_path: Path) -> None:
    """Metadata comes along unless an endpoint is said; a provider without refresh tokens is shown as such."""
    add = ["add", "--client-id", "me", "--template"]
    secret = {"GATEWAY_CLIENT_SECRET": "CANARY"}
    results = [
        run(tmp_path, *add, "google", "--id", "a", **secret),
        run(tmp_path, *add, "google", "--id", "b", "--token-url", "https://p.example/t", **secret),
        run(tmp_path, *add, "clickup", "--id", "c", **secret),
    ]
    shown = [json.loads(run(tmp_path, "show", name, "--json").stdout) for name in "abc"]
    refused = run(tmp_path, *add, "google", "--id", "d", "--grant-type", "client_credentials", **secret)

    assert [0] * 3 == [result.exit_code for result in results], results
    assert ["https://accounts.google.com/.well-known/openid-configuration", "", ""] == [
        each["discovery_url"] for each in shown
    ]
    assert [True, True, False] == [each["issues_refresh_tokens"] for each in shown]
    assert (2, True) == (refused.exit_code, "authorization_code, jwt_bearer" in refused.stderr), refused.output


def test_template_of_api_keys_needs_no_client(tmp_path: Path) -> None:
    """A provider of API keys needs an id and nothing else."""
    assert 0 == run(tmp_path, "add", "--id", "ai", "--template", "openai").exit_code
    stored = load(tmp_path, "ai")
    assert stored is not None
    assert ("apikey", ("https://api.openai.com",)) == (stored.kind, stored.origins)


def test_row_of_an_older_version_has_no_template(tmp_path: Path) -> None:
    """What was stored before there were templates is read as a connection without one."""
    assert 0 == run(tmp_path, *ADD).exit_code

    async def age() -> None:
        async with open_store(tmp_path) as store, store.write() as db:
            settings = (await db.execute(select(schema.connections.c.settings))).scalar_one()
            older = {name: value for name, value in settings.items() if name not in {"template", "variables"}}
            await db.execute(update(schema.connections).values(settings=older))

    asyncio.run(age())
    stored = load(tmp_path, "contacts")

    assert stored is not None
    assert (None, (), Quirks()) == (stored.template, stored.variables, stored.quirks)


def test_templates_are_listed(tmp_path: Path) -> None:
    """Every provider is a line, or an object with what must be filled in."""
    lines = CliRunner().invoke(connections, ["templates"]).stdout.splitlines()
    listed = json.loads(CliRunner().invoke(connections, ["templates", "--json"]).stdout)

    assert len(lines) == len(listed) >= 28
    assert any(line.startswith("shopify\toauth\tShopify\tshop\t") for line in lines)
    shopify = next(each for each in listed if "shopify" == each["id"])
    assert ["shop"] == [variable["name"] for variable in shopify["variables"]]


def configured(data: Path, **traffic: str) -> list[str]:
    """The options that name a routes.yaml which lets loopback be dialled."""
    listeners = {"traffic": {"bind": "127.0.0.1:0", **traffic}}
    egress = {"allow_private": ["127.0.0.0/8"], "allow_http": True}
    (data / "routes.yaml").write_text(
        json.dumps({"version": 1, "project": "acme", "listeners": listeners, "egress": egress})
    )
    return ["-c", str(data / "routes.yaml")]


async def test_provider_registers_the_client(tmp_path: Path) -> None:
    """The client is registered with the gateway's callback before the connection is stored; a second try makes none."""
    async with authority() as provider:
        options = ["add", "--id", "contacts", "--use-dcr", "--discovery-url", provider.url, "--json"]
        where = configured(tmp_path, public_url="https://gw.example")
        first = await asyncio.to_thread(run, tmp_path, *options, *where)
        second = await asyncio.to_thread(run, tmp_path, *options, *where)
        elsewhere = await asyncio.to_thread(run, tmp_path, *options, "--url", "https://other.example/", *where)
        stored = await asyncio.to_thread(load, tmp_path, "contacts")

    assert ([0, 1, 1], 1) == ([each.exit_code for each in (first, second, elsewhere)], len(provider.registered)), first
    assert ["https://gw.example/v1/outbound/oauth/callback"] == provider.registered[0]["redirect_uris"]
    assert "made-id" == json.loads(first.stdout)["client_id"]
    assert "made-secret" not in first.output
    assert stored is not None
    assert ("made-secret", provider.url) == (stored.client_secret, stored.extra["discoveryUrl"])


async def test_client_that_is_not_registered_stores_nothing(tmp_path: Path) -> None:
    """The provider's refusal is one sentence with what to do, and exit code 6."""
    async with authority(registration={"client_secret_expires_at": 1_900_000_000}) as provider:
        options = ["add", "--id", "contacts", "--use-dcr", "--discovery-url", provider.url]
        where = configured(tmp_path)
        refused = await asyncio.to_thread(run, tmp_path, *options, "--url", "https://gw.example", *where)
        homeless = await asyncio.to_thread(run, tmp_path, *options, *where)
        owned = await asyncio.to_thread(run, tmp_path, *options, "--client-id", "me", *where)
        listed = await asyncio.to_thread(run, tmp_path, "ls", "--json")

    assert [6, 2, 2] == [refused.exit_code, homeless.exit_code, owned.exit_code], refused.output
    assert "register a client there yourself" in refused.stderr
    assert ("--url" in homeless.stderr, "--use-dcr" in owned.stderr, "[]") == (True, True, listed.stdout.strip())


REFUSED: dict[str, tuple[list[str], int]] = {
    "a template that is not known": (["add", "--id", "x", "--template", "googel"], 2),
    "a template without its variable": (["add", "--id", "x", "--template", "shopify", "--token-auth", "none"], 2),
    "a template without a secret": (["add", "--id", "x", "--template", "google", "--client-id", "me"], 2),
    "a template of another type": (["add", "--id", "x", "--template", "openai", "--type", "oauth"], 2),
    "a variable that leads elsewhere": (["add", "--id", "x", "--template", "shopify", "--variable", "shop=e.com/"], 2),
    "a variable without a value": (["add", "--id", "x", "--template", "shopify", "--variable", "shop"], 2),
    "a variable without a template": (["add", "--id", "x", "--variable", "shop=acme"], 2),
    "no id": (["add"], 2),
    "an id with a slash": (["add", "--id", "a/b"], 2),
    "a URL that is none": (["add", "--id", "x", "--token-url", "p.example"], 2),
    "a discovery URL that is none": (["add", "--id", "x", "--discovery-url", "p.example"], 2),
    "an origin with a path": (["add", "--id", "x", "--origin", "https://p.example/x"], 2),
    "a secret that is missing": (["add", "--id", "x", "--token-auth", "client_secret_basic"], 2),
    "an unknown type": (["add", "--id", "x", "--type", "magic"], 2),
    "a secret as a flag": (["add", "--id", "x", "--client-secret", "CANARY"], 2),
    "an empty secret file": (["add", "--id", "x", "--client-secret-file", "-"], 2),
}


@pytest.mark.parametrize("engine", ["sqlite"])
@pytest.mark.parametrize(("arguments", "code"), REFUSED.values(), ids=REFUSED.keys())
def test_refuses_what_is_not_valid(tmp_path: Path, arguments: list[str], code: int) -> None:
    """A wrong option is exit code 2, and nothing is stored."""
    result = run(tmp_path, *arguments, stdin="")
    assert code == result.exit_code, result.output
    assert [] == json.loads(run(tmp_path, "ls", "--json").stdout)


def test_refuses_a_second_one(tmp_path: Path) -> None:
    """An id that is taken is exit code 1 and changes nothing."""
    assert 0 == run(tmp_path, *ADD).exit_code
    assert 1 == run(tmp_path, *ADD, GATEWAY_CLIENT_SECRET="CANARY").exit_code
    stored = load(tmp_path, "contacts")
    assert stored is not None
    assert stored.client_secret is None


def test_wrong_sealing_key_is_one_sentence(tmp_path: Path) -> None:
    """A key that does not belong to the data is exit code 1, with the way out."""
    assert 0 == run(tmp_path, *ADD, GATEWAY_CLIENT_SECRET="CANARY").exit_code
    (tmp_path / "sealing.key").unlink()
    result = run(tmp_path, "add", "--id", "more")
    assert (1, True) == (result.exit_code, "give the gateway the key that belongs to this data" in result.stderr)


def test_shows_and_removes_one(tmp_path: Path) -> None:
    """`show` prints one without its secret, `rm` takes it away; what is not there is exit code 4."""
    assert 0 == run(tmp_path, *ADD, GATEWAY_CLIENT_SECRET="CANARY").exit_code
    shown = [run(tmp_path, "show", "contacts"), run(tmp_path, "show", "contacts", "--json")]

    assert [0, 0] == [result.exit_code for result in shown]
    assert "CANARY" not in "".join(result.output for result in shown)
    assert "https://p.example/t" == json.loads(shown[1].stdout)["token_url"]
    assert 0 == run(tmp_path, "rm", "contacts").exit_code
    assert [] == json.loads(run(tmp_path, "ls", "--json").stdout)
    assert [4, 4] == [run(tmp_path, command, "contacts").exit_code for command in ("show", "rm")]


def test_removes_what_has_left_the_file(tmp_path: Path) -> None:
    """A connection of routes.yaml is removed by --force alone, and not while the file lists it."""
    assert 0 == run(tmp_path, *ADD).exit_code

    async def give_to_the_file() -> None:
        async with open_store(tmp_path) as store, store.write() as db:
            await db.execute(update(schema.connections).values(owner="file"))

    asyncio.run(give_to_the_file())
    listing, other = tmp_path / "listing.yaml", tmp_path / "other.yaml"
    listing.write_text(
        "version: 1\nproject: p\nconnections: [{id: contacts, client_id: c, token_auth: none, token_url: https://p.example/t}]\n"
    )
    other.write_text("version: 1\nproject: p\n")

    plain = run(tmp_path, "rm", "contacts", "-c", str(other))
    listed = run(tmp_path, "rm", "contacts", "--force", "-c", str(listing))
    forced = run(tmp_path, "rm", "contacts", "--force", "-c", str(other))

    assert (1, 1, 0) == (plain.exit_code, listed.exit_code, forced.exit_code), forced.output
    assert "add --force" in plain.stderr
    assert "Remove it there first" in listed.stderr
    assert [] == json.loads(run(tmp_path, "ls", "--json").stdout)


@pytest.mark.parametrize("engine", ["sqlite"])
@pytest.mark.parametrize("arguments", [["ls"], ["ls", "--json"], ["show", "x"]])
def test_reading_makes_no_data_directory(tmp_path: Path, arguments: list[str]) -> None:
    """A misspelt data directory is exit code 4 with its name, and is not made."""
    result = run(tmp_path / "typo", *arguments)

    assert (4, "", False) == (result.exit_code, result.stdout, (tmp_path / "typo").exists())
    assert "there is no data directory" in result.stderr
