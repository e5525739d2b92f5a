"""TOML as text: values written and named, and the line of every key."""

from __future__ import annotations

import json
import re
import sys
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["BARE_KEY", "KeyPath", "dotted", "dump", "key_lines", "kind_of", "show", "tomllib"]


KeyPath = tuple[str | int, ...]
"""Where a value sits in a spec: `("head", 0, "kind")` is written `head.0.kind`."""

BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
"""A key that needs no quotes."""


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
                found = BARE_KEY.match(self.text, self.at)
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


def kind_of(value: Any) -> str:
    """What a value of a spec is, in words."""
    if isinstance(value, bool):
        return "true/false"
    for python, name in ((int, "a whole number"), (float, "a number"), (str, "text"), (dict, "a table")):
        if isinstance(value, python):
            return name
    return "a list" if isinstance(value, list | tuple) else "a date or time"


def dotted(path: KeyPath) -> str:
    """A key path as `--set` takes it."""
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
                f"{key if BARE_KEY.fullmatch(key) else show(key)} = {show(item)}"
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
                lines.append(f"{key if BARE_KEY.fullmatch(key) else show(key)} = {show(value)}")
        parts.append("\n".join(lines) + "\n")
        if nested:
            parts.append(dump(nested))
    return "\n".join(parts)
