"""What may be a name."""

from __future__ import annotations

import pytest

from gateway.access.names import is_name

NAMES = {
    "nothing": ("", False),
    "null": (None, False),
    "a number": (7, False),
    "a list": (["a"], False),
    "a word": ("alice", True),
    "separators": ("a:b|c/d a", True),
    "spaces around": (" a ", True),
    "letters of the world": ("ünïcødé 名前", True),
    "a line feed": ("a\nb", False),
    "a NUL": ("a\0", False),
    "an escape sequence": ("\x1b[31m", False),
    "a C1 control": ("a\x9b", False),
    "a line separator": ("a\u2028b", False),
    "half a surrogate pair": ("a\ud800", False),
    "the longest": ("a" * 512, True),
    "one longer": ("a" * 513, False),
}


@pytest.mark.parametrize(("value", "expected"), NAMES.values(), ids=NAMES)
def test_knows_a_name(value: object, expected: bool) -> None:
    """
    A name is short text without control characters, and never empty.
    """
    assert expected is is_name(value)
