"""Representations of the interfaces where molecules meet.

The names below are loaded when first used, so that `import atomica` stays fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atomica import compat, graph, heads, testing
    from atomica.compat import load
    from atomica.encoder import EncoderConfig, Encoding
    from atomica.errors import AtomicaError
    from atomica.graph import graph_from_arrays, load_graphs, save_graphs
    from atomica.infer.embed import Embeddings, embed
    from atomica.model import Losses, Model
    from atomica.records import Dataset, Record, open_dataset

__version__ = "0.1.0"

_HOMES = {
    "AtomicaError": "errors",
    "Dataset": "records",
    "Embeddings": "infer.embed",
    "EncoderConfig": "encoder",
    "Encoding": "encoder",
    "Losses": "model",
    "Model": "model",
    "Record": "records",
    "embed": "infer.embed",
    "graph_from_arrays": "graph",
    "load": "compat",
    "load_graphs": "graph",
    "open_dataset": "records",
    "save_graphs": "graph",
}
_MODULES = ("compat", "graph", "heads", "testing")

__all__ = [
    "AtomicaError",
    "Dataset",
    "Embeddings",
    "EncoderConfig",
    "Encoding",
    "Losses",
    "Model",
    "Record",
    "compat",
    "embed",
    "graph",
    "graph_from_arrays",
    "heads",
    "load",
    "load_graphs",
    "open_dataset",
    "save_graphs",
    "testing",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"atomica.{_HOMES[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"atomica.{name}")
    raise AttributeError(f"module 'atomica' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
