"""Specs as files: TOML with a base, overrides, and the position of every key."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atomica.errors import SpecError
from atomica.spec.problems import Problems
from atomica.spec.toml import BARE_KEY, KeyPath, dotted, key_lines, kind_of, show, tomllib

__all__ = ["DERIVING", "Source", "expanded", "load"]


DERIVING = ("base", "unset")
"""Keys at the top of a spec that derive it from another one; gone once it is read."""

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
                raise KeyError(dotted(path)) from None
        return node

    def __contains__(self, path: KeyPath) -> bool:
        """Whether the spec, or an override, says anything at this key path."""
        try:
            self.get(path)
        except KeyError:
            return False
        return True

    def changed(self, overrides: Sequence[str]) -> Source:
        """The same spec with `key.path=value` overrides, as `load` takes them. Raises Problems naming wrong ones."""
        tree, changed = copy.deepcopy(self.tree), dict(self.overrides)
        wrong: list[tuple[str, str]] = []
        for override in overrides:
            try:
                path, raw = _override(tree, override)
                changed[path] = raw
            except SpecError as error:
                wrong.append((f"--set {override}", str(error)))
        if wrong:
            raise Problems(*wrong)
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
                return f"--set {dotted(head)}={self.overrides[head]}"
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
    source = Source(str(file), tree, places, {}).changed(overrides)
    wrong: list[tuple[str, str]] = []
    found = dataclasses.replace(source, tree=_at_home(source, source.tree, (), wrong))
    if wrong:
        raise Problems(*wrong)
    return found


def _at_home(source: Source, value: Any, path: KeyPath, wrong: list[tuple[str, str]]) -> Any:
    """Values with `~` and `$NAME` of paths replaced; what is wrong with them joins the list, by place."""
    if isinstance(value, dict):
        return {key: _at_home(source, one, (*path, key), wrong) for key, one in value.items()}
    if isinstance(value, list):
        return [_at_home(source, one, (*path, index), wrong) for index, one in enumerate(value)]
    if not isinstance(value, str):
        return value
    try:
        return expanded(value)
    except ValueError as error:
        wrong.append((f"{source.where(path)}: {dotted(path)} = {show(value)}", str(error)))
        return value


def expanded(text: str) -> str:
    """A path with `~` and variables such as `$HOME` replaced, as a shell does; other texts as they are.

    Raises ValueError if there is no such user or variable.

    >>> expanded("data/set"), expanded("$5"), expanded("~/set") == os.path.expanduser("~/set")
    ('data/set', '$5', True)
    """
    names = re.findall(r"\$(?:\{([A-Za-z_]\w*)\}|([A-Za-z_]\w*))", text)
    if "/" not in text and not re.fullmatch(r"\$\{?[A-Za-z_]\w*\}?", text):
        return text
    missing = [name for name in (one or other for one, other in names) if name not in os.environ]
    if missing and "/" not in text:
        return text
    if missing:
        raise ValueError(f"there is no environment variable {missing[0]}; write the path out")
    if text.startswith("~") and os.path.expanduser(text) == text:
        raise ValueError(f"there is no user {text.split('/')[0][1:]}; write the path out")
    return os.path.expandvars(os.path.expanduser(text) if text.startswith("~") else text)


def _parsed(name: str) -> tuple[dict[str, Any], dict[KeyPath, str]]:
    """The tables of one file, and the place of each key."""
    try:
        text = Path(name).read_text(encoding="utf-8-sig")  # some editors begin a file with a mark
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
        bare = re.search(r"=\s*([+-]?)\.(\d\S*)", text.splitlines()[int(found[1]) - 1]) if found else None
        hint = f"; a number begins with a digit: {bare[1]}0.{bare[2]}" if bare else ""
        raise SpecError(f"{place}: not valid TOML{column}: {reason}{hint}") from None
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
        raise SpecError(f"{at}: expected text, the path of a spec, got {kind_of(base)}")
    chain = [*above, os.path.realpath(name)]
    try:
        file = os.path.join(os.path.dirname(name), expanded(base))
    except ValueError as error:
        raise SpecError(f"{at}: {error}") from None
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
            every = [dotted(path) for path in places if all(isinstance(part, str) for part in path)]
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
    name, equals, raw = argument.partition("=")
    parts = name.strip().split(".")
    if not equals or not all(BARE_KEY.fullmatch(part) for part in parts):
        raise SpecError("expected key.path=value, for example --set train.epochs=3")
    if parts[0] in DERIVING:
        raise SpecError("a spec is derived in its file, not on the command line")
    raw = raw.strip()
    try:
        parsed = tomllib.loads(f"value = {raw}")
        if set(parsed) != {"value"}:
            raise SpecError("the value must be on one line")
        value = parsed["value"]
    except tomllib.TOMLDecodeError as error:
        if raw[:1] in ("[", "{", '"', "'"):
            raise SpecError(f"the value is not valid TOML: {error}") from None
        value = raw
    path: list[str | int] = []
    node: Any = tree
    for depth, part in enumerate(parts):
        here = dotted(tuple(path))
        step: str | int = part
        if isinstance(node, list):
            if not part.isdigit() or int(part) >= len(node):
                count = len(node)
                raise SpecError(f"{here} has {count} elements; write {here}.0 to {here}.{count - 1}")
            step = int(part)
        elif not isinstance(node, dict):
            raise SpecError(f"{here} = {show(node)} is a value and holds no key {part}")
        path.append(step)
        if depth == len(parts) - 1:
            node[step] = value
        elif isinstance(node, dict):
            node = node.setdefault(part, {})
        else:
            node = node[step]
    return tuple(path), raw
