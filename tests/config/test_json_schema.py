"""The schema that editors use, and the page that people read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import gateway.config
from gateway.config.json_schema import as_text, json_schema
from tests.config.samples import EXAMPLE, GOOD

COMMITTED = Path(gateway.config.__file__).parent / "routes.schema.json"
PAGE = EXAMPLE.parent / "docs" / "configuration.md"


def keys(schema: dict[str, Any]) -> set[tuple[str, str]]:
    """Return (mapping, key) of every key that the schema knows."""
    models = {"routes.yaml": schema, **schema["$defs"]}
    return {(name, key) for name, model in models.items() for key in model.get("properties", {})}


def test_committed_schema_is_the_models() -> None:
    """
    The committed schema is what `gateway config schema` prints.
    """
    assert COMMITTED.read_text("utf-8") == as_text(), "gateway config schema > gateway/config/routes.schema.json"


def test_every_key_has_a_description() -> None:
    """
    An editor explains every key, by itself or by the mapping it leads to.
    """
    schema = json_schema()
    models = [schema, *schema["$defs"].values()]
    bare = [
        key
        for model in models
        for key, value in model["properties"].items()
        if not {"description", "$ref"} & value.keys()
    ]

    assert [] == bare


@pytest.mark.parametrize("mapping", ["routes.yaml", *json_schema()["$defs"]])
def test_every_key_is_on_the_page(mapping: str) -> None:
    """
    docs/configuration.md explains every key of the schema, as code, in the section of its mapping or elsewhere.
    """
    page = PAGE.read_text("utf-8")
    missing = [
        key for name, key in keys(json_schema()) if name == mapping and not re.search(rf"`[^`\n]*\b{key}\b", page)
    ]

    assert [] == missing


def test_examples_on_the_page_load() -> None:
    """
    Every YAML block of the page is YAML.
    """
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)

    assert blocks
    for block in blocks:
        yaml.safe_load(block)


def fits(value: Any, schema: dict[str, Any], root: dict[str, Any]) -> bool:
    """Return whether *value* fits *schema*, by the few words that ours uses."""
    if "$ref" in schema:
        return fits(value, root["$defs"][schema["$ref"].rsplit("/", 1)[1]], root)
    for word in ("anyOf", "oneOf"):
        if word in schema and not any(fits(value, branch, root) for branch in schema[word]):
            return False
    kinds: dict[str, Any] = {
        "object": dict,
        "array": list,
        "string": str,
        "integer": int,
        "number": (int, float),
        "boolean": bool,
    }
    kind = schema.get("type")
    if kind == "null":
        return value is None
    if kind is not None and not isinstance(value, kinds[kind]):
        return False
    if isinstance(value, dict) and "properties" in schema:
        known = schema["properties"]
        missing = set(schema.get("required", ())) - value.keys()
        return not missing and all(key in known and fits(entry, known[key], root) for key, entry in value.items())
    if isinstance(value, list) and "items" in schema:
        return all(fits(entry, schema["items"], root) for entry in value)
    if isinstance(value, str) and "pattern" in schema and not re.search(schema["pattern"], value):
        return False
    return value == schema.get("const", value) and value in schema.get("enum", [value])


@pytest.mark.parametrize("path", [*GOOD, EXAMPLE], ids=lambda path: path.stem)
def test_good_file_fits_the_schema(path: Path) -> None:
    """
    Whatever loads is right for an editor too, templates included.
    """
    text = re.sub(r"\boff\b", '"off"', path.read_text("utf-8"))  # safe_load is YAML 1.1
    schema = json_schema()

    assert fits(yaml.safe_load(text), schema, schema)
    assert not fits({**yaml.safe_load(text), "extra": 1}, schema, schema)
