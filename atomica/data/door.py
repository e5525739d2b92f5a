"""`import dgl` as it must be here: a finder that comes before Python's own, installed with the package.

The newest DGL wheels ship a graphbolt library for older PyTorch releases, and DGL's package imports it unasked. Nothing
here uses it, so an inert module stands for it where the library does not fit; everything else of DGL works. As a
finder, it also serves whoever unpickles a graph or imports DGL first.
"""

from __future__ import annotations

import importlib.machinery
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

__all__ = ["install"]

GRAPHBOLT = "dgl.graphbolt"


class _Door:
    """Finder and loader of the inert module."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name == "dgl":
            # Without it DGL writes a configuration file into the home directory.
            os.environ.setdefault("DGLBACKEND", "pytorch")
        if name == GRAPHBOLT and not _fits(path or ()):
            return importlib.machinery.ModuleSpec(name, self)  # type: ignore[arg-type]
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        doc = "Placeholder: this DGL release has no graphbolt library for the installed PyTorch."
        return ModuleType(spec.name, doc)

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing in it."""


def _fits(folders: Sequence[str]) -> bool:
    """Whether DGL ships a graphbolt library whose name carries the installed PyTorch's version."""
    try:
        version = importlib.metadata.version("torch").split("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return False
    return any(any((Path(folder) / "graphbolt").glob(f"*pytorch_{version}.*")) for folder in folders)


def install() -> None:
    """Put the finder before the others, once."""
    if not any(isinstance(finder, _Door) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Door())
