"""`gateway connections`: what is made, what is refused, and that no secret is shown."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gateway.cli.connections import connections
from gateway.store.engine import Store, sqlite_url
from gateway.vault.connections import Connection, Connections
from gateway.vault.sealing import Sealer, SealingKey

ADD = ["add", "--id", "contacts", "--client-id", "me", "--token-url", "https://p.example/t"]


def run(data: Path, *arguments: str, stdin: str | None = None, **environ: str) -> Result:
    """Run the command on the data directory *data*."""
    return CliRunner().invoke(connections, [*arguments, "--data", str(data)], input=stdin, env=environ)


def load(data: Path, connection_id: str) -> Connection | None:
    """The connection as the vault has it, its secret opened."""

    async def read() -> Connection | None:
        store = await Store.open(sqlite_url(data / "gateway.db"))
        sealer = Sealer(SealingKey.load(data, {}), os.urandom)
        found = await Connections(store, sealer, clock=lambda: 0.0, random_bytes=os.urandom).load(connection_id)
        await store.close()
        return found

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
        run(tmp_path / "a", *ADD, GATEWAY_CLIENT_SECRET="CANARY"),
        run(tmp_path / "b", *ADD, "--client-secret-file", str(tmp_path / "secret")),
        run(tmp_path / "c", *ADD, "--client-secret-file", "-", "--json", stdin="CANARY\n"),
        run(tmp_path / "c", "ls", "--json"),
        run(tmp_path / "c", "ls"),
    ]
    stored = [load(tmp_path / name, "contacts") for name in "abc"]

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
        "scopes": ["a", "b"],
        "origins": ["https://people.example"],
        "token_auth": "none",
    } == shown


REFUSED: dict[str, tuple[list[str], int]] = {
    "no id": (["add"], 2),
    "an id with a slash": (["add", "--id", "a/b"], 2),
    "a URL that is none": (["add", "--id", "x", "--token-url", "p.example"], 2),
    "an origin with a path": (["add", "--id", "x", "--origin", "https://p.example/x"], 2),
    "a secret that is missing": (["add", "--id", "x", "--token-auth", "client_secret_basic"], 2),
    "an unknown type": (["add", "--id", "x", "--type", "magic"], 2),
    "a secret as a flag": (["add", "--id", "x", "--client-secret", "CANARY"], 2),
    "an empty secret file": (["add", "--id", "x", "--client-secret-file", "-"], 2),
}


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
