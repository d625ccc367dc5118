"""JSON with one reading only."""

from __future__ import annotations

import pytest

from gateway.access.strict_json import NotStrictJson, load_object

REFUSED = {
    "nothing": b"",
    "a list": b"[]",
    "a string": b'"a"',
    "a member twice": b'{"a":1,"a":1}',
    "a member twice, one escaped": b'{"a":1,"\\u0061":2}',
    "a member twice, inside": b'{"a":{"b":1,"b":2}}',
    "a byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "bytes that are no UTF-8": b'{"a":"\xff"}',
    "NaN": b'{"a":NaN}',
    "Infinity": b'{"a":-Infinity}',
    "a number that overflows": b'{"a":1e400}',
    "a number of too many digits": b'{"a":' + b"9" * 5000 + b"}",
    "a deep nest": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "something after": b"{} x",
    "two objects": b"{}{}",
    "cut short": b'{"a":',
    "a raw control character": b'{"a":"\n"}',
}


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
def test_refuses_what_could_be_read_in_two_ways(text: bytes) -> None:
    """
    Anything but one clean object is refused, and the error repeats nothing of the text.
    """
    with pytest.raises(NotStrictJson) as caught:
        load_object(text)

    assert len(str(caught.value)) < 40


def test_reads_an_object() -> None:
    """
    A clean object is read as it is.
    """
    assert {"a": [1, 2.5, None, True], "ü": {"b": "c"}} == load_object('{"a":[1,2.5,null,true],"ü":{"b":"c"}}'.encode())
