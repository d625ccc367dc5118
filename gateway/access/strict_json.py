"""
JSON as tokens and key sets must be written: one reading only (RFC 8725 section 2.4, threats B9).

Rules:
1. UTF-8 without a byte order mark; the outermost value is an object; no member twice, at any depth.
2. No NaN or Infinity, and no number that overflows to one; nothing nested deeper than the parser's own bound.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn


class NotStrictJson(ValueError):
    """The text breaks a rule of this module. The message names the rule and holds nothing of the text."""


def load_object(text: bytes) -> dict[str, Any]:
    """
    Return the JSON object that *text* holds.

    Raises:
        NotStrictJson: it breaks a rule of this module.
    """
    try:
        value = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
    except NotStrictJson:
        raise
    except (ValueError, RecursionError) as exc:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise NotStrictJson("not JSON in UTF-8") from exc
    if not isinstance(value, dict):
        raise NotStrictJson("not an object")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise NotStrictJson("a member occurs twice")
    return members


def _refuse_constant(_text: str) -> NoReturn:
    raise NotStrictJson("NaN or Infinity")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise NotStrictJson("a number too large")
    return number
