"""
The YAML text as plain data, with the place of every key and value.

Rules:
1. YAML is composed, never constructed: no tag makes an object (threats M1).
2. Scalars are read as YAML 1.2 core does: only true and false are booleans, so `on`, `off`, `yes` and `no` are text.
   Numbers are decimal and without leading zeros; anything else is text.
3. Refused: duplicate keys, aliases and merge keys (they make files of any size out of small ones), tags, keys that are
   not plain text, a second document, more than MAX_BYTES, deeper than MAX_DEPTH.
4. `${…}` is filled in here. A plain scalar that becomes empty is null, as an empty plain scalar is; otherwise it stays
   text of the kind `Filled`, and the key it belongs to decides whether that reads as a number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any, NamedTuple

import yaml
from yaml.composer import Composer
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.parser import Parser
from yaml.reader import Reader, ReaderError
from yaml.scanner import Scanner

from gateway.config.problems import Path, Problem, dotted, is_secret, quoted
from gateway.config.templates import TemplateError, fill, has_template

MAX_BYTES = 1_048_576
MAX_DEPTH = 20  # the deepest key that exists stands at 5

_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")  # what fits 64 bits
_FLOAT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,18})?(?:[eE][-+]?[0-9]{1,2})?")
_WORDS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


class Filled(str):
    """Text that came from a `${…}` in a plain scalar: a key that wants a number may read it as one."""

    __slots__ = ()


class Place(NamedTuple):
    """Line and column, counted from 1."""

    line: int
    column: int


@dataclass(slots=True)
class Document:
    """
    A file as data, the places of its keys and values, and the problems found so far.

    *data* is made of dict, list, str, int, float, bool and None. *templates* keeps the text of scalars as it stands in
    the file, where it was filled in; *unfilled* are those that could not be:
    no other rule complains about them.
    """

    file: str
    data: Any = field(default=None, repr=False)
    values: dict[Path, Place] = field(default_factory=dict, repr=False)
    keys: dict[Path, Place] = field(default_factory=dict, repr=False)
    templates: dict[Path, str] = field(default_factory=dict, repr=False)
    unfilled: set[Path] = field(default_factory=set, repr=False)
    problems: list[Problem] = field(default_factory=list)

    def get(self, *path: str | int) -> Any:
        """Return the value at *path*, or None where there is none."""
        value = self.data
        for step in path:
            if isinstance(step, int):
                value = value[step] if isinstance(value, list) and step < len(value) else None
            else:
                value = value.get(step) if isinstance(value, dict) else None
        return value

    def entries(self, *path: str | int) -> list[Any]:
        """Return the list at *path*, or an empty one where there is none."""
        value = self.get(*path)
        return value if isinstance(value, list) else []

    def text(self, *path: str | int) -> str | None:
        """Return the text at *path*, or None where there is something else."""
        value = self.get(*path)
        return str(value) if isinstance(value, str) else None

    def problem(self, path: Path, text: str, *, at_key: bool = False) -> Problem:
        """Return a problem with the value (or the key) at *path*; with its parent where it does not exist."""
        place = self.keys.get(path) if at_key else None
        parent = path
        while place is None:
            place = self.values.get(parent)
            if not parent:
                break
            parent = parent[:-1]
        place = place or Place(1, 1)
        return Problem(self.file, place.line, place.column, dotted(path), text)

    def refuse(self, path: Path, text: str, *, at_key: bool = False) -> None:
        """Note a problem with the value (or the key) at *path*, unless that could not even be filled in."""
        if path not in self.unfilled:
            self.problems.append(self.problem(path, text, at_key=at_key))

    def found(self, path: Path) -> str:
        """Return the value at *path* as an error may show it (problems.py, rule 3)."""
        value = self.get(*path)
        if value is None and path not in self.templates:
            return "nothing"
        if isinstance(value, (list, dict)):
            return f"{'a' if value else 'an empty'} {'list' if isinstance(value, list) else 'mapping'}"
        if is_secret(path):
            return "text" if isinstance(value, str) else "something that is not text"
        if path in self.templates:
            return quoted(self.templates[path])
        if isinstance(value, bool):
            return "true" if value else "false"
        return quoted(value) if isinstance(value, str) else str(value)


def read(file: str, content: bytes, *, environ: Mapping[str, str], directory: FilePath) -> Document:
    """
    Return *content* as a document, with every problem of its form among its problems.

    Where the text is no YAML at all, the data is None and there is exactly one problem. *environ* and *directory* are
    what templates read; *file* is the name that problems carry.
    """
    document = Document(file)
    if len(content) > MAX_BYTES:
        document.refuse((), f"expected at most {MAX_BYTES} bytes, found more")
        return document
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as exc:
        document.values[()] = _place_of(content[: exc.start].decode("utf-8"))
        document.refuse((), "expected UTF-8 text, found a byte that is none")
        return document
    try:
        node = _Composer(text).get_single_node()
    except ReaderError as exc:
        document.values[()] = _place_of(text[: exc.position])
        document.refuse((), "expected printable text, found a control character")
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        document.values[()] = Place(mark.line + 1, mark.column + 1) if mark else Place(1, 1)
        problem = exc.problem or exc.context or "unreadable"
        if problem.startswith("but "):
            problem = f"{exc.context}, {problem}"
        in_braces = mark is not None and text[max(0, mark.index - 1) : mark.index + 1] == "${"
        hint = "; put ${…} in quotes inside of { }" if in_braces else ""
        document.refuse((), _one_line(f"expected YAML: {problem}") + hint)
    else:
        if node is not None:
            document.data = _Reader(document, environ, directory).value(node, ())
    return document


def _one_line(text: str) -> str:
    """Return the parser's sentence in printable ASCII, bounded: it may quote a few characters of the file."""
    return "".join(c if " " <= c <= "~" else "?" for c in text)[:200]


def _place_of(before: str) -> Place:
    """Return the place right behind the text *before*."""
    return Place(before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)


class _Resolver:
    """Gives every node the tag of its kind: scalars are read in `_Reader`, by rule 2."""

    def descend_resolver(self, current_node: Node | None, current_index: object) -> None:
        """Nothing depends on the path (the composer asks)."""

    def ascend_resolver(self) -> None:
        """Nothing depends on the path (the composer asks)."""

    def resolve(self, kind: type[Node], value: str | None, implicit: object) -> str:
        """Return a tag that says "plain" where the parser would guess one."""
        plain = kind is ScalarNode and isinstance(implicit, tuple) and implicit[0]
        return "plain" if plain else "untagged"


class _Composer(Reader, Scanner, Parser, Composer, _Resolver):
    """PyYAML's pure parser: bounded depth, no aliases. Its C twin words its errors differently from build to build."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        self._depth = 0

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        """Compose one node, refusing what rule 3 refuses before it costs anything."""
        event = self.peek_event()  # type: ignore[no-untyped-call]  # types-PyYAML leaves it bare
        if self._depth >= MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem=f"nested deeper than {MAX_DEPTH}", problem_mark=event.start_mark)
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(
                problem="aliases (*name) are not supported, write the value out", problem_mark=event.start_mark
            )
        if getattr(event, "tag", None) is not None:
            raise yaml.MarkedYAMLError(problem="tags (!name) are not supported", problem_mark=event.start_mark)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


class _Reader:
    """Turns composed nodes into data, noting places and problems in the document."""

    def __init__(self, document: Document, environ: Mapping[str, str], directory: FilePath) -> None:
        self._document = document
        self._environ = environ
        self._directory = directory

    def value(self, node: Node, path: Path) -> Any:
        """Return the data of *node*, which stands at *path*."""
        self._document.values[path] = Place(node.start_mark.line + 1, node.start_mark.column + 1)
        if isinstance(node, MappingNode):
            return self._mapping(node, path)
        if isinstance(node, SequenceNode):
            return [self.value(child, (*path, index)) for index, child in enumerate(node.value)]
        return self._scalar(node, path)

    def _mapping(self, node: MappingNode, path: Path) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            place = Place(key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            if not isinstance(key_node, ScalarNode):
                self._note(place, path, "expected a plain word as key, found a list or a mapping")
                continue
            key = str(key_node.value)
            if key == "<<" and key_node.tag == "plain":
                self._note(place, path, "expected no merge key (<<), write the keys out")
                continue
            if key in data:
                first = self._document.keys[(*path, key)]
                self._note(place, (*path, key), f"expected each key once, found it again (first on line {first.line})")
                continue
            self._document.keys[(*path, key)] = place
            data[key] = self.value(value_node, (*path, key))
        return data

    def _note(self, place: Place, path: Path, text: str) -> None:
        self._document.problems.append(Problem(self._document.file, place.line, place.column, dotted(path), text))

    def _scalar(self, node: Node, path: Path) -> str | int | float | bool | None:
        text, is_plain = str(node.value), node.tag == "plain"
        if not has_template(text):
            return _plain(text) if is_plain else text
        self._document.templates[path] = text
        try:
            filled = fill(text, environ=self._environ, directory=self._directory)
        except TemplateError as exc:
            self._document.refuse(path, str(exc))
            self._document.unfilled.add(path)
            return text
        if not is_plain:
            return filled
        return Filled(filled) if filled else None


def _plain(text: str) -> str | int | float | bool | None:
    """Return what a plain scalar stands for (rule 2)."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text
