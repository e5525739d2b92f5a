"""TOML to typed, frozen settings; every error with its file, line, key, value and remedy.

This module knows no section by name. Each component owns a frozen dataclass whose fields are made with
`setting`, which keeps default, meaning and limits in one place; `read` fills such a dataclass from a table of
the spec. All that is wrong with a spec is gathered as `Issue`s and reported together.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import json
import math
import operator
import os
import re
import sys
import types
import typing
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from atomica.errors import SpecError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "DERIVING",
    "Issue",
    "Issues",
    "KeyPath",
    "Problems",
    "Setting",
    "Source",
    "describe",
    "dump",
    "key_lines",
    "load",
    "meanings",
    "not_among",
    "read",
    "schema",
    "setting",
    "show",
    "unknown_key",
]

KeyPath = tuple[str | int, ...]
"""Where a value sits in a spec: `("head", 0, "kind")` is written `head.0.kind`."""

T = TypeVar("T")

DERIVING = ("base", "unset")
"""Keys at the top of a spec that derive it from another one; gone once it is read."""

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


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
) -> Any:
    """A dataclass field of a spec section: its default, meaning and limits, in one place.

    `choices` may be a mapping from each value to what it means. `low` and `high` are inclusive limits, `above` and
    `below` exclusive ones, for a list of each of its items. `shortest` and `longest` limit the number of items of a
    list or letters of a text; items of a list that is `distinct` occur once. Without a default the key is required. A
    default that is a dataclass instance makes a nested table; the default `{}`, annotated `Mapping[str, T]`, a table
    with keys of the user's choice.

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


class Problems(ValueError):
    """What a section's `__post_init__` raises for several keys at once: pairs of key and message."""

    def __init__(self, *problems: tuple[str, str]) -> None:
        self.problems = problems
        super().__init__("; ".join(f"{key}: {message}" for key, message in problems))

    @classmethod
    def check(cls, *problems: tuple[bool, str, str]) -> None:
        """Raise for every (is_wrong, key, message) whose first entry is true.

        >>> Problems.check((1 > 2, "low", "must be below high"))
        """
        found = [(key, message) for wrong, key, message in problems if wrong]
        if found:
            raise cls(*found)


class Issues:
    """A list of issues that remembers the spec they belong to."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.found: list[Issue] = []

    def add(self, path: KeyPath, message: str, *, value: bool = True) -> None:
        """Note an issue at a key path, with the value that stands there if `value`."""
        key = _dotted(path)
        if value and path in self.source:
            key += f" = {show(self.source.get(path))}"
        issue = Issue(self.source.where(path), key, message)
        if issue not in self.found:
            self.found.append(issue)

    def raise_any(self) -> None:
        """Raise SpecError with every issue found so far; do nothing if there is none."""
        if not self.found:
            return
        if len(self.found) == 1:
            raise SpecError(str(self.found[0]))
        lines = "\n".join(f"  {issue}" for issue in self.found)
        raise SpecError(f"{len(self.found)} errors in {self.source.file}\n{lines}")


# ----------------------------------------------------------------------------------------------- sources


@dataclass(frozen=True)
class Source:
    """A parsed spec: its tables, the place of each key as `file:line`, and what `--set` changed.

    `overrides` maps a key path to the text given for it on the command line.
    """

    file: str
    tree: dict[str, Any]
    places: Mapping[KeyPath, str]
    overrides: Mapping[KeyPath, str]

    def get(self, path: KeyPath) -> Any:
        """The raw value at a key path; KeyError if nothing is there."""
        node: Any = self.tree
        for part in path:
            try:
                node = node[part]
            except (KeyError, IndexError, TypeError):
                raise KeyError(_dotted(path)) from None
        return node

    def __contains__(self, path: KeyPath) -> bool:
        """Whether the spec, or an override, says anything at this key path."""
        try:
            self.get(path)
        except KeyError:
            return False
        return True

    def changed(self, overrides: Sequence[str]) -> Source:
        """The same spec with `key.path=value` overrides, as `load` takes them. Raises SpecError naming wrong ones."""
        tree, changed = copy.deepcopy(self.tree), dict(self.overrides)
        wrong: list[str] = []
        for override in overrides:
            try:
                path, raw = _override(tree, override)
                changed[path] = raw
            except SpecError as error:
                wrong.append(str(error))
        if wrong:
            raise SpecError("\n".join(wrong))
        return dataclasses.replace(self, tree=tree, overrides=changed)

    def without(self, key: str) -> Source:
        """The same spec without one of its sections."""
        return dataclasses.replace(
            self, tree={name: table for name, table in self.tree.items() if name != key}
        )

    def where(self, path: KeyPath) -> str:
        """The place of a key, or of the closest table that holds it: `file:line`, or the --set argument."""
        for end in range(len(path), 0, -1):
            head = path[:end]
            if head in self.overrides:
                return f"--set {_dotted(head)}={self.overrides[head]}"
            if head in self.places:
                return self.places[head]
        return self.file


def load(file: str | Path, overrides: Sequence[str] = ()) -> Source:
    """Read a TOML file, and those it derives from, and apply `key.path=value` overrides to it.

    `base = "other.toml"` at its top derives a spec from another one, whose path is relative to the file that names
    it: tables are merged key by key, all else is replaced; `unset = ["key.path"]` removes keys of the base.

    A value of an override is TOML (`3`, `0.1`, `true`, `"text"`, `[1, 2]`); anything else is taken as bare text.
    Elements of an array of tables are addressed by their index: `head.0.label=class`. Raises SpecError for a file
    that cannot be read or parsed, and for overrides that do not fit it.
    """
    tree, places = _derived(str(file), ())
    return Source(str(file), tree, places, {}).changed(overrides)


def _parsed(name: str) -> tuple[dict[str, Any], dict[KeyPath, str]]:
    """The tables of one file, and the place of each key."""
    try:
        text = Path(name).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError(f"{name}: no such spec file") from None
    except IsADirectoryError:
        raise SpecError(f"{name}: is a folder; a spec is a TOML file") from None
    except UnicodeDecodeError as error:
        raise SpecError(f"{name}: is not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise SpecError(f"{name}: cannot be read: {error.strerror}") from None
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"\s*\(at line (\d+), column (\d+)\)$", str(error))
        place = f"{name}:{found[1]}" if found else name
        reason = str(error)[: found.start()] if found else str(error)
        column = f", column {found[2]}" if found else ""
        raise SpecError(f"{place}: not valid TOML{column}: {reason}") from None
    return tree, {path: f"{name}:{line}" for path, line in key_lines(text).items()}


def _derived(name: str, above: Sequence[str]) -> tuple[dict[str, Any], dict[KeyPath, str]]:
    """The tables of a file and of those it derives from, and the place of each key; `above` are derived from it."""
    tree, places = _parsed(name)
    base, unset = (tree.pop(key, None) for key in DERIVING)
    if base is None:
        if unset is not None:
            raise SpecError(f"{places['unset',]}: unset: has no effect without base; remove it")
        return tree, places
    at = f"{places['base',]}: base = {show(base)}"
    if not isinstance(base, str):
        raise SpecError(f"{at}: expected text, the path of a spec, got {_kind(base)}")
    chain = [*above, os.path.realpath(name)]
    file = os.path.join(os.path.dirname(name), base)
    if os.path.realpath(file) in chain:
        raise SpecError(f"{at}: the spec would derive from itself")
    try:
        lower, lower_places = _derived(file, chain)
    except SpecError as error:
        raise SpecError(f"{at}: {str(error).removeprefix(f'{file}: ')}") from None
    _remove(lower, lower_places, [] if unset is None else unset, places)
    _merge(lower, lower_places, tree)
    return lower, {**lower_places, **places}


def _remove(tree: dict[str, Any], places: dict[KeyPath, str], unset: Any, own: Mapping[KeyPath, str]) -> None:
    """Take the keys that `unset` lists out of the tables of a base, in place."""
    if not isinstance(unset, list) or not all(isinstance(name, str) for name in unset):
        raise SpecError(
            f'{own["unset",]}: unset = {show(unset)}: expected a list of keys, such as ["train.rates"]'
        )
    wrong = []
    for index, name in enumerate(unset):
        *tables, last = name.split(".")
        node: Any = tree
        for table in tables:
            node = node.get(table) if isinstance(node, dict) else None
        if not isinstance(node, dict) or last not in node:
            every = [_dotted(path) for path in places if all(isinstance(part, str) for part in path)]
            near = difflib.get_close_matches(name, every, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            wrong.append(f"{own['unset', index]}: unset {show(name)}: the base has no such key{hint}")
            continue
        del node[last]
        _forget(places, (*tables, last))
    if wrong:
        raise SpecError("\n".join(wrong))


def _merge(
    lower: dict[str, Any], places: dict[KeyPath, str], upper: Mapping[str, Any], path: KeyPath = ()
) -> None:
    """Lay the tables of a spec over those of its base, in place; lists are replaced as a whole."""
    for key, value in upper.items():
        if isinstance(value, dict) and isinstance(lower.get(key), dict):
            _merge(lower[key], places, value, (*path, key))
        else:
            lower[key] = value
            _forget(places, (*path, key))


def _forget(places: dict[KeyPath, str], path: KeyPath) -> None:
    for other in [other for other in places if other[: len(path)] == path]:
        del places[other]


def _override(tree: dict[str, Any], argument: str) -> tuple[KeyPath, str]:
    """Apply one `--set` argument to the tree, in place; returns its path and the text of its value."""
    what = f"--set {argument}"
    name, equals, raw = argument.partition("=")
    parts = name.strip().split(".")
    if not equals or not all(_BARE_KEY.fullmatch(part) for part in parts):
        raise SpecError(f"{what}: expected key.path=value, for example --set train.epochs=3")
    if parts[0] in DERIVING:
        raise SpecError(f"{what}: a spec is derived in its file, not on the command line")
    raw = raw.strip()
    try:
        parsed = tomllib.loads(f"value = {raw}")
        if set(parsed) != {"value"}:
            raise SpecError(f"{what}: the value must be on one line")
        value = parsed["value"]
    except tomllib.TOMLDecodeError as error:
        if raw[:1] in ("[", "{", '"', "'"):
            raise SpecError(f"{what}: the value is not valid TOML: {error}") from None
        value = raw
    path: list[str | int] = []
    node: Any = tree
    for depth, part in enumerate(parts):
        here = _dotted(tuple(path))
        step: str | int = part
        if isinstance(node, list):
            if not part.isdigit() or int(part) >= len(node):
                count = len(node)
                raise SpecError(f"{what}: {here} has {count} elements; write {here}.0 to {here}.{count - 1}")
            step = int(part)
        elif not isinstance(node, dict):
            raise SpecError(f"{what}: {here} = {show(node)} is a value and holds no key {part}")
        path.append(step)
        if depth == len(parts) - 1:
            node[step] = value
        elif isinstance(node, dict):
            node = node.setdefault(part, {})
        else:
            node = node[step]
    return tuple(path), raw


# ---------------------------------------------------------------------------------------- lines of keys


def key_lines(text: str) -> dict[KeyPath, int]:
    """The line (from 1) on which each table and key of a valid TOML text stands.

    Python's TOML reader keeps no positions, so this walks the text itself; it relies on the text having been
    parsed before and checks nothing.

    >>> key_lines('a = 1\\n[[head]]\\nkind = "binary"')
    {('a',): 1, ('head',): 2, ('head', 0): 2, ('head', 0, 'kind'): 3}
    """
    return _KeyScanner(text).scan()


class _KeyScanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.newlines = [i for i, char in enumerate(text) if char == "\n"]
        self.lines: dict[KeyPath, int] = {}
        self.arrays: dict[KeyPath, int] = {}

    def scan(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        while True:
            self.blank()
            if self.at >= len(self.text):
                return self.lines
            if self.text[self.at] == "[":
                table = self.header()
            else:
                self.pair(table)

    def note(self, path: KeyPath, at: int) -> None:
        self.lines.setdefault(path, bisect_right(self.newlines, at - 1) + 1)

    def blank(self) -> None:
        """Skip white space, line ends and comments."""
        while self.at < len(self.text):
            if self.text[self.at] == "#":
                end = self.text.find("\n", self.at)
                self.at = len(self.text) if end < 0 else end
            elif self.text[self.at].isspace():
                self.at += 1
            else:
                return

    def header(self) -> KeyPath:
        start = self.at
        repeated = self.text.startswith("[[", start)
        self.at += 2 if repeated else 1
        names = self.key()
        self.at = self.text.index("]", self.at) + (2 if repeated else 1)
        path: KeyPath = ()
        for depth, name in enumerate(names):
            path += (name,)
            self.note(path, start)
            last = depth == len(names) - 1
            if last and repeated:
                self.arrays[path] = self.arrays.get(path, -1) + 1
            if path in self.arrays:
                path += (self.arrays[path],)
        self.note(path, start)
        return path

    def key(self) -> list[str]:
        """A key, dotted or not; leaves `at` behind it and the blanks that follow."""
        names = []
        while True:
            self.spaces()
            if self.text[self.at] in "\"'":
                start = self.at
                self.string()
                names.append(tomllib.loads(f"k = {self.text[start : self.at]}")["k"])
            else:
                found = _BARE_KEY.match(self.text, self.at)
                if found is None:  # only in a text that is not valid TOML: give up rather than loop
                    self.at = len(self.text)
                    return names
                names.append(found[0])
                self.at = found.end()
            self.spaces()
            if self.at < len(self.text) and self.text[self.at] == ".":
                self.at += 1
            else:
                return names

    def spaces(self) -> None:
        while self.at < len(self.text) and self.text[self.at] in " \t":
            self.at += 1

    def pair(self, table: KeyPath) -> None:
        start = self.at
        path = table
        for name in self.key():
            path += (name,)
            self.note(path, start)
        self.at += 1  # the equals sign
        self.value(path)

    def value(self, path: KeyPath) -> None:
        self.blank()
        if self.at >= len(self.text):
            return
        char = self.text[self.at]
        if char in "\"'":
            self.string()
        elif char == "[":
            self.elements(path)
        elif char == "{":
            self.inline(path)
        else:
            while self.at < len(self.text) and self.text[self.at] not in ",]}#\n":
                self.at += 1

    def elements(self, path: KeyPath) -> None:
        self.at += 1
        index = 0
        while True:
            self.blank()
            if self.at >= len(self.text) or self.text[self.at] == "]":
                break
            if self.text[self.at] == ",":
                self.at += 1
                continue
            self.note((*path, index), self.at)
            self.value((*path, index))
            index += 1
        self.at += 1

    def inline(self, path: KeyPath) -> None:
        self.at += 1
        while True:
            self.blank()
            if self.at >= len(self.text) or self.text[self.at] == "}":
                break
            if self.text[self.at] == ",":
                self.at += 1
                continue
            self.pair(path)
        self.at += 1

    def string(self) -> None:
        quote = self.text[self.at]
        fence = quote * 3 if self.text.startswith(quote * 3, self.at) else quote
        self.at += len(fence)
        while not self.text.startswith(fence, self.at):
            self.at += 2 if quote == '"' and self.text[self.at] == "\\" else 1
        self.at += len(fence)
        # A multi-line string may end in up to two quotes of its own before the fence.
        while len(fence) == 3 and self.text.startswith(quote, self.at):
            self.at += 1


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
        issues.add(path, f"expected a table, got {_kind(table)}; write [{_dotted(path)}] and keys below it")
        return None
    before = len(issues.found)
    fields = _fields(cls, exclude)
    names = [field.name for field, _ in fields]
    for key in table:
        if key not in names and key not in ignore:
            issues.add((*path, key), unknown_key(key, path, [*names, *ignore], elsewhere or {}))
    values: dict[str, Any] = {}
    for field, annotation in fields:
        here = (*path, field.name)
        if field.name not in table:
            nested = _dataclass_of(annotation)
            required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            if required and nested is None:
                doc = _doc(field)
                issues.add(here, "this key is required" + (f" ({doc})" if doc else ""), value=False)
            continue
        nested = _dataclass_of(annotation)
        if nested is not None:
            values[field.name] = read(nested, source, here, issues)
            continue
        try:
            value = _convert(table[field.name], annotation, source.overrides.get(here))
            _check_limits(value, field)
        except ValueError as error:
            issues.add(here, str(error))
            continue
        values[field.name] = value
    if len(issues.found) > before:
        return None
    try:
        return cls(**values)
    except Problems as error:
        for key, message in error.problems:
            issues.add((*path, key), message)
    except (ValueError, TypeError, SpecError) as error:
        # Components outside this package need not know Problems: "key = value: message; key ..." will do.
        for part in str(error).split("; "):
            found = re.match(r"(\w+)(?: = .*?: )?\b", part)
            if found and found[1] in names:
                message = part[found.end() :].strip() if "=" in found[0] else part
                issues.add((*path, found[1]), message, value=(*path, found[1]) in source)
            else:
                issues.add(path, part, value=False)
    return None


def unknown_key(key: str, path: KeyPath, known: Sequence[str], elsewhere: Mapping[str, str]) -> str:
    """What to say of a key that the table at `path` does not have."""
    table = _dotted(path) if path else ""
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
            raise ValueError(f"expected a list, got {_kind(value)}")
        return tuple(_convert(item, arguments[0], None) for item in value)
    if origin is Mapping:
        if not isinstance(value, dict):
            raise ValueError(f"expected a table, got {_kind(value)}")
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
        raise ValueError(f"expected {expected}, got {_kind(value)}{remedy}")
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


def _check_limits(value: Any, field: dataclasses.Field[Any]) -> None:
    limits = field.metadata
    if limits.get("choices") and value not in limits["choices"]:
        raise ValueError(not_among(value, limits["choices"]))
    if isinstance(value, str | tuple):
        short, long = limits.get("shortest"), limits.get("longest")
        if (short is not None and len(value) < short) or (long is not None and len(value) > long):
            raise ValueError(f"must be {_limits(field)}")
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
            raise ValueError(f"must be {_limits(field)}")


def out_of_range(config: Any) -> list[str]:
    """What is wrong with the values of a section that was made in Python: "key = value: message" for each.

    >>> @dataclass(frozen=True)
    ... class Oven:
    ...     degrees: float = setting(180.0, "temperature, in °C", above=0, high=300)
    >>> out_of_range(Oven(301.0))
    ['degrees = 301.0: must be more than 0, at most 300']
    """
    problems = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        try:
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError("must be finite")
            _check_limits(value, field)
        except ValueError as error:
            problems.append(f"{field.name} = {show(value)}: {error}")
    return problems


def not_among(value: Any, choices: Sequence[Any]) -> str:
    """What to say of a value that is none of the choices."""
    message = "must be one of " + ", ".join(show(choice) for choice in choices)
    texts = [choice for choice in choices if isinstance(choice, str)]
    near = difflib.get_close_matches(value, texts, n=1) if isinstance(value, str) else []
    return message + (f"; did you mean {show(near[0])}?" if near else "")


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


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true/false"
    for python, name in ((int, "a whole number"), (float, "a number"), (str, "text"), (dict, "a table")):
        if isinstance(value, python):
            return name
    return "a list" if isinstance(value, list | tuple) else "a date or time"


def _dotted(path: KeyPath) -> str:
    return ".".join(str(part) for part in path)


# ----------------------------------------------------------------------------------------------- writing


def show(value: Any) -> str:
    """A value as TOML, on one line: what `--set` reads back."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(show(item) for item in value) + "]"
    if isinstance(value, dict):
        return (
            "{"
            + ", ".join(
                f"{key if _BARE_KEY.fullmatch(key) else show(key)} = {show(item)}"
                for key, item in value.items()
            )
            + "}"
        )
    return str(value)


def dump(sections: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """TOML text of named tables, in order; a name that occurs as `[[name]]` makes an array of tables.

    Values that are None are left out, nested mappings become `[name.key]` tables.

    >>> print(dump([("run", {"name": "first", "seed": 0}), ("[[head]]", {"kind": "binary"})]), end="")
    [run]
    name = "first"
    seed = 0
    <BLANKLINE>
    [[head]]
    kind = "binary"
    """
    parts = []
    for name, table in sections:
        header = name if name.startswith("[[") else f"[{name}]"
        lines = [header]
        nested: list[tuple[str, Mapping[str, Any]]] = []
        for key, value in table.items():
            if isinstance(value, Mapping):
                if value:
                    nested.append((f"{name.strip('[]')}.{key}", value))
            elif value is not None:
                lines.append(f"{key if _BARE_KEY.fullmatch(key) else show(key)} = {show(value)}")
        parts.append("\n".join(lines) + "\n")
        if nested:
            parts.append(dump(nested))
    return "\n".join(parts)
