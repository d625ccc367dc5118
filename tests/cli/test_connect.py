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
