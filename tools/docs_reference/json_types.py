"""JSON Schema, as pydantic writes it, told in words: a field's type with its bounds."""

import json
from collections.abc import Iterator
from typing import Any

from schemas.base import Frozen

Schema = dict[str, Any]
_NOTHING: Schema = {}
_FORMATS = {"path": "path", "file-path": "path of a file", "password": "secret text"}


class Field(Frozen):
    """One field of a JSON object; `path` has a dot for each object, and `[]` for each list."""

    path: str
    type: str
    is_required: bool
    default: str
    meaning: str


def list_fields(schema: Schema, definitions: Schema, prefix: str = "") -> Iterator[Field]:
    """Yield an object's fields, and below each those of the objects in it."""
    required = schema.get("required", [])
    for name, inner in schema.get("properties", _NOTHING).items():
        yield Field(
            path=prefix + name,
            type=describe_type(inner, definitions),
            is_required=name in required,
            default=describe_default(inner),
            meaning=inner.get("description", ""),
        )
        below, suffix = _object_in(inner, definitions)
        yield from list_fields(below, definitions, f"{prefix}{name}{suffix}.")


def describe_default(schema: Schema) -> str:
    """Write the default as JSON; an object's stands with its fields, and null is none."""
    default = schema.get("default")
    if default is None or isinstance(default, dict):
        return ""
    return json.dumps(default, ensure_ascii=False)


def describe_type(schema: Schema, definitions: Schema) -> str:
    """Say a schema in words, such as `integer (1 to 100)` or `list of text`."""
    schema = _resolve(schema, definitions)
    if "anyOf" in schema:
        return " or ".join(describe_type(option, definitions) for option in schema["anyOf"])
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        return ", ".join(f"`{_plain(value)}`" for value in values)
    match schema.get("type"):
        case "string":
            return _text(schema)
        case "integer" | "number":
            return _bounded(str(schema["type"]), schema, "minimum", "maximum")
        case "array":
            items = describe_type(schema.get("items", _NOTHING), definitions)
            return _bounded(f"list of {items}", schema, "minItems", "maxItems", " items")
        case "object":
            return _object(schema, definitions)
        case "boolean":
            return "boolean"
        case "null":
            return "null"
    return "any"


def _text(schema: Schema) -> str:
    if "pattern" in schema:
        return f"text matching `{schema['pattern']}`"
    text = _FORMATS.get(schema.get("format", ""), "text")
    return _bounded(text, schema, "minLength", "maxLength", " characters")


def _object(schema: Schema, definitions: Schema) -> str:
    values = schema.get("additionalProperties")
    if isinstance(values, dict):
        return f"object of {describe_type(values, definitions)}"
    return "object"


def _bounded(what: str, schema: Schema, least: str, most: str, unit: str = "") -> str:
    low, high = schema.get(least), schema.get(most)
    above = schema.get("exclusiveMinimum")
    if above is not None:
        bounds = f"above {above}" + ("" if high is None else f", at most {high}")
    elif low is None and high is None:
        return what
    elif low is None:
        bounds = f"at most {high}"
    else:
        bounds = f"at least {low}" if high is None else f"{low} to {high}"
    return f"{what} ({bounds}{unit})"


def _object_in(schema: Schema, definitions: Schema) -> tuple[Schema, str]:
    """Return the object that a field or a list's items hold, and what its path ends with."""
    schema = _resolve(schema, definitions)
    if "anyOf" in schema:
        found = (_object_in(option, definitions) for option in schema["anyOf"])
        return next((pair for pair in found if pair[0]), (_NOTHING, ""))
    if schema.get("type") == "array":
        below, suffix = _object_in(schema.get("items", _NOTHING), definitions)
        return below, f"[]{suffix}"
    return (schema if "properties" in schema else _NOTHING), ""


def _resolve(schema: Schema, definitions: Schema) -> Schema:
    reference = schema.get("$ref")
    if reference is None:
        return schema
    found: Schema = definitions[reference.removeprefix("#/$defs/")]
    return found


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
