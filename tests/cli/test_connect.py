"""`gateway connect`: a link is printed, and the command waits for what comes of it."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gateway.cli.connect import connect
from gateway.store.engine import Store, sqlite_url
from gateway.vault.connections import Connection, Connections
from gateway.vault.key_ring import SealingRing
from gateway.vault.sealing import Sealer


def run(data: Path, *arguments: str) -> Result:
    """Run the command on the data directory *data*."""
    return CliRunner(env={"GATEWAY_PUBLIC_URL": None}).invoke(connect, [*arguments, "--data", str(data)])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory with one connection."""

    async def write() -> None:
        store = await Store.open(sqlite_url(tmp_path / "gateway.db"))
        sealer = Sealer(await SealingRing.open(tmp_path, {}), os.urandom)
        connection = Connection(
            "c", "C", client_id="x", authorization_url="https://p.example/a", token_url="https://p.example/t"
        )
        await Connections(store, sealer, clock=lambda: 1.0, random_bytes=os.urandom).create(connection)
        await store.close()

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


def test_waits_for_the_outcome(data: Path) -> None:
    """The command ends with the attempt: 0 for connected, 4 for anything else."""
    for status, code in {"connected": 0, "refused": 4}.items():
        with closing(sqlite3.connect(data / "gateway.db")) as db, db:
            db.execute("DROP TRIGGER IF EXISTS ends")
            then = f"UPDATE connect_attempts SET status = '{status}' WHERE id = NEW.id"  # noqa: S608  # two words of ours
            db.execute(f"CREATE TRIGGER ends AFTER INSERT ON connect_attempts BEGIN {then}; END")
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


@pytest.mark.parametrize(("arguments", "code"), WRONG.values(), ids=WRONG.keys())
def test_wrong_wishes(data: Path, arguments: tuple[str, ...], code: int) -> None:
    """What cannot be done ends with a sentence and an exit code, never a traceback."""
    result = run(data, *arguments, "--no-wait")

    assert code == result.exit_code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
