"""A validator for the part of JSON Schema that the command's schemas and SARIF's use. Any other keyword is an error."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

SCHEMAS = Path(__file__).parent.parent / "src" / "weighlock" / "cli" / "schemas"

_TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}
_SAID_ELSEWHERE = {
    "$schema", "$id", "id", "title", "description", "required", "properties", "items", "default", "definitions",
    "format", "additionalProperties",
}  # fmt: skip


def schema(name: str) -> Any:
    return json.loads((SCHEMAS / f"{name}.json").read_text(encoding="utf-8"))


def violations(value: Any, rules: dict[str, Any], at: str = "$", root: dict[str, Any] | None = None) -> list[str]:
    """Everything in which `value` differs from the schema; `root` is the schema that references are looked up in."""
    found: list[str] = []
    root = rules if root is None else root
    for keyword, rule in rules.items():
        if keyword == "type":
            names = [rule] if isinstance(rule, str) else rule
            if not any(_is(value, name) for name in names):
                found.append(f"{at}: {type(value).__name__} is not {rule}")
        elif keyword == "const":
            found += [] if value == rule and type(value) is type(rule) else [f"{at}: {value!r} is not {rule!r}"]
        elif keyword == "enum":
            found += [] if value in rule else [f"{at}: {value!r} is not one of {rule}"]
        elif keyword == "minimum":
            found += [f"{at}: {value} is below {rule}"] if isinstance(value, int) and value < rule else []
        elif keyword in ("anyOf", "oneOf"):
            tried: list[list[str]] = [violations(value, option, at, root) for option in rule]
            found += next((one for one in tried if not one), tried[0])
            if keyword == "oneOf" and sum(not one for one in tried) > 1:
                found.append(f"{at}: several of the forms fit")
        elif keyword == "$ref":
            found += violations(value, root["definitions"][rule.removeprefix("#/definitions/")], at, root)
        elif keyword == "maximum":
            found += [f"{at}: {value} is above {rule}"] if isinstance(value, int) and value > rule else []
        elif keyword == "pattern":
            found += [f"{at}: {value!r} is not {rule}"] if isinstance(value, str) and not re.search(rule, value) else []
        elif keyword == "minItems":
            found += [f"{at}: fewer than {rule} items"] if isinstance(value, list) and len(value) < rule else []
        elif keyword == "uniqueItems":
            texts = [json.dumps(item, sort_keys=True) for item in value] if rule and isinstance(value, list) else []
            found += [f"{at}: an item stands twice"] if len(set(texts)) < len(texts) else []
        elif keyword not in _SAID_ELSEWHERE:
            raise AssertionError(f"the validator does not know the keyword {keyword}")
    if isinstance(value, dict):
        found += [f"{at}: {name} is missing" for name in rules.get("required", ()) if name not in value]
        for name, rule in rules.get("properties", {}).items():
            found += violations(value[name], rule, f"{at}.{name}", root) if name in value else []
        more = rules.get("additionalProperties", True)
        for name in value.keys() - rules.get("properties", {}).keys():
            found += [f"{at}: {name} is not in the schema"] if more is False else []
            found += violations(value[name], more, f"{at}.{name}", root) if isinstance(more, dict) else []
    if isinstance(value, list) and "items" in rules:
        for number, item in enumerate(value):
            found += violations(item, rules["items"], f"{at}[{number}]", root)
    return found


def _is(value: Any, name: str) -> bool:
    if isinstance(value, bool) and name in ("integer", "number"):
        return False
    return isinstance(value, _TYPES[name])
