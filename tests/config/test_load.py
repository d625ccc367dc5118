"""Loading whole files: good ones, broken ones, arbitrary bytes, and where secrets may turn up."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.config.load import load, parse
from gateway.config.problems import ConfigurationError
from tests.config.samples import BROKEN, CANARY, ENVIRON, EXAMPLE, GOOD, HERE, LITERAL_CANARY, example

EXPECT = "# expect: "


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: path.stem)
def test_broken_file_tells_exactly_what_it_expects(path: Path) -> None:
    """
    Every problem of a broken file is told, in order, with line, column, key and text.
    """
    lines = path.read_text("utf-8").splitlines()
    expected = [line.removeprefix(EXPECT) for line in lines if line.startswith(EXPECT)]

    with pytest.raises(ConfigurationError) as refused:
        load(path, environ=ENVIRON)

    assert expected == [line.removeprefix(f"{path}:") for line in str(refused.value).splitlines()]


def test_broken_files_are_many() -> None:
    """
    There are at least thirty ways to be wrong among the test data.
    """
    assert len(BROKEN) >= 30


@pytest.mark.parametrize("path", [*GOOD, EXAMPLE], ids=lambda path: path.stem)
def test_good_file_loads(path: Path) -> None:
    """
    What is right is taken.
    """
    assert load(path, environ=ENVIRON).project


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: path.stem)
def test_no_secret_in_a_problem(path: Path) -> None:
    """
    Neither a substituted value nor a literal secret is in any problem, however it is printed.
    """
    with pytest.raises(ConfigurationError) as refused:
        load(path, environ=ENVIRON)

    printed = f"{refused.value} {refused.value!r} {refused.value.problems!r}"
    assert CANARY not in printed
    assert LITERAL_CANARY not in printed


@pytest.mark.parametrize("name", ["everything", "descope", "catalogue"])
def test_no_secret_in_a_repr(name: str) -> None:
    """
    A configuration can be logged: what it knows of secrets is not in its repr, nor in its warnings.
    """
    configuration = example(name)

    assert CANARY not in repr(configuration)
    assert CANARY not in "\n".join(map(str, configuration.warnings))


def test_file_that_cannot_be_read_is_one_problem(tmp_path: Path) -> None:
    """
    A missing file is a problem at its first character, named by its path.
    """
    path = tmp_path / "missing.yaml"

    with pytest.raises(ConfigurationError) as refused:
        load(path, environ={})

    assert f"{path}:1:1: the file cannot be read: No such file or directory" == str(refused.value)


def test_file_larger_than_a_mebibyte_is_refused(tmp_path: Path) -> None:
    """
    A file is read up to its bound, and not parsed when it is longer.
    """
    path = tmp_path / "routes.yaml"
    path.write_bytes(b"#" * 1_048_577)

    with pytest.raises(ConfigurationError) as refused:
        load(path, environ={})

    assert f"{path}:1:1: expected at most 1048576 bytes, found more" == str(refused.value)


def _accepts_or_refuses(content: bytes) -> None:
    try:
        parse(content, name="routes.yaml", directory=HERE, environ=ENVIRON)
    except ConfigurationError as exc:
        assert exc.problems
        for problem in exc.problems:
            assert problem.line >= 1
            assert problem.column >= 1
            assert str(problem).isprintable()
            assert CANARY not in str(problem)


_PIECES = (
    *("version: 1", "routes:", "- ", "  ", "\n", "{", "}", "[", "]", ": ", "?", "*a", "&a ", "!t ", "|", ">", "'", '"'),
    *(
        "#",
        "${SECRET}",
        "${",
        "$${",
        "<<",
        "---",
        "...",
        "\t",
        "\ufeff",
        "\x85",
        "name",
        "null",
        "true",
        "1e9",
        "%YAML 9",
    ),
)
_YAMLISH = st.lists(st.sampled_from(_PIECES), max_size=40).map("".join)


@settings(deadline=None, max_examples=300)
@given(st.one_of(_YAMLISH, st.text(max_size=200)).map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary())
def test_any_text_is_taken_or_refused(content: bytes) -> None:
    """
    Nothing but ConfigurationError comes out, whatever the bytes; each problem is one printable line.
    """
    _accepts_or_refuses(content)


_ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(
        ["${SECRET}", "https://a.example", "off", "vault", "descope", "basic", "<off>", "<bind>", "user"]
    ),
    lambda child: (
        st.lists(child, max_size=3)
        | st.dictionaries(st.sampled_from(["kind", "name", "header", "<word>", "bind", "id", "x"]), child, max_size=3)
    ),
    max_leaves=6,
)


def _places(node: Any) -> list[tuple[Any, Any]]:
    """Return (container, key) of every value below *node*."""
    steps = list(node.items()) if isinstance(node, dict) else list(enumerate(node)) if isinstance(node, list) else []
    return [(node, key) for key, _ in steps] + [place for _, child in steps for place in _places(child)]


@pytest.mark.parametrize("path", [*GOOD, EXAMPLE], ids=lambda path: path.stem)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_value_in_any_place_is_taken_or_refused(path: Path, data: st.DataObject) -> None:
    """
    A good file with anything at all in one place, or with a key more, never fails in another way.
    """
    tree = copy.deepcopy(yaml.load(path.read_text("utf-8"), Loader=yaml.BaseLoader))  # noqa: S506  BaseLoader makes text only
    container, key = data.draw(st.sampled_from(_places(tree)))
    if isinstance(container, dict) and data.draw(st.booleans()):
        container[data.draw(st.text(max_size=8))] = data.draw(_ANY)
    else:
        container[key] = data.draw(_ANY)

    _accepts_or_refuses(yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass"))
