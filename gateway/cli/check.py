"""
`gateway check [FILE]`: is this configuration usable, and is it wise?

Rules:
1. Exit code 0: usable, perhaps with warnings. 3: not usable.
2. Nothing is dialled, opened or written: the files that `${file:…}` names are read, that is all.
3. text: talk on stderr, nothing on stdout. json and github: on stdout, for a machine.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli.config import DEFAULT_CONFIG, EXIT_INVALID

if TYPE_CHECKING:
    from gateway.config.problems import Problem


@click.command()
@click.argument(
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    default=DEFAULT_CONFIG,
    envvar="GATEWAY_CONFIG",
    required=False,
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "github"]),
    default="text",
    show_default=True,
    help="github: annotations of a workflow.",
)
def check(file: Path, form: str) -> None:
    """Check a configuration FILE (default: routes.yaml): every problem with its line and column."""
    errors, warnings, summary = _check(file)
    if form == "json":
        click.echo(_as_json(file, errors, warnings))
    elif form == "github":
        for problem in errors:
            click.echo(_annotation("error", problem))
        for problem in warnings:
            click.echo(_annotation("warning", problem))
    else:
        for problem in errors:
            click.echo(str(problem), err=True)
        for problem in warnings:
            click.echo(f"warning: {problem}", err=True)
        click.echo(summary, err=True)
    if errors:
        raise click.exceptions.Exit(EXIT_INVALID)


def _check(file: Path) -> tuple[tuple[Problem, ...], tuple[Problem, ...], str]:
    """Return the errors and warnings of *file*, and a sentence about it."""
    from gateway.config.load import load
    from gateway.config.problems import ConfigurationError

    try:
        configuration = load(file, environ=os.environ)
    except ConfigurationError as exc:
        return exc.problems, (), f"{file}: {_count(len(exc.problems), 'error')}"
    warnings = configuration.warnings
    routes = _count(len(configuration.routes), "route")
    return (), warnings, f"{file}: ok, {routes}, {_count(len(warnings), 'warning')}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _as_json(file: Path, errors: tuple[Problem, ...], warnings: tuple[Problem, ...]) -> str:
    def plain(problem: Problem) -> dict[str, str | int]:
        return {"line": problem.line, "column": problem.column, "key": problem.key, "text": problem.text}

    return json.dumps(
        {
            "file": str(file),
            "ok": not errors,
            "errors": [plain(problem) for problem in errors],
            "warnings": [plain(problem) for problem in warnings],
        },
        indent=2,
    )


def _annotation(level: str, problem: Problem) -> str:
    """Return a workflow command: data and properties are escaped differently (GitHub's toolkit, command.ts)."""

    def data(text: str) -> str:
        return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")

    def value(text: str) -> str:
        return data(text).replace(":", "%3A").replace(",", "%2C")

    text = f"{problem.key}: {problem.text}" if problem.key else problem.text
    return f"::{level} file={value(problem.file)},line={problem.line},col={problem.column}::{data(text)}"
