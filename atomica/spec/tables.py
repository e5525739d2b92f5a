"""Tables and a JSON schema of settings."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atomica.spec.settings import dataclass_of, doc_of, fields_of, limits_of, required
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
        if required(field):
            default = "required"
        elif field.default is dataclasses.MISSING:
            default = "empty"
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
    needed = []
    for field, annotation in fields_of(cls, exclude):
        nested = dataclass_of(annotation)
        node = schema(nested) if nested is not None else _json(annotation, field.metadata)
        if doc := doc_of(field):
            node["description"] = doc
        if required(field) and nested is None:
            needed.append(field.name)
        elif isinstance(field.default, bool | int | float | str):
            node["default"] = field.default
        properties[field.name] = node
    return {"type": "object", "properties": properties, "additionalProperties": False, "required": needed}


_LIMITS = {
    "low": "minimum",
    "above": "exclusiveMinimum",
    "high": "maximum",
    "below": "exclusiveMaximum",
    "multiple_of": "multipleOf",
}
_WORDS: dict[Any, tuple[str, dict[str, str]]] = {
    bool: ("boolean", {}),
    int: ("integer", _LIMITS),
    float: ("number", _LIMITS),
    str: ("string", {"shortest": "minLength", "longest": "maxLength"}),
    tuple: ("array", {"shortest": "minItems", "longest": "maxItems", "distinct": "uniqueItems"}),
}
_WORDS[list] = _WORDS[tuple]
"""Types, and limits of a setting, in words of a JSON schema."""


def _json(annotation: Any, limits: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON schema of values of a type with the limits of a setting."""
    origin, arguments = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        options = [_json(option, limits) for option in arguments if option is not type(None)]
        return options[0] if len(options) == 1 else {"anyOf": options}
    if origin is Mapping:
        # Dotted keys, such as encoder.atoms = 1e-4, are tables within the table.
        return {
            "type": "object",
            "additionalProperties": {"anyOf": [_json(arguments[1], limits), {"type": "object"}]},
        }
    if origin not in _WORDS:
        return {"enum": list(arguments)} if origin is typing.Literal else {}
    name, words = _WORDS[origin]
    node = {"type": name, **{word: limits[key] for key, word in words.items() if limits.get(key) is not None}}
    if name == "array":
        return node | {"items": _json(arguments[0], {**limits, **dict.fromkeys(words)})}
    return node | ({"enum": list(limits["choices"])} if limits.get("choices") and words else {})


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
