"""`gateway config schema|show`, and how commands load their file."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner, Result

from gateway.cli.config import config, config_option, load_or_exit

TEXT = """\
version: 1
project: acme
connections:
  - {id: people, client_id: x, client_secret: "${SECRET}", token_url: https://p.example/token}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A configuration file with a secret."""
    path = tmp_path / "gateway.yaml"
    path.write_text(TEXT)
    return path


def run(*arguments: str | Path, **environ: str) -> Result:
    """Return what `gateway config` does with *arguments*."""
    return CliRunner().invoke(config, [str(argument) for argument in arguments], env=environ)


def test_schema_is_json() -> None:
    """
    The schema is on stdout, for an editor's file.
    """
    result = run("schema")

    assert 0 == result.exit_code
    assert "routes" in json.loads(result.stdout)["properties"]


def test_show_masks_secrets(file: Path) -> None:
    """
    The effective configuration is YAML with defaults, and without the secret.
    """
    result = run("show", "-c", file, SECRET="canary")

    shown = yaml.safe_load(result.stdout)
    assert 0 == result.exit_code
    assert "127.0.0.1:8080" == shown["listeners"]["traffic"]["bind"]
    assert "***" == shown["connections"][0]["client_secret"]
    assert "canary" not in result.output


def test_show_json_is_the_same(file: Path) -> None:
    """
    `--json` shows the same data.
    """
    as_json = run("show", "--config", file, "--json", SECRET="canary")

    assert yaml.safe_load(run("show", "-c", file, SECRET="canary").stdout) == json.loads(as_json.stdout)
    assert "canary" not in as_json.output


def test_show_of_a_broken_file_is_exit_code_3(file: Path) -> None:
    """
    The problems are on stderr, nothing is on stdout.
    """
    result = run("show", "-c", file)

    assert 3 == result.exit_code
    assert "" == result.stdout
    assert (
        f"{file}:4:47: connections[0].client_secret: expected the environment variable SECRET to be set"
        in result.stderr
    )


def test_config_option_reads_the_environment(file: Path) -> None:
    """
    `-c` wins over GATEWAY_CONFIG, which wins over routes.yaml.
    """

    @click.command()
    @config_option
    def command(config_file: Path) -> None:
        click.echo(config_file)

    runner = CliRunner()
    assert "routes.yaml\n" == runner.invoke(command, env={"GATEWAY_CONFIG": None}).stdout
    assert f"{file}\n" == runner.invoke(command, env={"GATEWAY_CONFIG": str(file)}).stdout
    assert "other.yaml\n" == runner.invoke(command, ["-c", "other.yaml"], env={"GATEWAY_CONFIG": str(file)}).stdout


def test_load_or_exit(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A command gets the configuration, or the process ends with exit code 3.
    """
    monkeypatch.setenv("SECRET", "canary")
    assert "canary" == load_or_exit(file).connections[0].client_secret

    monkeypatch.delenv("SECRET")
    with pytest.raises(click.exceptions.Exit) as ended:
        load_or_exit(file)
    assert 3 == ended.value.exit_code
