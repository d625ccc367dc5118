"""
What `${…}` in a value stands for.

Rules:
1. `${NAME}` is an environment variable, and it must be set. `${NAME:-default}` takes the default where it is unset or
   empty.
2. `${file:PATH}` is the content of a regular UTF-8 file without its last line break. A relative PATH starts at the
   configuration file's directory.
3. `$${` is a literal `${`. What was filled in is not looked at again.
4. An error names the variable or the path, never what it holds.

The form is that of Compose files and of shells (POSIX 2.6.2), which readers know; only these forms, no nesting.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from gateway.config.problems import quoted

MAX_FILE_BYTES = 65_536  # a key or a PEM bundle of one; not a data file named by mistake

_TEMPLATE = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
_VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)
_FILE = "file:"


class TemplateError(Exception):
    """A template cannot be filled in; the text says why, without any value."""


def has_template(text: str) -> bool:
    """Tell whether *text* holds anything that `fill` would change."""
    return "${" in text


def fill(text: str, *, environ: Mapping[str, str], directory: Path) -> str:
    """
    Return *text* with every template replaced; *directory* is where relative file paths start.

    Raises:
        TemplateError: a template is malformed, its variable is not set, its file cannot be read.
    """
    return _TEMPLATE.sub(lambda found: _value(found, environ, directory), text)


def _value(found: re.Match[str], environ: Mapping[str, str], directory: Path) -> str:
    if found[0] == "$${":
        return "${"
    inner = found[1]
    variable = _VARIABLE.fullmatch(inner)
    if not found[2] or (variable is None and not inner.startswith(_FILE)):
        raise TemplateError("expected ${NAME}, ${NAME:-default} or ${file:PATH} ($${ for a literal ${)")
    if variable is None:
        return _content(inner.removeprefix(_FILE), directory)
    name, default = variable[1], variable[2]
    value = environ.get(name)
    if default is not None:
        return value or default
    if value is None:
        raise TemplateError(f"expected the environment variable {name} to be set, found none")
    return value


def _content(name: str, directory: Path) -> str:
    if not name or "\0" in name:
        raise TemplateError("expected ${file:PATH} to name a file")
    try:
        # O_NONBLOCK: opening a FIFO must not hang; what is not a regular file is refused below.
        descriptor = os.open(directory / name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise TemplateError(f"expected {quoted(name)} to be a regular file")
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as exc:
        raise TemplateError(f"the file {quoted(name)} cannot be read: {os.strerror(exc.errno or 0)}") from exc
    if len(content) > MAX_FILE_BYTES:
        raise TemplateError(f"expected {quoted(name)} to hold at most {MAX_FILE_BYTES} bytes")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        # Not `from exc`: a UnicodeDecodeError holds the bytes.
        raise TemplateError(f"expected {quoted(name)} to be UTF-8 text") from None
    return text.removesuffix("\n").removesuffix("\r")
