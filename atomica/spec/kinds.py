"""Classes that a spec names by `kind`: those of this package, and those of others by entry point."""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from atomica.errors import SpecError

__all__ = ["Kinds"]

T = TypeVar("T")
C = TypeVar("C", bound=type)


class Kinds(Generic[T]):
    """The kinds of something, such as a head.

    built_in: kind → module of this package that registers it, imported when it is asked for. group: the entry points
    of other packages, which name modules to import.
    """

    def __init__(self, what: str, built_in: Mapping[str, str], group: str) -> None:
        self.what, self.built_in, self.group = what, built_in, group
        self._classes: dict[str, type[T]] = {}

    def register(self, kind: str) -> Callable[[C], C]:
        """Class decorator that makes a class available under a name.

        Raises SpecError if another class has the name already.
        """

        def add(cls: C) -> C:
            other = self._classes.get(kind)
            if other is not None and (other.__module__, other.__qualname__) != (
                cls.__module__,
                cls.__qualname__,
            ):
                raise SpecError(
                    f"{self.what} kind {kind!r} is taken by {other.__module__}.{other.__qualname__}"
                )
            self._classes[kind] = cls
            return cls

        return add

    def available(self) -> tuple[str, ...]:
        """The kinds that a spec can name, sorted."""
        self._load_all()
        return tuple(sorted(self._classes))

    def find(self, kind: str) -> type[T]:
        """The class registered as `kind`. Raises SpecError listing the known kinds, and naming the nearest."""
        if kind in self.built_in:
            importlib.import_module(self.built_in[kind])
        elif kind not in self._classes:
            self._load_all()
        if kind not in self._classes:
            known = self.available()
            near = difflib.get_close_matches(kind, known, n=1)
            raise SpecError(
                f"unknown {self.what} kind {kind!r}; known: {', '.join(known)}"
                + (f"; did you mean {near[0]!r}?" if near else "")
            )
        return self._classes[kind]

    def name_of(self, cls: type) -> str | None:
        """The kind as which a class is registered; None if it is not."""
        return next((kind for kind, known in self._classes.items() if known is cls), None)

    def _load_all(self) -> None:
        for module in self.built_in.values():
            importlib.import_module(module)
        for entry in importlib.metadata.entry_points(group=self.group):
            entry.load()
