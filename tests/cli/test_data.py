"""Where the commands find the gateway's state."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from sqlalchemy import text

from gateway.cli.data import DEFAULT_DATA, data_option, database_url, open_store, run


@click.command()
@data_option
def show(data: Path) -> None:
    """Print the data directory."""
    click.echo(data)


PLACES = {
    "nothing said": ([], {}, str(DEFAULT_DATA)),
    "the environment": ([], {"GATEWAY_DATA": "/e"}, "/e"),
    "the flag": (["--data", "/f"], {}, "/f"),
    "the flag and the environment": (["--data", "/f"], {"GATEWAY_DATA": "/e"}, "/f"),
}


@pytest.mark.parametrize(("arguments", "environ", "expected"), PLACES.values(), ids=PLACES)
def test_flag_wins_over_environment_over_default(arguments: list[str], environ: dict[str, str], expected: str) -> None:
    """
    The data directory is the flag's, else the environment's, else ./.gateway.
    """
    result = CliRunner().invoke(show, arguments, env={"GATEWAY_DATA": None, **environ})

    assert expected == result.stdout.strip()


def test_database_lies_in_the_data_directory_unless_named() -> None:
    """
    GATEWAY_DATABASE_URL, where it is set and not empty, wins.
    """
    data = Path("/state")
    inside = "sqlite+aiosqlite:////state/gateway.db"

    assert inside == database_url(data, {}) == database_url(data, {"GATEWAY_DATABASE_URL": ""})
    assert "postgresql+psycopg://db/g" == database_url(data, {"GATEWAY_DATABASE_URL": "postgresql+psycopg://db/g"})


BROKEN = {
    "a URL that is none": ("canary-pw", "expected postgresql://"),
    "a database that nobody knows": ("nosuchdb://user:canary-pw@host/db", "expected postgresql://"),
    "a server that is not there": ("postgresql://user:canary-pw@127.0.0.1:1/db", r"cannot be opened \(Operational"),
}


@pytest.mark.parametrize(("url", "told"), BROKEN.values(), ids=BROKEN)
def test_database_that_cannot_be_opened_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, told: str
) -> None:
    """
    The error says what was expected or names its class, and nothing of the URL, which may hold a password.
    """
    monkeypatch.setenv("GATEWAY_DATABASE_URL", url)

    async def open_it() -> None:
        async with open_store(tmp_path):
            pass

    with pytest.raises(click.ClickException, match=told) as caught:
        run(open_it())
    assert "canary" not in caught.value.message


@pytest.mark.usefixtures("environment")
def test_newer_database_is_told_as_such(tmp_path: Path) -> None:
    """
    A database of a newer gateway is a sentence about versions.
    """

    async def age() -> None:
        async with open_store(tmp_path) as store, store.write() as connection:
            await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        async with open_store(tmp_path):
            pass

    with pytest.raises(click.ClickException, match="does not know"):
        asyncio.run(age())
