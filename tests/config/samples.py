"""The configuration files among the test data, and what they are read with."""

from __future__ import annotations

from pathlib import Path

from gateway.config.load import load, parse
from gateway.config.problems import ConfigurationError, Problem
from gateway.config.values import Configuration

HERE = Path(__file__).parent
BROKEN = sorted((HERE / "broken").glob("*.yaml"))
GOOD = sorted((HERE / "good").glob("*.yaml"))
EXAMPLE = HERE.parent.parent / "routes.yaml"

CANARY = "canary-5f0e9b"  # in the environment below, and in canary.txt
LITERAL_CANARY = "literal-canary-71d0"  # a secret as a careless operator writes it
ENVIRON = {"SECRET": CANARY, "EMPTY": "", "CLIENT_ID": "client-1"}

HEAD = "version: 1\nproject: acme\n"


def configure(text: str) -> Configuration:
    """Return the configuration that *text* says below the two keys that every file needs."""
    return parse((HEAD + text).encode(), name="routes.yaml", directory=HERE, environ=ENVIRON)


def problems(text: str) -> list[str]:
    """Return "key: text" of each problem of *text*, which stands below the two keys that every file needs."""
    try:
        configure(text)
    except ConfigurationError as exc:
        return [_brief(problem) for problem in exc.problems]
    return []


def warnings(text: str) -> list[str]:
    """Return "key: text" of each warning about *text*, as `problems`."""
    return [_brief(problem) for problem in configure(text).warnings]


def example(name: str) -> Configuration:
    """Return the configuration of the good file *name*."""
    return load(HERE / "good" / f"{name}.yaml", environ=ENVIRON)


def _brief(problem: Problem) -> str:
    return f"{problem.key}: {problem.text}"
