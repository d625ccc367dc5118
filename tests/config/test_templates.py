"""What `${…}` stands for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.config.templates import MAX_FILE_BYTES, TemplateError, fill

ENVIRON = {"NAME": "value", "EMPTY": "", "NESTED": "${NAME}", "_x1": "y"}
FORMS = "expected ${NAME}, ${NAME:-default} or ${file:PATH} ($${ for a literal ${)"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with files to name."""
    (tmp_path / "secret").write_text("s3cret\n")
    (tmp_path / "two-breaks").write_text("s3cret\n\n")
    (tmp_path / "windows").write_bytes(b"s3cret\r\n")
    (tmp_path / "binary").write_bytes(b"s3cret\xff")
    (tmp_path / "large").write_bytes(b"x" * (MAX_FILE_BYTES + 1))
    os.mkfifo(tmp_path / "fifo")
    return tmp_path


@pytest.mark.parametrize(
    ("case", "text", "expected"),
    [
        ("nothing to fill in", "a $NAME $ {NAME} b", "a $NAME $ {NAME} b"),
        ("a variable", "${NAME}", "value"),
        ("within a text, twice", "a ${NAME}/${_x1} b", "a value/y b"),
        ("an empty variable is set", "[${EMPTY}]", "[]"),
        ("a default is not needed", "${NAME:-other}", "value"),
        ("a default for what is unset", "${UNSET:-other}", "other"),
        ("a default for what is empty", "${EMPTY:-other}", "other"),
        ("an empty default", "[${UNSET:-}]", "[]"),
        ("a default with a colon and spaces", "${UNSET:-http://a b:-c}", "http://a b:-c"),
        ("what was filled in is not looked at again", "${NESTED}", "${NAME}"),
        ("an escape", "$${NAME}", "${NAME}"),
        ("an escape before a template", "$${${NAME}", "${value"),
        ("a file, without its last line break", "${file:secret}", "s3cret"),
        ("only the last one", "${file:two-breaks}", "s3cret\n"),
        ("a line break of two characters", "${file:windows}", "s3cret"),
        ("within a text", "Bearer ${file:secret}", "Bearer s3cret"),
    ],
)
def test_fill(case: str, text: str, expected: str, directory: Path) -> None:
    """
    Templates are replaced, and nothing else is.
    """
    assert expected == fill(text, environ=ENVIRON, directory=directory), case


@pytest.mark.parametrize(
    ("case", "text", "expected"),
    [
        ("not set", "${UNSET}", "expected the environment variable UNSET to be set, found none"),
        ("no name", "${}", FORMS),
        ("not closed", "${NAME", FORMS),
        ("a name with a hyphen", "${A-b}", FORMS),
        ("a name that begins with a digit", "${1A}", FORMS),
        ("another shell form", "${NAME-x}", FORMS),
        ("a name with a space", "${ NAME }", FORMS),
        ("no file", "${file:}", "expected ${file:PATH} to name a file"),
        ("a file that is not there", "${file:none}", 'the file "none" cannot be read: No such file or directory'),
        ("a directory", "${file:.}", 'the file "." cannot be read: Is a directory'),
        ("a pipe, which could hang", "${file:fifo}", 'expected "fifo" to be a regular file'),
        ("a device without end", "${file:/dev/zero}", 'expected "/dev/zero" to be a regular file'),
        ("a file that is too large", "${file:large}", f'expected "large" to hold at most {MAX_FILE_BYTES} bytes'),
        ("a file that is no text", "${file:binary}", 'expected "binary" to be UTF-8 text'),
    ],
)
def test_fill_refuses(case: str, text: str, expected: str, directory: Path) -> None:
    """
    A template that cannot be filled in is refused by name, without a value.
    """
    with pytest.raises(TemplateError) as refused:
        fill(text, environ=ENVIRON, directory=directory)

    assert expected == str(refused.value), case
    assert refused.value.__cause__ is None or "s3cret" not in repr(refused.value.__cause__)
