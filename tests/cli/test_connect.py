"""`gateway connect`: a link is printed, and the command waits for what comes of it."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import text

from gateway.cli.connect import connect
from gateway.cli.data import open_store
from gateway.vault.connections import Connection, Connections
from gateway.vault.key_ring import SealingRing
from gateway.vault.sealing import Sealer


def run(data: Path, *arguments: str) -> Result:
    """Run the command on the data directory *data*."""
    return CliRunner(env={"GATEWAY_PUBLIC_URL": None}).invoke(connect, [*arguments, "--data", str(data)])


@pytest.fixture
def data(tmp_path: Path, environment: None) -> Path:
    """A data directory with one connection."""

    async def write() -> None:
        async with open_store(tmp_path) as store:
            sealer = Sealer(await SealingRing.open(tmp_path, {}), os.urandom)
            connection = Connection(
                "c", "C", client_id="x", authorization_url="https://p.example/a", token_url="https://p.example/t"
            )
            await Connections(store, sealer, clock=lambda: 1.0, random_bytes=os.urandom).create(connection)

    asyncio.run(write())
    return tmp_path


def test_prints_the_link(data: Path) -> None:
    """Without waiting, the link is all of stdout; as JSON, it comes with its id and its wait address."""
    text = run(data, "c", "--user", "ada", "--no-wait")
    machine = json.loads(run(data, "c", "--user", "ada", "--no-wait", "--json", "--url", "https://g.example/").stdout)

    assert 0 == text.exit_code
    assert text.stdout.startswith("http://127.0.0.1:8080/connect/")
    assert machine["url"].startswith("https://g.example/connect/")
    assert f"{machine['url']}/wait" == machine["wait_url"]


# What routes.yaml has as public_url (None: there is no file), what --url says, and where the link leads.
PLACES = {
    "a file with a public URL": ("https://gw.example", None, "https://gw.example/connect/"),
    "a file without one": ("", None, "http://127.0.0.1:8080/connect/"),
    "no file": (None, None, "http://127.0.0.1:8080/connect/"),
    "a file and --url": ("https://gw.example", "https://other.example/", "https://other.example/connect/"),
}


@pytest.mark.parametrize("engine", ["sqlite"])
@pytest.mark.parametrize("is_named", [True, False], ids=["-c", "in the working directory"])
@pytest.mark.parametrize(("public_url", "url", "begin"), PLACES.values(), ids=PLACES.keys())
def test_link_leads_to_the_public_url(
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    public_url: str | None,
    url: str | None,
    begin: str,
    is_named: bool,
) -> None:
    """The link is of the gateway that routes.yaml speaks of, unless --url says another."""
    elsewhere = data / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere if is_named and public_url is not None else data)
    if public_url is not None:
        configured(data, public_url)
    where = ["-c", str(data / "routes.yaml")] if is_named and public_url is not None else []
    result = run(data, "c", "--user", "ada", "--no-wait", *where, *(["--url", url] if url else []))

    assert result.stdout.startswith(begin), result.output


# What stands at the end of -c, the exit code, and what the error speaks of.
UNUSABLE = {
    "a file that is not there": (None, 3, "routes.yaml"),
    "a file that is broken": ("version: 2", 3, "version"),
    "a public URL that no browser can use": ("http://gw.example", 2, "public_url"),
}


@pytest.mark.parametrize("engine", ["sqlite"])
@pytest.mark.parametrize(("content", "code", "named"), UNUSABLE.values(), ids=UNUSABLE.keys())
def test_unusable_file_is_refused_unless_url_is_given(data: Path, content: str | None, code: int, named: str) -> None:
    """A file that says no usable public URL ends the command before a link is made; with --url it is not read."""
    if content is not None and content.startswith("http"):
        configured(data, content)
    elif content is not None:
        (data / "routes.yaml").write_text(content)
    arguments = ("c", "--user", "ada", "--no-wait", "-c", str(data / "routes.yaml"))
    refused = run(data, *arguments)
    told = run(data, *arguments, "--url", "https://gw.example")

    assert (code, "") == (refused.exit_code, refused.stdout), refused.output
    assert named in refused.stderr
    assert told.stdout.startswith("https://gw.example/connect/"), told.output


def configured(data: Path, public_url: str) -> None:
    """Write a routes.yaml with this public URL, none where it is empty."""
    traffic = {"bind": "127.0.0.1:0"} | ({"public_url": public_url} if public_url else {})
    content = {"version": 1, "project": "acme", "listeners": {"traffic": traffic}}
    (data / "routes.yaml").write_text(json.dumps(content))


# What ends each attempt as it begins.
ENDS = {
    "sqlite": [
        "CREATE TRIGGER ends AFTER INSERT ON connect_attempts "
        "BEGIN UPDATE connect_attempts SET status = '{status}' WHERE id = NEW.id; END"
    ],
    "postgresql": [
        "CREATE FUNCTION ends() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.status = '{status}'; RETURN NEW; END$$",
        "CREATE TRIGGER ends BEFORE INSERT ON connect_attempts FOR EACH ROW EXECUTE FUNCTION ends()",
    ],
}


@pytest.mark.parametrize(("status", "code"), [("connected", 0), ("refused", 4)])
def test_waits_for_the_outcome(data: Path, engine: str, status: str, code: int) -> None:
    """The command ends with the attempt: 0 for connected, 4 for anything else."""

    async def end() -> None:
        async with open_store(data) as store, store.write() as db:
            for statement in ENDS[engine]:
                await db.execute(text(statement.format(status=status)))

    asyncio.run(end())
    result = run(data, "c", "--user", "ada")
    assert code == result.exit_code, result.output


WRONG = {
    "no such connection": (("nothing", "--user", "ada"), 4),
    "no user": (("c",), 2),
    "a user that is no name": (("c", "--user", "a\nb"), 2),
    "a scope with a space": (("c", "--user", "ada", "--scope", "a b"), 2),
    "plain http elsewhere": (("c", "--user", "ada", "--url", "http://g.example"), 2),
    "no URL": (("c", "--user", "ada", "--url", "javascript:alert(1)"), 2),
}


@pytest.mark.parametrize("engine", ["sqlite"])
@pytest.mark.parametrize(("arguments", "code"), WRONG.values(), ids=WRONG.keys())
def test_wrong_wishes(data: Path, arguments: tuple[str, ...], code: int) -> None:
    """What cannot be done ends with a sentence and an exit code, never a traceback."""
    result = run(data, *arguments, "--no-wait")

    assert code == result.exit_code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
