"""
routes.yaml becomes a `Configuration`, or a list of everything that is wrong with it.

The order, each step noting its problems in the document:
1. `document.py`: bytes to data with places; templates are filled in.
2. `catalogue.py`: what a connection leaves out, its template fills in.
3. `schema.py`: keys, types, words; `explain.py` says what pydantic found.
4. `checks.py`, `reach.py`: what concerns several keys, and where URLs lead.
5. Any problem: `ConfigurationError` with all of them. None: `build.py` makes values, `cautions.py` adds warnings.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from gateway.config.build import build
from gateway.config.catalogue import fill_in
from gateway.config.cautions import cautions
from gateway.config.checks import check
from gateway.config.document import MAX_BYTES, Document, read
from gateway.config.explain import explain
from gateway.config.problems import ConfigurationError, Problem, in_order
from gateway.config.reach import check_reach
from gateway.config.schema import ConfigurationFile
from gateway.config.values import Configuration

__all__ = ["Configuration", "ConfigurationError", "Problem", "load", "parse"]


def load(path: Path, *, environ: Mapping[str, str]) -> Configuration:
    """
    Return the configuration in the file *path*; *environ* is what `${NAME}` reads.

    Raises:
        ConfigurationError: the file cannot be read or used; carries every problem, by place.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as exc:
        text = f"the file cannot be read: {os.strerror(exc.errno or 0)}"
        raise ConfigurationError([Problem(str(path), 1, 1, "", text)]) from exc
    return parse(content, name=str(path), directory=path.parent, environ=environ)


def parse(content: bytes, *, name: str, directory: Path, environ: Mapping[str, str]) -> Configuration:
    """
    Return the configuration that *content* says.

    *name* is what problems call the file; *directory* is where the relative paths in it start.

    Raises:
        ConfigurationError: it cannot be used; carries every problem, by place.
    """
    document = read(name, content, environ=environ, directory=directory)
    file = None
    if document.data is not None or not document.problems:  # else it is no YAML, and nothing more is known
        fill_in(document)
        file = _shape(document)
        check(document)
        check_reach(document)
    if document.problems or file is None:
        raise ConfigurationError(document.problems)
    return build(file, directory=directory, warnings=in_order(cautions(document)))


def _shape(document: Document) -> ConfigurationFile | None:
    """Return *document* as its models, or None with its problems noted."""
    try:
        return ConfigurationFile.model_validate(document.data)
    except ValidationError as exc:
        explain(exc.errors(include_url=False), document, ConfigurationFile)
        return None
