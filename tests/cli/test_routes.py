"""`gateway routes ls`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gateway.cli.routes import routes

TEXT = """\
version: 1
project: acme
routes:
  - {name: people, prefix: /people, host: Api.example, upstream: "https://people.example/v1/", connection: google}
  - {name: rest, prefix: /, upstream: "https://rest.example:8443", connection: other, subject: tenant}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A configuration file with two routes."""
    path = tmp_path / "gateway.yaml"
    path.write_text(TEXT)
    return path


def run(*arguments: str | Path) -> Result:
    """Return what `gateway routes` does with *arguments*."""
    return CliRunner().invoke(routes, [str(argument) for argument in arguments])


def test_ls_is_a_table(file: Path) -> None:
    """
    One line a route, in the order of the file.
    """
    result = run("ls", "-c", file)

    assert 0 == result.exit_code
    assert [
        "NAME    PREFIX              UPSTREAM                   CONNECTION  SUBJECT",
        "people  api.example/people  https://people.example/v1  google      user",
        "rest    /                   https://rest.example:8443  other       tenant",
    ] == result.stdout.splitlines()


def test_ls_json_has_every_key(file: Path) -> None:
    """
    `--json` gives each route as routes.yaml would say it, defaults included.
    """
    first, second = json.loads(run("ls", "-c", file, "--json").stdout)

    assert ("people", "api.example", "https://people.example/v1") == (first["name"], first["host"], first["upstream"])
    assert {"header": "Authorization", "format": "Bearer {token}"} == first["inject"]
    assert "/" == second["prefix"]


def test_ls_of_a_broken_file_is_exit_code_3(file: Path) -> None:
    """
    What cannot be loaded is not listed.
    """
    file.write_text("version: 3\n")

    result = run("ls", "-c", file)

    assert (3, "") == (result.exit_code, result.stdout)
    assert f"{file}:1:1: project: required, and missing" in result.stderr
