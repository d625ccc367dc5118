"""
What a connection fills into a provider's URLs (`{shop}` in `https://{shop}.myshopify.com`), and what it may be.

Rules:
1. A variable stands where a host's labels stand, or where a segment of a path stands; nowhere else.
2. Its place decides what a value may be, its pattern narrows that: even the pattern `.*` lets no value leave its place.
   form "label": one DNS label. form "labels": labels joined by dots, for hosts that stand on a provider's own domain.
   form "host": a whole host name, whose last label is not a number (an address in disguise, WHATWG URL 3.5).
   form "segment": one segment of a path, never a dot segment.
3. Values are taken as they are, or refused: nothing is trimmed, folded or encoded. An error never holds the value.

Sources: RFC 1123 section 2.1 (labels), RFC 3986 sections 3.2.2 and 3.3.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

Form = Literal["label", "labels", "host", "segment"]

MAX_VALUE_CHARACTERS = 253  # the longest host name, RFC 1035 2.3.4
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_FORMS: Mapping[str, tuple[re.Pattern[str], str]] = {
    "label": (re.compile(_LABEL), "one label of a host name: a-z, 0-9 and inner hyphens"),
    "labels": (re.compile(rf"{_LABEL}(?:\.{_LABEL}){{0,7}}"), "labels of a host name, joined by dots, in lower case"),
    "host": (
        re.compile(rf"(?:{_LABEL}\.){{1,7}}(?!(?:[0-9]+|0x[0-9a-f]*)\Z){_LABEL}"),
        "a whole host name in lower case, without port",
    ),
    "segment": (re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._~-]+"), "one segment of a path: A-Z a-z 0-9 . _ ~ -"),
}
_PLACE = re.compile(r"\{([a-z][a-z_]{0,30})\}")


class VariableInvalid(Exception):
    """
    A variable is missing, unknown, or not as it must be: its *name*, and what was *expected*; never a value.

    *name* is "" for one that the provider does not have: it came from outside.
    """

    def __init__(self, name: str, expected: str) -> None:
        self.name = name
        self.expected = expected
        super().__init__(f"{name}: {expected}" if name else expected)


@dataclass(frozen=True, slots=True)
class Variable:
    """
    One value that a connection gives. *pattern* (a regular expression, matched as a whole) narrows what *form* allows.

    *example* shows what is meant; *default* is taken where a connection gives nothing, None: it must.
    """

    name: str
    description: str
    form: Form
    pattern: str
    example: str
    default: str | None = None

    def check(self, value: str) -> str:
        """
        Return *value* where it may be filled in.

        Raises:
            VariableInvalid: it may not.
        """
        form, words = _FORMS[self.form]
        if len(value) > MAX_VALUE_CHARACTERS or form.fullmatch(value) is None:
            raise VariableInvalid(self.name, f"expected {words}, like {self.example}")
        if re.fullmatch(self.pattern, value) is None:
            raise VariableInvalid(self.name, f"expected {self.description}, like {self.example}")
        return value


def names_in(text: str) -> tuple[str, ...]:
    """Return the names of the variables in *text*, in order."""
    return tuple(_PLACE.findall(text))


def fill(text: str, values: Mapping[str, str]) -> str:
    """Return *text* with every variable replaced; *values* has been checked and has them all."""
    return _PLACE.sub(lambda found: values[found[1]], text)


def one_of(names: Collection[str]) -> str:
    """Return the sentence's part that says which variables there are."""
    return f"no variables but {', '.join(sorted(names))}" if names else "no variables"


def resolve(variables: tuple[Variable, ...], values: Mapping[str, str]) -> dict[str, str]:
    """
    Return the value of each of *variables*: the given one, checked, or its default.

    Raises:
        VariableInvalid: one is missing or wrong, or *values* has one that is not among *variables*.
    """
    known = {variable.name for variable in variables}
    if set(values) - known:
        raise VariableInvalid("", f"expected {one_of(known)}, found another")
    resolved = {}
    for variable in variables:
        value = values.get(variable.name, variable.default)
        if value is None:
            needed = f"required ({variable.description}, like {variable.example}), and missing"
            raise VariableInvalid(variable.name, needed)
        resolved[variable.name] = variable.check(value)
    return resolved
