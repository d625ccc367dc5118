"""What an API's challenge says about scopes, and what it cannot make us believe."""

from __future__ import annotations

import pytest

from gateway.proxy.challenge import MAX_SCOPE_CHARS, MAX_SCOPES, missing_scopes

NAME = b"WWW-Authenticate"
ERROR = b'Bearer error="insufficient_scope"'

SAID: dict[str, tuple[bytes, tuple[str, ...] | None]] = {
    "nothing about scopes": (b'Bearer error="invalid_token", scope="a"', None),
    "another error that begins alike": (b'Bearer error="insufficient_scopes", scope="a"', None),
    "the error in a description": (b'Bearer error_description="insufficient_scope"', None),
    "which scope is not said": (ERROR, ()),
    "an empty scope": (ERROR + b', scope=""', ()),
    "one scope": (ERROR + b', scope="mail"', ("mail",)),
    "several, in their order, each once": (ERROR + b', scope="b a b"', ("b", "a")),
    "what was granted is taken off": (ERROR + b', scope="had mail"', ("mail",)),
    "all was granted": (ERROR + b', scope="had"', ("had",)),
    "scope before the error": (b'Bearer scope="mail", error="insufficient_scope"', ("mail",)),
    "without quotes": (b"Bearer error=insufficient_scope, scope=mail", ("mail",)),
    "in other letter case": (b'BEARER ERROR="INSUFFICIENT_SCOPE", SCOPE="Mail"', ("Mail",)),
    "after another challenge": (b'Basic realm="scope", ' + ERROR + b', scope="mail"', ("mail",)),
    "another parameter that ends alike": (ERROR + b', xscope="evil", scope="mail"', ("mail",)),
    "a URL as a scope": (ERROR + b', scope="https://a.test/auth/x.read"', ("https://a.test/auth/x.read",)),
    "a backslash": (ERROR + b', scope="a\\b mail"', ("mail",)),
    "control characters": (ERROR + b', scope="a\x01b mail\x7f ok"', ("ok",)),
    "other than ASCII": (ERROR + ', scope="må ok"'.encode(), ("ok",)),
    "one that is too long": (ERROR + b', scope="' + b"a" * (MAX_SCOPE_CHARS + 1) + b' ok"', ("ok",)),
    "a quote that never ends": (ERROR + b', scope="mail', ()),
}


@pytest.mark.parametrize(("value", "expected"), SAID.values(), ids=SAID.keys())
def test_challenge_is_read_as_far_as_it_can_be_believed(value: bytes, expected: tuple[str, ...] | None) -> None:
    """
    Well-formed scopes count, beside those that were granted; whatever else stands there does not.
    """
    assert expected == missing_scopes([(b"Date", b"now"), (NAME, value)], ("had",))


def test_more_scopes_than_a_person_can_be_asked_for_are_left_out() -> None:
    """
    The first MAX_SCOPES count.
    """
    many = b" ".join(b"s%d" % number for number in range(MAX_SCOPES + 10))
    found = missing_scopes([(NAME, ERROR + b', scope="' + many + b'"')], ())

    assert found is not None
    assert (MAX_SCOPES, "s0") == (len(found), found[0])


def test_second_field_counts_as_well() -> None:
    """
    A provider may send one field for each challenge.
    """
    fields = [(NAME, b'Basic realm="x"'), (NAME.lower(), ERROR + b', scope="mail"')]
    assert ("mail",) == missing_scopes(fields, ())


def test_field_of_another_name_does_not_count() -> None:
    """
    Only WWW-Authenticate is a challenge.
    """
    assert missing_scopes([(b"X-WWW-Authenticate", ERROR)], ()) is None
