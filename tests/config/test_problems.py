"""How a problem reads."""

from __future__ import annotations

import pytest

from gateway.config.problems import ConfigurationError, Path, Problem, did_you_mean, dotted, is_secret, one_of, quoted


def test_problem_is_one_line_with_its_place() -> None:
    """
    file:line:column: key: text, as compilers and editors have it; a problem of the whole file has no key.
    """
    assert "routes.yaml:12:5: routes[0].upstream: no" == str(Problem("routes.yaml", 12, 5, "routes[0].upstream", "no"))
    assert "routes.yaml:1:1: no" == str(Problem("routes.yaml", 1, 1, "", "no"))


def test_error_tells_all_problems_by_place_and_each_once() -> None:
    """
    Problems come in the order of the file, whoever found them first.
    """
    first, second = Problem("f", 2, 1, "b", "x"), Problem("f", 10, 1, "a", "x")

    error = ConfigurationError([second, first, second])

    assert (first, second) == error.problems
    assert "f:2:1: b: x\nf:10:1: a: x" == str(error)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ((), ""),
        (("routes", 0, "upstream"), "routes[0].upstream"),
        (("a", "b c"), 'a."b c"'),
        (("a\nb",), '"a\\nb"'),
    ],
)
def test_dotted(path: Path, expected: str) -> None:
    """
    A path is written with dots and indices; a key that is no plain word in quotes, on one line.
    """
    assert expected == dotted(path)


@pytest.mark.parametrize(
    ("case", "text", "expected"),
    [
        ("nothing", "", '""'),
        ("a control character is escaped", "a\r\n\x7f", '"a\\r\\n\\u007f"'),
        ("a look-alike letter is seen", "\u0430pi", '"\\u0430pi"'),
        ("a long text is cut", "x" * 61, f'"{"x" * 59}…"'),
        ("the user part of a URL is masked", "https://me:secret@a.example", '"https://***@a.example"'),
        ("also where there are two", "https://me:sec@ret@a.example", '"https://***@a.example"'),
    ],
)
def test_quoted(case: str, text: str, expected: str) -> None:
    """
    A found text is shown on one line, bounded, and without a password.
    """
    assert expected == quoted(text), case


def test_did_you_mean_only_what_is_near() -> None:
    """
    A suggestion is made for a slip, not for another word.
    """
    assert '; did you mean "upstream"?' == did_you_mean("upsteam", ["upstream", "prefix"])
    assert "" == did_you_mean("xyzzy", ["upstream", "prefix"])


def test_one_of() -> None:
    """
    A choice reads as a sentence does.
    """
    assert ["", "a", "a or b", "a, b or c"] == [one_of(words) for words in ("", "a", "ab", "abc")]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (("connections", 0, "client_secret"), True),
        (("connections", 0, "client_secret", "x"), True),
        (("token_service", "credential"), True),
        (("routes", 0, "credential"), False),
    ],
)
def test_is_secret(path: Path, expected: bool) -> None:
    """
    A key is secret by its place: a route's `credential` says where callers put theirs, and is none.
    """
    assert expected is is_secret(path)
