"""YAML as data with places."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.config.document import MAX_DEPTH, Document, Filled, Place, read
from tests.config.samples import ENVIRON, HERE


def document(text: str | bytes) -> Document:
    """Return *text* as a document."""
    content = text if isinstance(text, bytes) else text.encode()
    return read("f", content, environ=ENVIRON, directory=HERE)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("~", None),
        ("null", None),
        ("true", True),
        ("False", False),
        *((word, word) for word in ("yes", "no", "on", "off", "y", "N", "tRUE", "nULL")),
        ("0", 0),
        ("-12", -12),
        ("+3", 3),
        *((word, word) for word in ("010", "0x1F", "0o7", "1_000", "12:30:45", "1" * 19)),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        *((word, word) for word in (".5", "1e999", ".inf", ".nan", "1.")),
        ("2026-01-01", "2026-01-01"),
        ("'5'", "5"),
        ('"true"', "true"),
        ('""', ""),
        ("=", "="),
    ],
)
def test_scalar(text: str, expected: Any) -> None:
    """
    Scalars are YAML 1.2: no booleans but true and false, no octal, no dates, nothing out of quotes.
    """
    found = document(f"key: {text}").data["key"]

    assert (expected, type(expected)) == (found, type(found))


def test_places_count_from_one() -> None:
    """
    Every key and every value has its line and column.
    """
    found = document("a: 1\nroutes:\n  - name: x\n")

    assert Place(2, 1) == found.keys["routes",]
    assert Place(3, 3) == found.values["routes",]
    assert Place(3, 5) == found.keys["routes", 0, "name"]
    assert Place(3, 11) == found.values["routes", 0, "name"]


def test_problem_of_what_is_missing_stands_at_its_parent() -> None:
    """
    What does not exist has the place of the nearest thing around it.
    """
    problem = document("a: 1\nroutes:\n  - name: x\n").problem(("routes", 0, "upstream"), "missing")

    assert "f:3:5: routes[0].upstream: missing" == str(problem)


@pytest.mark.parametrize(
    ("case", "content", "expected"),
    [
        (
            "an alias",
            "a: &x 1\nb: *x\n",
            "f:2:4: expected YAML: aliases (*name) are not supported, write the value out",
        ),
        ("a tag", "a: !!int 1\n", "f:1:4: expected YAML: tags (!name) are not supported"),
        ("a tag on a mapping", "a: !x {}\n", "f:1:4: expected YAML: tags (!name) are not supported"),
        ("too deep", "[" * 1000, f"f:1:{MAX_DEPTH + 1}: expected YAML: nested deeper than {MAX_DEPTH}"),
        ("not UTF-8", b"a: 1\nb: \xff\n", "f:2:4: expected UTF-8 text, found a byte that is none"),
        ("UTF-16", "a: 1".encode("utf-16"), "f:1:1: expected UTF-8 text, found a byte that is none"),
        ("a control character", "a: 1\nb: \x00\n", "f:2:4: expected printable text, found a control character"),
    ],
)
def test_what_is_no_plain_yaml_is_one_problem(case: str, content: str | bytes, expected: str) -> None:
    """
    A text that cannot be composed has exactly one problem, where it happened.
    """
    found = document(content)

    assert [expected] == [str(problem) for problem in found.problems], case
    assert found.data is None


def test_anchor_without_alias_is_harmless() -> None:
    """
    Only what an alias would repeat is dangerous.
    """
    assert {"a": 1} == document("a: &x 1").data


def test_duplicate_key_keeps_the_first_and_tells_the_second() -> None:
    """
    Neither the first nor the last value wins silently.
    """
    found = document("a: 1\na: 2\n")

    assert {"a": 1} == found.data
    assert ["f:2:1: a: expected each key once, found it again (first on line 1)"] == list(map(str, found.problems))


@pytest.mark.parametrize(
    ("text", "expected", "kind"),
    [
        ("${SECRET}", "canary-5f0e9b", Filled),
        ("'${SECRET}'", "canary-5f0e9b", str),
        ("${EMPTY}", None, type(None)),
        ("'${EMPTY}'", "", str),
        ("$${SECRET}", "${SECRET}", Filled),
        ("${UNSET:-5}", "5", Filled),
    ],
)
def test_template_stays_text(text: str, expected: object, kind: type) -> None:
    """
    What is filled in is never guessed to be a number; unquoted and empty it is null.
    """
    found = document(f"a: {text}").data["a"]

    assert (expected, kind) == (found, type(found))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a:", "nothing"),
        ("a: []", "an empty list"),
        ("a: {b: 1}", "a mapping"),
        ("a: 5", "5"),
        ("a: true", "true"),
        ("a: x y", '"x y"'),
        ("a: ${SECRET}", '"${SECRET}"'),
        ("a: ${EMPTY}", '"${EMPTY}"'),
    ],
)
def test_found_shows_the_template(text: str, expected: str) -> None:
    """
    An error shows a value as the file has it, never what was filled in.
    """
    assert expected == document(text).found(("a",))


def test_found_never_shows_a_secret() -> None:
    """
    The value of a secret key is not shown, not even its number of characters.
    """
    found = document("connections:\n  - client_secret: hunter2\n  - client_secret: 1234\n")

    assert "text" == found.found(("connections", 0, "client_secret"))
    assert "something that is not text" == found.found(("connections", 1, "client_secret"))
