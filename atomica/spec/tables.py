"""Tables and a JSON schema of settings."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atomica.spec.settings import dataclass_of, doc_of, fields_of, limits_of
from atomica.spec.toml import show

__all__ = ["Setting", "describe", "meanings", "schema"]


@dataclass(frozen=True)
class Setting:
    """One row of the table of settings, as `describe` makes it."""

    key: str
    type: str
    default: str
    doc: str
    limits: str


def describe(cls: type, prefix: str = "", *, exclude: Sequence[str] = ()) -> Iterator[Setting]:
    """The settings of a section, nested tables included, in the order of their definition.

    >>> [row.key for row in describe(Setting, "row")]
    ['row.key', 'row.type', 'row.default', 'row.doc', 'row.limits']
    """
    for field, annotation in fields_of(cls, exclude):
        key = f"{prefix}.{field.name}" if prefix else field.name
        nested = dataclass_of(annotation)
        if nested is not None:
            yield from describe(nested, key)
            continue
        if field.default_factory is not dataclasses.MISSING:
            default = "empty"
        elif field.default is dataclasses.MISSING:
            default = "required"
        else:
            default = "absent" if field.default is None else show(field.default)
        yield Setting(key, _type_name(annotation), default, doc_of(field), limits_of(field))


def meanings(cls: type, key: str) -> Mapping[str, str]:
    """What each choice of a setting means."""
    (field,) = (field for field in dataclasses.fields(cls) if field.name == key)
    return dict(field.metadata["meanings"])


def schema(cls: type, *, exclude: Sequence[str] = ()) -> dict[str, Any]:
    """The JSON schema of a section: types, limits, meaning and defaults, as far as a schema can say them.

    >>> schema(Setting)["properties"]["key"], schema(Setting)["required"]
    ({'type': 'string'}, ['key', 'type', 'default', 'doc', 'limits'])
    """
    properties: dict[str, Any] = {}
    required = []
    for field, annotation in fields_of(cls, exclude):
        nested = dataclass_of(annotation)
        node = schema(nested) if nested is not None else _limited(_json_type(annotation), field)
        if doc := doc_of(field):
            node["description"] = doc
        missing = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if missing and nested is None:
            required.append(field.name)
        elif isinstance(field.default, bool | int | float | str):
            node["default"] = field.default
        properties[field.name] = node
    return {"type": "object", "properties": properties, "additionalProperties": False, "required": required}


def _json_type(annotation: Any) -> dict[str, Any]:
    names = {bool: "boolean", int: "integer", float: "number", str: "string"}
    if annotation in names:
        return {"type": names[annotation]}
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        options = [_json_type(option) for option in arguments if option is not type(None)]
        return options[0] if len(options) == 1 else {"anyOf": options}
    if origin in (tuple, list):
        return {"type": "array", "items": _json_type(arguments[0])}
    if origin is Mapping:
        # Dotted keys, such as encoder.atoms = 1e-4, are tables within the table.
        return {
            "type": "object",
            "additionalProperties": {"anyOf": [_json_type(arguments[1]), {"type": "object"}]},
        }
    return {"enum": list(arguments)} if origin is typing.Literal else {}


def _limited(node: dict[str, Any], field: dataclasses.Field[Any]) -> dict[str, Any]:
    """The schema of a value, or of a list and its items, with the limits of a setting."""
    limits = field.metadata
    if "items" in node:
        sizes = {"shortest": "minItems", "longest": "maxItems", "distinct": "uniqueItems"}
        own = {word: limits[name] for name, word in sizes.items() if limits.get(name)}
        return {**node, **own, "items": _limits_of_one(node["items"], limits, apart=tuple(sizes))}
    if "anyOf" in node:
        return {"anyOf": [_limited(option, field) for option in node["anyOf"]]}
    return _limits_of_one(node, limits)


_JSON_LIMITS = {
    "integer": {
        "low": "minimum",
        "above": "exclusiveMinimum",
        "high": "maximum",
        "below": "exclusiveMaximum",
        "multiple_of": "multipleOf",
    },
    "string": {"shortest": "minLength", "longest": "maxLength"},
}
_JSON_LIMITS["number"] = _JSON_LIMITS["integer"]
"""Words of a JSON schema for the limits of a setting, by type."""


def _limits_of_one(
    node: dict[str, Any], limits: Mapping[str, Any], apart: Sequence[str] = ()
) -> dict[str, Any]:
    """The schema of a single value with the limits of a setting, but for those named."""
    words = _JSON_LIMITS.get(str(node.get("type")), {})
    found = {
        word: limits[name]
        for name, word in words.items()
        if limits.get(name) is not None and name not in apart
    }
    if limits.get("choices") and words:
        found["enum"] = list(limits["choices"])
    return node | found


def _type_name(annotation: Any) -> str:
    names = {bool: "true/false", int: "integer", float: "number", str: "text", Any: "lists or ranges"}
    if annotation in names:
        return names[annotation]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_type_name(a) for a in arguments if a is not type(None))
    if origin in (tuple, list):
        return f"list of {_type_name(arguments[0])}"
    if origin is Mapping:
        return f"table of {_type_name(arguments[1])}"
    return "text" if origin is typing.Literal else str(annotation)
