"""Settings: fields of frozen dataclasses with default, meaning and limits; tables and a JSON schema of them."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atomica.spec.source import show

__all__ = ["Setting", "describe", "meanings", "schema", "setting"]


# ---------------------------------------------------------------------------------------------- settings


def setting(
    default: Any = dataclasses.MISSING,
    doc: str = "",
    *,
    choices: Sequence[Any] | Mapping[str, str] = (),
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    multiple_of: int | None = None,
    shortest: int | None = None,
    longest: int | None = None,
    distinct: bool = False,
    path: bool = False,
) -> Any:
    """A dataclass field of a spec section: its default, meaning and limits, in one place.

    `choices` may be a mapping from each value to what it means. `low` and `high` are inclusive limits, `above` and
    `below` exclusive ones, for a list of each of its items. `shortest` and `longest` limit the number of items of a
    list or letters of a text; items of a list that is `distinct` occur once. A `path` is
    a file or folder, or several: a resolved spec names them from the root of the file system. Without a default the key
    is required. A default that is a dataclass instance makes a nested table; the default `{}`, annotated
    `Mapping[str, T]`, a table with keys of the user's choice.

    >>> @dataclass(frozen=True)
    ... class Oven:
    ...     degrees: float = setting(180.0, "temperature, in °C", above=0, high=300)
    >>> Oven().degrees
    180.0
    """
    metadata = {
        "doc": doc,
        "choices": tuple(choices),
        "meanings": dict(choices) if isinstance(choices, Mapping) else {},
        "low": low,
        "high": high,
        "above": above,
        "below": below,
        "multiple_of": multiple_of,
        "shortest": shortest,
        "longest": longest,
        "distinct": distinct,
        "path": path,
    }
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=metadata)
    if isinstance(default, dict):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


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

    >>> [row.key for row in describe(Issue, "issue")]
    ['issue.where', 'issue.key', 'issue.message']
    """
    for field, annotation in _fields(cls, exclude):
        key = f"{prefix}.{field.name}" if prefix else field.name
        nested = _dataclass_of(annotation)
        if nested is not None:
            yield from describe(nested, key)
            continue
        if field.default_factory is not dataclasses.MISSING:
            default = "empty"
        elif field.default is dataclasses.MISSING:
            default = "required"
        else:
            default = "absent" if field.default is None else show(field.default)
        yield Setting(key, _type_name(annotation), default, _doc(field), _limits(field))


def meanings(cls: type, key: str) -> Mapping[str, str]:
    """What each choice of a setting means."""
    (field,) = (field for field in dataclasses.fields(cls) if field.name == key)
    return dict(field.metadata["meanings"])


def schema(cls: type, *, exclude: Sequence[str] = ()) -> dict[str, Any]:
    """The JSON schema of a section: types, limits, meaning and defaults, as far as a schema can say them.

    >>> schema(Issue)["properties"]["where"], schema(Issue)["required"]
    ({'type': 'string'}, ['where', 'key', 'message'])
    """
    properties: dict[str, Any] = {}
    required = []
    for field, annotation in _fields(cls, exclude):
        nested = _dataclass_of(annotation)
        node = schema(nested) if nested is not None else _limited(_json_type(annotation), field)
        if doc := _doc(field):
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


def _fields(cls: type, exclude: Sequence[str] = ()) -> list[tuple[dataclasses.Field[Any], Any]]:
    hints = typing.get_type_hints(cls)
    return [(f, hints[f.name]) for f in dataclasses.fields(cls) if f.init and f.name not in exclude]


def _doc(field: dataclasses.Field[Any]) -> str:
    # Heads of other packages may keep their text under "help", as argparse calls it.
    doc = str(field.metadata.get("doc") or field.metadata.get("help") or "")
    meanings = field.metadata.get("meanings") or {}
    listed = "; ".join(f"{value}: {meaning}" for value, meaning in meanings.items())
    return f"{doc} ({listed})" if listed else doc


def _limits(field: dataclasses.Field[Any]) -> str:
    limits = field.metadata
    if limits.get("choices"):
        return "one of " + ", ".join(show(choice) for choice in limits["choices"])
    words = {
        "shortest": "not empty" if limits.get("shortest") == 1 else "at least {} items",
        "longest": "at most {} items",
        "low": "at least {:g}",
        "above": "more than {:g}",
        "high": "at most {:g}",
        "below": "less than {:g}",
        "multiple_of": "a multiple of {}",
    }
    found = [word.format(limits[name]) for name, word in words.items() if limits.get(name) is not None]
    return ", ".join([*found, *(["without repetitions"] if limits.get("distinct") else [])])


def _dataclass_of(annotation: Any) -> type | None:
    return annotation if isinstance(annotation, type) and dataclasses.is_dataclass(annotation) else None


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
