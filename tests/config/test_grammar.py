"""The words that values are made of."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from pydantic import TypeAdapter, ValidationError

from gateway.config import grammar as g
from gateway.config.document import Filled


def accepts(kind: Any, value: object) -> bool:
    """Return whether *value* is a *kind*, in the strict way in which files are read."""
    try:
        TypeAdapter(kind).validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        (g.Name, ["a", "A-b_c.9", "a" * 64], ["", "-a", ".a", "a b", "a/b", "é", "a\n", "a" * 65, 5, None]),
        (g.ConnectionId, ["a", "_a", "..a", "a" * 200], ["", ".", "...", "a/b", "a\n", ".\n", "a" * 201]),
        (g.Identifier, ["a", "https://a.example/b?c"], ["", "a b", "a\n", "é"]),
        (g.Label, ["a", "a b", "é"], ["", "a\nb", "\x7f", "\x85", "\u2028", "\ud800", "a" * 513]),
        (g.Secret, ["a", "a b", "!~"], ["", " a", "a ", "a\nb", "é", 5]),
        (g.Scope, ["a", "https://a.example/b.c", "a:b"], ["", "a b", 'a"', "a\\b", "é"]),
        (g.UserPrefix, ["", "b:"], ["a b", "é"]),
        (
            g.Bind,
            ["127.0.0.1:8080", "[::1]:0", "localhost:65535"],
            [":80", "8080", "127.0.0.1", "::1:80", "a:080", "a b:80"],
        ),
        (g.Network, ["10.0.0.0/8", "::1", "fd00::/8"], ["10.0.0.1/8", "intranet", "", "10.0.0.0/33"]),
        (
            g.Prefix,
            ["/", "/a", "/a/b.c", "/v1", "/connected", "/.well-knownx"],
            ["", "a", "/a/", "/connect", "/connect/x"],
        ),
        (
            g.Prefix,
            ["/v1/outbounds"],
            ["/.", "/..", "//", "/a//b", "/a%20b", "/a;b", "/a?b", "/a#b", "/v1/outbound", "/é"],
        ),
        (g.Host, ["api.example", "API.example", "192.0.2.1"], ["", "api.example:80", "[::1]", "a_b", "https://a"]),
        (
            g.PathGlob,
            ["/", "/a", "/a/", "/a*b/**", "/%C3%A9"],
            ["", "a", "/a//b", "/..", "/a**", "/%41", "/%c3%a9", "/a;b", "/a?b"],
        ),
        (g.Method, ["GET", "M-SEARCH"], ["", "*", "get", "GET ", "TRACE", "CONNECT", "TRACK", "**"]),
        (g.Allow, ["GET /", "* /**"], ["GET", "/a", "GET  /a", "get /a", "TRACE /a", "GET /a b"]),
        (
            g.FieldName,
            ["X-Api-Key", "Authorization"],
            ["", "X_Key", "X Key", "Host", "COOKIE", "Gateway-User", "X-Forwarded-For"],
        ),
        (
            g.TokenFormat,
            ["{token}", "Bearer {token}"],
            ["", "token", "{token}{token}", "{x}{token}", "{token}\r\nX: y", " {token}"],
        ),
        (g.BasicFormat, ["user:{token}", "{token}:", ":{token}"], ["{token}", "user", "user:x"]),
        (
            g.Seconds,
            [1, 0.5, 86_400, Filled("2.5")],
            [0, -1, 86_401, float("inf"), float("nan"), True, "1", Filled("1e3"), Filled("x")],
        ),
        (g.Count, [1, 1_000_000, Filled("3")], [0, 1.5, 1.0, True, "3", Filled("-3"), Filled("٣"), Filled("9" * 5000)]),
        (g.Truth, [True, False, Filled("true")], ["true", 1, 0, None, "yes", Filled("yes"), Filled("1")]),
    ],
)
def test_word(kind: Any, right: list[object], wrong: list[object]) -> None:
    """
    A word has one form: what is right is taken, what is nearly right is not.
    """
    assert [] == [value for value in right if not accepts(kind, value)]
    assert [] == [value for value in wrong if accepts(kind, value)]


def test_reserved_prefixes_are_refused_with_all_below() -> None:
    """
    No route takes the gateway's own paths.
    """
    assert not any(accepts(g.Prefix, f"{prefix}{below}") for prefix in g.RESERVED_PREFIXES for below in ("", "/x"))


def test_filled_number_becomes_a_number() -> None:
    """
    An unquoted template may stand where a number is wanted.
    """
    assert 3 == TypeAdapter(g.Count).validate_python(Filled("3"), strict=True)
    assert TypeAdapter(g.Truth).validate_python(Filled("true"), strict=True) is True


@pytest.mark.parametrize("value", ["0.0.0.0:1", "[2001:DB8::1]:1"])
def test_split_bind(value: str) -> None:
    """
    Host and port come apart, brackets go.
    """
    assert g.split_bind(value) in {("0.0.0.0", 1), ("2001:db8::1", 1)}


@pytest.mark.parametrize("name", ["HS256", "HS512", "none"])
def test_symmetric_algorithm_is_refused_by_name(name: str) -> None:
    """
    A shared secret, or no signature, is refused for what it is, not as a typing mistake.
    """
    with pytest.raises(ValidationError, match="expected an asymmetric algorithm"):
        TypeAdapter[str](Annotated[str, g.Asymmetric]).validate_python(name)
