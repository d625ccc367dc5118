"""`gateway check`, as a shell sees it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gateway.cli.check import check

GOOD = "version: 1\nproject: acme\n"
BROKEN = "version: 1\nproject: acme\nroute: []\ndrain_seconds: 100%,\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The path of a configuration file that is not there yet."""
    return tmp_path / "routes.yaml"


def run(*arguments: str | Path, **environ: str) -> Result:
    """Return what `gateway check` does with *arguments*."""
    return CliRunner().invoke(check, [str(argument) for argument in arguments], env=environ)


def test_missing_file_is_invalid(file: Path) -> None:
    """
    A file that is not there is told like any other problem.
    """
    result = run(file)

    assert 3 == result.exit_code
    assert "" == result.stdout
    assert f"{file}:1:1: the file cannot be read: No such file or directory\n{file}: 1 error\n" == result.stderr


def test_broken_file_is_invalid(file: Path) -> None:
    """
    Every problem is a line on stderr, and the exit code is 3.
    """
    file.write_text(BROKEN)

    result = run(file)

    assert 3 == result.exit_code
    assert "" == result.stdout
    assert [
        f'{file}:3:1: route: unknown key; did you mean "routes"?',
        f'{file}:4:16: drain_seconds: expected a number, found "100%,"',
        f"{file}: 2 errors",
    ] == result.stderr.splitlines()


def test_good_file_is_valid_with_its_warnings(file: Path) -> None:
    """
    Warnings are told, and do not change the exit code.
    """
    file.write_text(GOOD)

    result = run(file)

    assert 0 == result.exit_code
    assert "" == result.stdout
    assert [
        f"warning: {file}:1:1: callers: no issuers: only keys identify callers",
        f"warning: {file}:1:1: policies: no policies: every identified caller may use every route, "
        "and none may fetch a raw token",
        f"warning: {file}:1:1: routes: no routes: agents can call nothing",
        f"{file}: ok, 0 routes, 3 warnings",
    ] == result.stderr.splitlines()


def test_file_comes_from_the_environment(file: Path) -> None:
    """
    Without an argument, GATEWAY_CONFIG names the file.
    """
    file.write_text(GOOD)

    assert 0 == run(GATEWAY_CONFIG=str(file)).exit_code


def test_file_is_routes_yaml_by_default(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Without argument and environment it is routes.yaml where one stands.
    """
    file.write_text(GOOD)
    monkeypatch.chdir(file.parent)
    monkeypatch.delenv("GATEWAY_CONFIG", raising=False)

    assert "routes.yaml: ok, 0 routes, 3 warnings" in run().stderr


def test_templates_read_the_environment(file: Path) -> None:
    """
    `${NAME}` is this process's environment.
    """
    file.write_text("version: 1\nproject: ${PROJECT_ID}\n")

    assert 0 == run(file, PROJECT_ID="acme").exit_code
    assert 3 == run(file).exit_code


def test_json_is_on_stdout(file: Path) -> None:
    """
    For machines: one JSON object with errors and warnings, and the same exit code.
    """
    file.write_text(BROKEN)

    result = run(file, "--format", "json")

    assert 3 == result.exit_code
    assert "" == result.stderr
    assert {
        "file": str(file),
        "ok": False,
        "errors": [
            {"line": 3, "column": 1, "key": "route", "text": 'unknown key; did you mean "routes"?'},
            {"line": 4, "column": 16, "key": "drain_seconds", "text": 'expected a number, found "100%,"'},
        ],
        "warnings": [],
    } == json.loads(result.stdout)


def test_json_of_a_good_file(file: Path) -> None:
    """
    A usable file is ok, with warnings.
    """
    file.write_text(GOOD)

    found = json.loads(run(file, "--format", "json").stdout)

    assert (True, [], 3) == (found["ok"], found["errors"], len(found["warnings"]))


def test_github_annotations(file: Path) -> None:
    """
    A workflow command per problem; what would end it early is escaped.
    """
    file.write_text(BROKEN)

    result = run(file, "--format", "github")

    assert 3 == result.exit_code
    assert f'::error file={file},line=3,col=1::route: unknown key; did you mean "routes"?' in result.stdout.splitlines()
    assert '::drain_seconds: expected a number, found "100%25,"' in result.stdout


def test_github_warnings(file: Path) -> None:
    """
    Warnings are annotations of their own level.
    """
    file.write_text(GOOD)

    result = run(file, "--format", "github")

    assert 0 == result.exit_code
    assert 3 == result.stdout.count("::warning file=")
