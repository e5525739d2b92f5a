"""Settings: fields of frozen dataclasses with default, meaning and limits, and values held against them."""

from __future__ import annotations

import dataclasses
import difflib
import math
import numbers
import operator
import os
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from atomica.spec.toml import show

__all__ = [
    "check_limits",
    "dataclass_of",
    "doc_of",
    "fields_of",
    "limits_of",
    "not_among",
    "out_of_range",
    "required",
    "setting",
]


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
    path: bool | Literal["weights"] = False,
) -> Any:
    """A dataclass field of a spec section: its default, meaning and limits, in one place.

    `choices` may be a mapping from each value to what it means. `low` and `high` are inclusive limits, `above` and
    `below` exclusive ones, for a list of each of its items. `shortest` and `longest` limit the number of items of a
    list or letters of a text; items of a list that is `distinct` occur once. A `path` is a file or folder, or
    several: a resolved spec names them from the root of the file system; "weights" may be a name, too, of which it
    says the revision. Without a default the key is required. A
    default that is a dataclass instance makes a nested table; the default `{}`, annotated `Mapping[str, T]`, a table
    with keys of the user's choice.

    >>> @dataclasses.dataclass(frozen=True)
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
        "distinct": distinct or None,
        "path": path,
    }
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=metadata)
    if isinstance(default, dict):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


# ---------------------------------------------------------------------------------------- what a field says


def fields_of(cls: type, exclude: Sequence[str] = ()) -> list[tuple[dataclasses.Field[Any], Any]]:
    """The fields of a section that a spec may set, each with its type."""
    hints = typing.get_type_hints(cls)
    return [(f, hints[f.name]) for f in dataclasses.fields(cls) if f.init and f.name not in exclude]


def doc_of(field: dataclasses.Field[Any]) -> str:
    """What a setting means, and each of its choices."""
    # Heads of other packages may keep their text under "help", as argparse calls it.
    doc = str(field.metadata.get("doc") or field.metadata.get("help") or "")
    meanings = field.metadata.get("meanings") or {}
    listed = "; ".join(f"{value}: {meaning}" for value, meaning in meanings.items())
    return f"{doc} ({listed})" if listed else doc


def limits_of(field: dataclasses.Field[Any]) -> str:
    """The limits of a setting in words; empty if it has none."""
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


def required(field: dataclasses.Field[Any]) -> bool:
    """Whether a setting has no default."""
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def dataclass_of(annotation: Any) -> type | None:
    """The section of a nested table; None for the type of a value."""
    return annotation if isinstance(annotation, type) and dataclasses.is_dataclass(annotation) else None


# ------------------------------------------------------------------------------------------------- limits


def check_limits(value: Any, field: dataclasses.Field[Any]) -> None:
    """Raise ValueError if a value of the right type is beyond the limits of its setting."""
    limits = field.metadata
    if limits.get("choices") and value not in limits["choices"]:
        raise ValueError(not_among(value, limits["choices"]))
    if isinstance(value, str | tuple):
        short, long = limits.get("shortest"), limits.get("longest")
        if (short is not None and len(value) < short) or (long is not None and len(value) > long):
            raise ValueError(f"must be {limits_of(field)}")
        repeated = [item for item in dict.fromkeys(value) if value.count(item) > 1]
        if limits.get("distinct") and repeated:
            raise ValueError(f"{', '.join(map(show, repeated))} occurs twice")
    holds = {
        "low": operator.ge,
        "high": operator.le,
        "above": operator.gt,
        "below": operator.lt,
        "multiple_of": lambda number, factor: number % factor == 0,
    }
    several = (
        value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple) else (value,)
    )
    for item in several:
        if isinstance(item, bool) or not isinstance(item, int | float):
            continue
        if not all(test(item, limits[name]) for name, test in holds.items() if limits.get(name) is not None):
            raise ValueError(f"must be {limits_of(field)}")


def out_of_range(config: Any) -> list[tuple[str, str]]:
    """What is wrong with the values of a section that was made in Python, by type or limits: pairs of key and message.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Oven:
    ...     degrees: float = setting(180.0, "temperature, in °C", above=0, high=300)
    >>> out_of_range(Oven(301.0))
    [('degrees', 'must be more than 0, at most 300')]
    >>> out_of_range(Oven("hot"))
    [('degrees', "must be a number, not 'hot'")]
    """
    problems = []
    for field, annotation in fields_of(type(config)):
        value = getattr(config, field.name)
        if value is None:
            continue
        try:
            if wanted := _other_type(value, annotation):
                raise ValueError(f"must be {wanted}, not {value!r:.50}")
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError("must be finite")
            check_limits(value, field)
        except ValueError as error:
            problems.append((field.name, str(error)))
    return problems


_TYPES: Mapping[Any, tuple[type | tuple[type, ...], str]] = {
    bool: (bool, "true or false"),
    int: (numbers.Integral, "a whole number"),
    float: (numbers.Real, "a number"),
    str: ((str, os.PathLike), "text"),
}


def _other_type(value: Any, annotation: Any) -> str:
    """What a value should be instead, if its type is another than a setting's; lists and tables are not looked at."""
    options = [annotation]
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        options = [one for one in typing.get_args(annotation) if one is not type(None)]
    known = [_TYPES[one] for one in options if one in _TYPES]
    if len(known) < len(options):
        return ""
    is_number = any(one in (int, float) for one in options) and bool not in options
    if any(isinstance(value, kind) for kind, _ in known) and not (is_number and isinstance(value, bool)):
        return ""
    return " or ".join(name for _, name in known)


_ALIASES = {"gpu": "cuda", "nvidia": "cuda", "val": "valid", "validation": "valid", "training": "train"}
"""Words of others → ours."""


def not_among(value: Any, choices: Sequence[Any]) -> str:
    """What to say of a value that is none of the choices."""
    if isinstance(value, str) and (other := _ALIASES.get(value.lower())) in choices:
        return f"must be one of {', '.join(show(choice) for choice in choices)}; did you mean {show(other)}?"
    message = "must be one of " + ", ".join(show(choice) for choice in choices)
    texts = [choice for choice in choices if isinstance(choice, str)]
    near = difflib.get_close_matches(value, texts, n=1) if isinstance(value, str) else []
    return message + (f"; did you mean {show(near[0])}?" if near else "")
