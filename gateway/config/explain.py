"""
What pydantic found wrong with the shape, said with a place, what was expected and what was found.

Rules:
1. The words come from here or from `grammar.py`; pydantic's own messages and inputs are never shown.
2. An unknown key, and a word that is no choice, get a did-you-mean where one is near.
3. A value whose template could not be filled in has been told already, and is not told again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, Tag
from pydantic_core import ErrorDetails

from gateway.config import grammar as g
from gateway.config.document import Document
from gateway.config.problems import Path, did_you_mean, one_of

_TAG = re.compile(r"<[a-z]+>")  # the branch of a union, which pydantic puts among the keys

# What was expected, by the type of pydantic's error; filled in from its context.
_EXPECTED = {
    "string_type": "expected text",
    "bool_type": "expected true or false",
    "int_type": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
    "finite_number": "expected a number",
    "list_type": "expected a list",
    "dict_type": "expected a mapping of keys to values",
    "model_type": "expected a mapping of keys to values",
    "model_attributes_type": "expected a mapping of keys to values",
    "greater_than": "expected a number greater than {gt:.15g}",
    "greater_than_equal": "expected a number of at least {ge:.15g}",
    "less_than_equal": "expected a number of at most {le:.15g}",
    "too_short": "expected at least {min_length} entry",
    "too_long": "expected at most {max_length} entries",
    "string_too_long": "expected at most {max_length} characters",
}


def explain(errors: list[ErrorDetails], document: Document, root: type[BaseModel]) -> None:
    """Note each of pydantic's *errors* about *document*, which was checked against *root*."""
    for error in errors:
        _explain(error, document, root)


def _explain(error: ErrorDetails, document: Document, root: type[BaseModel]) -> None:
    kind, context = error["type"], error.get("ctx", {})
    path = _without_tags(error["loc"])
    if kind == "extra_forbidden":
        *parent, key = error["loc"]  # the key is the file's, and may look like a tag
        known = known_keys(root, tuple(parent))
        document.refuse((*_without_tags(tuple(parent)), key), _unknown_key(str(key), known), at_key=True)
    elif kind == "missing":
        document.refuse(path, "required, and missing")
    else:
        found = document.found(path)
        document.refuse(path, f"{_expected(kind, context, error)}, found {found}{_hint(kind, context, document, path)}")


def _without_tags(location: tuple[str | int, ...]) -> Path:
    return tuple(step for step in location if not (isinstance(step, str) and _TAG.fullmatch(step)))


def _expected(kind: str, context: Mapping[str, Any], error: ErrorDetails) -> str:
    if kind in (g.EXPECTED, g.LATER):
        return error["msg"]
    if kind == "literal_error":
        return f"expected {one_of(_choices(context))}"
    return _EXPECTED.get(kind, "expected another value").format_map(context)


def _choices(context: Mapping[str, Any]) -> list[str]:
    return re.findall(r"'([^']*)'", str(context.get("expected", "")))


def _hint(kind: str, context: Mapping[str, Any], document: Document, path: Path) -> str:
    value = document.get(*path)
    if kind == "string_type" and isinstance(value, (bool, int, float)):
        return "; put it in quotes"
    if kind == "bool_type" and isinstance(value, str) and value.lower() in ("yes", "no", "on", "off", "y", "n"):
        return "; in YAML 1.2 only true and false are booleans"
    # A substituted value is not compared either: what it resembles would tell about it.
    if kind == "literal_error" and isinstance(value, str) and path not in document.templates:
        return did_you_mean(value, _choices(context))
    return ""


def _unknown_key(key: str, known: list[str]) -> str:
    near = did_you_mean(key, known)
    return f"unknown key{near}" if near else f"unknown key; expected {one_of(known)}"


def known_keys(root: type[BaseModel], location: tuple[str | int, ...]) -> list[str]:
    """Return the keys of the mapping at *location*, a path of pydantic's with union tags in it."""
    annotation: Any = root
    for step in location:
        model = _model(annotation)
        if isinstance(step, int):
            annotation = get_args(_only(annotation, list))[0]
        elif model is not None and step in model.model_fields:
            annotation = model.model_fields[step].annotation
        else:
            annotation = next(branch for branch in _branches(annotation) if _has_tag(branch, step))
    found = _model(annotation)
    return list(found.model_fields) if found is not None else []


def _branches(annotation: Any) -> list[Any]:
    """Return the branches of a union, each still with its tag, or *annotation* alone."""
    if get_origin(annotation) is Annotated and not any(isinstance(data, Tag) for data in annotation.__metadata__):
        return _branches(get_args(annotation)[0])
    arguments = get_args(annotation)
    return list(arguments) if arguments and get_origin(annotation) not in (list, Annotated, Literal) else [annotation]


def _has_tag(branch: Any, tag: str) -> bool:
    return any(isinstance(data, Tag) and data.tag == tag for data in getattr(branch, "__metadata__", ()))


def _bare(branch: Any) -> Any:
    while get_origin(branch) is Annotated:
        branch = get_args(branch)[0]
    return branch


def _only(annotation: Any, origin: type) -> Any:
    """Return the branch of *annotation* that is a generic *origin*."""
    return next(bare for bare in map(_bare, _branches(annotation)) if get_origin(bare) is origin)


def _model(annotation: Any) -> type[BaseModel] | None:
    """Return the one model that *annotation* is or may be, or None."""
    models = [
        bare for bare in map(_bare, _branches(annotation)) if isinstance(bare, type) and issubclass(bare, BaseModel)
    ]
    return models[0] if len(models) == 1 else None
