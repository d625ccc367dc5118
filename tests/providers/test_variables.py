"""What may be filled into a provider's URLs: hostile values, missing ones, right ones."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from gateway.providers.variables import Form, Variable, VariableInvalid, fill, names_in, resolve

ANYTHING = "(?s).*"

HOSTILE: dict[str, str] = {
    "nothing": "",
    "a slash": "evil.example/",
    "a path": "a/../../x",
    "a backslash": "evil.example\\",
    "a user part": "evil.example@x",
    "a port": "evil.example:8443",
    "a query": "evil?x",
    "a fragment": "evil#",
    "an encoded slash": "evil%2f",
    "an encoded dot": "evil%2eexample",
    "a space": "a b",
    "a trailing line break": "acme\n",
    "a leading line break": "\nacme",
    "a tab": "ac\tme",
    "a NUL": "acme\x00",
    "upper case": "Acme",
    "an underscore": "a_b",
    "a leading hyphen": "-acme",
    "a trailing hyphen": "acme-",
    "a leading dot": ".acme",
    "a trailing dot": "acme.",
    "two dots": "a..b",
    "dots alone": "..",
    "another letter that looks like one": "аcme",  # noqa: RUF001  # a Cyrillic one, on purpose
    "a full stop of another script": "evil。example",
    "a full-width letter": "ａcme",  # noqa: RUF001
    "a soft hyphen": "ac\u00adme",
    "a zero-width space": "ac\u200bme",
    "a variable in a variable": "{shop}",
    "a bracketed address": "[::1]",
    "a label of 64 characters": "a" * 64,
    "a megabyte": "a" * 1_000_000,
    "a lone surrogate": "\udc80",
}


def variable(form: Form, pattern: str = ANYTHING, default: str | None = None) -> Variable:
    """A variable named shop of this form."""
    return Variable("shop", "the shop's name", form, pattern, "acme", default)


@pytest.mark.parametrize("form", ["label", "labels", "host"])
@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE.keys())
def test_no_value_leaves_its_place_in_a_host(form: Form, value: str) -> None:
    """
    Whatever the pattern lets through, what is no label of a host is refused, and not repeated.
    """
    with pytest.raises(VariableInvalid) as error:
        variable(form).check(value)

    assert "shop" == error.value.name
    assert "evil" not in str(error.value)
    assert len(str(error.value)) < 200


@pytest.mark.parametrize(
    ("case", "form", "value", "is_taken"),
    [
        ("a label", "label", "acme-2", True),
        ("a label of one character", "label", "a", True),
        ("a label in punycode", "label", "xn--bcher-kva", True),
        ("a label is one label", "label", "evil.example", False),
        ("labels", "labels", "acme--uat.sandbox", True),
        ("more labels than anybody needs", "labels", ".".join("a" * 9), False),
        ("a host", "host", "gitlab.example.com", True),
        ("a host without a dot", "host", "localhost", False),
        ("an address", "host", "127.0.0.1", False),
        ("an address in hexadecimal", "host", "a.0x7f000001", False),
        ("a host whose last label begins with a digit", "host", "a.1password", True),
        ("a host of a number", "host", "2130706433", False),
        ("a segment", "segment", "Contoso.onmicrosoft.com", True),
        ("a segment of a dot", "segment", ".", False),
        ("a segment of two dots", "segment", "..", False),
        ("a segment with a slash", "segment", "a/b", False),
        ("a segment with a percent sign", "segment", "a%2fb", False),
        ("a segment with a semicolon", "segment", "a;b", False),
        ("a segment with a line break", "segment", "a\n", False),
    ],
)
def test_each_form_has_its_place(case: str, form: Form, value: str, is_taken: bool) -> None:
    """
    A value is exactly what its form says.
    """
    if not is_taken:
        with pytest.raises(VariableInvalid):
            variable(form).check(value)
        return
    assert value == variable(form).check(value), case


def test_pattern_narrows_the_form() -> None:
    """
    A value of the right form that the pattern does not match as a whole is refused.
    """
    narrow = variable("label", "us[0-9]+")

    assert "us19" == narrow.check("us19")
    for value in ("us", "us19a", "xus19"):
        with pytest.raises(VariableInvalid, match="the shop's name"):
            narrow.check(value)


@pytest.mark.parametrize("value", ["acme", "evil-example", "a" * 63, "xn--bcher-kva"])
def test_host_stays_with_its_owner(value: str) -> None:
    """
    However the URL is parsed, its host ends with the provider's own labels and nothing else has changed.
    """
    parts = urlsplit(fill("https://{shop}.myshopify.com/admin", resolve((variable("label"),), {"shop": value})))

    assert ("https", f"{value}.myshopify.com", "/admin", "", "") == tuple(parts)


def test_default_stands_in() -> None:
    """
    A variable that is not given takes its default; a given value wins.
    """
    variables = (variable("label", default="acme"),)

    assert {"shop": "acme"} == resolve(variables, {})
    assert {"shop": "other"} == resolve(variables, {"shop": "other"})


@pytest.mark.parametrize(
    ("case", "values", "name", "said"),
    [
        ("one is missing", {}, "shop", "required"),
        ("one is unknown", {"shop": "acme", "evil": "x"}, "", "no variables but shop"),
        ("one is wrong", {"shop": "."}, "shop", "one label"),
    ],
)
def test_values_are_whole(case: str, values: dict[str, str], name: str, said: str) -> None:
    """
    What is missing, unknown or wrong is told by the variable's name; an unknown name is not repeated.
    """
    with pytest.raises(VariableInvalid, match=said) as error:
        resolve((variable("label"),), values)

    assert name == error.value.name, case
    assert "evil" not in str(error.value)


def test_provider_without_variables_takes_none() -> None:
    """
    Where there is nothing to fill in, anything given is a mistake.
    """
    with pytest.raises(VariableInvalid, match="no variables"):
        resolve((), {"shop": "acme"})


def test_names_in_a_text() -> None:
    """
    Variables are found where they stand, in order, repeated ones repeatedly.
    """
    assert ("shop", "tenant", "shop") == names_in("https://{shop}.x.com/{tenant}/{shop}")
    assert () == names_in("https://{Shop}.x.com/{}/${NAME")
