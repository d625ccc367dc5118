"""
The JSON schema of routes.yaml, for editors: made from the models, committed as routes.schema.json.

Rules:
1. Whatever `load` takes, the schema takes; it may take more (what concerns several keys is not in it).
2. `${…}` is allowed wherever a single value is, whatever its form.
"""

from __future__ import annotations

import json
from typing import Any

from gateway.config.schema import ConfigurationFile

_TEMPLATE = {"type": "string", "pattern": r"\$\{"}
_SINGLE = ("string", "integer", "number", "boolean")


def json_schema() -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of routes.yaml."""
    generated = ConfigurationFile.model_json_schema()
    definitions = generated.pop("$defs")
    definitions.pop("_OtherFile")  # a stand-in for error messages
    branches = generated["properties"]["token_service"]["oneOf"]
    generated["properties"]["token_service"]["oneOf"] = [b for b in branches if not b["$ref"].endswith("/_OtherFile")]
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **generated,
        "$defs": definitions,
    }
    opened: dict[str, Any] = _open_to_templates(schema)
    return opened


def as_text() -> str:
    """Return the JSON schema as the committed file has it."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def _open_to_templates(node: Any) -> Any:
    """Return *node* with every single value replaced by "this, or a template"."""
    if isinstance(node, list):
        return [_open_to_templates(entry) for entry in node]
    if not isinstance(node, dict):
        return node
    if node.get("type") in _SINGLE and ({"pattern", "enum", "const"} & node.keys() or node["type"] != "string"):
        told = {key: node[key] for key in ("description", "default") if key in node}
        value = {key: entry for key, entry in node.items() if key not in told and key != "title"}
        return {**told, "anyOf": [value, _TEMPLATE]}
    return {
        key: entry if key in ("default", "enum", "required") else _open_to_templates(entry)
        for key, entry in node.items()
        if key != "title" or not isinstance(entry, str)
    }
