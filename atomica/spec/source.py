"""Specs as files: TOML with a base, overrides, and the position of every key."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import json
import os
import re
import sys
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atomica.errors import SpecError

__all__ = ["DERIVING", "KeyPath", "Source", "dump", "key_lines", "load", "show"]


if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

KeyPath = tuple[str | int, ...]
"""Where a value sits in a spec: `("head", 0, "kind")` is written `head.0.kind`."""

DERIVING = ("base", "unset")
"""Keys at the top of a spec that derive it from another one; gone once it is read."""

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


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
