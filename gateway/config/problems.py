"""
What is wrong with a configuration file, and where.

Rules:
1. A problem is one line: `file:line:column: key: text`. Lines and columns count from 1, as editors do.
2. All problems of a file are told at once, in the order of their places.
3. What was found is shown as it stands in the file: a filled-in `${…}` by its template, the value of a secret key not
   at all, the user part of a URL not either. A problem never holds a substituted value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

Path = tuple[str | int, ...]

_FOUND_CHARACTERS = 60  # enough to recognise a value; a line stays a line
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]{1,60}")
_USER_PART = re.compile(r"//[^/?#]*@")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, or unwise, at *line* and *column* of *file*; *key* is a dotted path, "" for the file."""

    file: str
    line: int
    column: int
    key: str
    text: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}: "
        return f"{place}{self.key}: {self.text}" if self.key else f"{place}{self.text}"


class ConfigurationError(Exception):
    """The file cannot be used. `str()` gives every problem, one on a line."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = in_order(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


def in_order(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Return *problems* by place, each once."""
    return tuple(sorted(set(problems), key=lambda p: (p.line, p.column, p.key, p.text)))


def is_secret(path: Path) -> bool:
    """Tell whether the value at *path* is a secret or a part of one, whatever its form."""
    in_connection = path[:1] == ("connections",) and "client_secret" in path
    return in_connection or path[-2:] == ("egress", "proxy") or path[:2] == ("token_service", "credential")


def dotted(path: Path) -> str:
    """Return the name of a place: ("routes", 0, "upstream") is "routes[0].upstream"."""
    name = ""
    for step in path:
        if isinstance(step, int):
            name += f"[{step}]"
        else:
            word = step if _PLAIN_KEY.fullmatch(step) else quoted(step)
            name += f".{word}" if name else word
    return name


def quoted(text: str) -> str:
    """Return *text* in double quotes, on one line, in ASCII, shortened, without the user part of a URL."""
    masked = _USER_PART.sub("//***@", text)
    if len(masked) > _FOUND_CHARACTERS:
        masked = masked[: _FOUND_CHARACTERS - 1] + "…"
    # "…" alone is kept: everything else outside of ASCII is escaped, so that a look-alike letter is seen.
    return json.dumps(masked).replace("\\u2026", "…").replace("\x7f", "\\u007f")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return '; did you mean "…"?' for the entry of *known* nearest to *word*, or "" where none is near."""
    near = get_close_matches(word[:_FOUND_CHARACTERS], sorted(set(known)), n=1, cutoff=0.6)
    return f"; did you mean {quoted(near[0])}?" if near else ""


def one_of(words: Iterable[str]) -> str:
    """Return *words* as a choice: "a", "a or b", "a, b or c"."""
    choices = list(words)
    if len(choices) < 2:
        return "".join(choices)
    return f"{', '.join(choices[:-1])} or {choices[-1]}"
