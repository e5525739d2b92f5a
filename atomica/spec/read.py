"""Filling the dataclasses of settings from a spec, and all that is wrong with it at once."""

from __future__ import annotations

import difflib
import math
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from atomica.errors import AtomicaError, SpecError
from atomica.spec.problems import Problems
from atomica.spec.settings import check_limits, dataclass_of, doc_of, fields_of, not_among, required
from atomica.spec.source import Source
from atomica.spec.toml import KeyPath, dotted, kind_of, show

__all__ = ["Issue", "Issues", "read", "unknown_key"]


T = TypeVar("T")

LONGEST = 200
"""Characters of a value that stand beside its key; a list may name thousands of files."""


# ------------------------------------------------------------------------------------------------ issues


@dataclass(frozen=True)
class Issue:
    """One thing that is wrong with a spec: where it stands, which key, and what to do about it."""

    where: str
    key: str
    message: str

    def __str__(self) -> str:
        """The issue on one line: `runs/ligand.toml:12: train.epoch = 40: unknown key; ...`."""
        return f"{self.where}: {self.key}: {self.message}" if self.key else f"{self.where}: {self.message}"


class Issues:
    """A list of issues that remembers the spec they belong to."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.found: list[Issue] = []

    def add(self, path: KeyPath, message: str, *, value: bool = True) -> None:
        """Note an issue at a key path, with the value that stands there if `value`."""
        key = dotted(path)
        if value and path in self.source:
            shown = show(self.source.get(path))
            key += f" = {shown if len(shown) <= LONGEST else shown[:LONGEST] + ' …'}"
        issue = Issue(self.source.where(path), key, message)
        if issue not in self.found:
            self.found.append(issue)

    def take(self, path: KeyPath, error: AtomicaError) -> None:
        """Note all that an exception says: `Problems` of the table at a key path, or else of the value there."""
        if isinstance(error, Problems):
            for key, message in error.problems:
                self.add((*path, key), message)
        else:
            for message in error.args:
                self.add(path, message)

    def raise_any(self) -> None:
        """Raise SpecError with every issue found so far; do nothing if there is none."""
        if not self.found:
            return
        if len(self.found) == 1:
            raise SpecError(str(self.found[0]))
        lines = "\n".join(f"  {issue}" for issue in self.found)
        raise SpecError(f"{len(self.found)} errors in {self.source.file}\n{lines}")


# ----------------------------------------------------------------------------------------------- reading


def read(
    cls: type[T],
    source: Source,
    path: KeyPath,
    issues: Issues,
    *,
    exclude: Sequence[str] = (),
    ignore: Sequence[str] = (),
    elsewhere: Mapping[str, str] | None = None,
) -> T | None:
    """Fill the dataclass `cls` from the table at `path`; None, and issues added, if something is wrong.

    An absent table is an empty one. `exclude` names fields of `cls` that a spec may not set, `ignore` keys of
    the table that somebody else reads, `elsewhere` maps keys of other sections to the section's name.
    """
    try:
        table = source.get(path)
    except KeyError:
        table = {}
    if not isinstance(table, dict):
        issues.add(path, f"expected a table, got {kind_of(table)}; write [{dotted(path)}] and keys below it")
        return None
    before = len(issues.found)
    fields = fields_of(cls, exclude)
    names = [field.name for field, _ in fields]
    for key in table:
        if key not in names and key not in ignore:
            issues.add((*path, key), unknown_key(key, path, [*names, *ignore], elsewhere or {}))
    values: dict[str, Any] = {}
    for field, annotation in fields:
        here = (*path, field.name)
        nested = dataclass_of(annotation)
        if field.name not in table:
            if required(field) and nested is None:
                doc = doc_of(field)
                issues.add(here, "this key is required" + (f" ({doc})" if doc else ""), value=False)
        elif nested is not None:
            values[field.name] = read(nested, source, here, issues)
        else:
            try:
                value = _convert(table[field.name], annotation, source.overrides.get(here))
                check_limits(value, field)
                values[field.name] = value
            except ValueError as error:
                issues.add(here, str(error))
    if len(issues.found) > before:
        return None
    try:
        return cls(**values)
    except Problems as error:
        issues.take(path, error)
    except (ValueError, TypeError, SpecError) as error:
        # Components outside this package need not know Problems; what they say is of the key that it begins with.
        message = str(error)
        key = next((name for name in table if re.match(rf"{re.escape(name)}\b", message)), None)
        if key is None:
            issues.add(path, message, value=False)
        else:
            issues.add((*path, key), message.removeprefix(f"{key} = {show(table[key])}: "))
    return None


def unknown_key(key: str, path: KeyPath, known: Sequence[str], elsewhere: Mapping[str, str]) -> str:
    """What to say of a key that the table at `path` does not have."""
    table = dotted(path) if path else ""
    shown = f"[{table}]" if table else "the spec"
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if near:
        return f"unknown key; did you mean {table + '.' if table else ''}{near[0]}?"
    if key in elsewhere:
        return f"unknown key in {shown}; it belongs to [{elsewhere[key]}]"
    return f"unknown key; remove it, or use one of the keys of {shown}: {', '.join(known)}"


def _convert(value: Any, annotation: Any, raw: str | None) -> Any:
    """`value` as the annotated type, or ValueError; `raw` is its text if it came from `--set`."""
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        options = [a for a in arguments if a is not type(None)]
        for option in options[:-1]:
            try:
                return _convert(value, option, raw)
            except ValueError:
                continue
        return _convert(value, options[-1], raw)
    if origin is typing.Literal:
        if value not in arguments or isinstance(value, bool) != isinstance(arguments[0], bool):
            raise ValueError(not_among(value, arguments))
        return value
    if origin in (tuple, list):
        if not isinstance(value, list):
            raise ValueError(f"expected a list, got {kind_of(value)}")
        return tuple(_convert(item, arguments[0], None) for item in value)
    if origin is Mapping:
        if not isinstance(value, dict):
            raise ValueError(f"expected a table, got {kind_of(value)}")
        return {key: _convert(item, arguments[1], None) for key, item in _flat(value)}
    if annotation is str and raw is not None and not isinstance(value, str | list | dict):
        return raw  # --set head.0.positive=1 means the text "1"
    expected = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}.get(annotation)
    if expected is None:
        raise TypeError(f"settings of type {annotation} are not supported")
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, annotation) or (annotation is int and isinstance(value, bool)):
        remedy = ""
        if annotation is str and isinstance(value, int | float):
            remedy = f'; write "{show(value)}"'
        elif annotation is int and isinstance(value, float) and value.is_integer():
            remedy = f"; write {int(value)}"
        elif annotation in (int, float, bool) and isinstance(value, str):
            remedy = "; write it without quotes" if _parses_as(value, annotation) else ""
        raise ValueError(f"expected {expected}, got {kind_of(value)}{remedy}")
    if annotation is float and not math.isfinite(value):
        raise ValueError("must be finite")
    return value


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The entries of a table; those of tables within it under dotted keys, as TOML means them."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _parses_as(text: str, annotation: type) -> bool:
    if annotation is bool:
        return text in ("true", "false")
    try:
        annotation(text)
    except ValueError:
        return False
    return True
